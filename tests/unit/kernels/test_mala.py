"""One step of the Metropolis-adjusted Langevin algorithm for all chains."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernel_targets import BAD_VALUES, BROKEN, EXACT_TARGETS, banana, smallest_pvalue, target_of
from scipy import stats

from distmc.kernels import hmc, mala
from distmc.kernels.base import GradientState, StepParameters, Target, TrajectoryParameters, normal_noise, split_keys
from distmc.kernels.mala import MALAInfo, build_kernel
from distmc.kernels.metrics import Metric
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array, NumpyArray

NUM_CHAINS, NUM_DIMENSIONS = 12, 2
DENSE = np.array([[0.8, 0.0], [0.5, 0.6]])


def metric() -> Metric:
    return Metric(jnp.asarray(DENSE), jnp.asarray(np.linalg.inv(DENSE)))


# Compiled as a whole: by itself, each operation would be compiled alone.
@jax.jit
def keys(step: int = 0) -> Array:
    return chain_keys(seed_key(1), jnp.asarray(step), NUM_CHAINS)


def starting_positions() -> NumpyArray:
    return 0.7 * np.random.default_rng(0).normal(size=(NUM_CHAINS, NUM_DIMENSIONS))


def compile_step(target: Target) -> Any:
    """Return one step from given positions, to NumPy arrays."""
    kernel = build_kernel(target)
    compiled = jax.jit(lambda position, settings: kernel.step(keys(), kernel.init(position), settings))

    def step(position: Any, step_size: float) -> tuple[GradientState, MALAInfo]:
        settings = StepParameters(jnp.asarray(step_size), metric())
        result: tuple[GradientState, MALAInfo] = jax.tree.map(np.asarray, compiled(jnp.asarray(position), settings))
        return result

    return step


@pytest.fixture(scope="module")
def banana_step() -> Any:
    with jax.enable_x64(True):
        return compile_step(target_of(banana))


def test_step_is_that_of_the_paper(banana_step: Any) -> None:
    position, step_size = starting_positions(), 0.8
    state, info = banana_step(position, step_size)
    covariance = DENSE @ DENSE.T
    grad = jax.jit(jax.grad(banana))
    noise = np.asarray(jax.jit(lambda: normal_noise(split_keys(keys(), 2)[0], NUM_DIMENSIONS))())

    def proposals(at: NumpyArray) -> Any:
        mean = at + 0.5 * step_size**2 * covariance @ np.asarray(grad(at))
        return stats.multivariate_normal(mean, step_size**2 * covariance)

    for chain, start in enumerate(position):
        end = proposals(start).mean + step_size * DENSE @ noise[chain]
        ratio = banana(end) - banana(start) + proposals(end).logpdf(start) - proposals(start).logpdf(end)
        np.testing.assert_allclose(info.energy_error[chain], -ratio, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(info.acceptance_rate[chain], min(1.0, np.exp(ratio)), rtol=1e-8)
        np.testing.assert_allclose(state.position[chain], end if info.is_accepted[chain] else start, rtol=1e-10)
    assert 0 < np.sum(info.is_accepted) < NUM_CHAINS
    again = jax.jit(build_kernel(target_of(banana)).init)(state.position)
    np.testing.assert_allclose(state.logdensity_grad, again.logdensity_grad, rtol=1e-10, atol=1e-12)


def test_step_is_a_trajectory_of_one_leapfrog_step(banana_step: Any) -> None:
    position = starting_positions()
    state, info = banana_step(position, 0.8)
    kernel = hmc.build_kernel(target_of(banana))
    settings = TrajectoryParameters(jnp.asarray(0.8), jnp.asarray(1, jnp.int32), metric())
    other, other_info = jax.jit(lambda: kernel.step(keys(), kernel.init(jnp.asarray(position)), settings))()
    np.testing.assert_allclose(state.position, other.position, rtol=1e-10)
    np.testing.assert_allclose(info.energy_error, other_info.energy_error, rtol=1e-8, atol=1e-12)


# Exactness ------------------------------------------------------------------------------------------------------------


def pvalue(name: str, step_size: float) -> float:
    exact = EXACT_TARGETS[name]
    settings = StepParameters(jnp.asarray(step_size), Metric(jnp.ones(3), jnp.ones(3)))
    return smallest_pvalue(build_kernel(exact.target), exact, settings, num_chains=8000, num_steps=20)


# The step sizes give acceptance rates near 0.7.
@pytest.mark.parametrize(("name", "step_size"), [("correlated", 0.6), ("twisted", 0.6)])
def test_exact_draws_stay_exact(name: str, step_size: float) -> None:
    assert pvalue(name, step_size) > 1e-3


def without_proposals(target: Target, numerator: Array, denominator: Array) -> Array:
    return jnp.zeros(numerator.shape[0])


def upside_down(target: Target, numerator: Array, denominator: Array, right: Any = mala._log_normal_ratio) -> Array:
    return -right(target, numerator, denominator)


@pytest.mark.parametrize(("name", "bug"), [("correlated", without_proposals), ("twisted", upside_down)])
def test_wrong_ratio_of_proposals_is_noticed(name: str, bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mala, "_log_normal_ratio", bug)
    assert pvalue(name, 0.6) < 1e-6


# Bad proposals, and what a step costs ---------------------------------------------------------------------------------


def test_proposal_that_is_not_finite_is_rejected_in_its_chain_alone() -> None:
    step = compile_step(BROKEN)
    good = starting_positions()
    expected = step(good, 0.5)
    is_bad = np.arange(NUM_CHAINS) == 2
    for kind in range(len(BAD_VALUES)):
        mixed = good.copy()
        mixed[2] = [100.0 * (kind + 1), 0.0]
        state, info = step(mixed, 0.5)
        for flag in (info.is_nonfinite, info.is_divergent, info.energy_error == np.inf):
            np.testing.assert_array_equal(flag, is_bad)
        assert info.acceptance_rate[2] == info.is_accepted[2] == 0
        np.testing.assert_array_equal(state.position[2], mixed[2])
        for new, old in zip((*state, info.energy_error), (*expected[0], expected[1].energy_error), strict=True):
            assert new[~is_bad].tobytes() == old[~is_bad].tobytes()


def test_target_is_evaluated_once() -> None:
    calls = []

    def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
        jax.debug.callback(lambda: calls.append(1))
        return -0.5 * jnp.sum(position**2, axis=1), -position

    kernel = build_kernel(Target(logdensity_and_grad, lambda a, b: jnp.sum(a * b, axis=-1)))
    state = kernel.init(jnp.asarray(starting_positions()))
    jax.effects_barrier()
    calls.clear()
    _, info = jax.jit(kernel.step)(keys(), state, StepParameters(jnp.asarray(0.1), metric()))
    jax.effects_barrier()
    assert len(calls) == info.num_integration_steps == 1
