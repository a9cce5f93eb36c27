"""Maps between positions and whitened coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.kernels.metrics import Metric, to_position, to_whitened, whiten_grad

SCALES = np.array([0.1, 2.0, 30.0])
FACTOR = np.array([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-1.0, 3.0, 0.2]])


@pytest.fixture(params=["diagonal", "dense"])
def metric(request: pytest.FixtureRequest) -> Metric:
    if request.param == "diagonal":
        return Metric(jnp.asarray(SCALES), jnp.asarray(1.0 / SCALES))
    return Metric(jnp.asarray(FACTOR), jnp.asarray(np.linalg.inv(FACTOR)))


def matrix(metric: Metric) -> np.ndarray:
    factor = np.asarray(metric.factor)
    return np.diag(factor) if factor.ndim == 1 else factor


def test_maps_apply_the_factor_to_each_chain(metric: Metric) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 3))
    expected = np.stack([matrix(metric) @ vector for vector in vectors])
    np.testing.assert_allclose(to_position(metric, jnp.asarray(vectors)), expected, rtol=1e-12)
    np.testing.assert_allclose(to_whitened(metric, jnp.asarray(expected)), vectors, rtol=1e-12, atol=1e-12)


def test_gradient_follows_the_chain_rule(metric: Metric) -> None:
    def logdensity(position: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(position)) - position[0] * position[2]

    at = jnp.array([0.3, -0.2, 0.5])
    whitened = to_whitened(metric, at[None])[0]
    expected = jax.grad(lambda z: logdensity(to_position(metric, z[None])[0]))(whitened)
    np.testing.assert_allclose(whiten_grad(metric, jax.grad(logdensity)(at)[None])[0], expected, rtol=1e-10)
