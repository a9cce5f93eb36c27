"""Which chains have a say in tuning."""

import functools

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


def test_skewed_densities_of_a_posterior_all_take_part() -> None:
    # Minus half a chi-square with one degree of freedom is as skewed as a posterior's log-density gets.
    logdensity = -0.5 * np.random.default_rng(0).normal(size=(200, 64)) ** 2
    left_out = [1.0 - np.mean(chains_in_company(jnp.asarray(step), POOLING)) for step in logdensity]
    assert np.mean(left_out) < 0.01


def test_weighted_mean_of_vectors() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3))
    weight = np.array([1.0, 0.0, 0.5, 2.0])
    expected = np.average(values, axis=0, weights=weight)
    np.testing.assert_allclose(weighted_mean(jnp.asarray(values), jnp.asarray(weight), POOLING), expected, rtol=1e-12)
    np.testing.assert_array_equal(weighted_mean(jnp.asarray(values), jnp.zeros(4), POOLING), 0.0)
