"""Steps with and without Metropolis' test: the same program, and the one with it is that of `mams`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.kernels import laps, mams
from distmc.kernels.base import Target, TrajectoryParameters
from distmc.kernels.laps import LAPSInfo, LAPSParameters, LAPSState
from distmc.kernels.metrics import Metric
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array

NUM_CHAINS, NUM_DIMENSIONS = 8, 3
SCALES: Any = np.array([0.7, 1.0, 1.6])
METRIC = Metric(SCALES, 1.0 / SCALES)


def dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


def logdensity(position: Array) -> Array:
    return -0.25 * jnp.sum(position**4) - 0.5 * jnp.sum(position[1:] * position[:-1])


def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
    """Return the log-density, or what is no number where the first coordinate is beyond ten."""
    value, grad = jax.vmap(jax.value_and_grad(logdensity))(position)
    return jnp.where(position[:, 0] > 10.0, jnp.nan, value), grad


TARGET = Target(logdensity_and_grad, dot)
KERNEL = laps.build_kernel(TARGET)


def parameters(step_size: float, num_steps: int, persistence: float, *, is_adjusted: bool) -> LAPSParameters:
    return LAPSParameters(
        step_size=jnp.asarray(step_size),
        num_integration_steps=jnp.asarray(num_steps, jnp.int32),
        persistence=jnp.asarray(persistence),
        is_adjusted=jnp.asarray(is_adjusted),
        metric=METRIC,
    )


def keys(step: int = 0) -> Array:
    return chain_keys(seed_key(1), jnp.asarray(step), NUM_CHAINS)


def starting_positions() -> Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(NUM_CHAINS, NUM_DIMENSIONS)))


@pytest.fixture(scope="module")
def step() -> Any:
    return jax.jit(KERNEL.step)


def test_adjusted_step_is_that_of_mams(step: Any) -> None:
    state, other = KERNEL.init(starting_positions()), mams.build_kernel(TARGET).init(starting_positions())
    settings = TrajectoryParameters(jnp.asarray(0.6), jnp.asarray(3, jnp.int32), METRIC)
    other_step = jax.jit(mams.build_kernel(TARGET).step)
    accepted = []
    for number in range(10):
        state, info = step(keys(number), state, parameters(0.6, 3, 0.0, is_adjusted=True))
        other, other_info = other_step(keys(number), other, settings)
        np.testing.assert_allclose(state.position, other.position, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(info.energy_error, other_info.energy_error, rtol=1e-7, atol=1e-11)
        np.testing.assert_array_equal(info.is_accepted, other_info.is_accepted)
        accepted.append(info.is_accepted)
    assert 0.2 < np.mean(accepted) < 1.0


def test_unadjusted_step_keeps_its_end_whatever_its_energy(step: Any) -> None:
    state, info = step(keys(), KERNEL.init(starting_positions()), parameters(1.5, 1, 0.9, is_adjusted=False))
    assert info.is_accepted.all()
    assert np.any(info.acceptance_rate < 0.2)
    assert np.all(state.position != starting_positions())
    again = KERNEL.init(state.position)
    np.testing.assert_allclose(state.logdensity, again.logdensity, rtol=1e-12)
    np.testing.assert_allclose(state.logdensity_grad, again.logdensity_grad, rtol=1e-12)


def test_persistence_is_the_share_of_a_direction_that_is_kept() -> None:
    flat = Target(lambda position: (jnp.zeros(position.shape[0]), jnp.zeros_like(position)), dot)
    kernel, num_chains, num_dimensions = laps.build_kernel(flat), 4000, 20
    step = jax.jit(kernel.step)
    rng_keys = [chain_keys(seed_key(2), jnp.asarray(number), num_chains) for number in range(2)]
    ones = jnp.ones(num_dimensions)
    settings = parameters(0.1, 1, 0.0, is_adjusted=False)._replace(metric=Metric(ones, ones))
    first, _ = step(rng_keys[0], kernel.init(jnp.zeros((num_chains, num_dimensions))), settings)
    np.testing.assert_allclose(np.linalg.norm(first.direction, axis=1), 1.0, rtol=1e-12)
    for persistence in (0.0, 0.5, 0.9):
        second, _ = step(rng_keys[1], first, settings._replace(persistence=jnp.asarray(persistence)))
        cosine = np.mean(np.sum(first.direction * second.direction, axis=1))
        np.testing.assert_allclose(cosine, persistence, atol=0.02)
        np.testing.assert_allclose(np.linalg.norm(second.direction, axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("is_adjusted", [False, True])
def test_end_that_is_not_finite_is_left_in_its_chain_alone(step: Any, is_adjusted: bool) -> None:
    settings = parameters(0.2, 1, 0.5, is_adjusted=is_adjusted)
    good = KERNEL.init(starting_positions())
    expected, _ = step(keys(), good, settings)
    fields = (jnp.asarray([11.0, 0.0, 0.0]), 0.0, 1e6, 0.0)
    lost = LAPSState(*(leaf.at[5].set(value) for leaf, value in zip(good, fields, strict=True)))
    state: LAPSState
    info: LAPSInfo
    state, info = jax.tree.map(np.asarray, step(keys(), lost, settings))
    is_lost = np.arange(NUM_CHAINS) == 5
    np.testing.assert_array_equal(info.is_nonfinite, is_lost)
    np.testing.assert_array_equal(info.is_divergent, is_lost)
    assert info.acceptance_rate[5] == 0.0
    assert info.energy_error[5] == np.inf
    np.testing.assert_array_equal(state.position[5], lost.position[5])
    # Without a direction the next one is new: the same attempt is not made again.
    np.testing.assert_array_equal(state.direction[5], 0.0)
    for new, old in zip(state, jax.tree.map(np.asarray, expected), strict=True):
        assert new[~is_lost].tobytes() == old[~is_lost].tobytes()
    after, _ = step(keys(1), jax.tree.map(jnp.asarray, state), settings)
    assert np.isfinite(after.direction).all()


def test_both_phases_are_one_program_with_one_evaluation_of_the_target() -> None:
    traces = []

    def counted(position: Array) -> tuple[Array, Array]:
        traces.append(1)
        return logdensity_and_grad(position)

    kernel = laps.build_kernel(Target(counted, dot))
    state = kernel.init(starting_positions())
    traces.clear()
    step = jax.jit(kernel.step)
    for settings in (parameters(0.1, 1, 0.9, is_adjusted=False), parameters(0.3, 4, 0.0, is_adjusted=True)):
        state, info = step(keys(), state, settings)
        assert int(info.num_integration_steps) == int(settings.num_integration_steps)
    assert len(traces) == 1
    assert step._cache_size() == 1
