"""The trajectory length that all chains share, and its jitter.

ChEES ascends the expected change of the squared distance from the mean, which a trajectory of a good length makes
large, by stochastic gradients averaged over chains. The criterion is taken in whitened coordinates, where it
treats all directions alike. Jitter is one low-discrepancy number for all chains, new in every step: chains stay
in lockstep and no trajectory length can fall into resonance with the target for long.

References
----------
Hoffman, Radul, Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in HMC, algorithm 1.
"""

from typing import NamedTuple

import jax.numpy as jnp
import optax

from distmc.adaptation.step_size import MeanOverChains
from distmc.kernels.base import Target
from distmc.kernels.hmc import HMCInfo
from distmc.kernels.metrics import Metric, to_whitened
from distmc.types import Array

_LOWEST_RATE = 1e-4
_OPTIMISER = optax.adam(learning_rate=0.025, b1=0.0, b2=0.95)


class TrajectoryState(NamedTuple):
    """State of the search for the trajectory length.

    Attributes
    ----------
    log_length : float64 scalar
        Logarithm of the mean integration time, in whitened coordinates; used while adapting.
    log_average : float64 scalar
        Average of the iterates; used when adaptation has ended.
    count : float64 scalar
        Updates so far.
    optimiser : pytree
        State of the stochastic optimiser.
    """

    log_length: Array
    log_average: Array
    count: Array
    optimiser: optax.OptState


def start_trajectory(length: float) -> TrajectoryState:
    """Return the state of a search from a first guess of the integration time."""
    log_length = jnp.log(jnp.asarray(length, jnp.float64))
    return TrajectoryState(log_length, log_length, jnp.zeros((), jnp.float64), _OPTIMISER.init(log_length))


def update_trajectory(state: TrajectoryState, log_length_grad: Array) -> TrajectoryState:
    """Take one ascent step along the gradient of the criterion with respect to the logarithm of the length."""
    ascent, optimiser = _OPTIMISER.update(-log_length_grad, state.optimiser)
    log_length = jnp.asarray(optax.apply_updates(state.log_length, ascent))
    count = state.count + 1.0
    share = count**-0.5
    return TrajectoryState(log_length, share * log_length + (1.0 - share) * state.log_average, count, optimiser)


def chees_grad(
    position: Array,
    info: HMCInfo,
    metric: Metric,
    integration_time: Array,
    target: Target,
    mean_over_chains: MeanOverChains,
) -> Array:
    """Estimate the gradient of ChEES with respect to the logarithm of the trajectory length.

    Parameters
    ----------
    position : float64 array (num_chains, num_dimensions)
        Where the trajectories began.
    info : HMCInfo
        Where they ended. Ends count by their acceptance rate; those that are not finite count nothing.
    metric : Metric
        Whitens both.
    integration_time : float64 scalar
        Step size times number of integration steps of these trajectories.
    target : Target
        Gives the inner product.
    mean_over_chains : callable
        Pooling.

    Returns
    -------
    log_length_grad : float64 scalar
        0 where no chain counts.
    """
    counts = (info.acceptance_rate > _LOWEST_RATE) & ~info.is_nonfinite
    weight = jnp.where(counts, info.acceptance_rate, 0.0)
    mean_weight = mean_over_chains(weight)
    share = weight / jnp.where(mean_weight > 0.0, mean_weight, 1.0)
    # Ends and momenta that do not count may be infinite; zero times infinity is not zero.
    end = jnp.where(counts[:, None], info.proposal, position)
    momentum = jnp.where(counts[:, None], info.proposal_momentum, 0.0)
    start_offset = to_whitened(metric, position - mean_over_chains(position))
    end_offset = to_whitened(metric, end - mean_over_chains(share[:, None] * end))
    change = target.dot(end_offset, end_offset) - target.dot(start_offset, start_offset)
    chees = mean_over_chains(share * change**2) / 4.0
    chees_grad = integration_time * mean_over_chains(share * change * target.dot(end_offset, momentum))
    return jnp.where(chees > 0.0, chees_grad / jnp.where(chees > 0.0, chees, 1.0) - 1.0, 0.0)


def jittered_steps(
    step: Array, length: Array, step_size: Array, jitter: float, max_integration_steps: int
) -> Array:
    """Return the number of integration steps of a step's trajectories, an int32 scalar of at least 1.

    Parameters
    ----------
    step : integer scalar
        Number of the step in the run; it decides the jitter, so that no state is needed.
    length, step_size : float64 scalar
        Mean integration time, and time of one integration step.
    jitter : float
        The length is multiplied by a number in ``[1 - jitter, 1 + jitter]``.
    max_integration_steps : int
        Upper limit.
    """
    factor = 1.0 - jitter + 2.0 * jitter * van_der_corput(step)
    wanted = jnp.round(factor * length / step_size)
    return jnp.clip(wanted, 1.0, float(max_integration_steps)).astype(jnp.int32)


def van_der_corput(index: Array) -> Array:
    """Return element `index` of the base-2 van der Corput sequence in [0, 1), a float64 scalar.

    References
    ----------
    Halton (1960), the one-dimensional case. doi:10.1007/BF01386213.
    """
    bits = (index.astype(jnp.uint32)[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return jnp.sum(bits * 0.5 ** jnp.arange(1, 33, dtype=jnp.float64), axis=-1)
