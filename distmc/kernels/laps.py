"""Microcanonical steps with and without Metropolis' test: the kernel of the late-adjusted parallel sampler (LAPS).

Both phases of the sampler are one program. An unadjusted step is one of microcanonical Langevin Monte Carlo: it
keeps part of its direction, and its end is kept whatever its energy. Chains that start far out come quickly to where
the posterior is, but what they then sample is only near it. An adjusted step is that of `distmc.kernels.mams`, which
leaves the target invariant. Which of the two a step is, is a parameter, the same for all chains.

References
----------
Robnik, Seljak (2026), Faster parallel MCMC: Metropolis adjustment is best served warm. arXiv:2601.16696.
Robnik, De Luca, Silverstein, Seljak (2023), Microcanonical Hamiltonian Monte Carlo. arXiv:2212.08549.
"""

from typing import NamedTuple

import jax.numpy as jnp

from distmc.kernels.base import (
    DIVERGENCE_THRESHOLD,
    GradientState,
    Kernel,
    Target,
    TrajectoryParameters,
    is_finite,
    normal_noise,
    select_chains,
    split_keys,
    uniform_noise,
)
from distmc.kernels.isokinetic import inner_product, integrate, num_companions, unit
from distmc.kernels.metrics import Metric
from distmc.types import Array


class LAPSState(NamedTuple):
    """Where the chains are, and where they are going.

    Attributes
    ----------
    position : float64 array (num_chains, num_dimensions)
    logdensity : float64 array (num_chains,)
    logdensity_grad : float64 array (num_chains, num_dimensions)
    direction : float64 array (num_chains, num_dimensions or 2)
        Of length 1, in whitened coordinates, or 0 for chains that have none yet.
    """

    position: Array
    logdensity: Array
    logdensity_grad: Array
    direction: Array

    @property
    def place(self) -> GradientState:
        """Where the chains are, alone."""
        return GradientState(self.position, self.logdensity, self.logdensity_grad)


class LAPSParameters(NamedTuple):
    """What adaptation decides, the same for all chains.

    Attributes
    ----------
    step_size : float64 scalar
        In whitened coordinates.
    num_integration_steps : int32 scalar
        At least 1.
    persistence : float64 scalar
        Share of a direction that is kept from step to step, from 0, a new direction, to 1; 0 in adjusted steps.
    is_adjusted : bool scalar
        Whether ends of trajectories pass Metropolis' test.
    metric : Metric
        Scales of the target.
    """

    step_size: Array
    num_integration_steps: Array
    persistence: Array
    is_adjusted: Array
    metric: Metric


class LAPSInfo(NamedTuple):
    """What happened in one step.

    Attributes
    ----------
    acceptance_rate : float64 array (num_chains,)
        Probability of passing Metropolis' test, whether it was held or not; 0 where the end is not finite.
    is_accepted, is_divergent, is_nonfinite : bool array (num_chains,)
        Whether the end was kept; whether its energy error exceeds `DIVERGENCE_THRESHOLD` or is not finite; whether it
        is not finite.
    energy_error : float64 array (num_chains,)
        Energy of the end minus that of the start, infinite where the end is not finite.
    num_integration_steps : int32 scalar
        Evaluations of the target.
    """

    acceptance_rate: Array
    is_accepted: Array
    is_divergent: Array
    is_nonfinite: Array
    energy_error: Array
    num_integration_steps: Array


def build_kernel(target: Target) -> Kernel:
    """Return the kernel; it leaves `target` invariant when its steps are adjusted and their persistence is 0.

    Parameters
    ----------
    target : Target
        Its log-density is evaluated once in `init` and once for each integration step.

    Returns
    -------
    kernel : Kernel
        ``step`` takes one random key for each chain.
    """

    def init(position: Array) -> LAPSState:
        num_chains, num_dimensions = position.shape
        nowhere = jnp.zeros((num_chains, num_dimensions + num_companions(position)), jnp.float64)
        return LAPSState(position, *target.logdensity_and_grad(position), nowhere)

    def step(rng_keys: Array, state: LAPSState, parameters: LAPSParameters) -> tuple[LAPSState, LAPSInfo]:
        direction_keys, companion_keys, accept_keys = split_keys(rng_keys, 3)
        direction = _refresh(direction_keys, state, parameters.persistence, target)
        settings = TrajectoryParameters(parameters.step_size, parameters.num_integration_steps, parameters.metric)
        trajectory = integrate(target, companion_keys, state.place, direction, settings)

        is_end_finite = jnp.isfinite(trajectory.energy_error) & is_finite(trajectory.end)
        # Infinity has one bit pattern, unlike what is not a number, and stands for the same: never accept.
        energy_error = jnp.where(is_end_finite, trajectory.energy_error, jnp.inf)
        acceptance_rate = jnp.exp(-jnp.maximum(energy_error, 0.0))
        passes = uniform_noise(accept_keys) < acceptance_rate
        is_accepted = jnp.where(parameters.is_adjusted, passes, is_end_finite)
        info = LAPSInfo(
            acceptance_rate=acceptance_rate,
            is_accepted=is_accepted,
            is_divergent=energy_error > DIVERGENCE_THRESHOLD,
            is_nonfinite=~is_end_finite,
            energy_error=energy_error,
            num_integration_steps=parameters.num_integration_steps,
        )
        # A chain that stays would only try the same again: it loses its direction.
        stayed = state._replace(direction=jnp.zeros_like(direction))
        return select_chains(is_accepted, LAPSState(*trajectory.end, trajectory.direction), stayed), info

    return Kernel(init, step)


def _refresh(rng_keys: Array, state: LAPSState, persistence: Array, target: Target) -> Array:
    """Return directions with a share of the old ones."""
    num_dimensions = state.direction.shape[1]
    spread = jnp.sqrt((1.0 - persistence**2) / num_dimensions)
    mixed = persistence * state.direction + spread * normal_noise(rng_keys, num_dimensions)
    return unit(mixed, inner_product(target, state.position))
