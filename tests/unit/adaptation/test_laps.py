"""The late-adjusted sampler's tuning: two phases, nothing after them, and no chain that spoils it for the others."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.laps import LateAdjustment
from distmc.adaptation.metric import MetricRule
from distmc.adaptation.pooling import Pooling
from distmc.adaptation.schedule import build_schedule_after_arrival
from distmc.adaptation.trajectory import TrajectoryRule
from distmc.kernels.base import Target
from distmc.kernels.laps import LAPSInfo, LAPSState, build_kernel
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array

NUM_WARMUP, NUM_DRAWS, NUM_CHAINS = 200, 40, 32
SCALES = np.array([0.1, 1.0, 5.0])
LENGTH = np.pi / 2.0


def dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
    return -0.5 * jnp.sum((position / SCALES) ** 2, axis=1), -position / SCALES**2


def broken_in_one_chain(position: Array) -> tuple[Array, Array]:
    """Return the same, but no number for chain 3 wherever it goes."""
    value, grad = logdensity_and_grad(position)
    is_broken = (jnp.arange(position.shape[0]) == 3) & (position[:, 1] != 0.5)
    return jnp.where(is_broken, jnp.nan, value), jnp.where(is_broken[:, None], jnp.nan, grad)


def tuning(target: Target) -> LateAdjustment:
    return LateAdjustment(
        schedule=build_schedule_after_arrival(NUM_WARMUP),
        target_acceptance_rate=0.9,
        whitened_step_size=0.76,
        trajectory=TrajectoryRule(length=LENGTH, criterion=None, jitter=0.5, max_integration_steps=200),
        metric=MetricRule(num_dimensions=3, form="diagonal"),
        target=target,
        pooling=Pooling(mean=functools.partial(jnp.mean, axis=0), median=functools.partial(jnp.median, axis=0)),
    )


TUNING = tuning(Target(logdensity_and_grad, dot))
FIRST_ADJUSTED = NUM_WARMUP - TUNING.schedule.final_buffer


def run(evaluate: Any, position: Any) -> Any:
    """Return state and what is known after all steps, and before each step what is known, parameters and positions."""
    target = Target(evaluate, dot)
    kernel, adaptation = build_kernel(target), tuning(target)

    def step(carry: Any, number: Array) -> Any:
        state, learned = carry
        parameters = adaptation.parameters(learned, number)
        moved, info = kernel.step(chain_keys(seed_key(0), number, NUM_CHAINS), state, parameters)
        facts = (learned, number, parameters, state, moved, info)
        renewed = jax.lax.cond(number < NUM_WARMUP, adaptation.update, lambda same, *_: same, *facts)
        return (moved, renewed), (learned, parameters, info, state.position)

    @jax.jit
    def all_steps(position: Array) -> Any:
        start = kernel.init(position)
        numbers = jnp.arange(NUM_WARMUP + NUM_DRAWS, dtype=jnp.int32)
        return jax.lax.scan(step, (start, adaptation.init(start)), numbers)

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, all_steps(jnp.asarray(position)))


def around(center: float, spread: float) -> Any:
    return center + spread * np.random.default_rng(0).normal(size=(NUM_CHAINS, 3))


@pytest.fixture(scope="module")
def history() -> Any:
    return run(logdensity_and_grad, around(0.0, 1.0))


def test_steps_are_adjusted_from_the_last_buffer_on(history: Any) -> None:
    _, (_, parameters, info, _) = history
    numbers = np.arange(NUM_WARMUP + NUM_DRAWS)
    is_adjusted = numbers >= FIRST_ADJUSTED
    np.testing.assert_array_equal(parameters.is_adjusted, is_adjusted)
    np.testing.assert_array_equal(parameters.persistence[is_adjusted], 0.0)
    assert np.all((parameters.persistence[~is_adjusted] > 0.0) & (parameters.persistence[~is_adjusted] < 1.0))
    np.testing.assert_array_equal(info.num_integration_steps[~is_adjusted], 1)
    assert info.is_accepted[~is_adjusted].all()
    assert not info.is_accepted[is_adjusted].all()


def test_scales_and_step_size_are_learned(history: Any) -> None:
    _, (_, parameters, info, _) = history
    np.testing.assert_allclose(parameters.metric.factor[-1], SCALES, rtol=0.2)
    assert 0.85 < info.acceptance_rate[NUM_WARMUP:].mean() < 0.97
    length = (parameters.step_size * parameters.num_integration_steps)[NUM_WARMUP:]
    # Whole integration steps leave the length right on average.
    np.testing.assert_allclose(length.mean(), LENGTH, rtol=0.15)


def test_nothing_changes_when_warmup_has_ended(history: Any) -> None:
    (_, last), (learned, parameters, _, _) = history
    for before, after in zip(jax.tree.leaves(learned), jax.tree.leaves(last), strict=True):
        assert before[NUM_WARMUP].tobytes() == before[NUM_WARMUP + 30].tobytes() == after.tobytes()
    assert learned.adjusted.log_average[NUM_WARMUP - 1] != last.adjusted.log_average
    assert len(np.unique(parameters.step_size[NUM_WARMUP:])) == 1
    assert np.exp(last.adjusted.log_average) == pytest.approx(parameters.step_size[-1])


def test_one_chain_without_numbers_freezes_nobody(history: Any) -> None:
    start = around(0.0, 1.0)
    start[3, 1] = 0.5
    (state, last), (learned, parameters, info, position) = run(broken_in_one_chain, start)
    others = np.arange(NUM_CHAINS) != 3
    assert info.is_nonfinite[:, 3].all()
    assert not info.is_nonfinite[:, others].any()
    np.testing.assert_array_equal(position[:, 3], np.broadcast_to(start[3], position[:, 3].shape))
    for leaf in (*jax.tree.leaves(learned), *jax.tree.leaves(last), *jax.tree.leaves(state)):
        assert np.isfinite(leaf).all()
    # The others are tuned as if it were not there, and go on moving.
    _, (_, alone, _, _) = history
    np.testing.assert_allclose(parameters.metric.factor[-1], SCALES, rtol=0.25)
    np.testing.assert_allclose(parameters.step_size[-1], alone.step_size[-1], rtol=0.25)
    assert np.all(np.diff(position[: FIRST_ADJUSTED + 1, others], axis=0) != 0.0)
    drawn = position[NUM_WARMUP:, others]
    np.testing.assert_allclose(drawn.std(axis=(0, 1)), SCALES, rtol=0.15)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_chains_that_fall_together_from_far_out_arrive(spread: float) -> None:
    _, (_, parameters, info, position) = run(logdensity_and_grad, around(1000.0, spread))
    arrived = np.abs(position / SCALES).max(axis=(1, 2)) < 6.0
    # They have the windows but the last for it, and do not go away again.
    assert arrived[TUNING.schedule.window_ends[-2] :].mean() > 0.95
    np.testing.assert_allclose(parameters.metric.factor[-1], SCALES, rtol=0.25)
    assert info.acceptance_rate[NUM_WARMUP:].mean() > 0.8


def test_step_size_follows_the_variance_of_energy_errors() -> None:
    """Beside the formulas in NumPy."""
    rng = np.random.default_rng(3)
    position = 2.0 * SCALES * rng.normal(size=(NUM_CHAINS, 3))
    value, grad = logdensity_and_grad(jnp.asarray(position))
    along = jnp.broadcast_to(jnp.asarray([1.0, 0.0, 0.0]), position.shape)
    errors = rng.normal(size=NUM_CHAINS)
    before = LAPSState(jnp.asarray(position), value, grad, along)

    @jax.jit
    def change(errors: Array, is_nonfinite: Array, after: LAPSState) -> Array:
        learned, step = TUNING.init(before), jnp.asarray(5)
        fields = dict.fromkeys(LAPSInfo._fields, jnp.zeros(NUM_CHAINS)) | {"energy_error": errors}
        info = LAPSInfo(**fields)._replace(is_nonfinite=is_nonfinite)
        renewed = TUNING.update(learned, step, TUNING.parameters(learned, step), before, after, info)
        return renewed.step_size / learned.step_size

    offset = position - position.mean(axis=0)
    force = np.asarray(grad)
    gap = (1.0 + np.mean(offset * force, axis=0)) ** 2 + force.mean(axis=0) ** 2 / force.var(axis=0)
    wanted = 0.1 * np.mean(gap) ** 0.375
    none = np.zeros(NUM_CHAINS, bool)
    for size in (0.3, 1.0, 3.0):
        expected = (3.0 * wanted / np.var(size * errors)) ** (1.0 / 6.0)
        np.testing.assert_allclose(change(size * errors, none, before), expected, rtol=1e-10)
    np.testing.assert_allclose(change(1e-9 * errors, none, before), 1.5)
    np.testing.assert_allclose(change(1e9 * errors, none, before), 0.3)
    # Where most chains leave the numbers, or turn back, steps are too long whatever the energy says.
    most = np.arange(NUM_CHAINS) < NUM_CHAINS - 4
    np.testing.assert_allclose(change(np.where(most, np.inf, 1e-9 * errors), most, before), 0.4)
    np.testing.assert_allclose(change(1e-9 * errors, none, before._replace(direction=-along)), 0.4)
