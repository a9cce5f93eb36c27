"""Which chains have a say in tuning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.pooling import Pooling, chains_in_company, weighted_mean

POOLING = Pooling(mean=functools.partial(jnp.mean, axis=0), median=functools.partial(jnp.median, axis=0))


def test_chain_far_behind_is_left_out() -> None:
    logdensity = np.random.default_rng(0).normal(-1e6, 3.0, 32)
    logdensity[5] = -1e6 - 100.0
    weight = chains_in_company(jnp.asarray(logdensity), POOLING)
    np.testing.assert_array_equal(weight, np.arange(32) != 5)


def test_chain_far_ahead_is_not() -> None:
    logdensity = np.random.default_rng(0).normal(-1e6, 3.0, 32)
    logdensity[5] = -1e6 + 100.0
    np.testing.assert_array_equal(chains_in_company(jnp.asarray(logdensity), POOLING), 1.0)


@pytest.mark.parametrize("logdensity", [[-3.0, -3.0], [-3.0, -3.0, -3.0], [-1e9, 0.0], [-5.0, 0.0, 0.0, 0.0]])
def test_someone_always_takes_part(logdensity: list[float]) -> None:
    assert np.sum(chains_in_company(jnp.asarray(logdensity), POOLING)) >= 2


@pytest.mark.parametrize("num_chains", [8, 64])
@pytest.mark.parametrize("num_dimensions", [1, 2, 10, 100])
def test_normal_posterior_leaves_hardly_anyone_out(num_dimensions: int, num_chains: int) -> None:
    # The log-density is minus half a chi-square: strongly skewed in low dimensions.
    logdensity = _normal_logdensity(num_dimensions, (32_000 // num_chains, num_chains))
    weight = _weights_by_step(jnp.asarray(logdensity))
    assert np.mean(weight == 0.0) < 2e-4


@pytest.mark.parametrize("num_chains", [4, 64])
@pytest.mark.parametrize("num_dimensions", [1, 2, 10, 100])
def test_chain_stuck_a_thousand_nats_below_is_left_out(num_dimensions: int, num_chains: int) -> None:
    logdensity = _normal_logdensity(num_dimensions, (500, num_chains))
    logdensity[:, 1] = -1000.0
    assert np.all(_weights_by_step(jnp.asarray(logdensity))[:, 1] == 0.0)


def _normal_logdensity(num_dimensions: int, shape: tuple[int, int]) -> np.ndarray:
    return -0.5 * np.random.default_rng(num_dimensions).chisquare(num_dimensions, size=shape)


_weights_by_step = jax.jit(jax.vmap(lambda step: chains_in_company(step, POOLING)))


def test_weighted_mean_of_vectors() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3))
    weight = np.array([1.0, 0.0, 0.5, 2.0])
    expected = np.average(values, axis=0, weights=weight)
    np.testing.assert_allclose(weighted_mean(jnp.asarray(values), jnp.asarray(weight), POOLING), expected, rtol=1e-12)
    np.testing.assert_array_equal(weighted_mean(jnp.asarray(values), jnp.zeros(4), POOLING), 0.0)
