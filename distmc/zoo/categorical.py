"""Shares of categories: a Dirichlet prior, one category a row, and a Dirichlet posterior with counts added.

The parameter lives on a simplex, so its posterior tells at once whether the change to unconstrained coordinates
carries its Jacobian.

References
----------
Gelman, Carlin, Stern, Dunson, Vehtari, Rubin (2013), Bayesian Data Analysis, third edition, section 3.4.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from distmc.data.data import Data
from distmc.model.model import Model
from distmc.types import Array, ConstrainedParameters
from distmc.zoo.answers import Answer

CONCENTRATION = (2.0, 1.0, 1.0, 3.0)
SHARES = (0.1, 0.2, 0.3, 0.4)


def build_model() -> Model:
    """Return the model; its data has the integer row variable `category`."""
    return Model(parameters={"shares": dist.Dirichlet(np.array(CONCENTRATION))}, log_likelihood=log_likelihood)


def log_likelihood(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-probability of each row's category, (rows,)."""
    return jnp.log(params["shares"])[data["category"]]


def simulate(num_rows: int, seed: int = 0) -> Data:
    """Return `num_rows` categories drawn with the probabilities `SHARES`."""
    rng = np.random.default_rng(seed)
    return Data(rows={"category": rng.choice(len(SHARES), num_rows, p=SHARES).astype(np.int8)})


def solve(data: Data) -> dict[str, Answer]:
    """Return the exact posterior moments by parameter."""
    counts = np.bincount(data.rows["category"], minlength=len(CONCENTRATION))
    concentration = np.array(CONCENTRATION) + counts
    total = concentration.sum()
    mean = concentration / total
    return {"shares": Answer(mean, np.sqrt(mean * (1.0 - mean) / (total + 1.0)))}
