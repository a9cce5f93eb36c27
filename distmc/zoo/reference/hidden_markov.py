"""A hidden Markov model of so few parameters that a grid integrates them, its states summed out by enumeration."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import special, stats

from distmc.data.data import Data
from distmc.likelihoods import hmm
from distmc.model.model import Model
from distmc.types import Array, ConstrainedParameters, NumpyArray
from distmc.zoo.answers import Answer
from distmc.zoo.reference.problem import Problem
from distmc.zoo.reference.quadrature import Grid, moments_on_grid
from distmc.zoo.sequences import simulate_states

INITIAL = (0.5, 0.5)
STAY_PRIOR = (2.0, 1.0)
LEVEL_PRIOR = (2.0, 1.0)


def two_states(num_rows: int = 20, num_steps: int = 12) -> Problem:
    """Return signals that switch between zero and an unknown level; unknown is how long each of them lasts.

    One level is known, which tells the states apart.
    """
    rng = np.random.default_rng(9)
    states = simulate_states(INITIAL, [[0.8, 0.2], [0.3, 0.7]], num_rows, num_steps, rng)
    data = Data(rows={"signal": rng.normal(2.0 * states, 1.0)})
    return Problem(
        name="hidden Markov",
        model=Model(
            parameters={"stay": dist.Beta(*STAY_PRIOR).expand([2]), "level": dist.Normal(*LEVEL_PRIOR)},
            log_likelihood=log_likelihood,
        ),
        data=data,
        answers=solve(data),
        source="A grid of 41 points an axis, the states summed out step by step.",
    )


def log_likelihood(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-density of each signal, (rows,)."""
    stay, level = params["stay"], params["level"]
    transition = jnp.stack([jnp.stack([stay[0], 1.0 - stay[0]]), jnp.stack([1.0 - stay[1], stay[1]])])
    means = jnp.stack([jnp.zeros_like(level), level])
    return hmm.gaussian(jnp.asarray(INITIAL, level.dtype), transition, means, jnp.ones_like(means), data["signal"])


def solve(data: Data, num_points: int = 41) -> dict[str, Answer]:
    """Return the exact posterior moments by parameter; coordinates of the probabilities are their logits."""
    signal = data.rows["signal"]

    def stay(grid: Grid) -> NumpyArray:
        return np.asarray(special.expit(np.stack([grid["first"], grid["second"]])))

    def logdensity(grid: Grid) -> NumpyArray:
        probability = stay(grid)
        total = stats.norm.logpdf(grid["level"], *LEVEL_PRIOR)
        total += np.sum(stats.beta.logpdf(probability, *STAY_PRIOR) + np.log(probability * (1.0 - probability)), axis=0)
        # Ratios of the two states' densities, so that one exponential a step is enough.
        for row in signal:
            total += _sum_over_states(row, probability, grid["level"])
        return np.asarray(total)

    functions = {"stay": stay, "level": lambda grid: grid["level"]}
    ranges = {"first": (-1.5, 4.5), "second": (-2.0, 4.0), "level": (0.8, 2.9)}
    return moments_on_grid(logdensity, ranges, num_points, functions)


def _sum_over_states(row: NumpyArray, stay: NumpyArray, level: NumpyArray) -> NumpyArray:
    """Log-density of one signal at all points of the grid, up to a constant."""
    total = np.zeros_like(level)
    first, second = (np.full_like(level, share) for share in INITIAL)
    for value in row:
        second = second * np.exp(level * (value - 0.5 * level))
        scale = first + second
        total += np.log(scale)
        first, second = first / scale, second / scale
        first, second = (
            first * stay[0] + second * (1.0 - stay[1]),
            first * (1.0 - stay[0]) + second * stay[1],
        )
    return total
