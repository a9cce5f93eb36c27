"""Neal's funnel: scales that depend on a parameter, once so that no fixed metric fits, once so that one does.

``v ~ Normal(0, 3)`` and nine ``x[i] ~ Normal(0, exp(v / 2))``: where `v` is small, `x` has to be within a hundredth of
zero, where it is large, within a hundred. In the non-centred form the parameters are `v` and ``z = x exp(-v / 2)``.
Without data those are independent standard normal numbers, which is no test at all; hence each `x[i]` is observed once,
with an error of one.

References
----------
Neal (2003), Slice sampling, section 8. doi:10.1214/aos/1056562461.
Betancourt, Girolami (2015), Hamiltonian Monte Carlo for hierarchical models. arXiv:1312.0906.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import stats

from distmc.data.data import Data
from distmc.model.model import Model, Parameter
from distmc.types import Array, ConstrainedParameters
from distmc.zoo.answers import Answer
from distmc.zoo.reference.problem import Problem, no_rows
from distmc.zoo.reference.quadrature import normalised, require_box_is_wide_enough

SD = 3.0
NUM_SCALED = 9


def centred() -> Problem:
    """Return the funnel as it is, without data."""

    def log_prior(params: ConstrainedParameters) -> Array:
        return jnp.sum(dist.Normal(0.0, jnp.exp(params["v"] / 2.0)).log_prob(params["x"]))

    return Problem(
        name="funnel, centred",
        model=Model(
            parameters={"v": dist.Normal(0.0, SD), "x": Parameter(shape=(NUM_SCALED,))},
            log_likelihood=lambda params, data: jnp.zeros_like(data["nothing"]),
            log_prior=log_prior,
        ),
        data=no_rows(),
        answers={
            "v": Answer(np.asarray(0.0), np.asarray(SD)),
            # The variance is the mean of exp(v).
            "x": Answer(np.zeros(NUM_SCALED), np.full(NUM_SCALED, np.exp(SD**2 / 4.0))),
        },
        source="Moments of normal and log-normal distributions.",
        is_within_reach=False,
    )


def non_centred() -> Problem:
    """Return the funnel in standardised coordinates, each `x` observed once."""
    rng = np.random.default_rng(3)
    value = rng.normal(0.0, np.sqrt(np.exp(1.0) + 1.0), NUM_SCALED)
    data = Data(rows={"place": np.arange(NUM_SCALED), "value": value})
    return Problem(
        name="funnel, non-centred",
        model=Model(
            parameters={"v": dist.Normal(0.0, SD), "z": dist.Normal(0.0, 1.0).expand([NUM_SCALED])},
            log_likelihood=log_likelihood,
        ),
        data=data,
        answers=solve(data),
        source="Normal given `v`, which a grid of 2,001 points integrates.",
    )


def log_likelihood(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-density of each value, (rows,)."""
    x = jnp.exp(params["v"] / 2.0) * params["z"][data["place"]]
    contributions: Array = dist.Normal(x, 1.0).log_prob(data["value"])
    return contributions


def solve(data: Data) -> dict[str, Answer]:
    """Return the exact posterior moments by parameter."""
    v = np.linspace(-25.0, 25.0, 2001)
    scale, value = np.exp(v / 2.0)[:, None], data.rows["value"]
    evidence = stats.norm.logpdf(value, 0.0, np.sqrt(scale**2 + 1.0)).sum(axis=1)
    weights = normalised(evidence + stats.norm.logpdf(v, 0.0, SD))
    require_box_is_wide_enough(weights)
    mean_given_v, variance_given_v = scale * value / (scale**2 + 1.0), 1.0 / (scale**2 + 1.0)
    mean = weights @ mean_given_v
    center = weights @ v
    return {
        "v": Answer(np.asarray(center), np.sqrt(weights @ (v - center) ** 2)),
        "z": Answer(mean, np.sqrt(weights @ (variance_given_v + mean_given_v**2) - mean**2)),
    }
