"""Posterior moments by the trapezoidal rule on a grid, for a handful of parameters.

For smooth densities that have died away at all edges the error of the rule falls faster than any power of the spacing,
so that some tens of points along an axis give ten digits.

References
----------
Trefethen, Weideman (2014), The exponentially convergent trapezoidal rule. doi:10.1137/130932132.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from distmc.types import NumpyArray
from distmc.zoo.answers import Answer

MAX_EDGE_SHARE = 1e-7
"""Largest share of the posterior's mass that the points on the edges of the grid may carry."""

Grid = Mapping[str, NumpyArray]


def moments_on_grid(
    logdensity: Callable[[Grid], NumpyArray],
    ranges: Mapping[str, tuple[float, float]],
    num_points: int,
    functions: Mapping[str, Callable[[Grid], Sequence[NumpyArray] | NumpyArray]],
) -> dict[str, Answer]:
    """Integrate a density over a box.

    Parameters
    ----------
    logdensity : callable
        From flat arrays of coordinates by name, (num_points ** number of axes,) each, to log-densities of these
        coordinates, up to a constant.
    ranges : mapping of (float, float)
        Where the grid begins and ends along each coordinate; beyond there must be next to no mass.
    num_points : int
        Of each axis.
    functions : mapping of callable
        By parameter: from the coordinates to the values of the parameter's elements there; an array for a scalar.

    Returns
    -------
    answers : dict of Answer
        By parameter.

    Raises
    ------
    ValueError
        If more than `MAX_EDGE_SHARE` of the mass is on the edges: the box is too small.
    """
    axes = [np.linspace(low, high, num_points) for low, high in ranges.values()]
    mesh = np.meshgrid(*axes, indexing="ij")
    grid = {name: values.ravel() for name, values in zip(ranges, mesh, strict=True)}
    weights = normalised(logdensity(grid))
    require_box_is_wide_enough(weights.reshape(mesh[0].shape))
    return {name: weighted_moments(np.asarray(function(grid)), weights) for name, function in functions.items()}


def normalised(logdensities: NumpyArray) -> NumpyArray:
    """Return weights that add to one, from log-densities up to a constant."""
    weights = np.exp(logdensities - logdensities.max())
    return np.asarray(weights / weights.sum())


def weighted_moments(values: NumpyArray, weights: NumpyArray) -> Answer:
    """Return mean and standard deviation over the last axis of `values`."""
    mean = values @ weights
    return Answer(np.asarray(mean), np.sqrt((values - mean[..., None]) ** 2 @ weights))


def require_box_is_wide_enough(weights: NumpyArray) -> None:
    """Refuse weights on a grid, one axis a coordinate, that have mass on an edge."""
    for axis in range(weights.ndim):
        for edge in (0, -1):
            share = float(np.take(weights, edge, axis).sum())
            if share > MAX_EDGE_SHARE:
                raise ValueError(f"Edge {edge} of axis {axis} carries {share:.1e} of the mass; widen the range.")
