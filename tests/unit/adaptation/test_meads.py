"""Damping and the distance between draws follow the widest direction; nothing changes when warm-up has ended."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.meads import MEADSState, MEADSWarmup
from distmc.adaptation.metric import MetricRule
from distmc.adaptation.pooling import Pooling
from distmc.adaptation.schedule import build_schedule
from distmc.adaptation.warmup import STEPS_BEFORE_METRIC, Warmup, step_size_from_gradients
from distmc.kernels.base import Target
from distmc.kernels.ghmc import build_kernel
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array

NUM_WARMUP, NUM_CHAINS, NUM_DIMENSIONS = 200, 16, 3
SCALES = np.array([0.1, 1.0, 5.0])
CORRELATION = 0.9
# Whitened by its standard deviations it has a variance of 1 + 2 x 0.9 along the diagonal, 0.1 across it.
PRECISION = np.linalg.inv(np.outer(SCALES, SCALES) * (CORRELATION + (1.0 - CORRELATION) * np.eye(3)))


def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
    grad = -position @ PRECISION
    return 0.5 * jnp.sum(position * grad, axis=1), grad


TARGET = Target(logdensity_and_grad, lambda a, b: jnp.sum(a * b, axis=-1))
MEADS = MEADSWarmup(
    warmup=Warmup(
        schedule=build_schedule(NUM_WARMUP),
        target_acceptance_rate=0.8,
        guess_step_size=functools.partial(step_size_from_gradients, target=TARGET),
        whitened_step_size=0.76,
        trajectory=None,
        metric=MetricRule(num_dimensions=NUM_DIMENSIONS, form="diagonal"),
        target=TARGET,
        pooling=Pooling(mean=functools.partial(jnp.mean, axis=0), median=functools.partial(jnp.median, axis=0)),
    ),
    spacing=2.0,
    max_integration_steps=1000,
)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(tuning: MEADSWarmup, num_steps: int) -> Any:
    """Return what is known after the last step; and what was known before, and used in, each step."""
    kernel = build_kernel(TARGET)

    def step(carry: Any, number: Array) -> Any:
        state, learned = carry
        parameters = tuning.parameters(learned, number)
        moved, info = kernel.step(chain_keys(seed_key(0), number, NUM_CHAINS), state, parameters)
        facts = (learned, number, parameters, state, moved, info)
        renewed = jax.lax.cond(number < tuning.warmup.schedule.num_warmup, tuning.update, lambda same, *_: same, *facts)
        return (moved, renewed), (learned, parameters, info)

    start = kernel.init(jnp.asarray(np.random.default_rng(0).normal(size=(NUM_CHAINS, NUM_DIMENSIONS))))
    last, kept = jax.lax.scan(step, (start, tuning.init(start)), jnp.arange(num_steps, dtype=jnp.int32))
    return last[1], *kept


@pytest.fixture(scope="module")
def history() -> Any:
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, run(MEADS, NUM_WARMUP + 40))


def test_scales_step_size_and_damping_are_learned(history: Any) -> None:
    last, _, parameters, info = history
    np.testing.assert_allclose(parameters.metric.factor[-1], SCALES, rtol=0.2)
    np.testing.assert_allclose(last.widest.variance, 1.0 + 2.0 * CORRELATION, rtol=0.25)
    assert 0.7 < info.acceptance_rate[NUM_WARMUP:].mean() < 0.9
    # Momenta last as long as the posterior is wide where it is widest.
    time_kept = -2.0 * parameters.step_size[-1] / np.log1p(-parameters.refreshment[-1])
    np.testing.assert_allclose(time_kept, np.sqrt(last.widest.variance), rtol=1e-9)
    np.testing.assert_array_equal(parameters.drift, 0.5 * parameters.refreshment)
    time_between = parameters.num_integration_steps[-1] * parameters.step_size[-1]
    np.testing.assert_allclose(time_between, 2.0 * time_kept, atol=0.5 * parameters.step_size[-1])


def test_before_a_metric_is_known_a_step_is_as_long_as_a_trajectory(history: Any) -> None:
    _, _, parameters, _ = history
    before = slice(0, MEADS.warmup.schedule.window_ends[0] + 1)
    assert set(parameters.num_integration_steps[before]) == {STEPS_BEFORE_METRIC}
    np.testing.assert_allclose(parameters.refreshment[before], -np.expm1(-2.0 / STEPS_BEFORE_METRIC))
    assert parameters.num_integration_steps[before.stop] < STEPS_BEFORE_METRIC


def test_search_starts_afresh_with_each_metric(history: Any) -> None:
    _, learned, _, _ = history
    ends = np.asarray(MEADS.warmup.schedule.window_ends)
    np.testing.assert_array_equal(learned.widest.count[ends + 1], 0.0)
    np.testing.assert_array_equal(learned.widest.variance[ends + 1], 1.0)
    assert np.all(learned.widest.count[ends] > 0.0)


def test_nothing_changes_when_warmup_has_ended(history: Any) -> None:
    last, learned, parameters, _ = history
    for before, after in zip(jax.tree.leaves(learned), jax.tree.leaves(last), strict=True):
        for step in (NUM_WARMUP, NUM_WARMUP + 30):
            assert before[step].tobytes() == after.tobytes()
    for kept in jax.tree.leaves(parameters):
        assert len(np.unique(kept[NUM_WARMUP:].reshape(40, -1), axis=0)) == 1
    # What had not changed in the last step of warm-up either would show nothing.
    assert learned.widest.variance[NUM_WARMUP - 1] != learned.widest.variance[NUM_WARMUP]


@pytest.mark.parametrize(("spacing", "expected"), [(1e-9, 1), (1e9, 1000)])
def test_steps_between_draws_stay_within_limits(spacing: float, expected: int, history: Any) -> None:
    last, _, _, _ = history
    learned: MEADSState = jax.tree.map(jnp.asarray, last)
    tuning = dataclasses.replace(MEADS, spacing=spacing)
    parameters = tuning.parameters(learned, jnp.asarray(NUM_WARMUP))
    assert parameters.num_integration_steps == expected
    assert parameters.num_integration_steps.dtype == jnp.int32
    in_warmup = tuning.parameters(learned, jnp.asarray(NUM_WARMUP - 1))
    assert in_warmup.num_integration_steps == min(expected, STEPS_BEFORE_METRIC)


def test_warmup_too_short_for_a_metric_leaves_long_steps() -> None:
    short = dataclasses.replace(MEADS, warmup=dataclasses.replace(MEADS.warmup, schedule=build_schedule(10)))
    last, _, parameters, info = jax.tree.map(np.asarray, run(short, 14))
    assert last.warmup.step_size.count == 10.0
    assert set(parameters.num_integration_steps) == {STEPS_BEFORE_METRIC}
    assert info.acceptance_rate[10:].mean() > 0.3
