"""One step of Hamiltonian Monte Carlo for all chains."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.kernels.base import DIVERGENCE_THRESHOLD, GradientState, Target, TrajectoryParameters
from distmc.kernels.hmc import HMCInfo, build_kernel
from distmc.kernels.metrics import Metric, to_position
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array, NumpyArray

NUM_CHAINS = 6
NUM_DIMENSIONS = 2
NUM_INTEGRATION_STEPS = 4


def target_of(logdensity: Any) -> Target:
    """Return the target of a log-density of one chain's position."""
    return Target(
        logdensity_and_grad=jax.vmap(jax.value_and_grad(logdensity)), dot=lambda a, b: jnp.sum(a * b, axis=-1)
    )


def banana(position: Array) -> Array:
    """Return a log-density that no coordinate system straightens."""
    return -0.5 * position[0] ** 2 - 0.5 * (position[1] - position[0] ** 2) ** 2 - 0.1 * position[1] ** 4


def parameters(
    step_size: float = 0.1, num_integration_steps: int = NUM_INTEGRATION_STEPS, *, is_dense: bool = False
) -> TrajectoryParameters:
    factor = np.array([[0.8, 0.0], [0.5, 0.6]]) if is_dense else np.array([0.8, 1.3])
    inverse = np.linalg.inv(factor) if is_dense else 1.0 / factor
    return TrajectoryParameters(
        step_size=jnp.asarray(step_size),
        num_integration_steps=jnp.asarray(num_integration_steps, jnp.int32),
        metric=Metric(jnp.asarray(factor), jnp.asarray(inverse)),
    )


# Compiled as a whole, as is much that follows: by itself, each operation would be compiled, and called, alone.
@jax.jit
def keys(step: int = 0) -> Array:
    return chain_keys(seed_key(1), jnp.asarray(step), NUM_CHAINS)


def starting_positions() -> NumpyArray:
    return np.random.default_rng(0).normal(size=(NUM_CHAINS, NUM_DIMENSIONS))


BANANA = target_of(banana)
FLAT = target_of(lambda position: 0.0 * jnp.sum(position) - 3.0)


@functools.cache
def compiled_step(target: Target) -> Any:
    kernel = build_kernel(target)
    return jax.jit(
        lambda rng_keys, position, settings: kernel.step(rng_keys, kernel.init(jnp.asarray(position)), settings)
    )


def take_step(
    target: Target, position: Any, settings: TrajectoryParameters, rng_keys: Array
) -> tuple[GradientState, HMCInfo]:
    """Return state and info after one step from these positions, as NumPy arrays."""
    result: tuple[GradientState, HMCInfo] = jax.tree.map(
        np.asarray, compiled_step(target)(rng_keys, position, settings)
    )
    return result


def momentum_at_start(rng_keys: Array) -> Any:
    """Return the momenta that a step draws; nothing changes them on a flat density."""
    return take_step(FLAT, starting_positions(), parameters(), rng_keys)[1].proposal_momentum


def leapfrog(position: Array, momentum: Array, settings: TrajectoryParameters) -> tuple[Array, Array]:
    """Integrate one chain as textbooks have it, position by position, in the original coordinates."""
    factor = jnp.diag(settings.metric.factor) if settings.metric.factor.ndim == 1 else settings.metric.factor
    covariance, step = factor @ factor.T, settings.step_size
    physical = jnp.linalg.solve(factor.T, momentum)
    for _ in range(NUM_INTEGRATION_STEPS):
        physical = physical + 0.5 * step * jax.grad(banana)(position)
        position = position + step * covariance @ physical
        physical = physical + 0.5 * step * jax.grad(banana)(position)
    return position, factor.T @ physical


