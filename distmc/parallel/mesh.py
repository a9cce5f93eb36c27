"""The devices of a run as one axis, and arrays laid out over it."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from distmc.types import Array, NumpyArray, PyTree

WORKER_AXIS = "worker"


def build_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """Return the mesh of one device per worker, in the order of ranks."""
    return Mesh(np.asarray(devices), (WORKER_AXIS,))


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Put the same host arrays on every device; every process must hold equal ones."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def shard(mesh: Mesh, leaf: NumpyArray) -> Array:
    """Lay the shards of all workers one after the other along the first axis.

    Parameters
    ----------
    mesh : Mesh
        The devices.
    leaf : array (rows_of_this_worker, ...)
        This process's shard; every process gives the same shape.
    """
    sharding = NamedSharding(mesh, PartitionSpec(WORKER_AXIS))
    global_shape = (leaf.shape[0] * mesh.size, *leaf.shape[1:])
    array: Array = jax.make_array_from_process_local_data(sharding, leaf, global_shape)
    return array


def to_host(tree: PyTree) -> PyTree:
    """Return this process's copy of replicated arrays as NumPy arrays, which outlive the device."""
    return jax.tree.map(lambda leaf: np.array(leaf.addressable_data(0)), tree)


def first_to_host(tree: PyTree, count: int) -> PyTree:
    """Return the first `count` entries of replicated arrays along their first axis, as `to_host` returns arrays."""
    return jax.tree.map(lambda leaf: np.array(np.asarray(leaf.addressable_data(0))[:count]), tree)
