"""Distributions that can be drawn from exactly, each a transformed standard normal vector.

`ExactTarget.from_normal` turns independent standard normal numbers into exact draws, `to_normal` turns draws back.
Whatever the target, a kernel that leaves it invariant leaves standard normal vectors standard normal, so one set of
tests serves all. The transformations are written in NumPy and SciPy, apart from the densities, so that an error in one
does not hide in the other.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import special, stats

from distmc.kernels.base import Target
from distmc.kernels.metrics import Metric
from distmc.model.density import log_prior_density
from distmc.model.model import Model
from distmc.model.transforms import Unconstrainer
from distmc.types import Array, ConstrainedParameters, NumpyArray

_MEAN = np.array([1.0, -2.0, 0.5])
_FACTOR = np.array([[1.0, 0.0, 0.0], [0.9, 0.6, 0.0], [-0.4, 0.3, 1.2]])
_SHARES = np.array([1.5, 2.0, 3.0])
_BETA = (1.5, 3.0)
_GAMMA_SHAPE, _GAMMA_RATE = 2.0, 1.5
# Normal quantiles of probabilities nearer to 0 or 1 than this are infinite or all rounding.
_EDGE = 1e-15


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ExactTarget:
    """A distribution with exact draws.

    Attributes
    ----------
    name : str
        What to call it.
    num_dimensions : int
        Coordinates.
    logdensity : callable
        From one chain's position (num_dimensions,) to its log-density, up to a constant.
    from_normal, to_normal : callable
        Between independent standard normal numbers and draws, both float64 NumPy arrays (count, num_dimensions).
    factor : float64 array (num_dimensions,) or (num_dimensions, num_dimensions)
        Of the metric to step with: about the target's scales, but not exactly, since any metric has to do.
    """

    name: str
    num_dimensions: int
    logdensity: Callable[[Array], Array]
    from_normal: Callable[[NumpyArray], NumpyArray]
    to_normal: Callable[[NumpyArray], NumpyArray]
    factor: NumpyArray

    @property
    def target(self) -> Target:
        """What a kernel is given."""
        return Target(
            logdensity_and_grad=jax.vmap(jax.value_and_grad(self.logdensity)),
            dot=lambda a, b: jnp.sum(a * b, axis=-1),
            logdensity=jax.vmap(self.logdensity),
        )

    @property
    def metric(self) -> Metric:
        """The metric to step with."""
        inverse = np.linalg.inv(self.factor) if self.factor.ndim == 2 else 1.0 / self.factor
        return Metric(jnp.asarray(self.factor), jnp.asarray(inverse))

    def __str__(self) -> str:
        """Return the name."""
        return self.name


# A correlated normal distribution -------------------------------------------------------------------------------------


def _normal_logdensity(position: Array) -> Array:
    whitened = jnp.asarray(np.linalg.inv(_FACTOR)) @ (position - _MEAN)
    return -0.5 * jnp.sum(whitened**2)


NORMAL = ExactTarget(
    name="correlated normal",
    num_dimensions=3,
    logdensity=_normal_logdensity,
    from_normal=lambda normal: _MEAN + normal @ _FACTOR.T,
    to_normal=lambda draws: np.linalg.solve(_FACTOR, (draws - _MEAN).T).T,
    factor=np.array([[1.1, 0.0, 0.0], [0.5, 0.8, 0.0], [0.0, 0.2, 1.0]]),
)
"""Three coordinates with correlations up to 0.8."""


# A curved ridge -------------------------------------------------------------------------------------------------------


def _banana_logdensity(position: Array) -> Array:
    return -0.5 * position[0] ** 2 - 0.5 * ((position[1] - _ridge(position[0])) / 0.5) ** 2


def _ridge(first: Array) -> Array:
    return 0.6 * (first * first - 1.0)


BANANA = ExactTarget(
    name="banana",
    num_dimensions=2,
    logdensity=_banana_logdensity,
    from_normal=lambda z: np.stack([z[:, 0], 0.6 * (z[:, 0] ** 2 - 1.0) + 0.5 * z[:, 1]], axis=1),
    to_normal=lambda x: np.stack([x[:, 0], (x[:, 1] - 0.6 * (x[:, 0] ** 2 - 1.0)) / 0.5], axis=1),
    factor=np.array([0.7, 0.4]),
)
"""A normal distribution bent along a parabola."""


# Bounded parameters through their bijections --------------------------------------------------------------------------


def _no_rows(params: ConstrainedParameters, data: dict[str, Array]) -> Array:
    return jnp.zeros(())


_BOUNDED_MODEL = Model(
    parameters={
        "chance": dist.Beta(*_BETA),
        "rate": dist.Gamma(_GAMMA_SHAPE, _GAMMA_RATE),
        "shares": dist.Dirichlet(_SHARES),
    },
    log_likelihood=_no_rows,
)


def _bounded_logdensity(position: Array) -> Array:
    params, log_abs_det_jacobian = Unconstrainer(_BOUNDED_MODEL).constrain(position)
    return log_prior_density(_BOUNDED_MODEL, params) + log_abs_det_jacobian


def _bounded_from_normal(normal: NumpyArray) -> NumpyArray:
    uniform = stats.norm.cdf(normal)
    chance = special.logit(stats.beta.ppf(uniform[:, 0], *_BETA))
    rate = np.log(stats.gamma.ppf(uniform[:, 1], _GAMMA_SHAPE, scale=1.0 / _GAMMA_RATE))
    # Of a Dirichlet vector, each share is an independent beta fraction of what the shares before it leave.
    first, second = (special.logit(stats.beta.ppf(uniform[:, 2 + k], *_fraction(k))) for k in range(2))
    return np.stack([chance, rate, first + np.log(2.0), second], axis=1)


def _bounded_to_normal(draws: NumpyArray) -> NumpyArray:
    chance = stats.beta.cdf(special.expit(draws[:, 0]), *_BETA)
    rate = stats.gamma.cdf(np.exp(draws[:, 1]), _GAMMA_SHAPE, scale=1.0 / _GAMMA_RATE)
    first = stats.beta.cdf(special.expit(draws[:, 2] - np.log(2.0)), *_fraction(0))
    second = stats.beta.cdf(special.expit(draws[:, 3]), *_fraction(1))
    uniform = np.clip(np.stack([chance, rate, first, second], axis=1), _EDGE, 1.0 - _EDGE)
    normal: NumpyArray = stats.norm.ppf(uniform)
    return normal


def _fraction(place: int) -> tuple[float, float]:
    return _SHARES[place], float(np.sum(_SHARES[place + 1 :]))


BOUNDED = ExactTarget(
    name="bounded parameters",
    num_dimensions=4,
    logdensity=_bounded_logdensity,
    from_normal=_bounded_from_normal,
    to_normal=_bounded_to_normal,
    factor=np.array([1.2, 0.7, 1.0, 0.9]),
)
"""A beta, a gamma and a Dirichlet prior of a model, in the coordinates that distmc moves in."""
