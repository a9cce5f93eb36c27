"""Time series: a level that wanders, whose states a Kalman smoother knows exactly, and an autoregression."""

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

FIRST_SD, STEP_SD, NOISE_SD = 2.0, 0.4, 1.0


def local_level(num_steps: int = 50) -> Problem:
    """Return a random walk observed with noise; its parameters are the levels at all steps.

    ``level[0] ~ Normal(0, FIRST_SD)``, ``level[t] ~ Normal(level[t-1], STEP_SD)``, and rows
    ``value[t] ~ Normal(level[t], NOISE_SD)``, one in ten of which is missing.
    """
    rng = np.random.default_rng(7)
    level = np.cumsum(np.concatenate([rng.normal(0.0, FIRST_SD, 1), rng.normal(0.0, STEP_SD, num_steps - 1)]))
    step = np.flatnonzero(rng.random(num_steps) < 0.9)
    data = Data(rows={"step": step, "value": rng.normal(level[step], NOISE_SD)})
    return Problem(
        name="local level",
        model=Model(
            parameters={"level": Parameter(shape=(num_steps,))},
            log_likelihood=log_likelihood_of_level,
            log_prior=log_prior_of_level,
        ),
        data=data,
        answers={"level": smooth(data, num_steps)},
        source="Kalman filter and Rauch-Tung-Striebel smoother.",
    )


def log_likelihood_of_level(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-density of each value, (rows,)."""
    contributions: Array = dist.Normal(params["level"][data["step"]], NOISE_SD).log_prob(data["value"])
    return contributions


def log_prior_of_level(params: ConstrainedParameters) -> Array:
    """Return the log-density of the random walk."""
    first: Array = dist.Normal(0.0, FIRST_SD).log_prob(params["level"][0])
    return first + jnp.sum(dist.Normal(0.0, STEP_SD).log_prob(jnp.diff(params["level"])))


def smooth(data: Data, num_steps: int) -> Answer:
    """Return exact moments of the levels, one pass forward and one back.

    References
    ----------
    Rauch, Tung, Striebel (1965), Maximum likelihood estimates of linear dynamic systems. doi:10.2514/3.3166.
    """
    value = dict(zip(data.rows["step"].tolist(), data.rows["value"].tolist(), strict=True))
    mean, variance = np.zeros(num_steps), np.zeros(num_steps)
    for step in range(num_steps):
        predicted = mean[step - 1] if step else 0.0
        spread = variance[step - 1] + STEP_SD**2 if step else FIRST_SD**2
        gain = spread / (spread + NOISE_SD**2) if step in value else 0.0
        mean[step] = predicted + gain * (value.get(step, 0.0) - predicted)
        variance[step] = (1.0 - gain) * spread
    for step in reversed(range(num_steps - 1)):
        spread = variance[step] + STEP_SD**2
        gain = variance[step] / spread
        mean[step] += gain * (mean[step + 1] - mean[step])
        variance[step] += gain**2 * (variance[step + 1] - spread)
    return Answer(mean, np.sqrt(variance))


def autoregression(num_steps: int = 60) -> Problem:
    """Return an autoregression with unknown persistence on (-1, 1) and unknown noise; a row is a step and the last."""
    rng = np.random.default_rng(8)
    value = np.zeros(num_steps + 1)
    for step in range(num_steps):
        value[step + 1] = 0.8 * value[step] + rng.normal()
    data = Data(rows={"last": value[:-1], "value": value[1:]})
    return Problem(
        name="autoregression",
        model=Model(
            parameters={"persistence": dist.Uniform(-1.0, 1.0), "noise": dist.HalfNormal(2.0)},
            log_likelihood=log_likelihood_of_autoregression,
        ),
        data=data,
        answers=solve_autoregression(data),
        source="A grid of 401 points an axis.",
    )


def log_likelihood_of_autoregression(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-density of each value given the last, (rows,)."""
    contributions: Array = dist.Normal(params["persistence"] * data["last"], params["noise"]).log_prob(data["value"])
    return contributions


def solve_autoregression(data: Data) -> dict[str, Answer]:
    """Return the exact posterior moments by parameter.

    Coordinates are those in which the ends of the persistence's interval, and zero noise, are infinitely far away.
    """
    last, value = data.rows["last"], data.rows["value"]

    def persistence(grid: Grid) -> NumpyArray:
        return np.tanh(grid["score"])

    def logdensity(grid: Grid) -> NumpyArray:
        rho, noise = persistence(grid), np.exp(grid["log_noise"])
        squares = value @ value - 2.0 * rho * (value @ last) + rho**2 * (last @ last)
        likelihood = -value.size * grid["log_noise"] - 0.5 * squares / noise**2
        jacobian = np.log1p(-(rho**2)) + grid["log_noise"]
        return np.asarray(likelihood + stats.halfnorm.logpdf(noise, scale=2.0) + jacobian)

    functions = {"persistence": persistence, "noise": lambda grid: np.exp(grid["log_noise"])}
    return moments_on_grid(logdensity, {"score": (-1.5, 10.0), "log_noise": (-1.2, 1.5)}, 401, functions)
