"""Hamiltonian Monte Carlo for all chains in lockstep.

Every chain runs a trajectory with the same number of integration steps and the same step size, so no
chain waits for another and one evaluation of the target serves all of them. Jitter and tuning of that number
belong to adaptation. The integrator works in whitened coordinates of the metric; it is leapfrog, or splits off the
pull of a normal distribution where one is known.

References
----------
Neal (2011), MCMC using Hamiltonian dynamics, section 5.3. arXiv:1206.1901.
Casas, Sanz-Serna, Shaw (2022), Split Hamiltonian Monte Carlo revisited. arXiv:2207.07516.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from distmc.kernels.base import (
    DIVERGENCE_THRESHOLD,
    GradientState,
    Kernel,
    Target,
    TrajectoryParameters,
    drawn_once,
    is_finite,
    normal_noise,
    select_chains,
    split_keys,
    uniform_noise,
)
from distmc.kernels.metrics import to_position, to_whitened, whiten_grad
from distmc.kernels.pull import kick, kick_time, no_pull, swing
from distmc.types import Array


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


class _Moving(NamedTuple):
    """Chains on a trajectory; all but the state in whitened coordinates, offsets from the center of the pull."""

    state: GradientState
    offset: Array
    momentum: Array
    force: Array


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

    def step(rng_keys: Array, state: GradientState, parameters: TrajectoryParameters) -> tuple[GradientState, HMCInfo]:
        draw = partial(_draw, num_dimensions=state.position.shape[1])
        momentum, threshold = drawn_once(draw, parameters.step_size, rng_keys)
        end, end_momentum = _integrate(target, state, momentum, parameters)

        start_energy = -state.logdensity + 0.5 * target.dot(momentum, momentum)
        end_energy = -end.logdensity + 0.5 * target.dot(end_momentum, end_momentum)
        is_end_finite = jnp.isfinite(end_energy) & is_finite(end)
        # Infinity has one bit pattern, unlike what is not a number, and stands for the same: never accept.
        energy_error = jnp.where(is_end_finite, end_energy - start_energy, jnp.inf)
        acceptance_rate = jnp.exp(-jnp.maximum(energy_error, 0.0))
        is_accepted = threshold < acceptance_rate
        info = HMCInfo(
            acceptance_rate=acceptance_rate,
            is_accepted=is_accepted,
            is_divergent=energy_error > DIVERGENCE_THRESHOLD,
            is_nonfinite=~is_end_finite,
            energy=jnp.where(is_accepted, end_energy, start_energy),
            energy_error=energy_error,
            num_integration_steps=parameters.num_integration_steps,
            proposal=end.position,
            proposal_momentum=end_momentum,
        )
        return select_chains(is_accepted, end, state), info

    return Kernel(init, step)


def _draw(rng_keys: Array, *, num_dimensions: int) -> tuple[Array, Array]:
    """Return momenta (num_chains, num_dimensions), and what the acceptance rates have to exceed (num_chains,)."""
    momentum_keys, accept_keys = split_keys(rng_keys, 2)
    return normal_noise(momentum_keys, num_dimensions), uniform_noise(accept_keys)


def _integrate(
    target: Target, state: GradientState, momentum: Array, parameters: TrajectoryParameters
) -> tuple[GradientState, Array]:
    """Run `num_integration_steps` steps of kick, swing and kick, one evaluation of the target each."""
    step_size, metric = parameters.step_size, parameters.metric
    pull = parameters.pull or no_pull(state.position.shape[1])
    time = kick_time(pull, step_size, parameters.num_integration_steps)

    def integration_step(_: Array, carry: _Moving) -> _Moving:
        state, offset, momentum, force = carry
        momentum = kick(pull, time, offset, momentum, force)
        swung, momentum = swing(pull, step_size, offset, momentum)
        position = state.position + to_position(metric, swung - offset)
        moved = GradientState(position, *target.logdensity_and_grad(position))
        force = whiten_grad(metric, moved.logdensity_grad)
        return _Moving(moved, swung, kick(pull, time, swung, momentum, force), force)

    offset = to_whitened(metric, state.position - pull.center)
    start = _Moving(state, offset, momentum, whiten_grad(metric, state.logdensity_grad))
    end = lax.fori_loop(0, parameters.num_integration_steps, integration_step, start)
    return end.state, end.momentum
