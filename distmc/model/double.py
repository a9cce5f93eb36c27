"""64-bit mode, for this thread and for functions that a model calls out of JAX."""

import contextlib
import threading
from collections.abc import Iterator

import jax

from distmc.model.model import Model


@contextlib.contextmanager
def double_precision(model: Model) -> Iterator[None]:
    """Compute in 64-bit mode while the context lasts.

    JAX's context manager holds for the present thread alone. A function that a model calls with ``jax.pure_callback``
    runs in a thread of the device, where JAX would round what it is given to float32 and refuse float64 from it. For
    a model without a gradient, which may do so, the setting of the process is changed as well, and put back at the
    end.

    Parameters
    ----------
    model : Model
        What is going to be evaluated. All results have to be fetched before the context ends.
    """
    with jax.enable_x64(True):
        if model.is_differentiable:
            yield
            return
        before = _setting_of_process()
        jax.config.update("jax_enable_x64", True)
        try:
            yield
        finally:
            jax.config.update("jax_enable_x64", before)


def _setting_of_process() -> bool:
    """Return whether threads that have chosen nothing are in 64-bit mode; a new thread is one."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(bool(jax.config.values["jax_enable_x64"])))
    thread.start()
    thread.join()
    return found[0]
