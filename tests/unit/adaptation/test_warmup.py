"""Warm-up learns from its steps, and from nothing after them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.chees import ChEESCriterion
from distmc.adaptation.metric import MetricRule
from distmc.adaptation.pooling import Pooling
from distmc.adaptation.schedule import build_schedule
from distmc.adaptation.trajectory import EvenTrajectoryRule
from distmc.adaptation.warmup import Warmup, WarmupState, step_size_from_gradients
from distmc.kernels.base import GradientState, Target
from distmc.kernels.hmc import build_kernel
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array

NUM_WARMUP, NUM_CHAINS = 200, 16
SCALES = np.array([0.1, 1.0, 5.0])


def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
    return -0.5 * jnp.sum((position / SCALES) ** 2, axis=1), -position / SCALES**2


def quartic(position: Array) -> tuple[Array, Array]:
    return -jnp.sum((position / SCALES) ** 4, axis=1), -4.0 * position**3 / SCALES**4


TARGET = Target(logdensity_and_grad, lambda a, b: jnp.sum(a * b, axis=-1))
WARMUP = Warmup(
    schedule=build_schedule(NUM_WARMUP),
    target_acceptance_rate=0.8,
    guess_step_size=functools.partial(step_size_from_gradients, target=TARGET),
    whitened_step_size=0.76,
    trajectory=EvenTrajectoryRule(length=1.0, criterion=ChEESCriterion(), jitter=0.5, max_integration_steps=200),
    metric=MetricRule(num_dimensions=3, form="diagonal"),
    target=TARGET,
    pooling=Pooling(mean=functools.partial(jnp.mean, axis=0), median=functools.partial(jnp.median, axis=0)),
)


def run(warmup: Warmup, num_steps: int) -> Any:
    """Return the states of warm-up before each step and after the last, and the kernel's parameters in each."""
    kernel = build_kernel(warmup.target)

    def step(carry: tuple[GradientState, WarmupState], number: Array) -> Any:
        state, learned = carry
        parameters = warmup.parameters(learned, number)
        moved, info = kernel.step(chain_keys(seed_key(0), number, NUM_CHAINS), state, parameters)
        facts = (learned, number, parameters, state, moved, info)
        renewed = jax.lax.cond(number < warmup.schedule.num_warmup, warmup.update, lambda same, *_: same, *facts)
        return (moved, renewed), (learned, parameters, info)

    start = kernel.init(jnp.asarray(np.random.default_rng(0).normal(size=(NUM_CHAINS, 3))))
    last, kept = jax.lax.scan(step, (start, warmup.init(start)), jnp.arange(num_steps, dtype=jnp.int32))
    return last, kept


@pytest.fixture(scope="module")
def history() -> Any:
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(lambda: run(WARMUP, NUM_WARMUP + 60))())


def test_scales_step_size_and_length_are_learned(history: Any) -> None:
    _, (_, parameters, info) = history
    after = slice(NUM_WARMUP, None)
    np.testing.assert_allclose(parameters.metric.factor[-1], SCALES, rtol=0.2)
    np.testing.assert_allclose(parameters.pull.center[-1] / SCALES, 0.0, atol=0.1)
    assert parameters.pull.frequency[-1] == 1.0
    # Only what the metric does not know of a normal target is an error, so that one step goes all the way.
    assert info.acceptance_rate[after].mean() > 0.97
    np.testing.assert_array_equal(parameters.num_integration_steps[after], 1)
    assert 0.5 < parameters.step_size[after].mean() < 2.0


@pytest.fixture(scope="module")
def history_of_quartic() -> Any:
    with jax.enable_x64(True):
        warmup = dataclasses.replace(WARMUP, target=Target(quartic, TARGET.dot))
        return jax.tree.map(np.asarray, jax.jit(lambda: run(warmup, NUM_WARMUP + 60))())


def test_step_size_is_learned_where_the_target_is_not_normal(history_of_quartic: Any) -> None:
    _, (learned, parameters, info) = history_of_quartic
    after = slice(NUM_WARMUP, None)
    assert 0.75 < info.acceptance_rate[after].mean() < 0.95
    assert parameters.num_integration_steps[after].max() > 1
    assert np.exp(learned.step_size.log_average[-1]) < 0.9 * (1.5 * np.exp(learned.trajectory.log_length[-1]))


def test_step_size_stays_below_the_longest_trajectory(history: Any) -> None:
    _, (learned, _, _) = history
    known = slice(WARMUP.schedule.window_ends[0] + 2, None)
    longest = learned.trajectory.log_length[known] + np.log(2.0 * 1.5)
    assert np.all(learned.step_size.log_step_size[known] < longest + 0.1)
    assert np.all(learned.step_size.log_average[known] < longest + 0.1)


