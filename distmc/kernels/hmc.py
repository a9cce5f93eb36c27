"""Hamiltonian Monte Carlo for all chains in lockstep.

Every chain runs a leapfrog trajectory with the same number of integration steps and the same step size, so no
chain waits for another and one evaluation of the target serves all of them. Jitter and tuning of that number
belong to adaptation. The integrator works in whitened coordinates of the metric.

References
----------
Neal (2011), MCMC using Hamiltonian dynamics, section 5.3. arXiv:1206.1901.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from distmc.kernels.base import Target
from distmc.kernels.metrics import Metric, to_position, whiten_grad
from distmc.types import Array

# An energy error of a thousand means that the integrator has left the trajectory (Betancourt 2017, Stan).
DIVERGENCE_THRESHOLD = 1000.0


class HMCState(NamedTuple):
    """Where the chains are.

    Attributes
    ----------
    position : float64 array (num_chains, num_dimensions)
    logdensity : float64 array (num_chains,)
    logdensity_grad : float64 array (num_chains, num_dimensions)
    """

    position: Array
    logdensity: Array
    logdensity_grad: Array


class HMCParameters(NamedTuple):
    """What adaptation decides, the same for all chains.

    Attributes
    ----------
    step_size : float64 scalar
        In whitened coordinates.
    num_integration_steps : int32 scalar
        At least 1.
    metric : Metric
        Scales of the target.
    """

    step_size: Array
    num_integration_steps: Array
    metric: Metric


class HMCInfo(NamedTuple):
    """What happened in one step.

    Attributes
    ----------
    acceptance_rate : float64 array (num_chains,)
        Probability of accepting the trajectory's end; 0 where it is not finite.
    is_accepted, is_divergent, is_nonfinite : bool array (num_chains,)
        Whether the end was accepted; whether its energy error exceeds `DIVERGENCE_THRESHOLD` or is not finite;
        whether it is not finite.
    energy, energy_error : float64 array (num_chains,)
        Energy of the state that was kept, and energy of the end minus that of the start, infinite where the end is
        not finite.
    num_integration_steps : int32 scalar
        Evaluations of the target.
    proposal : float64 array (num_chains, num_dimensions)
        End of the trajectory, accepted or not.
    proposal_momentum : float64 array (num_chains, num_dimensions)
        Momentum there, in whitened coordinates.
    """

    acceptance_rate: Array
    is_accepted: Array
    is_divergent: Array
    is_nonfinite: Array
    energy: Array
    energy_error: Array
    num_integration_steps: Array
    proposal: Array
    proposal_momentum: Array


class HMCKernel(NamedTuple):
    """The two functions of a kernel; see `distmc.kernels.base`."""

    init: Callable[[Array], HMCState]
    step: Callable[[Array, HMCState, HMCParameters], tuple[HMCState, HMCInfo]]


def build_kernel(target: Target) -> HMCKernel:
    """Return the kernel that leaves `target` invariant.

    Parameters
    ----------
    target : Target
        Its log-density is evaluated once in `init` and once for each integration step.

    Returns
    -------
    kernel : HMCKernel
        ``step`` takes one random key for each chain.
    """

    def init(position: Array) -> HMCState:
        return HMCState(position, *target.logdensity_and_grad(position))

    def step(rng_keys: Array, state: HMCState, parameters: HMCParameters) -> tuple[HMCState, HMCInfo]:
        momentum_keys, accept_keys = _split(rng_keys)
        dimensions = state.position.shape[1]
        momentum = jax.vmap(lambda key: jax.random.normal(key, (dimensions,), jnp.float64))(momentum_keys)
        end, end_momentum = _integrate(target, state, momentum, parameters)

        start_energy = -state.logdensity + 0.5 * target.dot(momentum, momentum)
        end_energy = -end.logdensity + 0.5 * target.dot(end_momentum, end_momentum)
        is_finite = jnp.isfinite(end_energy) & _is_finite(end)
        # Infinity has one bit pattern, unlike what is not a number, and stands for the same: never accept.
        energy_error = jnp.where(is_finite, end_energy - start_energy, jnp.inf)
        acceptance_rate = jnp.exp(-jnp.maximum(energy_error, 0.0))
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float64))(accept_keys)
        is_accepted = uniform < acceptance_rate
        info = HMCInfo(
            acceptance_rate=acceptance_rate,
            is_accepted=is_accepted,
            is_divergent=energy_error > DIVERGENCE_THRESHOLD,
            is_nonfinite=~is_finite,
            energy=jnp.where(is_accepted, end_energy, start_energy),
            energy_error=energy_error,
            num_integration_steps=parameters.num_integration_steps,
            proposal=end.position,
            proposal_momentum=end_momentum,
        )
        return _select(is_accepted, end, state), info

    return HMCKernel(init, step)


def _integrate(target: Target, state: HMCState, momentum: Array, parameters: HMCParameters) -> tuple[HMCState, Array]:
    """Run `num_integration_steps` leapfrog steps, one evaluation of the target each."""
    step_size, metric = parameters.step_size, parameters.metric

    def kick(momentum: Array, grad: Array, fraction: float) -> Array:
        return momentum + fraction * step_size * whiten_grad(metric, grad)

    def integration_step(_: Array, carry: tuple[HMCState, Array]) -> tuple[HMCState, Array]:
        state, momentum = carry
        momentum = kick(momentum, state.logdensity_grad, 0.5)
        position = state.position + to_position(metric, step_size * momentum)
        moved = HMCState(position, *target.logdensity_and_grad(position))
        return moved, kick(momentum, moved.logdensity_grad, 0.5)

    end: tuple[HMCState, Array]
    end = lax.fori_loop(0, parameters.num_integration_steps, integration_step, (state, momentum))
    return end


def _is_finite(state: HMCState) -> Array:
    per_coordinate = jnp.isfinite(state.position) & jnp.isfinite(state.logdensity_grad)
    return jnp.isfinite(state.logdensity) & jnp.all(per_coordinate, axis=-1)


def _select(is_accepted: Array, accepted: HMCState, rejected: HMCState) -> HMCState:
    def select(new: Array, old: Array) -> Array:
        return jnp.where(is_accepted.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return HMCState(*map(select, accepted, rejected))


def _split(rng_keys: Array) -> tuple[Array, Array]:
    pairs = jax.vmap(jax.random.split)(rng_keys)
    return pairs[:, 0], pairs[:, 1]
