"""The center of the pull, from positions and gradients of chains that have arrived or have not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.metric import MetricRule
from distmc.adaptation.pull import estimate_pull, unless_out_of_reach
from distmc.adaptation.window import Window
from distmc.kernels.base import GradientState, Target
from distmc.kernels.metrics import Metric
from distmc.kernels.pull import Pull
from distmc.sampling.algorithms import POOLING
from distmc.types import Array, NumpyArray

MEAN, FACTOR = np.array([3.0, -2.0]), np.array([[2.0, 0.0], [1.0, 0.5]])
NUM_CHAINS, MOST_STEPS = 32, 20
RULE = MetricRule(num_dimensions=2, form="dense")


def grad_of(position: NumpyArray) -> NumpyArray:
    return -(position - MEAN) @ np.linalg.inv(FACTOR @ FACTOR.T)


# Compiled as a whole, as is what follows: by itself, each operation would be compiled, and called, alone.
@jax.jit
def first_steps(position: Array, grad: Array, num_steps: Array) -> Window:
    def state(place: int | Array) -> GradientState:
        return GradientState(position[place], jnp.zeros(NUM_CHAINS), grad[place])

    def add(place: Array, window: Window) -> Window:
        return RULE.add(window, state(place), jnp.ones(NUM_CHAINS))

    window: Window = jax.lax.fori_loop(0, num_steps, add, RULE.nothing(state(0)))
    return window


def window_of(position: NumpyArray, grad: NumpyArray) -> Window:
    # Steps follow that are not looked at, so that one program is for all numbers of them.
    beyond = ((0, MOST_STEPS - len(position)), (0, 0), (0, 0))
    window: Window = first_steps(np.pad(position, beyond), np.pad(grad, beyond), len(position))
    return window


@jax.jit
def metric_and_pull(window: Window, has_arrived: bool | Array) -> tuple[Metric, Pull]:
    metric = RULE.estimate(window, RULE.first(), has_arrived)
    return metric, estimate_pull(window, metric, has_arrived)


def pull_of(position: NumpyArray, grad: NumpyArray, has_arrived: bool = False) -> Pull:
    pull: Pull = metric_and_pull(window_of(position, grad), has_arrived)[1]
    return pull


def draws(num_steps: int, middle: NumpyArray, spread: float = 1.0) -> NumpyArray:
    normal = np.random.default_rng(0).normal(size=(num_steps, NUM_CHAINS, 2))
    return middle + spread * normal @ FACTOR.T


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_chains_under_way_see_the_center_of_a_normal_target_ahead(spread: float) -> None:
    position = draws(4, MEAN + 40.0, spread)
    pull = pull_of(position, grad_of(position))
    # The metric of so few draws has a small ridge; the chains are 40 away.
    np.testing.assert_allclose(pull.center, MEAN, atol=0.01)
    assert pull.frequency == 1.0


def test_positions_alone_decide_once_they_have_arrived_and_are_plenty() -> None:
    position = draws(20, MEAN)
    grad = grad_of(position) + 0.5  # As on a target whose gradients mislead.
    np.testing.assert_allclose(pull_of(position, grad, has_arrived=True).center, position.mean((0, 1)), rtol=1e-12)
    few = position[:2]
    assert not np.allclose(pull_of(few, grad[:2], has_arrived=True).center, few.mean((0, 1)), rtol=0.01)


@pytest.mark.parametrize("num_steps", [0, 3])
def test_nothing_seen_gives_no_pull(num_steps: int) -> None:
    position = np.full((max(num_steps, 1), NUM_CHAINS, 2), np.nan)
    window = (
        window_of(position, position) if num_steps else RULE.nothing(GradientState(*(jnp.zeros((NUM_CHAINS, 2)),) * 3))
    )
    pull = estimate_pull(window, RULE.first(), has_arrived=True)
    np.testing.assert_array_equal(pull.center, 0.0)
    assert pull.frequency == 0.0


DOT = Target(lambda _: (jnp.zeros(NUM_CHAINS), jnp.zeros((NUM_CHAINS, 2))), lambda a, b: jnp.sum(a * b, axis=-1))
compiled_reach = jax.jit(functools.partial(unless_out_of_reach, target=DOT, pooling=POOLING))


@pytest.mark.parametrize(("distance", "frequency"), [(0.0, 1.0), (20.0, 1.0), (23.0, 0.0), (np.nan, 0.0)])
def test_a_chain_that_is_out_of_reach_ends_the_pull_for_all(distance: float, frequency: float) -> None:
    position = draws(20, MEAN)
    window = window_of(position, grad_of(position))
    metric, pull = metric_and_pull(window, True)
    here = np.repeat(np.asarray(pull.center)[None], NUM_CHAINS, axis=0)
    # In standard deviations of the second coordinate, given the first.
    here[3, 1] += distance * FACTOR[1, 1]
    found = compiled_reach(pull, metric, here)
    assert found.frequency == frequency
    np.testing.assert_array_equal(found.center, pull.center)