def test_nothing_changes_when_warmup_has_ended(history: Any) -> None:
    (_, last), (learned, parameters, _) = history
    for before, after in zip(jax.tree.leaves(learned), jax.tree.leaves(last), strict=True):
        for step in (NUM_WARMUP, NUM_WARMUP + 30):
            assert before[step].tobytes() == after.tobytes()
    # What had not changed in the last step of warm-up either would show nothing.
    assert learned.step_size.log_average[NUM_WARMUP - 1] != last.step_size.log_average
    length = (parameters.step_size * parameters.num_integration_steps)[NUM_WARMUP:]
    np.testing.assert_allclose(length.mean(), np.exp(last.trajectory.log_average), rtol=0.05)


def test_metric_changes_when_a_window_ends_and_only_then(history: Any) -> None:
    _, (learned, _, _) = history
    factor = learned.metric.factor
    changes = np.flatnonzero(np.any(factor[1:] != factor[:-1], axis=1))
    ends = WARMUP.schedule.window_ends
    # On a normal target the first estimate is exact already, so the next may be the same to the bit. The last is made
    # in another way, from positions alone.
    assert {ends[0], ends[-1]} <= set(changes) <= set(ends)


def test_pull_comes_with_the_first_metric_and_changes_when_a_window_ends(history: Any) -> None:
    _, (learned, _, _) = history
    center, frequency = learned.pull
    ends = WARMUP.schedule.window_ends
    np.testing.assert_array_equal(frequency[: ends[0] + 1], 0.0)
    np.testing.assert_array_equal(frequency[ends[0] + 1 :], 1.0)
    changes = set(np.flatnonzero(np.any(center[1:] != center[:-1], axis=1)))
    # Of the windows between, those of a normal target may see the same center to the bit.
    assert {ends[0], ends[-1]} <= changes <= set(ends)


def test_windows_start_afresh(history: Any) -> None:
    _, (learned, _, _) = history
    counts = learned.window.position.count
    assert counts[WARMUP.schedule.initial_buffer] == 0
    ends = np.asarray(WARMUP.schedule.window_ends)
    np.testing.assert_array_equal(counts[ends + 1], 0)
    np.testing.assert_array_equal(learned.step_size.count[ends + 1], 0)
    # Chains that had fallen far behind in a step are not among them.
    full = NUM_CHAINS * (np.asarray(WARMUP.schedule.windows) - 1)
    assert np.all((counts[ends] > 0.9 * full) & (counts[ends] <= full))


def test_only_the_last_window_takes_chains_for_arrived(history: Any) -> None:
    _, (learned, _, _) = history
    window, ends = learned.window.position, WARMUP.schedule.window_ends
    for end in ends:
        spread = np.sqrt(window.scatter[end] / (window.count[end] - 1.0))
        # On a normal target gradients tell the scales exactly, positions by and large.
        gap = np.abs(learned.metric.factor[end + 1] / SCALES - 1.0)
        assert np.all(gap > 1e-6) if end == ends[-1] else np.all(gap < 1e-10)
    np.testing.assert_allclose(learned.metric.factor[ends[-1] + 1], spread, rtol=0.03)


def test_length_is_not_learned_before_a_metric_is_known(history: Any) -> None:
    _, (learned, _, _) = history
    first = WARMUP.schedule.window_ends[0]
    assert len(np.unique(learned.trajectory.log_length[: first + 2])) == 1
    assert learned.trajectory.log_length[first + 2] != learned.trajectory.log_length[0]


def test_fixed_length_stays_and_goes_on_jittering() -> None:
    rule = EvenTrajectoryRule(length=5.0, criterion=None, jitter=0.5, max_integration_steps=200)
    fixed = dataclasses.replace(WARMUP, trajectory=rule)
    (_, last), (_, parameters, _) = jax.tree.map(np.asarray, jax.jit(lambda: run(fixed, NUM_WARMUP + 40))())
    assert last.trajectory.log_length == last.trajectory.log_average == np.log(5.0)
    length = (parameters.step_size * parameters.num_integration_steps)[NUM_WARMUP:]
    np.testing.assert_allclose(length.mean(), 5.0, rtol=0.05)
    assert length.min() < 3.5
    assert length.max() > 6.5


def test_first_step_size_is_finite_and_careful() -> None:
    state = GradientState(jnp.zeros((2, 3)), jnp.zeros(2), jnp.array([[1e8, 0.0, 0.0], [jnp.nan, 0.0, 0.0]]))
    np.testing.assert_allclose(jnp.exp(WARMUP.init(state).step_size.log_step_size), 1e-8)
    flat = GradientState(jnp.zeros((2, 3)), jnp.zeros(2), jnp.zeros((2, 3)))
    np.testing.assert_allclose(jnp.exp(WARMUP.init(flat).step_size.log_step_size), 1.0)
