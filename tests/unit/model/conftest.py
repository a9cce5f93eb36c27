"""Everything here is computed in float64, as runs are."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

from distmc.data.data import Data
from distmc.model.model import Model


@pytest.fixture(autouse=True)
def double_precision():
    """Turn 64-bit mode on for one test."""
    with jax.enable_x64(True):
        yield


def linear_likelihood(params, data):
    """Return the contributions of a linear regression."""
    return dist.Normal(params["intercept"] + data["x"] @ params["slope"], params["scale"]).log_prob(data["y"])


@pytest.fixture
def linear_priors():
    """Priors of a linear regression with two slopes."""
    return {
        "intercept": dist.Normal(0.0, 5.0),
        "slope": dist.Normal(0.0, 1.0).expand([2]).to_event(1),
        "scale": dist.HalfNormal(1.0),
    }


@pytest.fixture
def linear_model(linear_priors):
    """Return a linear regression whose likelihood returns contributions."""
    return Model(linear_priors, linear_likelihood)


@pytest.fixture
def linear_data():
    """Return fifty rows of a linear regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2))
    return Data(rows={"x": x, "y": 1.0 + x @ [0.5, -2.0] + 0.7 * rng.normal(size=50)})
