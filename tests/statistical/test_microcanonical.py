"""The microcanonical samplers from end to end with their default settings, on posteriors whose answer is known."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest

import distmc
from distmc.testing.moments import require_moments
from distmc.zoo.answers import Answer

pytestmark = pytest.mark.usefixtures("optimised")

SAMPLERS = pytest.mark.parametrize("sampler", [distmc.MAMS(), distmc.LAPS()], ids=["MAMS", "LAPS"])


def sampled(model: distmc.Model, data: distmc.Data, sampler: Any, **settings: Any) -> Any:
    return distmc.sample(model, data, sampler=sampler, num_chains=32, progress=False, **settings)


# Linear regression with known noise, whose posterior is normal --------------------------------------------------------

PRIOR_SD, NOISE = 3.0, 0.5


def regression_data() -> distmc.Data:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 8)) @ (np.eye(8) + 0.6 * rng.normal(size=(8, 8))) * np.logspace(-2, 1, 8)
    return distmc.Data(rows={"x": x, "y": x @ rng.normal(size=8) + NOISE * rng.normal(size=300)})


def regression_likelihood(params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
    return dist.Normal(data["x"] @ params["weights"], NOISE).log_prob(data["y"])


@pytest.fixture(scope="module")
def ill_conditioned() -> tuple[distmc.Model, distmc.Data, dict[str, Answer]]:
    """Return the regression with its normal posterior."""
    data = regression_data()
    x, y = data.rows["x"], data.rows["y"]
    precision = np.eye(8) / PRIOR_SD**2 + x.T @ x / NOISE**2
    covariance = np.linalg.inv(precision)
    assert np.linalg.cond(covariance) > 1e5
    exact = {"weights": Answer(covariance @ (x.T @ y) / NOISE**2, np.sqrt(np.diag(covariance)))}
    model = distmc.Model({"weights": dist.Normal(0.0, PRIOR_SD).expand([8]).to_event(1)}, regression_likelihood)
    return model, data, exact


def test_ill_conditioned_normal_posterior(ill_conditioned: Any) -> None:
    model, data, exact = ill_conditioned
    require_moments(sampled(model, data, distmc.MAMS(), precision="float64"), exact)


def test_late_adjustment_says_when_chains_do_not_arrive(ill_conditioned: Any) -> None:
    # These starts are tens of thousands of posterior scales away, and steps are as long as suits the chains that have
    # arrived.
    model, data, exact = ill_conditioned
    far = {"weights": np.random.default_rng(0).normal(0.0, 10.0 * PRIOR_SD, size=(32, 8))}
    assert distmc.verdict(sampled(model, data, distmc.LAPS(), precision="float64", initial=far)).level == "bad"
    mode = distmc.optimize(model, data, hessian=True, precision="float64", progress=False)
    require_moments(sampled(model, data, distmc.LAPS(), precision="float64", initial=mode.draw(32)), exact)


# Logistic regression with two weights, whose posterior a grid integrates ----------------------------------------------


def logistic_likelihood(params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
    return dist.Bernoulli(logits=params["intercept"] + params["slope"] * data["x"]).log_prob(data["y"])


def on_a_grid(x: Any, y: Any) -> dict[str, Answer]:
    intercept, slope = np.meshgrid(np.linspace(-4.0, 4.0, 401), np.linspace(-3.0, 6.0, 401), indexing="ij")
    logdensity = -0.5 * (intercept / 2.0) ** 2 - 0.5 * slope**2
    for one, outcome in zip(x, y, strict=True):
        logits = intercept + slope * one
        logdensity += outcome * logits - np.logaddexp(0.0, logits)
    weight = np.exp(logdensity - logdensity.max())
    weight /= weight.sum()
    answers = {}
    for name, values in (("intercept", intercept), ("slope", slope)):
        mean = np.sum(weight * values)
        answers[name] = Answer(mean, np.sqrt(np.sum(weight * (values - mean) ** 2)))
    return answers


@SAMPLERS
def test_small_logistic_regression(sampler: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=25)
    y = (rng.random(25) < 1.0 / (1.0 + np.exp(-1.5 * x - 0.5))).astype(int)
    priors = {"intercept": dist.Normal(0.0, 2.0), "slope": dist.Normal(0.0, 1.0)}
    tree = sampled(distmc.Model(priors, logistic_likelihood), distmc.Data(rows={"x": x, "y": y}), sampler)
    require_moments(tree, on_a_grid(x, y))
