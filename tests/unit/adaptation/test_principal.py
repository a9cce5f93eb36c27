"""The leading principal component, learned from batches of chains."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.pooling import Pooling
from distmc.adaptation.principal import PrincipalComponent, add_step, no_component
from distmc.kernels.base import Target
from distmc.kernels.metrics import Metric
from distmc.types import Array, NumpyArray

POOLING = Pooling(mean=functools.partial(jnp.mean, axis=0), median=functools.partial(jnp.median, axis=0))
TARGET = Target(lambda position: (position, position), lambda a, b: jnp.sum(a * b, axis=-1))
NUM_CHAINS, NUM_DIMENSIONS = 32, 5
CENTER = np.array([3.0, -2.0, 0.0, 1e3, 5.0])
FACTORS = {
    "diagonal": np.array([0.5, 1.0, 2.0, 0.1, 1.0]),
    "dense": np.tril(np.random.default_rng(1).normal(size=(5, 5)), -1) + np.diag([0.5, 1.0, 2.0, 0.1, 1.0]),
}


def metric_of(factor: NumpyArray) -> Metric:
    return Metric(jnp.asarray(factor), jnp.asarray(np.linalg.inv(factor) if factor.ndim == 2 else 1.0 / factor))


def covariance_when_whitened() -> NumpyArray:
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))
    return np.asarray(rotation * np.array([9.0, 3.0, 1.0, 0.5, 0.1]) @ rotation.T)


@functools.partial(jax.jit, static_argnames="num_steps")
def watch(known: PrincipalComponent, positions: Array, weight: Array, metric: Metric, num_steps: int) -> Any:
    def one(known: PrincipalComponent, position: Array) -> Any:
        return add_step(known, position, weight, metric, TARGET, POOLING), None

    return jax.lax.scan(one, known, positions[:num_steps])[0]


def positions_in(metric: Metric, num_steps: int) -> NumpyArray:
    factor = np.asarray(metric.factor)
    rng = np.random.default_rng(0)
    whitened = rng.multivariate_normal(np.zeros(5), covariance_when_whitened(), size=(num_steps, NUM_CHAINS))
    return CENTER + (whitened @ factor.T if factor.ndim == 2 else whitened * factor)


@pytest.mark.parametrize("form", FACTORS)
def test_direction_and_variance_are_those_of_the_covariance(form: str) -> None:
    metric = metric_of(FACTORS[form])
    positions = positions_in(metric, 200)
    positions[:10] += 50.0  # what came first is forgotten
    known = watch(no_component(5), jnp.asarray(positions), jnp.ones(NUM_CHAINS), metric, 200)
    values, vectors = np.linalg.eigh(covariance_when_whitened())
    assert abs(known.direction @ vectors[:, -1]) > 0.99
    np.testing.assert_allclose(jnp.sum(known.direction**2), 1.0, rtol=1e-12)
    # About 25 steps of 32 chains count: a relative error of sqrt(2 / 800).
    np.testing.assert_allclose(known.variance, values[-1], rtol=0.2)
    assert known.count == 200.0


def test_chains_without_weight_say_nothing() -> None:
    metric = metric_of(FACTORS["dense"])
    positions = positions_in(metric, 20)
    weight = jnp.ones(NUM_CHAINS).at[7].set(0.0)
    known = watch(no_component(5), jnp.asarray(positions), weight, metric, 20)
    positions[:, 7] = 1e9
    again = watch(no_component(5), jnp.asarray(positions), weight, metric, 20)
    for new, old in zip(again, known, strict=True):
        np.testing.assert_array_equal(new, old)


def test_chains_in_one_place_have_no_direction() -> None:
    metric = metric_of(FACTORS["diagonal"])
    positions = jnp.broadcast_to(jnp.asarray(CENTER), (3, NUM_CHAINS, 5))
    known = watch(no_component(5), positions, jnp.ones(NUM_CHAINS), metric, 3)
    np.testing.assert_allclose(known.direction, 5**-0.5)
    np.testing.assert_allclose(known.variance, 0.0, atol=1e-12)
