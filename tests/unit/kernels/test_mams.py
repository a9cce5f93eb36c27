"""One step of the Metropolis-adjusted microcanonical sampler for all chains, and that it leaves its target alone."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from distmc.kernels import isokinetic, mams
from distmc.kernels.base import DIVERGENCE_THRESHOLD, GradientState, Target, TrajectoryParameters
from distmc.kernels.mams import MAMSInfo, build_kernel
from distmc.kernels.metrics import Metric
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array, NumpyArray

NUM_CHAINS = 6
CORRELATION = 0.8


def dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


def target_of(logdensity: Any) -> Target:
    """Return the target of a log-density of one chain's position."""
    return Target(jax.vmap(jax.value_and_grad(logdensity)), dot)


def banana(position: Array) -> Array:
    """Return a log-density that no coordinate system straightens: a bent standard normal."""
    return -0.5 * position[0] ** 2 - 0.5 * (position[1] - 0.5 * position[0] ** 2) ** 2


def correlated(position: Array) -> Array:
    first, second = position[0], (position[1] - CORRELATION * position[0]) / np.sqrt(1.0 - CORRELATION**2)
    return -0.5 * (first**2 + second**2 + position[2] ** 2)


BANANA = target_of(banana)
FLAT = target_of(lambda position: 0.0 * jnp.sum(position) - 3.0)


def parameters(step_size: float = 0.3, num_steps: int = 4, factor: Any = (0.8, 1.3)) -> TrajectoryParameters:
    scales = jnp.asarray(factor)
    return TrajectoryParameters(jnp.asarray(step_size), jnp.asarray(num_steps, jnp.int32), Metric(scales, 1.0 / scales))


# Compiled as a whole: by itself, each operation would be compiled, and called, alone.
@functools.partial(jax.jit, static_argnames="num_chains")
def keys(step: int = 0, num_chains: int = NUM_CHAINS) -> Array:
    return chain_keys(seed_key(1), jnp.asarray(step), num_chains)


def starting_positions() -> NumpyArray:
    return np.random.default_rng(0).normal(size=(NUM_CHAINS, 2))


@functools.cache
def compiled_step(target: Target) -> Any:
    kernel = build_kernel(target)
    return jax.jit(
        lambda rng_keys, position, settings: kernel.step(rng_keys, kernel.init(jnp.asarray(position)), settings)
    )


def take_step(
    target: Target, position: Any, settings: TrajectoryParameters, rng_keys: Array
) -> tuple[GradientState, MAMSInfo]:
    """Return state and info after one step from these positions, as NumPy arrays."""
    result: tuple[GradientState, MAMSInfo] = jax.tree.map(
        np.asarray, compiled_step(target)(rng_keys, position, settings)
    )
    return result


def test_acceptance_follows_metropolis() -> None:
    settings, position = parameters(1.0, 3), starting_positions()
    rates, accepted = [], []
    for step in range(200):
        state, info = take_step(BANANA, position, settings, keys(step))
        np.testing.assert_allclose(info.acceptance_rate, np.minimum(1.0, np.exp(-info.energy_error)), rtol=1e-12)
        kept = np.where(info.is_accepted[:, None], info.proposal, position)
        np.testing.assert_array_equal(state.position, kept)
        rates.append(info.acceptance_rate)
        accepted.append(info.is_accepted)
    variance = np.sum(np.multiply(rates, np.subtract(1.0, rates)))
    assert 0.2 < np.mean(rates) < 0.9
    # Acceptances are independent coins once the rates are known.
    assert abs(np.sum(accepted) - np.sum(rates)) < 4.0 * np.sqrt(variance)


def test_state_holds_density_and_gradient_of_its_position() -> None:
    state, info = take_step(BANANA, starting_positions(), parameters(1.2, 3), keys(3))
    assert 0 < np.sum(info.is_accepted) < NUM_CHAINS
    again = jax.jit(build_kernel(BANANA).init)(state.position)
    np.testing.assert_allclose(state.logdensity, again.logdensity, rtol=1e-12)
    np.testing.assert_allclose(state.logdensity_grad, again.logdensity_grad, rtol=1e-12)


def test_constant_density_is_crossed_in_straight_lines() -> None:
    state, info = take_step(FLAT, starting_positions(), parameters(2.0, 7), keys())
    assert info.is_accepted.all()
    np.testing.assert_array_equal(info.energy_error, 0.0)
    np.testing.assert_allclose(np.linalg.norm(info.proposal_momentum, axis=1), np.sqrt(2.0))
    travelled = (state.position - starting_positions()) / np.array([0.8, 1.3])
    np.testing.assert_allclose(travelled, 14.0 * info.proposal_momentum, rtol=1e-6)


