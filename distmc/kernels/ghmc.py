"""Generalised Hamiltonian Monte Carlo for all chains in lockstep.

The momentum is not drawn afresh for each trajectory. Every leapfrog step stands alone: a little of the momentum is
replaced by noise, one evaluation of the target moves the chain, and the move is accepted or rejected. A chain that
accepts goes on in its direction; one that rejects turns round, which is what keeps the target invariant. So that
rejections do not come one by one and undo what was gained, each chain decides by a number of its own that
drifts slowly through the slice [-1, 1] instead of being drawn anew: rejections gather where it is near the ends,
and between them are long stretches without any.

One step of the kernel takes several such integration steps, as many as lie between two draws. The integrator works in
whitened coordinates of the metric.

References
----------
Horowitz (1991), A generalized guided Monte Carlo algorithm. doi:10.1016/0370-2693(91)90812-5.
Neal (2020), Non-reversibly updating a uniform [0,1] value for Metropolis accept/reject decisions. arXiv:2001.11950.
Hoffman, Sountsov (2022), Tuning-free generalized Hamiltonian Monte Carlo, section 2. PMLR 151.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from distmc.kernels.base import (
    DIVERGENCE_THRESHOLD,
    GradientState,
    Kernel,
    Target,
    is_finite,
    normal_noise,
    select_chains,
    split_keys,
    uniform_noise,
)
from distmc.kernels.metrics import Metric, to_position, whiten_grad
from distmc.types import Array


class GHMCState(NamedTuple):
    """Where the chains are, where they are heading, and what they decide by.

    Attributes
    ----------
    position : float64 array (num_chains, num_dimensions)
    logdensity : float64 array (num_chains,)
    logdensity_grad : float64 array (num_chains, num_dimensions)
    momentum : float64 array (num_chains, num_dimensions)
        In whitened coordinates. All zeros: not drawn yet, and neither is `slice`.
    slice : float64 array (num_chains,)
        On [-1, 1]. A move is accepted if its magnitude is below the ratio of densities.
    """

    position: Array
    logdensity: Array
    logdensity_grad: Array
    momentum: Array
    slice: Array


class GHMCParameters(NamedTuple):
    """What adaptation decides, the same for all chains.

    Attributes
    ----------
    step_size : float64 scalar
        In whitened coordinates.
    refreshment : float64 scalar
        Share of the momentum's variance that is replaced before each integration step, from 0 to 1.
    drift : float64 scalar
        By how much `slice` moves before each integration step.
    num_integration_steps : int32 scalar
        In one step; at least 1.
    metric : Metric
        Scales of the target.
    """

    step_size: Array
    refreshment: Array
    drift: Array
    num_integration_steps: Array
    metric: Metric


class GHMCInfo(NamedTuple):
    """What happened in one step, over its integration steps.

    Attributes
    ----------
    acceptance_rate : float64 array (num_chains,)
        Mean probability of acceptance; 0 for ends that are not finite.
    is_divergent, is_nonfinite : bool array (num_chains,)
        Whether any energy error exceeded `DIVERGENCE_THRESHOLD` or was not finite; whether any end was not finite.
    energy : float64 array (num_chains,)
        Of the state that was kept last.
    energy_error : float64 array (num_chains,)
        Largest, infinite where an end was not finite.
    num_integration_steps : int32 scalar
        Evaluations of the target.
    """

    acceptance_rate: Array
    is_divergent: Array
    is_nonfinite: Array
    energy: Array
    energy_error: Array
    num_integration_steps: Array


class _Tally(NamedTuple):
    """Sum of acceptance probabilities, largest energy error and last energy, each (num_chains,)."""

    accepted: Array
    largest_error: Array
    energy: Array


def build_kernel(target: Target) -> Kernel:
    """Return the kernel that leaves `target`, with standard normal momenta and uniform slices, invariant.

    Parameters
    ----------
    target : Target
        Its log-density is evaluated once in `init` and once for each integration step.

    Returns
    -------
    kernel : Kernel
        ``step`` takes one random key for each chain.
    """

    def init(position: Array) -> GHMCState:
        zeros = jnp.zeros(position.shape, jnp.float64)
        return GHMCState(position, *target.logdensity_and_grad(position), zeros, zeros[:, 0])

    def step(rng_keys: Array, state: GHMCState, parameters: GHMCParameters) -> tuple[GHMCState, GHMCInfo]:
        num_steps = parameters.num_integration_steps
        start_keys, noise_keys = split_keys(rng_keys, 2)

        def integration_step(number: Array, carry: tuple[GHMCState, _Tally]) -> tuple[GHMCState, _Tally]:
            state, tally = carry
            keys = jax.vmap(lambda key: jax.random.fold_in(key, number))(noise_keys)
            return _move(target, _refresh(keys, state, parameters), tally, parameters)

        no_tally = jnp.zeros_like(state.logdensity)
        tally = _Tally(no_tally, no_tally - jnp.inf, no_tally)
        state, tally = lax.fori_loop(0, num_steps, integration_step, (draw_if_missing(start_keys, state), tally))
        info = GHMCInfo(
            acceptance_rate=tally.accepted / num_steps,
            is_divergent=tally.largest_error > DIVERGENCE_THRESHOLD,
            is_nonfinite=jnp.isposinf(tally.largest_error),
            energy=tally.energy,
            energy_error=tally.largest_error,
            num_integration_steps=num_steps,
        )
        return state, info

    return Kernel(init, step)


def draw_if_missing(rng_keys: Array, state: GHMCState) -> GHMCState:
    """Draw momentum and slice of the chains that have none yet; chains come to rest with probability zero."""
    momentum_keys, slice_keys = split_keys(rng_keys, 2)
    drawn = state._replace(
        momentum=normal_noise(momentum_keys, state.momentum.shape[1]), slice=2.0 * uniform_noise(slice_keys) - 1.0
    )
    ready: GHMCState = select_chains(jnp.all(state.momentum == 0.0, axis=-1), drawn, state)
    return ready


def _refresh(rng_keys: Array, state: GHMCState, parameters: GHMCParameters) -> GHMCState:
    """Replace a share of the momentum by noise, and let the slice drift, round from its upper end to its lower."""
    share = parameters.refreshment
    noise = normal_noise(rng_keys, state.momentum.shape[1])
    momentum = jnp.sqrt(1.0 - share) * state.momentum + jnp.sqrt(share) * noise
    return state._replace(momentum=momentum, slice=jnp.mod(state.slice + 1.0 + parameters.drift, 2.0) - 1.0)


def _move(target: Target, state: GHMCState, tally: _Tally, parameters: GHMCParameters) -> tuple[GHMCState, _Tally]:
    """Take one leapfrog step and keep its end or turn round."""
    step_size, metric = parameters.step_size, parameters.metric
    momentum = state.momentum + 0.5 * step_size * whiten_grad(metric, state.logdensity_grad)
    position = state.position + to_position(metric, step_size * momentum)
    moved = GradientState(position, *target.logdensity_and_grad(position))
    momentum = momentum + 0.5 * step_size * whiten_grad(metric, moved.logdensity_grad)

    start_energy = -state.logdensity + 0.5 * target.dot(state.momentum, state.momentum)
    end_energy = -moved.logdensity + 0.5 * target.dot(momentum, momentum)
    is_end_finite = jnp.isfinite(end_energy) & is_finite(moved)
    # Infinity has one bit pattern, unlike what is not a number, and stands for the same: never accept.
    energy_error = jnp.where(is_end_finite, end_energy - start_energy, jnp.inf)
    is_accepted = jnp.log(jnp.abs(state.slice)) < -energy_error
    # What the slice stands for in terms of the density stays the same, and with it the volume in both together.
    slice_ = state.slice * jnp.exp(jnp.where(is_accepted, energy_error, 0.0))
    end = GHMCState(*moved, momentum, slice_)
    turned = state._replace(momentum=-state.momentum)
    tally = _Tally(
        accepted=tally.accepted + jnp.exp(-jnp.maximum(energy_error, 0.0)),
        largest_error=jnp.maximum(tally.largest_error, energy_error),
        energy=jnp.where(is_accepted, end_energy, start_energy),
    )
    return select_chains(is_accepted, end, turned), tally
