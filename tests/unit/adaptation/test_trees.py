"""How large trees may become while scales are being learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.metric import MetricRule
from distmc.adaptation.pooling import Pooling
from distmc.adaptation.rescue import Rescue
from distmc.adaptation.schedule import build_schedule
from distmc.adaptation.trees import TreeWarmup
from distmc.adaptation.warmup import Warmup, step_size_from_gradients
from distmc.kernels.base import GradientState, Target
from distmc.types import Array, NumpyArray

TARGET = Target(lambda position: (-0.5 * jnp.sum(position**2, axis=1), -position), lambda a, b: jnp.sum(a * b, axis=-1))


def limits(num_warmup: int, max_tree_depth: int, rejections: int = 0) -> NumpyArray:
    """Return the limit in each step of warm-up, and in the first draws, if a chain has stood still for so long."""
    warmup = Warmup(
        schedule=build_schedule(num_warmup),
        target_acceptance_rate=0.8,
        guess_step_size=functools.partial(step_size_from_gradients, target=TARGET),
        whitened_step_size=0.76,
        trajectory=None,
        metric=MetricRule(num_dimensions=3, form="diagonal"),
        target=TARGET,
        pooling=Pooling(mean=functools.partial(jnp.mean, axis=0), median=functools.partial(jnp.median, axis=0)),
    )
    trees = TreeWarmup(warmup=Rescue(warmup=warmup, num_chains=4), max_tree_depth=max_tree_depth)

    # Compiled as a whole: by itself, each operation would be compiled, and called, alone.
    @jax.jit
    def limit_of_each(steps: Array) -> Array:
        state = trees.init(GradientState(jnp.zeros((4, 3)), jnp.zeros(4), jnp.ones((4, 3))))
        state = state._replace(rejections=jnp.asarray([0, 0, rejections, 0], jnp.int32))
        return jax.vmap(lambda step: trees.parameters(state, step).max_tree_depth)(steps)

    return np.asarray(limit_of_each(np.arange(num_warmup + 5, dtype=np.int32)))


def test_limit_rises_with_each_metric() -> None:
    schedule = build_schedule(100)
    first, *_, last = schedule.window_ends
    limit = limits(100, 10)
    np.testing.assert_array_equal(limit[: first + 1], 4)
    assert np.all(np.diff(limit) >= 0)
    assert len(np.unique(limit)) == len(schedule.windows) + 1
    np.testing.assert_array_equal(limit[last + 1 :], 10)


def test_short_steps_for_a_stuck_chain_make_no_large_trees() -> None:
    limit = limits(100, 10, rejections=18)
    ends = build_schedule(100).window_ends
    assert all(limit[step] == 4 for step in range(100) if step not in ends)
    np.testing.assert_array_equal(limit[100:], 10)


def test_limit_is_never_above_the_one_asked_for() -> None:
    assert limits(100, 3).max() == limits(100, 3).min() == 3


@pytest.mark.parametrize("num_warmup", [0, 10])
def test_where_no_metric_is_learned_trees_may_be_large_at_once(num_warmup: int) -> None:
    np.testing.assert_array_equal(limits(num_warmup, 10), 10)