BAD_VALUES = (np.nan, -np.inf, np.inf, 0.0, 0.0)
BAD_GRADIENTS = (0.0, 0.0, 0.0, np.nan, np.inf)


def broken_beside_centers(position: Array) -> tuple[Array, Array]:
    """Return a standard normal log-density; far out it is 0 and, except at every hundred, broken in its own way."""
    kind = jnp.clip(jnp.round(position[:, 0] / 100.0).astype(int) - 1, 0, len(BAD_VALUES) - 1)
    is_far = position[:, 0] > 50.0
    is_bad = is_far & (position[:, 0] % 100.0 != 0.0)
    logdensity = jnp.where(is_far, 0.0, -0.5 * jnp.sum(position**2, axis=1))
    grad = jnp.where(is_far[:, None], 0.0, -position)
    return (
        jnp.where(is_bad, jnp.asarray(BAD_VALUES)[kind], logdensity),
        jnp.where(is_bad[:, None], jnp.asarray(BAD_GRADIENTS)[kind, None], grad),
    )


def test_end_that_is_not_finite_is_rejected_in_its_chain_alone() -> None:
    target = Target(broken_beside_centers, dot)
    good = starting_positions()
    expected, expected_info = take_step(target, good, parameters(0.1, 2), keys())
    assert not expected_info.is_nonfinite.any()
    is_bad = np.arange(NUM_CHAINS) == 2
    for kind in range(len(BAD_VALUES)):
        mixed = good.copy()
        mixed[2] = [100.0 * (kind + 1), 0.0]
        state, info = take_step(target, mixed, parameters(0.1, 2), keys())
        np.testing.assert_array_equal(info.is_nonfinite, is_bad)
        np.testing.assert_array_equal(info.is_divergent, is_bad)
        assert info.acceptance_rate[2] == 0.0
        assert info.energy_error[2] == np.inf
        assert not info.is_accepted[2]
        np.testing.assert_array_equal(state.position[2], mixed[2])
        for new, old in zip((*state, info.energy_error), (*expected, expected_info.energy_error), strict=True):
            assert new[~is_bad].tobytes() == old[~is_bad].tobytes()


def test_large_energy_error_is_divergent_but_finite() -> None:
    # Only what is both far out and strongly bent leads a particle of constant speed this far astray.
    steep = target_of(lambda position: -jnp.sum((position / 0.01) ** 4))
    _, info = take_step(steep, 0.01 * starting_positions(), parameters(1.0, 1), keys())
    assert np.all(info.energy_error > DIVERGENCE_THRESHOLD)
    assert info.is_divergent.all()
    assert not info.is_nonfinite.any()


def test_chains_may_be_listed_in_any_order() -> None:
    order = np.array([3, 0, 5, 1, 4, 2])
    state, info = take_step(BANANA, starting_positions(), parameters(0.8), keys())
    permuted, permuted_info = take_step(BANANA, starting_positions()[order], parameters(0.8), keys()[order])
    for new, old in zip((*permuted, permuted_info.energy_error), (*state, info.energy_error), strict=True):
        np.testing.assert_array_equal(new, old[order])


def test_one_evaluation_for_each_integration_step_at_one_place_of_the_program() -> None:
    calls, traces = [], []

    def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
        traces.append(1)
        jax.debug.callback(lambda: calls.append(1))
        return -0.5 * jnp.sum(position**2, axis=1), -position

    kernel = build_kernel(Target(logdensity_and_grad, dot))
    state = kernel.init(jnp.asarray(starting_positions()))
    jax.effects_barrier()
    assert len(calls) == 1
    traces.clear()
    step = jax.jit(kernel.step)
    for num_steps in (5, 2):
        calls.clear()
        _, info = step(keys(), state, parameters(0.1, num_steps))
        jax.effects_barrier()
        assert len(calls) == int(info.num_integration_steps) == num_steps
    assert len(traces) == 1


# Exactness ------------------------------------------------------------------------------------------------------------

NUM_EXACT = 20_000
STEP_SIZES = {"correlated": 0.65, "banana": 1.0}


def straighten(name: str, position: NumpyArray) -> NumpyArray:
    """Return what are independent standard normal numbers if the positions are draws of the target."""
    first, second = position[:, 0], position[:, 1]
    if name == "banana":
        return np.stack([first, second - 0.5 * first**2], axis=1)
    rest = (second - CORRELATION * first) / np.sqrt(1.0 - CORRELATION**2)
    return np.stack([first, rest, position[:, 2]], axis=1)


