"""Modes with answers that are known exactly, found the same way wherever they are computed."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import distmc
from distmc.errors import Interrupted, SpecError
from distmc.orchestration import session

NUM_ROWS = 60


def regression() -> tuple[distmc.Model, dict[str, Any], Any, Any]:
    """Return a linear regression with a normal posterior, and the exact mean and covariance."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_ROWS, 4)) * [0.01, 1.0, 10.0, 300.0]
    y = x @ [50.0, 1.0, -0.1, 0.01] + rng.normal(size=NUM_ROWS)
    prior_scale = 100.0
    precision = x.T @ x + np.eye(4) / prior_scale**2
    model = distmc.Model(
        parameters={"slope": dist.Normal(jnp.zeros(4), prior_scale).to_event(1)},
        log_likelihood=lambda p, d: dist.Normal(d["x"] @ p["slope"], 1.0).log_prob(d["y"]),
    )
    return model, {"x": x, "y": y}, np.linalg.solve(precision, x.T @ y), np.linalg.inv(precision)


@pytest.fixture(scope="module")
def optimum() -> distmc.Optimum:
    model, rows, _, _ = regression()
    return distmc.optimize(model, rows, hessian=True, num_blocks=4, progress=False)


def test_mode_of_a_normal_posterior_is_its_mean(optimum: distmc.Optimum) -> None:
    _, _, mean, covariance = regression()
    assert optimum.is_converged
    assert optimum.num_evaluations < 100
    # The tolerance of 1e-6 nats leaves a distance of about 1e-3 standard deviations.
    np.testing.assert_allclose((optimum.params["slope"] - mean) / np.sqrt(np.diag(covariance)), 0.0, atol=3e-3)
    assert np.all(optimum.logdensity_of_starts <= optimum.logdensity + 1e-6)
    assert optimum.logdensity_of_starts.max() > optimum.logdensity - 1.0


def test_covariance_is_the_posteriors(optimum: distmc.Optimum) -> None:
    _, _, _, covariance = regression()
    np.testing.assert_allclose(optimum.covariance, covariance, rtol=1e-4, atol=1e-4 * np.abs(covariance).min())


def test_laplace_draws_have_mean_and_spread(optimum: distmc.Optimum) -> None:
    _, _, mean, covariance = regression()
    draws = optimum.draw(20_000, spread=2.0)["slope"]
    scaled = (draws - mean) / np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=5 * 2.0 / np.sqrt(20_000))
    np.testing.assert_allclose(scaled.std(axis=0), 2.0, rtol=5 / np.sqrt(2 * 20_000))


def test_constrained_mode_is_that_of_the_unconstrained_density() -> None:
    # A gamma distribution in the logarithm has its mode at its mean: the Jacobian adds 1 to the shape.
    model = distmc.Model(
        parameters={"rate": dist.Gamma(2.0, 1.0)},
        log_likelihood=lambda p, d: dist.Poisson(p["rate"]).log_prob(d["count"]),
    )
    counts = np.array([3, 4, 1, 0, 7, 2])
    found = distmc.optimize(model, {"count": counts}, num_starts=1, hessian=True, num_blocks=1, progress=False)
    np.testing.assert_allclose(found.params["rate"], (2.0 + counts.sum()) / (1.0 + counts.size), rtol=1e-3)
    # In the logarithm the curvature at the mode is minus the posterior's shape.
    np.testing.assert_allclose(found.covariance, [[1.0 / (2.0 + counts.sum())]], rtol=1e-3)


def test_curved_valley_is_followed_to_its_end() -> None:
    # Rosenbrock's valley as a log-likelihood of residuals.
    model = distmc.Model(
        parameters={name: distmc.Parameter(shape=(), support=dist.constraints.real) for name in ("x", "y")},
        log_likelihood=lambda p, d: -d["weight"] * ((1.0 - p["x"]) ** 2 + 100.0 * (p["y"] - p["x"] ** 2) ** 2),
    )
    found = distmc.optimize(model, {"weight": np.full(8, 0.5)}, initial={"x": -1.2, "y": 1.0}, progress=False)
    assert found.is_converged
    np.testing.assert_allclose([found.params["x"], found.params["y"]], 1.0, atol=2e-2)


def test_what_the_checks_warn_of_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Interrupted("Enough is seen.")

    monkeypatch.setattr(session, "run", stop)
    model, rows, _, _ = regression()
    with pytest.warns(UserWarning, match="of the work is padding") as caught, pytest.raises(Interrupted):
        distmc.optimize(model, rows, num_blocks=128, progress=False)
    assert [warning.filename for warning in caught] == [__file__]


def test_too_few_evaluations_are_told() -> None:
    model, rows, _, _ = regression()
    found = distmc.optimize(model, rows, max_evaluations=3, num_blocks=4, progress=False)
    assert not found.is_converged
    with pytest.raises(SpecError, match="hessian=True"):
        found.draw(3)


@pytest.mark.usefixtures("ray_cluster")
def test_bits_do_not_depend_on_the_number_of_workers(optimum: distmc.Optimum) -> None:
    model, rows, _, _ = regression()
    on = distmc.Ray(num_workers=2)
    again = distmc.optimize(model, rows, hessian=True, num_blocks=4, on=on, progress=False)
    assert again.position.tobytes() == optimum.position.tobytes()
    assert again.hessian is not None
    assert optimum.hessian is not None
    assert again.hessian.tobytes() == optimum.hessian.tobytes()


@pytest.mark.parametrize(
    ("setting", "value"), [("num_starts", 0), ("tolerance", 0.0), ("max_evaluations", 0), ("seed", -1)]
)
def test_settings_that_cannot_be_used(setting: str, value: Any) -> None:
    model, rows, _, _ = regression()
    with pytest.raises(SpecError):
        distmc.optimize(model, rows, progress=False, **{setting: value})