@pytest.mark.parametrize("is_dense", [False, True])
def test_trajectory_is_that_of_the_textbook(is_dense: bool) -> None:
    settings = parameters(is_dense=is_dense)
    position, momentum = starting_positions(), momentum_at_start(keys())
    _, info = take_step(BANANA, position, settings, keys())

    @jax.jit
    @jax.vmap
    def textbook(position: Array, momentum: Array) -> tuple[Array, ...]:
        end, end_momentum = leapfrog(position, momentum, settings)
        return end, end_momentum, banana(position), banana(end)

    end, end_momentum, density, end_density = jax.device_get(textbook(position, momentum))
    np.testing.assert_allclose(info.proposal, end, rtol=1e-10)
    np.testing.assert_allclose(info.proposal_momentum, end_momentum, rtol=1e-9, atol=1e-12)
    energy = -density + 0.5 * np.sum(momentum**2, axis=1)
    end_energy = -end_density + 0.5 * np.sum(end_momentum**2, axis=1)
    np.testing.assert_allclose(info.energy_error, end_energy - energy, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("is_dense", [False, True])
def test_trajectory_is_reversible_and_keeps_volume(is_dense: bool) -> None:
    # The kernel's trajectories are the textbook's, as the test above shows.
    settings = parameters(step_size=0.3, is_dense=is_dense)
    at, flip = np.array([0.4, -0.7, 0.9, 0.3]), np.array([1.0, 1.0, -1.0, -1.0])

    def flow(phase: Array) -> Array:
        return jnp.concatenate(leapfrog(phase[:2], phase[2:], settings))

    @jax.jit
    def with_jacobian(phase: Array) -> tuple[Array, Array]:
        return flow(phase), jax.jacobian(flow)(phase)

    end, jacobian = jax.device_get(with_jacobian(at))
    np.testing.assert_allclose(with_jacobian(end * flip)[0] * flip, at, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(jacobian), 1.0, rtol=1e-10)


def test_acceptance_follows_metropolis() -> None:
    settings = parameters(step_size=0.7, num_integration_steps=3)
    rates, accepted = [], []
    position = starting_positions()
    for step in range(200):
        state, info = take_step(BANANA, position, settings, keys(step))
        expected = np.minimum(1.0, np.exp(-info.energy_error))
        np.testing.assert_allclose(info.acceptance_rate, np.where(info.is_nonfinite, 0.0, expected), rtol=1e-12)
        kept = np.where(info.is_accepted[:, None], info.proposal, position)
        np.testing.assert_array_equal(state.position, kept)
        rates.append(info.acceptance_rate)
        accepted.append(info.is_accepted)
    rate, variance = np.mean(rates), np.sum(np.multiply(rates, np.subtract(1.0, rates)))
    assert 0.2 < rate < 0.9
    # Acceptances are independent coins once the rates are known.
    assert abs(np.sum(accepted) - np.sum(rates)) < 4.0 * np.sqrt(variance)


def test_state_holds_density_and_gradient_of_its_position() -> None:
    state, info = take_step(BANANA, starting_positions(), parameters(0.9, 3), keys(3))
    assert 0 < np.sum(info.is_accepted) < NUM_CHAINS
    again = jax.jit(build_kernel(BANANA).init)(state.position)
    np.testing.assert_allclose(state.logdensity, again.logdensity, rtol=1e-12)
    np.testing.assert_allclose(state.logdensity_grad, again.logdensity_grad, rtol=1e-12)


def test_energy_error_shrinks_with_the_square_of_the_step_size() -> None:
    errors = []
    for halvings in range(4):
        settings = parameters(0.1 / 2**halvings, 8 * 2**halvings)
        _, info = take_step(BANANA, starting_positions(), settings, keys())
        errors.append(info.energy_error)
    ratios = np.abs(errors[:-1]) / np.abs(errors[1:])
    np.testing.assert_allclose(ratios[-1], 4.0, rtol=0.05)


def test_constant_density_accepts_everything() -> None:
    state, info = take_step(FLAT, starting_positions(), parameters(2.0, 7, is_dense=True), keys())
    assert info.is_accepted.all()
    np.testing.assert_array_equal(info.acceptance_rate, 1.0)
    np.testing.assert_array_equal(info.energy_error, 0.0)
    moved = starting_positions() + to_position(parameters(is_dense=True).metric, 14.0 * momentum_at_start(keys()))
    np.testing.assert_allclose(state.position, moved, rtol=1e-6)


BAD_VALUES = (np.nan, -np.inf, np.inf, 0.0, 0.0, np.nan)
BAD_GRADIENTS = (np.nan, 0.0, 0.0, np.nan, np.inf, 0.0)


def broken_beside_centers(position: Array) -> tuple[Array, Array]:
    """Return a standard normal log-density; far out it is 0 and, except at every hundred, broken in its own way."""
    distance = position[:, 0]
    kind = jnp.clip(jnp.round(distance / 100.0).astype(int) - 1, 0, len(BAD_VALUES) - 1)
    is_far = distance > 50.0
    is_bad = is_far & (distance % 100.0 != 0.0)
    logdensity = jnp.where(is_far, 0.0, -0.5 * jnp.sum(position**2, axis=1))
    grad = jnp.where(is_far[:, None], 0.0, -position)
    return (
        jnp.where(is_bad, jnp.asarray(BAD_VALUES)[kind], logdensity),
        jnp.where(is_bad[:, None], jnp.asarray(BAD_GRADIENTS)[kind, None], grad),
    )


def test_end_that_is_not_finite_is_rejected_in_its_chain_alone() -> None:
    target = Target(broken_beside_centers, lambda a, b: jnp.sum(a * b, axis=-1))
    good = np.asarray(starting_positions())
    expected, expected_info = take_step(target, good, parameters(0.1, 2), keys())
    assert not expected_info.is_nonfinite.any()
    for kind in range(len(BAD_VALUES)):
        mixed = good.copy()
        mixed[2] = [100.0 * (kind + 1), 0.0]
        state, info = take_step(target, mixed, parameters(0.1, 2), keys())
        is_bad = np.arange(NUM_CHAINS) == 2
        np.testing.assert_array_equal(info.is_nonfinite, is_bad)
        np.testing.assert_array_equal(info.is_divergent, is_bad)
        assert info.acceptance_rate[2] == 0.0
        assert info.energy_error[2] == np.inf
        assert not info.is_accepted[2]
        np.testing.assert_array_equal(state.position[2], mixed[2])
        assert state.logdensity[2] == 0.0
        assert np.isfinite(info.energy[2])
        for new, old in zip((*state, info.energy), (*expected, expected_info.energy), strict=True):
            assert new[~is_bad].tobytes() == old[~is_bad].tobytes()


def test_large_energy_error_is_divergent_but_finite() -> None:
    narrow = target_of(lambda position: -0.5 * jnp.sum((position / 0.01) ** 2))
    _, info = take_step(narrow, 0.01 * starting_positions(), parameters(1.0, 3), keys())
    assert np.all(info.energy_error > DIVERGENCE_THRESHOLD)
    assert info.is_divergent.all()
    assert not info.is_nonfinite.any()
    assert not info.is_accepted.any()


def test_chains_may_be_listed_in_any_order() -> None:
    order = np.array([3, 0, 5, 1, 4, 2])
    state, info = take_step(BANANA, starting_positions(), parameters(0.8), keys())
    permuted, permuted_info = take_step(BANANA, starting_positions()[order], parameters(0.8), keys()[order])
    for new, old in zip((*permuted, permuted_info.energy), (*state, info.energy), strict=True):
        np.testing.assert_array_equal(new, old[order])


def test_chain_does_not_depend_on_how_many_there_are() -> None:
    many, few = chain_keys(seed_key(1), jnp.asarray(4), 8), chain_keys(seed_key(1), jnp.asarray(4), 3)
    np.testing.assert_array_equal(jax.random.key_data(many)[:3], jax.random.key_data(few))
    assert len(np.unique(jax.random.key_data(many), axis=0)) == 8


def test_nothing_is_compiled_again_for_another_step_size_or_length() -> None:
    traces = []

    def counted(position: Array) -> Array:
        traces.append(position)
        return banana(position)

    kernel = build_kernel(target_of(counted))
    step = jax.jit(kernel.step)
    state = kernel.init(jnp.asarray(starting_positions()))
    traces.clear()
    for step_size, length in [(0.1, 1), (0.2, 30), (1e-3, 7)]:
        state, info = step(keys(), state, parameters(step_size, length))
        assert int(info.num_integration_steps) == length
    assert len(traces) == 1
    assert step._cache_size() == 1
    state, _ = step(keys(), state, parameters(is_dense=True))
    assert len(traces) == 2


def test_one_evaluation_for_each_integration_step() -> None:
    calls = []

    def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
        jax.debug.callback(lambda: calls.append(1))
        return -0.5 * jnp.sum(position**2, axis=1), -position

    kernel = build_kernel(Target(logdensity_and_grad, lambda a, b: jnp.sum(a * b, axis=-1)))
    state = kernel.init(jnp.asarray(starting_positions()))
    jax.effects_barrier()
    assert len(calls) == 1
    jax.jit(kernel.step)(keys(), state, parameters(0.1, 5))
    jax.effects_barrier()
    assert len(calls) == 1 + 5


def test_random_numbers_stand_in_a_branch_and_are_drawn_once() -> None:
    kernel = build_kernel(target_of(banana))
    program = jax.make_jaxpr(kernel.step)(keys(), kernel.init(starting_positions()), parameters(0.1, 5))
    outside = {equation.primitive.name for equation in program.jaxpr.eqns}
    assert "cond" in outside
    assert outside.isdisjoint({"random_bits", "random_split", "random_wrap", "erf_inv"})
    assert all(name in str(program) for name in ("random_bits", "random_split", "erf_inv"))
