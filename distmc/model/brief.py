"""Programs that are called a few times, before a run or at its start: what matters is how long compiling takes."""

import functools
from collections.abc import Callable
from typing import Any

import jax

# No optimisation, and XLA's older generator of code: a quarter of the time for a hidden Markov model's gradient.
_WANTED: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": False}


def brief(function: Callable[..., Any]) -> Any:
    """Return `jax.jit` of a function, to be compiled quickly rather than well."""
    return jax.jit(function, compiler_options=brief_options())


@functools.cache
def brief_options() -> dict[str, str | bool]:
    """Return what XLA is told; nothing where it does not know one of the options, which are its own affair."""
    try:
        jax.jit(lambda: 0, compiler_options=_WANTED).lower().compile()
    except Exception:
        return {}
    return _WANTED
