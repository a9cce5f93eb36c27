"""The metric of a Hamiltonian kernel as a linear map between positions and whitened coordinates.

With the covariance written as ``F F'`` a whitened displacement ``z`` is the displacement ``F z`` of the position,
and a momentum that is standard normal in whitened coordinates has the mass matrix ``inv(F F')`` in the
original ones. Working in whitened coordinates needs no inverse of the mass matrix.
"""

from typing import NamedTuple

from jax import lax

from distmc.types import Array


class Stretch(NamedTuple):
    """A linear map within a subspace, that leaves what is orthogonal to it alone: ``I + U (G - I) U'``.

    Attributes
    ----------
    basis : float64 array (num_dimensions, size)
        Columns of ``U``, orthonormal; those that are not needed may be zero.
    factor, inverse_factor : float64 array (size, size)
        The lower triangular ``G``, and its inverse.
    is_needed : bool scalar
        Whether the map is to be used; else the identity takes its place, and costs nothing.
    """

    basis: Array
    factor: Array
    inverse_factor: Array
    is_needed: Array


class Metric(NamedTuple):
    """Estimated scales of the target.

    Attributes
    ----------
    factor : float64 array (num_dimensions,) or (num_dimensions, num_dimensions)
        Scales of the coordinates, or the lower Cholesky factor of the covariance.
    inverse_factor : float64 array, shaped as `factor`
        Its inverse.
    stretch : Stretch or None
        In a metric of low rank plus diagonal, what happens to whitened vectors before the coordinates are scaled.
    """

    factor: Array
    inverse_factor: Array
    stretch: Stretch | None = None


def to_position(metric: Metric, whitened: Array) -> Array:
    """Map whitened displacements to displacements of positions, both (num_chains, num_dimensions)."""
    if metric.stretch is not None:
        whitened = _stretched(metric.stretch, metric.stretch.factor, whitened)
    return _apply(metric.factor, whitened)


def to_whitened(metric: Metric, displacement: Array) -> Array:
    """Map displacements of positions to whitened ones, both (num_chains, num_dimensions)."""
    whitened = _apply(metric.inverse_factor, displacement)
    return whitened if metric.stretch is None else _stretched(metric.stretch, metric.stretch.inverse_factor, whitened)


def whiten_grad(metric: Metric, grad: Array) -> Array:
    """Map gradients with respect to positions to those with respect to whitened coordinates."""
    whitened = grad * metric.factor if metric.factor.ndim == 1 else grad @ metric.factor
    return whitened if metric.stretch is None else _stretched(metric.stretch, metric.stretch.factor.T, whitened)


def _apply(factor: Array, vectors: Array) -> Array:
    return vectors * factor if factor.ndim == 1 else vectors @ factor.T


def _stretched(stretch: Stretch, factor: Array, vectors: Array) -> Array:
    def within_subspace(vectors: Array) -> Array:
        along = vectors @ stretch.basis
        return vectors + (along @ factor.T - along) @ stretch.basis.T

    mapped: Array = lax.cond(stretch.is_needed, within_subspace, lambda vectors: vectors, vectors)
    return mapped
