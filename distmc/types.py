"""Names for the values that travel through distmc.

Every array that belongs to the chains has the chain as its first axis. A *position* is the flat,
unconstrained coordinate vector of all chains at once: ``(num_chains, num_dimensions)``, float64.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import jax

    Array: TypeAlias = jax.Array

PyTree: TypeAlias = Any
NumpyArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""A NumPy array of any type and shape."""

Phase: TypeAlias = Literal["start", "warmup", "draws"]
"""What the steps of a chunk are for."""

ConstrainedParameters: TypeAlias = dict[str, Any]
"""Parameter name to value on its own support; what a log-likelihood is given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a run can be taken up again: its state after a chunk.

    Attributes
    ----------
    chunk : int
        Number of the chunk.
    step : int
        Steps done by then, warm-up included.
    arrays : dict of array
        The state by name, the same on every worker.
    """

    chunk: int
    step: int
    arrays: dict[str, NumpyArray]


def __getattr__(name: str) -> Any:
    """Load JAX with the first use of `Array`: storage needs none of it, and looking at a run should not wait for it."""
    if name == "Array":
        import jax

        return jax.Array
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
