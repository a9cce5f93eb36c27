"""SNAPER lengthens trajectories for the widest direction and for no other."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.pooling import Pooling
from distmc.adaptation.principal import PrincipalComponent, no_component
from distmc.adaptation.snaper import SNAPERCriterion
from distmc.adaptation.trajectory import Trajectories, TrajectoryRule, ascend
from distmc.kernels.base import Target
from distmc.kernels.hmc import HMCInfo
from distmc.kernels.metrics import Metric
from distmc.types import Array

POOLING = Pooling(mean=functools.partial(jnp.mean, axis=0), median=functools.partial(jnp.median, axis=0))
TARGET = Target(lambda position: (position, position), lambda a, b: jnp.sum(a * b, axis=-1))
NUM_CHAINS = 20_000
WIDTHS = np.array([0.3, 3.0, 1.0])
METRIC = Metric(jnp.full(3, 10.0), jnp.full(3, 0.1))


def info_of(end: Any, momentum: Any, acceptance_rate: Any = None) -> HMCInfo:
    rate = jnp.ones(len(end)) if acceptance_rate is None else acceptance_rate
    no, zero = jnp.zeros(len(end), bool), jnp.zeros(len(end))
    return HMCInfo(rate, ~no, no, no, zero, zero, jnp.int32(1), jnp.asarray(end), jnp.asarray(momentum))


def exact_trajectories(length: Array) -> Trajectories:
    """Return exact trajectories on a normal target that has these widths around 7 once the metric has whitened it."""
    start, momentum = np.random.default_rng(0).normal(size=(2, NUM_CHAINS, 3))
    angle = length / WIDTHS
    end = jnp.cos(angle) * start + jnp.sin(angle) * momentum
    end_momentum = -jnp.sin(angle) * start + jnp.cos(angle) * momentum
    to_position = 10.0 * WIDTHS
    info = info_of(7.0 + to_position * end, end_momentum)
    return Trajectories(jnp.asarray(7.0 + to_position * start), info, METRIC, length, jnp.ones(NUM_CHAINS))


SETTING = (TARGET, POOLING)


# Compiled as a whole, as is what follows: by itself, each operation would be compiled alone.
@jax.jit
def exact_gradient(known: PrincipalComponent, length: Any) -> tuple[PrincipalComponent, Array]:
    return SNAPERCriterion().gradient(known, exact_trajectories(jnp.asarray(length)), *SETTING)


@functools.cache
def known_direction() -> PrincipalComponent:
    """Return what is known when some steps have been seen."""
    known = no_component(3)
    for _ in range(30):
        known, _ = exact_gradient(known, 1.0)
    return known


@jax.jit
def gradient_of(known: PrincipalComponent, start: Any, end: Any, momentum: Any, rate: Any, length: Any) -> Array:
    trajectories = Trajectories(start, info_of(end, momentum, rate), METRIC, length, jnp.ones(len(start)))
    return SNAPERCriterion().gradient(known, trajectories, *SETTING)[1]


@pytest.mark.parametrize("length", [0.5, 2.0, 3.5, 5.0])
def test_gradient_is_that_of_the_widest_direction(length: float) -> None:
    _, grad = exact_gradient(known_direction(), length)
    # Along it the criterion is proportional to sin(t / width)**2 / t.
    angle = length / 3.0
    expected = 2.0 * angle / np.tan(angle) - 1.0
    np.testing.assert_allclose(grad, expected, atol=0.05 * (1.0 + abs(expected)))


def test_search_settles_where_the_gradient_vanishes() -> None:
    rule = TrajectoryRule(length=1.0, criterion=SNAPERCriterion(), jitter=0.5, max_integration_steps=50)
    state = rule.init(3)
    update = jax.jit(lambda state: rule.update(state, exact_trajectories(jnp.exp(state.log_length)), *SETTING))
    for _ in range(150):
        state = update(state)
    # The root of tan(t) = 2 t, three times as long for a direction of width 3.
    np.testing.assert_allclose(jnp.exp(state.log_length), 3.0 * 1.1656, rtol=0.05)
    assert abs(state.criterion.direction[1]) > 0.99
    assert ascend(state, jnp.asarray(1.0)).criterion is state.criterion


def test_ends_that_do_not_count_change_nothing() -> None:
    start, end, momentum = np.random.default_rng(0).normal(size=(3, 8, 3))
    rate = np.array([0.9, 0.8, 0.0, 1.0, 0.7, 0.0, 0.6, 0.9])

    def grad_of(end: Any, momentum: Any) -> Array:
        return gradient_of(known_direction(), start, end, momentum, rate, 0.5)

    expected = grad_of(end, momentum)
    broken, broken_momentum = end.copy(), momentum.copy()
    broken[2], broken[5], broken_momentum[2] = np.nan, np.inf, -np.inf
    assert np.isfinite(expected)
    assert grad_of(broken, broken_momentum) == expected


def test_no_end_that_counts_gives_no_gradient() -> None:
    nowhere = np.full((3, 3), np.nan)
    assert gradient_of(no_component(3), np.zeros((3, 3)), nowhere, nowhere, np.zeros(3), 1.0) == 0.0
