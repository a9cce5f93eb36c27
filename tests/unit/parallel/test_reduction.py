"""Sums over blocks have the same bits however many workers share them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from distmc.parallel.mesh import WORKER_AXIS, build_mesh
from distmc.parallel.reduction import BlockSum, FastSum, OrderedSum
from distmc.parallel.tree import ReductionPlan
from distmc.types import NumpyArray

pytestmark = [pytest.mark.many_devices, pytest.mark.usefixtures("optimised")]

NUM_BLOCKS = 8
SHAPE = (3, 5)
BuildSum = Callable[[ReductionPlan, str], BlockSum]


def block_values(num_blocks: int = NUM_BLOCKS) -> NumpyArray:
    """Return values of very different size, so that every order of addition rounds in its own way."""
    rng = np.random.default_rng(0)
    size = 10.0 ** rng.uniform(-8, 8, (num_blocks, *SHAPE))
    return size * rng.standard_normal((num_blocks, *SHAPE))


def fold_along_tree(values: NumpyArray) -> NumpyArray:
    if len(values) == 1:
        return np.asarray(values[0])
    half = len(values) // 2
    return fold_along_tree(values[:half]) + fold_along_tree(values[half:])


def sum_over_workers(values: NumpyArray, num_workers: int, build: BuildSum = OrderedSum) -> NumpyArray:
    """Return what each of the workers, one device each, holds as the sum, (num_workers, *shape)."""
    plan = ReductionPlan(num_blocks=len(values), num_workers=num_workers)
    block_sum = build(plan, WORKER_AXIS)
    ranges = np.array([plan.block_range(rank) for rank in range(num_workers)], np.int32)
    shards = np.full((num_workers, plan.max_blocks_per_worker, *values.shape[1:]), np.nan)
    for rank, (start, stop) in enumerate(ranges):
        shards[rank, : stop - start] = values[start:stop]

    def total(shard: Any, block_range: Any) -> Any:
        def block_value(place: Any) -> Any:
            return lax.dynamic_index_in_dim(shard[0], place, keepdims=False)

        return block_sum(block_value, values.shape[1:], block_range[0])[None]

    each = PartitionSpec(WORKER_AXIS)
    mesh = build_mesh(jax.devices()[:num_workers])
    with jax.enable_x64(True):
        mapped = jax.shard_map(total, mesh=mesh, in_specs=(each, each), out_specs=each, check_vma=False)
        return np.asarray(jax.jit(mapped)(jnp.asarray(shards), jnp.asarray(ranges)))


@pytest.mark.parametrize("num_workers", range(1, NUM_BLOCKS + 1))
def test_sum_has_the_bits_of_the_tree(num_workers: int) -> None:
    values = block_values()
    expected = fold_along_tree(values)
    for total in sum_over_workers(values, num_workers):
        assert total.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("num_blocks", "num_workers"), [(1, 1), (16, 3), (16, 6), (32, 7)])
def test_sum_has_the_bits_of_the_tree_for_other_numbers_of_blocks(num_blocks: int, num_workers: int) -> None:
    values = block_values(num_blocks)
    for total in sum_over_workers(values, num_workers):
        assert total.tobytes() == fold_along_tree(values).tobytes()


def test_these_values_tell_another_order_apart() -> None:
    values = block_values()
    left_to_right = functools.reduce(np.add, values)
    assert left_to_right.tobytes() != fold_along_tree(values).tobytes()
    np.testing.assert_allclose(left_to_right, fold_along_tree(values), rtol=1e-9)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_fast_sum_is_the_same_sum_in_another_order(num_workers: int) -> None:
    values = block_values()
    totals = sum_over_workers(values, num_workers, FastSum)
    np.testing.assert_allclose(totals, np.broadcast_to(fold_along_tree(values), totals.shape), rtol=1e-9)
    assert totals[0].tobytes() != fold_along_tree(values).tobytes()


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_what_is_not_finite_stays_in_its_chain(num_workers: int) -> None:
    values, expected = block_values(), fold_along_tree(block_values())
    values[5, 1], values[6, 2, 0] = np.nan, np.inf
    for total in sum_over_workers(values, num_workers):
        assert np.isnan(total[1]).all()
        assert total[2, 0] == np.inf
        assert total[0].tobytes() == expected[0].tobytes()
        assert total[2, 1:].tobytes() == expected[2, 1:].tobytes()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_what_is_not_a_number_has_the_same_bits_everywhere(num_workers: int) -> None:
    values = block_values()
    # Processors keep the sign and payload of one of the two, depending on which comes first.
    values[0], values[NUM_BLOCKS - 1] = np.nan, -np.nan
    alone = sum_over_workers(values, 1)[0]
    for total in sum_over_workers(values, num_workers):
        assert total.tobytes() == alone.tobytes()
