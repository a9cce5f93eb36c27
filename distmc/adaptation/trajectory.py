"""The trajectory length that all chains share, and its jitter.

ChEES is the expected squared change of the squared distance from the mean; a trajectory of a good length makes it
large. It is taken in whitened coordinates, where all directions count alike, and divided by the square root of the
integration time. Undivided, a few heavy-tailed coordinates draw trajectories out several times too long; divided by
the whole time, as SNAPER does, they end before a quarter period and draws stay correlated. The criterion is ascended
by stochastic gradients averaged over chains. Jitter is one low-discrepancy number for all chains, new in every step:
chains stay in lockstep and no trajectory length can fall into resonance with the target for long.

References
----------
Hoffman, Radul, Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in HMC, algorithm 1.
Sountsov, Hoffman (2021), Focusing on difficult directions for learning HMC trajectory lengths. arXiv:2110.11576.
"""

from typing import NamedTuple

import jax.numpy as jnp
import optax

from distmc.adaptation.pooling import Pooling, weighted_mean
from distmc.kernels.base import Target
from distmc.kernels.hmc import HMCInfo
from distmc.kernels.metrics import Metric, to_whitened
from distmc.types import Array

_LOWEST_RATE = 1e-4
_PRICE_OF_TIME = 0.5
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
    count: Array  # type: ignore[assignment]
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


def criterion_grad(
    position: Array,
    info: HMCInfo,
    metric: Metric,
    integration_time: Array,
    target: Target,
    weight: Array,
    pooling: Pooling,
) -> Array:
    """Estimate the gradient of log(ChEES / sqrt(length)) with respect to the logarithm of the trajectory length.

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
    weight : float64 array (num_chains,)
        Which chains take part.
    pooling : Pooling

    Returns
    -------
    log_length_grad : float64 scalar
        For a Gaussian target it vanishes near 1.39, where tan(t) = 4 t. 0 where no chain counts.
    """
    counts = (info.acceptance_rate > _LOWEST_RATE) & ~info.is_nonfinite
    end_weight = jnp.where(counts, weight * info.acceptance_rate, 0.0)
    # Ends and momenta that do not count may be infinite; zero times infinity is not zero.
    end = jnp.where(counts[:, None], info.proposal, position)
    momentum = jnp.where(counts[:, None], info.proposal_momentum, 0.0)
    start_offset = to_whitened(metric, position - weighted_mean(position, weight, pooling))
    end_offset = to_whitened(metric, end - weighted_mean(end, end_weight, pooling))
    change = target.dot(end_offset, end_offset) - target.dot(start_offset, start_offset)
    chees = weighted_mean(change**2, end_weight, pooling) / 4.0
    growth = integration_time * weighted_mean(change * target.dot(end_offset, momentum), end_weight, pooling)
    return jnp.where(chees > 0.0, growth / jnp.where(chees > 0.0, chees, 1.0) - _PRICE_OF_TIME, 0.0)


def jittered_steps(step: Array, length: Array, step_size: Array, jitter: float, max_integration_steps: int) -> Array:
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
