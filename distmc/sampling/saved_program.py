"""A compiled program as bytes, so that one process compiles for all, and for those that form another generation.

Tracing and compiling take seconds, loading the bytes a fraction of one. They stay in memory and are sent between the
processes of one run; nothing of them is written to disk.
"""

import pickle
from typing import Any

import jax
from jax.experimental import serialize_executable

from distmc.sampling.compiled import CompiledProgram, shapes

_CACHE_SETTINGS = ("jax_enable_compilation_cache", "jax_compilation_cache_dir")


def save_program(program: CompiledProgram) -> bytes | None:
    """Return the program as bytes, machine code and all.

    Parameters
    ----------
    program : CompiledProgram
        Compiled for a mesh of any size.

    Returns
    -------
    bytes or None
        For `load_program` on a mesh of the same size, and processors that understand the same instructions; None
        where the program calls Python, or may have come from JAX's own cache on disk: from there it comes without
        what would be needed to save it again, and the other processes find it there as well.
    """
    if program.calls_python or _may_be_cached():
        return None
    # The layouts are left out: their devices belong to one process.
    start, advance = (serialize_executable.serialize(_compiled(part)) for part in (program.start, program.advance))
    return pickle.dumps((start, advance, shapes(program.state), program.trace))


def load_program(saved: bytes) -> CompiledProgram:
    """Return the program that `save_program` was given, for the devices of this process's present group.

    Notes
    -----
    Communication: none.
    Invariance: it is the same machine code, so it gives the same bits.
    """
    start, advance, state, trace = pickle.loads(saved)
    return CompiledProgram(
        start=serialize_executable.deserialize_and_load(*start),
        advance=serialize_executable.deserialize_and_load(*advance),
        state=state,
        trace=trace,
    )


def _may_be_cached() -> bool:
    return all(getattr(jax.config, name) for name in _CACHE_SETTINGS)


def _compiled(part: Any) -> jax.stages.Compiled:
    if not isinstance(part, jax.stages.Compiled):
        raise TypeError(f"a compiled function is needed, not {type(part).__name__}")
    return part
