"""The step size that all chains share: dual averaging on the harmonic mean of their acceptance rates.

An arithmetic mean hides a chain that accepts nothing behind many that accept all; the harmonic mean does not.
Acceptance rates are floored before they are averaged, the higher the fewer chains there are, so that a single chain
that is stuck for good costs the others half of the way from the target rate to 1 instead of all of their step size.

References
----------
Hoffman, Gelman (2014), The No-U-Turn Sampler, section 3.2. arXiv:1111.4246.
Hoffman, Radul, Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in HMC, section 3.
"""

from typing import NamedTuple

import jax.numpy as jnp

from distmc.adaptation.pooling import Pooling, weighted_mean
from distmc.types import Array

# Twice the usual: a rate pooled over chains is known so well that smaller corrections are enough.
_REGULARISATION = 0.1
_EARLY_STEPS = 10.0
_DECAY = 0.75
_LOWEST_FLOOR = 1e-2


class StepSizeState(NamedTuple):
    """State of dual averaging, all scalars.

    Attributes
    ----------
    log_step_size : float64
        Used while adapting.
    log_average : float64
        Weighted average of the iterates; used when adaptation has ended.
    mean_error : float64
        Running mean of target minus acceptance.
    count : float64
        Updates since the last restart.
    log_center : float64
        Where iterates are drawn to.
    """

    log_step_size: Array
    log_average: Array
    mean_error: Array
    count: Array  # type: ignore[assignment]
    log_center: Array


def start_step_size(step_size: Array, optimism: float) -> StepSizeState:
    """Return the state of a fresh search.

    Parameters
    ----------
    step_size : float64 scalar
        First guess.
    optimism : float
        Iterates are drawn to the guess times this; larger than 1, because too small a step costs more than too
        large a one.
    """
    log_step_size = jnp.log(step_size)
    zero = jnp.zeros((), jnp.float64)
    return StepSizeState(log_step_size, log_step_size, zero, zero, log_step_size + jnp.log(optimism))


def update_step_size(
    state: StepSizeState, pooled_rate: Array, target_rate: float, longest: Array | float = jnp.inf
) -> StepSizeState:
    """Move the step size towards the one with the target acceptance rate.

    Parameters
    ----------
    state : StepSizeState
        So far.
    pooled_rate : float64 scalar
        Of the last step.
    target_rate : float
    longest : float64 scalar
        Where the search ends: longer steps are never taken, so that their rate is not seen.
    """
    count = state.count + 1.0
    weight = 1.0 / (count + _EARLY_STEPS)
    mean_error = (1.0 - weight) * state.mean_error + weight * (target_rate - pooled_rate)
    # The limit is put on the error, so that a search that has reached it can turn back at once.
    pace = jnp.sqrt(count) / _REGULARISATION
    mean_error = jnp.maximum(mean_error, (state.log_center - jnp.log(longest)) / pace)
    log_step_size = state.log_center - pace * mean_error
    share = count**-_DECAY
    log_average = share * log_step_size + (1.0 - share) * state.log_average
    return StepSizeState(log_step_size, log_average, mean_error, count, state.log_center)


def harmonic_mean_rate(acceptance_rate: Array, target_rate: float, weight: Array, pooling: Pooling) -> Array:
    """Pool acceptance rates of all chains to one.

    Parameters
    ----------
    acceptance_rate : float64 array (num_chains,)
        Those below a floor, or not finite, count as the floor.
    target_rate : float
        What the pooled rate is compared with; decides the floor.
    weight : float64 array (num_chains,)
        Which chains take part; at least one.
    pooling : Pooling
    """
    floor = _floor(acceptance_rate.shape[0], target_rate)
    floored = jnp.where(jnp.isfinite(acceptance_rate), jnp.maximum(acceptance_rate, floor), floor)
    return 1.0 / weighted_mean(1.0 / floored, weight, pooling)


def mean_rate(acceptance_rate: Array, target_rate: float, weight: Array, pooling: Pooling) -> Array:
    """Pool acceptance rates of all chains to their mean, as random walks need it.

    Their proposals are accepted with a probability that is nearly 0 or nearly 1, whatever the step size; a harmonic
    mean would see little but the former. Takes what `harmonic_mean_rate` takes.
    """
    return weighted_mean(jnp.where(jnp.isfinite(acceptance_rate), acceptance_rate, 0.0), weight, pooling)


def _floor(num_chains: int, target_rate: float) -> float:
    """Return the rate at which one chain counts that never accepts.

    With one chain at this floor the target is met when all others accept at ``2 t / (1 + t)``, where `t` is the
    target. With very few chains it is cut short: the pooled rate must be able to fall well below the target.
    """
    floor = 1.0 / (1.0 + num_chains * (1.0 - target_rate) / (2.0 * target_rate))
    return min(max(floor, _LOWEST_FLOOR), 0.5 * target_rate)
