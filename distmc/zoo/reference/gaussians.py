"""Normal distributions that are ill-conditioned, large and correlated, and one with heavier tails."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from distmc.types import Array, NumpyArray
from distmc.zoo.answers import Answer
from distmc.zoo.reference.problem import Problem, density_model, no_rows

CONDITION_NUMBER = 1e4
CORRELATION = 0.95
DEGREES_OF_FREEDOM = 8.0


def ill_conditioned(num_dimensions: int = 50) -> Problem:
    """Return a rotated normal distribution whose variances go from 1e-4 to 1 along its axes.

    No axis is one of the coordinates, so that no diagonal metric can help. Its centre is not the origin.
    """
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(num_dimensions, num_dimensions)))
    variances = np.geomspace(1.0 / CONDITION_NUMBER, 1.0, num_dimensions)
    precision = rotation / variances @ rotation.T
    center = rng.normal(size=num_dimensions)
    return Problem(
        name="ill-conditioned Gaussian",
        model=density_model(_normal(center, precision), num_dimensions),
        data=no_rows(),
        answers={"x": Answer(center, np.sqrt(np.diag(rotation * variances @ rotation.T)))},
        source="The normal distribution's parameters are its moments.",
    )


def thousand_dimensions(num_dimensions: int = 1000) -> Problem:
    """Return independent normal distributions whose standard deviations go from 0.1 to 10."""
    scales = np.geomspace(0.1, 10.0, num_dimensions)

    def logdensity(x: Array) -> Array:
        return -0.5 * jnp.sum((x / scales) ** 2)

    return Problem(
        name="Gaussian of 1,000 dimensions",
        model=density_model(logdensity, num_dimensions),
        data=no_rows(),
        answers={"x": Answer(np.zeros(num_dimensions), scales)},
        source="The normal distribution's parameters are its moments.",
    )


def correlated(num_dimensions: int = 20) -> Problem:
    """Return a stationary normal autoregression whose neighbours are correlated by `CORRELATION`."""
    steps = np.arange(num_dimensions)
    covariance = CORRELATION ** np.abs(steps[:, None] - steps)
    return Problem(
        name="correlated Gaussian",
        model=density_model(_normal(np.zeros(num_dimensions), np.linalg.inv(covariance)), num_dimensions),
        data=no_rows(),
        answers={"x": Answer(np.zeros(num_dimensions), np.ones(num_dimensions))},
        source="The normal distribution's parameters are its moments.",
    )


def heavy_tails(num_dimensions: int = 10) -> Problem:
    """Return independent Student t distributions.

    Fourth moments are finite, so that standard deviations have a Monte Carlo error.
    """
    sd = np.sqrt(DEGREES_OF_FREEDOM / (DEGREES_OF_FREEDOM - 2.0))

    def logdensity(x: Array) -> Array:
        return -0.5 * (DEGREES_OF_FREEDOM + 1.0) * jnp.sum(jnp.log1p(x**2 / DEGREES_OF_FREEDOM))

    return Problem(
        name="Student t",
        model=density_model(logdensity, num_dimensions),
        data=no_rows(),
        answers={"x": Answer(np.zeros(num_dimensions), np.full(num_dimensions, sd))},
        source="Variance of Student's t: degrees of freedom over themselves less two.",
    )


def _normal(center: NumpyArray, precision: NumpyArray) -> Callable[[Array], Array]:
    def logdensity(x: Array) -> Array:
        return -0.5 * (x - center) @ (precision @ (x - center))

    return logdensity
