"""Regressions of few weights: the linear one in closed form, the others integrated on a grid."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import special, stats

from distmc.data.data import Data
from distmc.model.model import Model
from distmc.types import Array, ConstrainedParameters, NumpyArray
from distmc.zoo import regression
from distmc.zoo.reference.problem import Problem
from distmc.zoo.reference.quadrature import Grid, moments_on_grid

PRIOR_SD = 2.0
NUM_POINTS = 61


def linear(num_rows: int = 200) -> Problem:
    """Return linear regression with unknown variance under its conjugate prior."""
    data = regression.simulate(num_rows)
    return Problem(
        name="linear regression",
        model=regression.build_model(),
        data=data,
        answers=regression.solve(data),
        source="Conjugate: Gelman et al. (2013), Bayesian Data Analysis, third edition, section 14.8.",
    )


def logistic(num_rows: int = 100) -> Problem:
    """Return logistic regression on two correlated covariates."""
    rng = np.random.default_rng(4)
    x = _covariates(num_rows, rng)
    y = rng.random(num_rows) < special.expit(0.5 + x @ np.array([1.0, -0.7]))

    def likelihood(intercept: NumpyArray, slopes: NumpyArray) -> NumpyArray:
        logits = intercept[:, None] + slopes @ x.T
        return np.asarray(np.sum(stats.bernoulli.logpmf(y, special.expit(logits)), axis=1))

    return Problem(
        name="logistic regression",
        model=_build_model(log_likelihood_of_logistic),
        data=Data(rows={"x": x, "y": y}),
        answers=_solve(likelihood, {"intercept": (-2.0, 3.0), "first": (-1.5, 4.5), "second": (-4.5, 2.5)}),
        source=f"A grid of {NUM_POINTS} points an axis.",
    )


def poisson(num_rows: int = 100) -> Problem:
    """Return Poisson regression on two correlated covariates."""
    rng = np.random.default_rng(5)
    x = _covariates(num_rows, rng)
    count = rng.poisson(np.exp(0.6 + x @ np.array([0.4, -0.3])))

    def likelihood(intercept: NumpyArray, slopes: NumpyArray) -> NumpyArray:
        log_rate = intercept[:, None] + slopes @ x.T
        return np.asarray(np.sum(stats.poisson.logpmf(count, np.exp(log_rate)), axis=1))

    return Problem(
        name="Poisson regression",
        model=_build_model(log_likelihood_of_poisson),
        data=Data(rows={"x": x, "count": count}),
        answers=_solve(likelihood, {"intercept": (-0.4, 1.5), "first": (-0.5, 1.4), "second": (-1.3, 0.7)}),
        source=f"A grid of {NUM_POINTS} points an axis.",
    )


def _covariates(num_rows: int, rng: np.random.Generator) -> NumpyArray:
    """Two columns with a correlation of about 0.7."""
    return (rng.normal(size=(num_rows, 1)) + 0.65 * rng.normal(size=(num_rows, 2))) / 1.2


def _build_model(log_likelihood: Any) -> Model:
    priors = {"intercept": dist.Normal(0.0, PRIOR_SD), "slopes": dist.Normal(0.0, PRIOR_SD).expand([2])}
    return Model(parameters=priors, log_likelihood=log_likelihood)


def log_likelihood_of_logistic(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-probability of each outcome, (rows,)."""
    logits = params["intercept"] + data["x"] @ params["slopes"]
    return jax.nn.log_sigmoid(jnp.where(data["y"], logits, -logits))


def log_likelihood_of_poisson(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-probability of each count, (rows,), without the factorials."""
    log_rate: Array = params["intercept"] + data["x"] @ params["slopes"]
    contributions: Array = data["count"] * log_rate - jnp.exp(log_rate)
    return contributions


def _solve(likelihood: Any, ranges: Mapping[str, tuple[float, float]]) -> Any:
    """Integrate over intercept and both slopes."""

    def slopes(grid: Grid) -> NumpyArray:
        return np.stack([grid["first"], grid["second"]])

    def logdensity(grid: Grid) -> NumpyArray:
        prior = sum(stats.norm.logpdf(values, 0.0, PRIOR_SD) for values in grid.values())
        # In pieces, so that memory stays small.
        pieces = np.array_split(np.arange(prior.size), 50)
        columns = slopes(grid).T
        parts = [likelihood(grid["intercept"][piece], columns[piece]) for piece in pieces]
        return np.asarray(prior + np.concatenate(parts))

    functions = {"intercept": lambda grid: grid["intercept"], "slopes": slopes}
    return moments_on_grid(logdensity, ranges, NUM_POINTS, functions)
