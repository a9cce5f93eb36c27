"""Mean and spread of positions, pooled over all chains and the steps of a window, in one pass.

References
----------
Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance. doi:10.1080/00031305.1983.10483115.
"""

from typing import NamedTuple

import jax.numpy as jnp

from distmc.types import Array


class Moments(NamedTuple):
    """Running moments.

    Attributes
    ----------
    count : float64 scalar
        Positions seen.
    mean : float64 array (num_dimensions,)
    scatter : float64 array (num_dimensions,) or (num_dimensions, num_dimensions)
        Sum of squared deviations from the mean, or of their outer products.
    """

    count: Array  # type: ignore[assignment]
    mean: Array
    scatter: Array


def no_moments(num_dimensions: int, *, is_dense: bool) -> Moments:
    """Return the moments of nothing."""
    shape = (num_dimensions, num_dimensions) if is_dense else (num_dimensions,)
    return Moments(jnp.zeros((), jnp.float64), jnp.zeros(num_dimensions, jnp.float64), jnp.zeros(shape, jnp.float64))


def add_positions(moments: Moments, position: Array, weight: Array) -> Moments:
    """Take in the positions of all chains.

    Parameters
    ----------
    moments : Moments
        So far.
    position : float64 array (num_chains, num_dimensions)
    weight : float64 array (num_chains,)
        1 for chains that count, 0 for others; at least one counts.
    """
    added = jnp.sum(weight)
    count = moments.count + added
    mean = jnp.sum(weight[:, None] * position, axis=0) / added
    deviation, shift = weight[:, None] * (position - mean), mean - moments.mean
    share = moments.count * added / count
    if moments.scatter.ndim == 1:
        scatter = jnp.sum(deviation**2, axis=0) + share * shift**2
    else:
        scatter = deviation.T @ deviation + share * jnp.outer(shift, shift)
    return Moments(count, moments.mean + shift * (added / count), moments.scatter + scatter)
