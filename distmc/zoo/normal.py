"""The mean of a normal distribution with known variance: the smallest model whose posterior is known exactly.

With ``mean ~ Normal(PRIOR_MEAN, PRIOR_SD)`` and rows ``value ~ Normal(mean, SD)`` the posterior is normal: precisions
add, and its mean is the average of prior mean and data mean weighted by them.

References
----------
Gelman, Carlin, Stern, Dunson, Vehtari, Rubin (2013), Bayesian Data Analysis, third edition, section 2.5.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpyro.distributions as dist

from distmc.data.data import Data
from distmc.model.model import Model
from distmc.types import Array, ConstrainedParameters
from distmc.zoo.answers import Answer

PRIOR_MEAN, PRIOR_SD = 1.0, 2.0
SD = 3.0


def build_model() -> Model:
    """Return the model; its data has the row variable `value`."""
    return Model(parameters={"mean": dist.Normal(PRIOR_MEAN, PRIOR_SD)}, log_likelihood=log_likelihood)


def log_likelihood(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-density of each value, (rows,)."""
    contributions: Array = dist.Normal(params["mean"], SD).log_prob(data["value"])
    return contributions


def simulate(num_rows: int, mean: float = -0.5, seed: int = 0) -> Data:
    """Return `num_rows` values around a known mean."""
    rng = np.random.default_rng(seed)
    return Data(rows={"value": rng.normal(mean, SD, num_rows)})


def solve(data: Data) -> dict[str, Answer]:
    """Return the exact posterior moments by parameter."""
    value = data.rows["value"]
    precision = PRIOR_SD**-2 + value.size * SD**-2
    mean = (PRIOR_MEAN * PRIOR_SD**-2 + np.sum(value) * SD**-2) / precision
    return {"mean": Answer(np.asarray(mean), np.asarray(precision**-0.5))}
