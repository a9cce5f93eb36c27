"""The direction in which the chains' positions vary most, and how much, learned from step to step.

Positions are whitened by the metric in force and taken about a running mean. A batch of Oja's algorithm turns the
direction towards the one in which this step's chains vary most; no covariance matrix is ever formed. The longer
the search has gone on, the less a new step counts, though always more than one step among all, so that the
transient at the beginning is forgotten.

References
----------
Oja (1982), A simplified neuron model as a principal component analyzer. doi:10.1007/BF00275687.
Sountsov, Hoffman (2021), Focusing on difficult directions for learning HMC trajectory lengths, section 3.
arXiv:2110.11576.
"""

from typing import NamedTuple

import jax.numpy as jnp

from distmc.adaptation.pooling import Pooling, weighted_mean
from distmc.kernels.base import Target
from distmc.kernels.metrics import Metric, to_whitened
from distmc.types import Array

# After n steps about the last n / 8 count.
_MEMORY = 8.0


class PrincipalComponent(NamedTuple):
    """What is known of the direction.

    Attributes
    ----------
    mean : float64 array (num_dimensions,)
        Of the positions.
    direction : float64 array (num_dimensions,)
        In whitened coordinates, of length 1; its sign means nothing.
    variance : float64 scalar
        Of whitened positions along the direction.
    count : float64 scalar
        Steps seen.
    """

    mean: Array
    direction: Array
    variance: Array
    count: Array  # type: ignore[assignment]


def no_component(num_dimensions: int) -> PrincipalComponent:
    """Return what is known before the first step: no direction more than another, and variance 1."""
    direction = jnp.full(num_dimensions, num_dimensions**-0.5, jnp.float64)
    return PrincipalComponent(
        mean=jnp.zeros(num_dimensions, jnp.float64),
        direction=direction,
        variance=jnp.ones((), jnp.float64),
        count=jnp.zeros((), jnp.float64),
    )


def add_step(
    known: PrincipalComponent, position: Array, weight: Array, metric: Metric, target: Target, pooling: Pooling
) -> PrincipalComponent:
    """Take in the positions of all chains.

    Parameters
    ----------
    known : PrincipalComponent
        So far.
    position : float64 array (num_chains, num_dimensions)
    weight : float64 array (num_chains,)
        Which chains count; at least one.
    metric : Metric
        Whitens them.
    target : Target
        Gives the inner product.
    pooling : Pooling
    """
    share = _MEMORY / (known.count + _MEMORY)
    mean = known.mean + share * (weighted_mean(position, weight, pooling) - known.mean)
    offset = to_whitened(metric, position - mean)
    along = project(offset, known.direction, target)
    turned = _unit(weighted_mean(along[:, None] * offset, weight, pooling), known.direction, target)
    return PrincipalComponent(
        mean=mean,
        direction=_unit(known.direction + share * (turned - known.direction), known.direction, target),
        variance=known.variance + share * (weighted_mean(along**2, weight, pooling) - known.variance),
        count=known.count + 1.0,
    )


def project(offset: Array, direction: Array, target: Target) -> Array:
    """Return the coordinate of each chain's offset (num_chains, num_dimensions) along a direction, (num_chains,)."""
    return target.dot(offset, jnp.broadcast_to(direction, offset.shape))


def _unit(vector: Array, otherwise: Array, target: Target) -> Array:
    """Return the vector with length 1, or another one where it has no length."""
    squared = target.dot(vector[None], vector[None])[0]
    has_length = (squared > 0.0) & jnp.isfinite(squared)
    return jnp.where(has_length, vector / jnp.sqrt(jnp.where(has_length, squared, 1.0)), otherwise)
