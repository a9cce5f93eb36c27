"""Mean and spread of vectors, pooled over all chains and the steps of a window, in one pass.

References
----------
Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance. doi:10.1080/00031305.1983.10483115.
"""

from typing import NamedTuple

import jax.numpy as jnp

from distmc.types import Array

_ROUNDING_ERRORS = 16.0


class Moments(NamedTuple):
    """Running moments.

    Attributes
    ----------
    count : float64 scalar
        Vectors seen.
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


def add_vectors(moments: Moments, vectors: Array, weight: Array) -> Moments:
    """Take in one vector of each chain.

    Parameters
    ----------
    moments : Moments
        So far.
    vectors : float64 array (num_chains, num_dimensions)
        Finite.
    weight : float64 array (num_chains,)
        1 for chains that count, 0 for others.
    """
    added = jnp.sum(weight)
    count = moments.count + added
    mean = jnp.sum(weight[:, None] * vectors, axis=0) / jnp.maximum(added, 1.0)
    deviation, shift = weight[:, None] * (vectors - mean), mean - moments.mean
    share = added / jnp.maximum(count, 1.0)
    if moments.scatter.ndim == 1:
        scatter = jnp.sum(deviation**2, axis=0) + moments.count * share * shift**2
    else:
        scatter = deviation.T @ deviation + moments.count * share * jnp.outer(shift, shift)
    return Moments(count, moments.mean + shift * share, moments.scatter + scatter)


def covariance(moments: Moments) -> Array:
    """Return the unbiased covariance or variances, shaped as the scatter; zero where fewer than two were seen."""
    return moments.scatter / jnp.maximum(moments.count - 1.0, 1.0)


def has_spread(moments: Moments) -> Array:
    """Tell the coordinates (num_dimensions,) whose variance is finite and more than rounding."""
    variance = covariance(moments)
    variance = variance if variance.ndim == 1 else jnp.diagonal(variance)
    # Numbers that are all the same have a mean that is rounded, and with it a little variance.
    rounding = _ROUNDING_ERRORS * jnp.finfo(jnp.float64).eps * moments.mean
    return jnp.isfinite(variance) & (variance > rounding**2)
