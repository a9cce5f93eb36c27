"""The metric, estimated from the positions of all chains.

Pooling makes a dense metric affordable: 64 chains give 64 positions a step. The covariance is shrunk towards its
own diagonal, more so the fewer positions there are for its number of dimensions, which also keeps it positive
definite. Factorisations are written as loops over columns: those of the linear algebra library give other
last bits for another number of threads.
"""

import dataclasses

import jax.numpy as jnp
from jax import lax

from distmc.adaptation.moments import Moments, add_positions, no_moments
from distmc.kernels.base import GradientState
from distmc.kernels.metrics import Metric
from distmc.samplers import MetricKind
from distmc.types import Array

# A dense factor costs num_dimensions**2 for every chain and integration step.
_LARGEST_DENSE = 500
_POSITIONS_PER_DIMENSION = 2
_ROUNDING_ERRORS = 16.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricRule:
    """How the metric is learned from a window of steps.

    Attributes
    ----------
    num_dimensions : int
        Coordinates of the target.
    is_dense : bool
        Form of the metric.
    """

    num_dimensions: int
    is_dense: bool

    def first(self) -> Metric:
        """Return the metric of a target with unit scales."""
        return identity_metric(self.num_dimensions, is_dense=self.is_dense)

    def nothing(self) -> Moments:
        """Return what is known at the start of a window."""
        return no_moments(self.num_dimensions, is_dense=self.is_dense)

    def add(self, seen: Moments, state: GradientState, weight: Array) -> Moments:
        """Return what is known after one more step; chains count by their weight (num_chains,)."""
        return add_positions(seen, state.position, weight)

    def estimate(self, seen: Moments, previous: Metric) -> Metric:
        """Return the metric at the end of a window; see `estimate_metric`."""
        return estimate_metric(seen, previous)


def wants_dense(kind: MetricKind, num_dimensions: int, num_positions: int) -> bool:
    """Decide the form of the metric.

    Parameters
    ----------
    kind : {"auto", "diagonal", "dense"}
        What was asked for.
    num_dimensions : int
        Coordinates of the target.
    num_positions : int
        Positions of all chains in the shortest window.
    """
    if kind == "auto":
        return num_dimensions <= _LARGEST_DENSE and num_positions >= _POSITIONS_PER_DIMENSION * num_dimensions
    return kind == "dense"


def identity_metric(num_dimensions: int, *, is_dense: bool) -> Metric:
    """Return the metric of a target with unit scales."""
    factor = jnp.eye(num_dimensions, dtype=jnp.float64) if is_dense else jnp.ones(num_dimensions, jnp.float64)
    return Metric(factor, factor)


def estimate_metric(moments: Moments, previous: Metric) -> Metric:
    """Return the metric of pooled positions; coordinates that never moved keep their previous scale.

    Parameters
    ----------
    moments : Moments
        Of a window of at least one step.
    previous : Metric
        In force so far, of the same form.
    """
    covariance = moments.scatter / jnp.maximum(moments.count - 1.0, 1.0)
    if covariance.ndim == 1:
        return _diagonal_metric(_usable_variance(covariance, moments.mean, previous.factor**2))
    variance = _usable_variance(jnp.diagonal(covariance), moments.mean, jnp.sum(previous.factor**2, axis=1))
    num_dimensions = variance.shape[0]
    kept = moments.count / (moments.count + num_dimensions)
    shrunk = jnp.where(jnp.eye(num_dimensions, dtype=bool), jnp.diag(variance), kept * covariance)
    # Factor the correlations: entries near 1 whatever the scales of the coordinates.
    scale = jnp.sqrt(variance)
    factor = scale[:, None] * cholesky(shrunk / jnp.outer(scale, scale))
    dense = Metric(factor, invert_lower(factor))
    is_usable = jnp.all(jnp.isfinite(dense.factor)) & jnp.all(jnp.isfinite(dense.inverse_factor))
    fallback = Metric(jnp.diag(scale), jnp.diag(1.0 / scale))
    return Metric(*(jnp.where(is_usable, new, old) for new, old in zip(dense, fallback, strict=True)))


def cholesky(matrix: Array) -> Array:
    """Return the lower Cholesky factor of a symmetric positive definite matrix, column by column."""
    rows = jnp.arange(matrix.shape[0])

    def eliminate(column: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        remaining, factor = carry
        entries = jnp.where(rows >= column, remaining[:, column], 0.0) / jnp.sqrt(remaining[column, column])
        return remaining - jnp.outer(entries, entries), factor.at[:, column].set(entries)

    factor: Array = lax.fori_loop(0, matrix.shape[0], eliminate, (matrix, jnp.zeros_like(matrix)))[1]
    return factor


def invert_lower(factor: Array) -> Array:
    """Return the inverse of a lower triangular matrix, row by row."""
    identity = jnp.eye(factor.shape[0], dtype=factor.dtype)

    def substitute(row: Array, inverse: Array) -> Array:
        # Rows of the inverse from here on are still zero, so the whole row of the factor may take part.
        return inverse.at[row].set((identity[row] - factor[row] @ inverse) / factor[row, row])

    inverse: Array = lax.fori_loop(0, factor.shape[0], substitute, jnp.zeros_like(factor))
    return inverse


def _diagonal_metric(variance: Array) -> Metric:
    scale = jnp.sqrt(variance)
    return Metric(scale, 1.0 / scale)


def _usable_variance(variance: Array, mean: Array, previous: Array) -> Array:
    # Positions that are all the same have a mean that is rounded, and with it a little variance.
    rounding = _ROUNDING_ERRORS * jnp.finfo(jnp.float64).eps * mean
    return jnp.where(jnp.isfinite(variance) & (variance > rounding**2), variance, previous)
