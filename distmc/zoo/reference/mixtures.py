"""Two groups whose members are not marked, told apart by the order of their means."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import stats

from distmc.data.data import Data
from distmc.model.model import Model, Parameter
from distmc.types import Array, ConstrainedParameters, NumpyArray
from distmc.zoo.answers import Answer
from distmc.zoo.reference.problem import Problem
from distmc.zoo.reference.quadrature import Grid, moments_on_grid

PRIOR_SD = 5.0
SHARE_PRIOR = (2.0, 2.0)


def ordered(num_rows: int = 150) -> Problem:
    """Return a mixture of two normal distributions of known width with ordered means and an unknown share."""
    rng = np.random.default_rng(6)
    is_first = rng.random(num_rows) < 0.35
    data = Data(rows={"value": rng.normal(np.where(is_first, -1.0, 2.0), 1.0)})
    return Problem(
        name="ordered mixture",
        model=Model(
            parameters={
                "share": dist.Beta(*SHARE_PRIOR),
                "center": Parameter(shape=(2,), support=dist.constraints.ordered_vector),
            },
            log_likelihood=log_likelihood,
            log_prior=log_prior,
        ),
        data=data,
        answers=solve(data),
        source="A grid of 61 points an axis.",
    )


def log_likelihood(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-density of each value, (rows,)."""
    share, center = params["share"], params["center"]
    first = jnp.log(share) + dist.Normal(center[0], 1.0).log_prob(data["value"])
    second = jnp.log1p(-share) + dist.Normal(center[1], 1.0).log_prob(data["value"])
    return jnp.logaddexp(first, second)


def log_prior(params: ConstrainedParameters) -> Array:
    """Return the log-density of the means, up to what their order multiplies it with."""
    return jnp.sum(dist.Normal(0.0, PRIOR_SD).log_prob(params["center"]))


def solve(data: Data) -> dict[str, Answer]:
    """Return the exact posterior moments by parameter."""
    value = data.rows["value"]

    def logdensity(grid: Grid) -> NumpyArray:
        total = stats.beta.logpdf(grid["share"], *SHARE_PRIOR)
        total += stats.norm.logpdf(grid["low"], 0.0, PRIOR_SD) + stats.norm.logpdf(grid["high"], 0.0, PRIOR_SD)
        for one in value:
            first = grid["share"] * np.exp(-0.5 * (one - grid["low"]) ** 2)
            second = (1.0 - grid["share"]) * np.exp(-0.5 * (one - grid["high"]) ** 2)
            total += np.log(first + second)
        return np.where(grid["low"] < grid["high"], total, -np.inf)

    functions = {"share": lambda grid: grid["share"], "center": lambda grid: np.stack([grid["low"], grid["high"]])}
    ranges = {"share": (0.05, 0.75), "low": (-2.8, 0.6), "high": (1.0, 3.0)}
    return moments_on_grid(logdensity, ranges, 61, functions)