def exact_draws(name: str) -> NumpyArray:
    normal = np.random.default_rng(5).normal(size=(NUM_EXACT, 2 if name == "banana" else 3))
    first = normal[:, 0]
    bent = normal[:, 1] + 0.5 * first**2
    leaning = CORRELATION * first + np.sqrt(1.0 - CORRELATION**2) * normal[:, 1]
    return np.stack([first, bent if name == "banana" else leaning, *normal.T[2:]], axis=1)


def smallest_p_value(name: str) -> float:
    """Take steps from exact draws; return the smallest p-value of tests that the positions still are such draws."""
    target = target_of({"banana": banana, "correlated": correlated}[name])
    kernel, position = build_kernel(target), exact_draws(name)
    # Scales that do not fit, so that the metric matters, and steps so long that many ends are rejected.
    settings = parameters(STEP_SIZES[name], 2, factor=np.linspace(0.8, 1.4, position.shape[1]))

    @jax.jit
    def several_steps(position: Array) -> tuple[Array, Array]:
        def one(step: Array, carry: tuple[GradientState, Array]) -> tuple[GradientState, Array]:
            state, rate = carry
            state, info = kernel.step(chain_keys(seed_key(2), step, NUM_EXACT), state, settings)
            return state, rate + jnp.mean(info.acceptance_rate) / 4.0

        start = (kernel.init(position), jnp.zeros(()))
        state, rate = jax.lax.fori_loop(0, 4, one, start)
        return state.position, rate

    end, rate = several_steps(position)
    assert 0.3 < rate < 0.9
    normal = straighten(name, np.asarray(end))
    num_dimensions = normal.shape[1]
    p_values = [stats.kstest(column, stats.norm.cdf).pvalue for column in normal.T]
    p_values += [stats.kstest(np.sum(normal**2, axis=1), stats.chi2(num_dimensions).cdf).pvalue]
    p_values += [stats.pearsonr(normal[:, 0] ** power, normal[:, 1]).pvalue for power in (1, 2)]
    return float(min(p_values))


@pytest.mark.parametrize("name", STEP_SIZES)
def test_draws_of_the_target_stay_draws_of_the_target(name: str) -> None:
    assert smallest_p_value(name) > 1e-3


def without_kinetic_energy(*arguments: Any) -> Any:
    turned, log_stretch = isokinetic_turn(*arguments)
    return turned, jnp.zeros_like(log_stretch)


def with_one_angle_too_many(*arguments: Any) -> Any:
    turned, log_stretch = isokinetic_turn(*arguments)
    num_dimensions = turned.shape[1]
    return turned, log_stretch * num_dimensions / (num_dimensions - 1.0)


def ratio_upside_down(*arguments: Any) -> Any:
    trajectory = isokinetic_integrate(*arguments)
    return trajectory._replace(energy_error=-trajectory.energy_error)


def always_the_same(rng_keys: Array, num_dimensions: int) -> Array:
    return jnp.broadcast_to(jnp.arange(1.0, num_dimensions + 1.0), (rng_keys.shape[0], num_dimensions))


isokinetic_turn, isokinetic_integrate = isokinetic.turn, isokinetic.integrate
BUGS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "kinetic energy missing": (isokinetic, "turn", without_kinetic_energy),
    "volume of the whole space": (isokinetic, "turn", with_one_angle_too_many),
    "ratio upside down": (mams, "integrate", ratio_upside_down),
    "directions not drawn afresh": (mams, "normal_noise", always_the_same),
    "test always passed": (mams, "uniform_noise", lambda rng_keys: jnp.full(rng_keys.shape[0], -1.0)),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_test_sees_bugs(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BUGS[bug])
    assert smallest_p_value("banana") < 1e-6


def test_one_dimension_is_left_alone_too() -> None:
    """A direction in one dimension is a sign; the companion makes it two."""
    kernel = build_kernel(target_of(lambda position: -0.5 * position[0] ** 2))
    start = np.random.default_rng(6).normal(size=(NUM_EXACT, 1))

    @jax.jit
    def several_steps(position: Array) -> Array:
        def one(step: Array, state: GradientState) -> GradientState:
            moved: GradientState = kernel.step(keys(step, NUM_EXACT), state, parameters(0.9, 2, factor=(1.2,)))[0]
            return moved

        state: GradientState = jax.lax.fori_loop(0, 3, one, kernel.init(position))
        return state.position

    end = np.asarray(several_steps(start))[:, 0]
    assert stats.kstest(end, stats.norm.cdf).pvalue > 1e-3
    assert abs(stats.pearsonr(end, start[:, 0]).statistic) < 0.5
    # The distances travelled are no multiples of anything.
    assert np.unique(np.round(np.abs(end - start[:, 0]), 6)).size > 0.9 * NUM_EXACT
