"""What all chains know together, and which chains have a say in it.

Chains that have fallen far behind the others, say on a false summit of the likelihood, do not share the scales that
the others need. They go on, and are reported, but take no part in tuning: one such chain would otherwise
stretch the pooled metric of all.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from distmc.types import Array

# In units of the chains' own spread, and in nats beyond that. The log-density of a normal posterior is minus half a
# chi-square. In many dimensions that is close to normal, and the spread would do alone; in one or two it has a tail, a
# factor e for each nat, that is longer than the spread of most chains shows. By chance, a chain among 64 is left out
# less than once in a million steps; among four, whose spread is known less well, up to once in two thousand.
_FAR_BEHIND = 10.0
_TAIL_NATS = 10.0
# The median absolute deviation of a normal distribution is this share of its standard deviation.
_MAD_OF_NORMAL = 0.6745


class Pooling(NamedTuple):
    """Statistics over the leading axis, wherever its chains live.

    Attributes
    ----------
    mean, median : callable
        From (num_chains, ...) to (...).
    """

    mean: Callable[[Array], Array]
    median: Callable[[Array], Array]


def chains_in_company(logdensity: Array, pooling: Pooling) -> Array:
    """Tell the chains that have not fallen far behind.

    Parameters
    ----------
    logdensity : float64 array (num_chains,)
        Of the chains' positions.
    pooling : Pooling

    Returns
    -------
    weight : float64 array (num_chains,)
        1 for chains that take part in tuning, 0 for others; never 0 for all.
    """
    median = pooling.median(logdensity)
    spread = pooling.median(jnp.abs(logdensity - median)) / _MAD_OF_NORMAL
    return jnp.where(logdensity < median - (_FAR_BEHIND * spread + _TAIL_NATS), 0.0, 1.0)


def weighted_mean(values: Array, weight: Array, pooling: Pooling) -> Array:
    """Return the mean of (num_chains, ...) with weights (num_chains,); 0 where all weights are 0."""
    total = pooling.mean(weight)
    share = weight / jnp.where(total > 0.0, total, 1.0)
    return pooling.mean(share.reshape(-1, *(1,) * (values.ndim - 1)) * values)
