"""One step of random-walk Metropolis for all chains."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distmc.kernels.base import (
    PlainState,
    StepParameters,
    Target,
    keys_at,
    normal_noise,
    split_keys,
    uniform_noise,
)
from distmc.kernels.metrics import Metric
from distmc.kernels.rwmh import RWMHInfo, acceptance_rate, build_kernel
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array, NumpyArray

NUM_CHAINS = 6
NUM_PROPOSALS = 5
FACTOR = np.array([[0.8, 0.0], [0.5, 0.6]])
PARAMETERS: Any = StepParameters(np.asarray(0.9), Metric(FACTOR, np.linalg.inv(FACTOR)))


def refuse_gradient(position: Array) -> tuple[Array, Array]:
    raise AssertionError("There is no gradient.")


def target_of(logdensity: Any) -> Target:
    return Target(refuse_gradient, lambda a, b: jnp.sum(a * b, axis=-1), jax.vmap(logdensity))


def banana(position: Any) -> Any:
    return -0.5 * position[0] ** 2 - 0.5 * (position[1] - position[0] ** 2) ** 2


def starting_positions() -> NumpyArray:
    return np.random.default_rng(0).normal(size=(NUM_CHAINS, 2))


def keys(step: int = 0) -> Array:
    return chain_keys(seed_key(1), jnp.asarray(step), NUM_CHAINS)


def take_step(logdensity: Any, position: Any, rng_keys: Array | None = None) -> tuple[PlainState, RWMHInfo]:
    """Return state and info after one step from these positions, as NumPy arrays."""
    kernel = build_kernel(target_of(logdensity), NUM_PROPOSALS)
    rng_keys = keys() if rng_keys is None else rng_keys
    step = jax.jit(lambda rng_keys, position: kernel.step(rng_keys, kernel.init(position), PARAMETERS))
    result: tuple[PlainState, RWMHInfo] = jax.tree.map(np.asarray, step(rng_keys, jnp.asarray(position)))
    return result


def test_step_is_that_of_the_textbook() -> None:
    position, rates = starting_positions(), np.zeros(NUM_CHAINS)
    for place in range(NUM_PROPOSALS):
        noise_keys, accept_keys = split_keys(keys_at(keys(), jnp.asarray(place)), 2)
        proposal = position + 0.9 * np.asarray(normal_noise(noise_keys, 2)) @ FACTOR.T
        for chain, uniform in enumerate(np.asarray(uniform_noise(accept_keys))):
            ratio = np.exp(float(banana(proposal[chain])) - float(banana(position[chain])))
            rates[chain] += min(1.0, ratio) / NUM_PROPOSALS
            position[chain] = proposal[chain] if uniform < ratio else position[chain]
    state, info = take_step(banana, starting_positions())
    np.testing.assert_allclose(state.position, position, rtol=1e-10)
    np.testing.assert_allclose(state.logdensity, [banana(one) for one in position], rtol=1e-10)
    np.testing.assert_allclose(info.acceptance_rate, rates, rtol=1e-10)
    assert 0.1 < np.mean(rates) < 0.9
    assert not info.is_divergent.any()


def test_one_evaluation_for_each_proposal() -> None:
    calls, traces = [], []

    def logdensity(position: Array) -> Array:
        traces.append(position)
        jax.debug.callback(lambda: calls.append(1))
        return -0.5 * jnp.sum(position**2, axis=1)

    kernel = build_kernel(Target(refuse_gradient, lambda a, b: jnp.sum(a * b, axis=-1), logdensity), NUM_PROPOSALS)
    state = kernel.init(jnp.asarray(starting_positions()))
    jax.effects_barrier()
    assert len(calls) == 1
    traces.clear()
    _, info = jax.jit(kernel.step)(keys(), state, PARAMETERS)
    jax.effects_barrier()
    assert len(calls) == 1 + NUM_PROPOSALS == 1 + int(info.num_integration_steps)
    assert len(traces) == 1


def test_rate_at_a_position_that_overflows_is_zero() -> None:
    state = PlainState(jnp.zeros((1, 2)), jnp.zeros(1))
    proposal = PlainState(jnp.array([[np.inf, 0.0]]), jnp.zeros(1))
    assert acceptance_rate(state, proposal) == 0.0
