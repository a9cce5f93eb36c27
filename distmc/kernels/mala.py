"""The Metropolis-adjusted Langevin algorithm for all chains in lockstep.

One gradient drives a proposal a little uphill from where the chain is, plus noise; the ratio of the proposal's
densities there and back corrects what that distorts. Everything happens in whitened coordinates of the metric.

References
----------
Roberts, Tweedie (1996), Exponential convergence of Langevin distributions and their discrete approximations,
section 1.4. doi:10.2307/3318418.
Roberts, Rosenthal (1998), Optimal scaling of discrete approximations to Langevin diffusions. The acceptance rate
0.574, and step sizes that scale as ``num_dimensions**(-1/6)``. doi:10.1111/1467-9868.00123.
"""

from typing import NamedTuple

import jax.numpy as jnp

from distmc.kernels.base import (
    DIVERGENCE_THRESHOLD,
    GradientState,
    Kernel,
    StepParameters,
    Target,
    is_finite,
    normal_noise,
    select_chains,
    split_keys,
    uniform_noise,
)
from distmc.kernels.metrics import to_position, whiten_grad
from distmc.types import Array


class MALAInfo(NamedTuple):
    """What happened in one step.

    Attributes
    ----------
    acceptance_rate : float64 array (num_chains,)
        Probability of accepting the proposal; 0 where it is not finite.
    is_accepted, is_divergent, is_nonfinite : bool array (num_chains,)
        Whether the proposal was accepted; whether its energy error exceeds `DIVERGENCE_THRESHOLD` or is not finite;
        whether it is not finite.
    energy_error : float64 array (num_chains,)
        Minus the log of the acceptance ratio, infinite where the proposal is not finite. It is the energy error of
        a trajectory of one leapfrog step, which has the noise for its momentum.
    num_integration_steps : int32 scalar
        Evaluations of the target: 1.
    """

    acceptance_rate: Array
    is_accepted: Array
    is_divergent: Array
    is_nonfinite: Array
    energy_error: Array
    num_integration_steps: Array


def build_kernel(target: Target) -> Kernel:
    """Return the kernel that leaves `target` invariant.

    Parameters
    ----------
    target : Target
        Its log-density is evaluated once in `init` and once in each step.

    Returns
    -------
    kernel : Kernel
        ``step`` takes one random key for each chain.
    """

    def init(position: Array) -> GradientState:
        return GradientState(position, *target.logdensity_and_grad(position))

    def step(rng_keys: Array, state: GradientState, parameters: StepParameters) -> tuple[GradientState, MALAInfo]:
        noise_keys, accept_keys = split_keys(rng_keys, 2)
        noise = normal_noise(noise_keys, state.position.shape[1])
        displacement = _drift(state, parameters) + parameters.step_size * noise
        position = state.position + to_position(parameters.metric, displacement)
        proposal = GradientState(position, *target.logdensity_and_grad(position))

        noise_back = (-displacement - _drift(proposal, parameters)) / parameters.step_size
        log_ratio = proposal.logdensity - state.logdensity + _log_normal_ratio(target, noise_back, noise)
        is_proposal_finite = jnp.isfinite(log_ratio) & is_finite(proposal)
        # Infinity has one bit pattern, unlike what is not a number, and stands for the same: never accept.
        energy_error = jnp.where(is_proposal_finite, -log_ratio, jnp.inf)
        acceptance_rate = jnp.exp(-jnp.maximum(energy_error, 0.0))
        is_accepted = uniform_noise(accept_keys) < acceptance_rate
        info = MALAInfo(
            acceptance_rate=acceptance_rate,
            is_accepted=is_accepted,
            is_divergent=energy_error > DIVERGENCE_THRESHOLD,
            is_nonfinite=~is_proposal_finite,
            energy_error=energy_error,
            num_integration_steps=jnp.ones((), jnp.int32),
        )
        return select_chains(is_accepted, proposal, state), info

    return Kernel(init, step)


def _drift(state: GradientState, parameters: StepParameters) -> Array:
    """Return how far the mean of the proposal lies from a state, in whitened coordinates."""
    return 0.5 * parameters.step_size**2 * whiten_grad(parameters.metric, state.logdensity_grad)


def _log_normal_ratio(target: Target, numerator: Array, denominator: Array) -> Array:
    """Log of the ratio of two standard normal densities, (num_chains,)."""
    return 0.5 * (target.dot(denominator, denominator) - target.dot(numerator, numerator))
