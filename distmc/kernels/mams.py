"""The Metropolis-adjusted microcanonical sampler (MAMS) for all chains in lockstep.

Each step draws a new direction for each chain, follows an isokinetic trajectory from there, and accepts its end by
Metropolis' rule. All trajectories have the same number of integration steps and the same step size, so no
chain waits for another and one evaluation of the target serves all of them.

References
----------
Robnik, Cohn-Gordon, Seljak (2025), Metropolis adjusted microcanonical Hamiltonian Monte Carlo. arXiv:2503.01707.
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
from distmc.types import Array


class MAMSInfo(NamedTuple):
    """What happened in one step.

    Attributes
    ----------
    acceptance_rate : float64 array (num_chains,)
        Probability of accepting the trajectory's end; 0 where it is not finite.
    is_accepted, is_divergent, is_nonfinite : bool array (num_chains,)
        Whether the end was accepted; whether its energy error exceeds `DIVERGENCE_THRESHOLD` or is not finite;
        whether it is not finite.
    energy_error : float64 array (num_chains,)
        Energy of the end minus that of the start, infinite where the end is not finite. The energy itself means
        nothing here: only what kinetic energy is gained is known.
    num_integration_steps : int32 scalar
        Evaluations of the target.
    proposal : float64 array (num_chains, num_dimensions)
        End of the trajectory, accepted or not.
    proposal_momentum : float64 array (num_chains, num_dimensions)
        Velocity there, in whitened coordinates.
    """

    acceptance_rate: Array
    is_accepted: Array
    is_divergent: Array
    is_nonfinite: Array
    energy_error: Array
    num_integration_steps: Array
    proposal: Array
    proposal_momentum: Array


def build_kernel(target: Target) -> Kernel:
    """Return the kernel that leaves `target` invariant.

    Parameters
    ----------
    target : Target
        Its log-density is evaluated once in `init` and once for each integration step.

    Returns
    -------
    kernel : Kernel
        ``step`` takes one random key for each chain.
    """

    def init(position: Array) -> GradientState:
        return GradientState(position, *target.logdensity_and_grad(position))

    def step(rng_keys: Array, state: GradientState, parameters: TrajectoryParameters) -> tuple[GradientState, MAMSInfo]:
        direction_keys, companion_keys, accept_keys = split_keys(rng_keys, 3)
        noise = normal_noise(direction_keys, state.position.shape[1] + num_companions(state.position))
        direction = unit(noise, inner_product(target, state.position))
        trajectory = integrate(target, companion_keys, state, direction, parameters)

        is_end_finite = jnp.isfinite(trajectory.energy_error) & is_finite(trajectory.end)
        # Infinity has one bit pattern, unlike what is not a number, and stands for the same: never accept.
        energy_error = jnp.where(is_end_finite, trajectory.energy_error, jnp.inf)
        acceptance_rate = jnp.exp(-jnp.maximum(energy_error, 0.0))
        is_accepted = uniform_noise(accept_keys) < acceptance_rate
        info = MAMSInfo(
            acceptance_rate=acceptance_rate,
            is_accepted=is_accepted,
            is_divergent=energy_error > DIVERGENCE_THRESHOLD,
            is_nonfinite=~is_end_finite,
            energy_error=energy_error,
            num_integration_steps=parameters.num_integration_steps,
            proposal=trajectory.end.position,
            proposal_momentum=trajectory.velocity,
        )
        return select_chains(is_accepted, trajectory.end, state), info

    return Kernel(init, step)
