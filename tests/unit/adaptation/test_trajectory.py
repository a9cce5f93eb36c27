"""The length of trajectories follows the criterion, its jitter the sequence."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.chees import ChEESCriterion
from distmc.adaptation.pooling import Pooling
from distmc.adaptation.trajectory import (
    EvenTrajectoryRule,
    Trajectories,
    TrajectoryRule,
    TrajectoryState,
    ascend,
    van_der_corput,
)
from distmc.kernels.base import Target
from distmc.kernels.hmc import HMCInfo
from distmc.kernels.metrics import Metric
from distmc.types import Array

POOLING = Pooling(mean=functools.partial(jnp.mean, axis=0), median=functools.partial(jnp.median, axis=0))
TARGET = Target(lambda position: (position, position), lambda a, b: jnp.sum(a * b, axis=-1))
NUM_CHAINS, NUM_DIMENSIONS = 20_000, 4
SCALES = np.array([0.01, 1.0, 3.0, 500.0])


def start_trajectory(length: float) -> TrajectoryState:
    rule = TrajectoryRule(length=length, criterion=ChEESCriterion(), jitter=0.5, max_integration_steps=50)
    return rule.init(NUM_DIMENSIONS)


def criterion_grad(position: Any, info: HMCInfo, metric: Metric, time: Any, weight: Any) -> Array:
    return ChEESCriterion().gradient((), Trajectories(position, info, metric, time, weight), TARGET, POOLING)[1]


# Compiled as a whole, as is what follows: by itself, each operation would be compiled, and called, alone.
@jax.jit
def grad_of(start: Any, end: Any, momentum: Any, rate: Any, time: Any) -> Array:
    metric = Metric(jnp.ones(2), jnp.ones(2))
    return criterion_grad(start, info_of(end, momentum, rate), metric, time, jnp.ones(len(start)))


compiled_ascend = jax.jit(ascend)


def exact_trajectories(length: Array) -> tuple[Array, HMCInfo]:
    """Return starts and ends of exact trajectories on a normal target with these scales around 7."""
    rng = np.random.default_rng(0)
    start, momentum = rng.normal(size=(2, NUM_CHAINS, NUM_DIMENSIONS))
    end = jnp.cos(length) * start + jnp.sin(length) * momentum
    end_momentum = -jnp.sin(length) * start + jnp.cos(length) * momentum
    return jnp.asarray(7.0 + SCALES * start), info_of(7.0 + SCALES * end, end_momentum)


def info_of(end: Any, momentum: Any, acceptance_rate: Any = None) -> HMCInfo:
    rate = jnp.ones(len(end)) if acceptance_rate is None else acceptance_rate
    no = jnp.zeros(len(end), bool)
    zero = jnp.zeros(len(end))
    return HMCInfo(rate, ~no, no, no, zero, zero, jnp.int32(1), jnp.asarray(end), jnp.asarray(momentum))


@jax.jit
def grad_at(length: Array) -> Array:
    position, info = exact_trajectories(length)
    metric = Metric(jnp.asarray(SCALES), jnp.asarray(1.0 / SCALES))
    return criterion_grad(position, info, metric, length, jnp.ones(NUM_CHAINS))


@pytest.mark.parametrize("length", [0.2, 0.7, 1.1, 1.5, 2.0, 2.8])
def test_gradient_is_that_of_the_closed_form(length: float) -> None:
    # On a normal target ChEES is proportional to sin(t)**2, and half of log(t) is taken off its logarithm.
    expected = 2.0 * length / np.tan(length) - 0.5
    # The ratio of two means over chains, each with a relative error of a few over the root of their number.
    np.testing.assert_allclose(grad_at(jnp.asarray(length)), expected, atol=0.05 * (1.0 + abs(expected)))


def test_search_settles_where_the_gradient_vanishes() -> None:
    for first in (0.3, 3.0):
        state = start_trajectory(first)
        for _ in range(150):
            state = compiled_ascend(state, grad_at(np.exp(state.log_length)))
        # The root of tan(t) = 4 t.
        np.testing.assert_allclose(jnp.exp(state.log_length), 1.3932, rtol=0.05)


def test_one_update_moves_the_length_by_little_however_large_the_gradient() -> None:
    state = ascend(start_trajectory(1.0), jnp.asarray(1e12))
    assert 0.0 < state.log_length < 0.2


def test_search_stays_at_its_lower_limit_until_the_criterion_grows() -> None:
    state = start_trajectory(1.6)
    for _ in range(50):
        state = compiled_ascend(state, -1.0, min_length=1.5)
    np.testing.assert_allclose(jnp.exp(state.log_length), 1.5, rtol=1e-12)
    for _ in range(5):
        state = compiled_ascend(state, 1.0, min_length=1.5)
    assert jnp.exp(state.log_length) > 1.6


def test_average_follows_the_iterates() -> None:
    state = start_trajectory(1.0)
    state = ascend(state, jnp.asarray(1.0))
    np.testing.assert_allclose(state.log_average, state.log_length, rtol=1e-12)
    first = state.log_length
    state = ascend(state, jnp.asarray(1.0))
    share = 2.0**-0.5
    np.testing.assert_allclose(state.log_average, share * state.log_length + (1.0 - share) * first, rtol=1e-12)


def test_ends_that_do_not_count_change_nothing() -> None:
    rng = np.random.default_rng(0)
    start, end, momentum = rng.normal(size=(3, 8, 2))
    rate = np.array([0.9, 0.8, 0.0, 1.0, 0.7, 0.0, 0.6, 0.9])
    expected = grad_of(start, end, momentum, rate, 0.5)
    broken, broken_momentum = end.copy(), momentum.copy()
    broken[2], broken[5], broken_momentum[2] = np.nan, np.inf, -np.inf
    got = grad_of(start, broken, broken_momentum, rate, 0.5)
    assert np.isfinite(expected)
    assert got == expected


def test_no_end_that_counts_gives_no_gradient() -> None:
    nowhere = np.full((3, 2), np.nan)
    assert grad_of(np.zeros((3, 2)), nowhere, nowhere, np.zeros(3), 1.0) == 0.0


def test_first_elements_of_the_sequence() -> None:
    got = [float(van_der_corput(jnp.asarray(index))) for index in range(9)]
    assert got == [0.0, 0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875, 0.0625]


def rule(kind: type[TrajectoryRule], jitter: float, max_integration_steps: int) -> TrajectoryRule:
    return kind(length=1.0, criterion=None, jitter=jitter, max_integration_steps=max_integration_steps)


KINDS = pytest.mark.parametrize("kind", [TrajectoryRule, EvenTrajectoryRule])


@KINDS
def test_jitter_covers_its_range_evenly(kind: type[TrajectoryRule]) -> None:
    divide = jax.jit(jax.vmap(lambda step: rule(kind, 0.5, 10_000).divide(step, jnp.asarray(100.0), jnp.asarray(0.5))))
    steps, _ = jax.device_get(divide(np.arange(256)))
    assert int(steps.min()) == 100
    assert 298 <= int(steps.max()) <= 300
    np.testing.assert_allclose(steps.mean(), 200.0, rtol=0.01)
    assert len(np.unique(steps)) > 150


@jax.jit
def divided_evenly(step_size: Any) -> tuple[Array, Array, Array]:
    """Return steps and their sizes in 64 trajectories of length 2, and the jitter of each."""
    numbers, even = jnp.arange(64), rule(EvenTrajectoryRule, 0.5, 10_000)
    steps, sizes = jax.vmap(lambda step: even.divide(step, jnp.asarray(2.0), jnp.asarray(step_size)))(numbers)
    return steps, sizes, jax.vmap(van_der_corput)(numbers)


@pytest.mark.parametrize("step_size", [0.01, 0.3, 2.0, 100.0])
def test_even_trajectories_end_where_they_should(step_size: float) -> None:
    steps, sizes, jitter = jax.device_get(divided_evenly(step_size))
    np.testing.assert_allclose(steps * sizes, 2.0 * (0.5 + jitter), rtol=1e-12)
    assert np.all(sizes <= step_size * (1.0 + 1e-8))
    # One step fewer would have to be too long.
    np.testing.assert_array_less(step_size * (steps - 1), steps * sizes)


@KINDS
@pytest.mark.parametrize(
    ("length", "step_size", "expected"), [(1e-9, 1.0, 1), (1e9, 1e-9, 50), (1.0, 0.0, 50), (3.0, 1.0, 3)]
)
def test_steps_stay_within_limits(kind: type[TrajectoryRule], length: float, step_size: float, expected: int) -> None:
    steps, size = rule(kind, 0.0, 50).divide(jnp.asarray(0), jnp.asarray(length), jnp.asarray(step_size))
    assert steps == expected
    assert steps.dtype == jnp.int32
    assert size <= step_size


def test_trajectories_are_rounded_or_divided_evenly() -> None:
    whole, even = (
        rule(kind, 0.0, 50).divide(jnp.asarray(0), jnp.asarray(3.4), jnp.asarray(1.0))
        for kind in (TrajectoryRule, EvenTrajectoryRule)
    )
    assert whole == (3, 1.0)
    assert even == (4, 0.85)
