"""The metric of a Hamiltonian kernel as a linear map between positions and whitened coordinates.

With the covariance written as ``F F'`` a whitened displacement ``z`` is the displacement ``F z`` of the position,
and a momentum that is standard normal in whitened coordinates has the mass matrix ``inv(F F')`` in the
original ones. Working in whitened coordinates needs no inverse of the mass matrix.
"""

from typing import NamedTuple

from distmc.types import Array


class Metric(NamedTuple):
    """Estimated scales of the target.

    Attributes
    ----------
    factor : float64 array (num_dimensions,) or (num_dimensions, num_dimensions)
        Standard deviations of a diagonal metric, or the lower Cholesky factor of the covariance.
    inverse_factor : float64 array, shaped as `factor`
        Its inverse.
    """

    factor: Array
    inverse_factor: Array


def to_position(metric: Metric, whitened: Array) -> Array:
    """Map whitened displacements to displacements of positions, both (num_chains, num_dimensions)."""
    return _apply(metric.factor, whitened)


def to_whitened(metric: Metric, displacement: Array) -> Array:
    """Map displacements of positions to whitened ones, both (num_chains, num_dimensions)."""
    return _apply(metric.inverse_factor, displacement)


def whiten_grad(metric: Metric, grad: Array) -> Array:
    """Map gradients with respect to positions to those with respect to whitened coordinates."""
    return grad * metric.factor if metric.factor.ndim == 1 else grad @ metric.factor


def _apply(factor: Array, vectors: Array) -> Array:
    return vectors * factor if factor.ndim == 1 else vectors @ factor.T
