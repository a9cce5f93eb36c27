"""The state of a run: all that its next step needs, the same on every worker."""

import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np

from distmc.errors import RunDirectoryError
from distmc.types import Array, NumpyArray, PyTree


class RunState(NamedTuple):
    """Where a run is.

    Attributes
    ----------
    step : int32 scalar
        Steps done, warm-up included.
    kernel : pytree
        Where the chains are; has `position` and `logdensity`.
    warmup : pytree
        What they have learned.
    """

    step: Array
    kernel: Any
    warmup: Any


def to_arrays(state: PyTree) -> dict[str, NumpyArray]:
    """Name the leaves of a host state by their path, for the run directory."""
    return {_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def from_arrays(arrays: dict[str, NumpyArray], like: PyTree) -> PyTree:
    """Rebuild a state from named leaves.

    Parameters
    ----------
    arrays : dict of array
        What `to_arrays` returned.
    like : pytree
        A state, or shapes, of the same structure.

    Raises
    ------
    RunDirectoryError
        If a leaf is missing, or of another shape or type.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    return jax.tree.unflatten(structure, [_fitting(arrays, _name(path), leaf) for path, leaf in leaves])


def _fitting(arrays: dict[str, NumpyArray], name: str, like: Any) -> NumpyArray:
    needed = f"{like.dtype} of shape {like.shape}"
    if name not in arrays:
        found = "is not there"
    elif (arrays[name].dtype, arrays[name].shape) != (like.dtype, like.shape):
        found = f"is {arrays[name].dtype} of shape {arrays[name].shape}"
    else:
        return arrays[name]
    raise RunDirectoryError(
        f"`{name}` of the saved state {found}, but this run needs {needed}: the state is of a run with another model, "
        "sampler or number of chains, or of another version of distmc. Go on with the settings that the run began with."
    )


def digest(tree: PyTree) -> str:
    """Hash the bytes of host arrays; equal on two workers if and only if all bits are."""
    hashed = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        hashed.update(f"{_name(path)}:{array.dtype.str}:{array.shape};".encode())
        hashed.update(array.reshape(-1).view(np.uint8).data)
    return hashed.hexdigest()


def _name(path: tuple[object, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
