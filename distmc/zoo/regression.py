"""Linear regression with unknown variance, whose posterior under the conjugate prior is known exactly.

``variance ~ InverseGamma(PRIOR_SHAPE, PRIOR_RATE)``, ``weights ~ Normal(0, PRIOR_SCALE² variance)`` and rows
``y ~ Normal(x' weights, variance)``. Given the rows, the variance is inverse gamma again and the weights are
multivariate Student t. The prior of the weights depends on the variance, so it stands in `log_prior`.

References
----------
Gelman, Carlin, Stern, Dunson, Vehtari, Rubin (2013), Bayesian Data Analysis, third edition, section 14.8.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from distmc.data.data import Data
from distmc.model.model import Model, Parameter
from distmc.types import Array, ConstrainedParameters, NumpyArray
from distmc.zoo.answers import Answer

PRIOR_SHAPE, PRIOR_RATE = 3.0, 4.0
PRIOR_SCALE = 2.0
WEIGHTS = (1.5, -0.5, 0.25)


def build_model() -> Model:
    """Return the model; its data has the row variables `x`, (rows, 3), and `y`."""
    return Model(
        parameters={
            "weights": Parameter(shape=(len(WEIGHTS),)),
            "variance": dist.InverseGamma(PRIOR_SHAPE, PRIOR_RATE),
        },
        log_likelihood=log_likelihood,
        log_prior=log_prior,
    )


def log_likelihood(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-density of each row's `y`, (rows,)."""
    expected = data["x"] @ params["weights"]
    contributions: Array = dist.Normal(expected, jnp.sqrt(params["variance"])).log_prob(data["y"])
    return contributions


def log_prior(params: ConstrainedParameters) -> Array:
    """Return the log-density of the weights given the variance."""
    return jnp.sum(dist.Normal(0.0, PRIOR_SCALE * jnp.sqrt(params["variance"])).log_prob(params["weights"]))


def simulate(num_rows: int, sd: float = 1.0, seed: int = 0) -> Data:
    """Return rows with a column of ones, two standard normal covariates, and `y` with residuals of known `sd`."""
    rng = np.random.default_rng(seed)
    x = np.ones((num_rows, len(WEIGHTS)), np.float32)
    x[:, 1:] = rng.normal(size=(num_rows, len(WEIGHTS) - 1))
    y = sd * (x @ np.array(WEIGHTS) + rng.normal(size=num_rows))
    return Data(rows={"x": x, "y": y.astype(np.float32)})


def solve(data: Data) -> dict[str, Answer]:
    """Return the exact posterior moments by parameter."""
    x, y = (data.rows[name].astype(np.float64) for name in ("x", "y"))
    precision = x.T @ x + np.eye(x.shape[1]) / PRIOR_SCALE**2
    weights = np.linalg.solve(precision, x.T @ y)
    shape = PRIOR_SHAPE + y.size / 2.0
    rate = PRIOR_RATE + (y @ y - weights @ precision @ weights) / 2.0
    variance = rate / (shape - 1.0)
    return {
        "weights": Answer(weights, _sd(np.diag(np.linalg.inv(precision)) * variance)),
        "variance": Answer(np.asarray(variance), _sd(variance**2 / (shape - 2.0))),
    }


def _sd(variance: Any) -> NumpyArray:
    sd: NumpyArray = np.sqrt(np.asarray(variance))
    return sd
