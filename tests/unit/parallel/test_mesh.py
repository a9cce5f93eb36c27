"""Arrays on their way to the devices and back."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from distmc.parallel.mesh import WORKER_AXIS, build_mesh, first_to_host, replicate, shard, to_host

pytestmark = pytest.mark.many_devices


def test_replicated_arrays_are_whole_on_every_device() -> None:
    mesh = build_mesh(jax.devices()[:3])
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": np.int32(7)}
    with jax.enable_x64(True):
        replicated = replicate(mesh, tree)
    assert replicated["a"].dtype == np.float64
    for name, leaf in replicated.items():
        assert len(leaf.addressable_shards) == 3
        for piece in leaf.addressable_shards:
            np.testing.assert_array_equal(np.asarray(piece.data), tree[name])
    np.testing.assert_array_equal(to_host(replicated)["a"], tree["a"])
    assert isinstance(to_host(replicated)["b"], np.ndarray)
    # A view would keep the device alive, and with it the connections to other processes.
    assert to_host(replicated)["a"].flags.owndata
    first = first_to_host(replicated["a"], 1)
    np.testing.assert_array_equal(first, tree["a"][:1])
    assert first.flags.owndata


def test_shard_of_the_only_process_is_the_whole_array() -> None:
    mesh = build_mesh(jax.devices()[:1])
    rows = np.arange(12, dtype=np.int32).reshape(4, 3)
    laid_out = shard(mesh, rows)
    assert laid_out.shape == (4, 3)
    assert laid_out.sharding.spec == PartitionSpec(WORKER_AXIS)
    np.testing.assert_array_equal(np.asarray(laid_out), rows)


def test_mesh_keeps_the_order_of_devices() -> None:
    devices = jax.devices()[:4][::-1]
    assert list(build_mesh(devices).devices) == devices
