"""Moments of a window equal those of all its vectors at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.moments import Moments, add_vectors, covariance, has_spread, no_moments

NUM_CHAINS, NUM_DIMENSIONS = 6, 3


def pooled(steps: Any, *, is_dense: bool, weights: Any = None) -> Moments:
    """Take in vectors step by step, (num_steps, num_chains, num_dimensions)."""
    weights = np.ones(steps.shape[:2]) if weights is None else weights
    moments = no_moments(steps.shape[2], is_dense=is_dense)
    add = jax.jit(add_vectors)
    for vectors, weight in zip(steps, weights, strict=True):
        moments = add(moments, jnp.asarray(vectors), jnp.asarray(weight))
    return moments


@pytest.fixture
def steps() -> Any:
    mixing = np.array([[3.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.0, -2.0, 30.0]])
    normal = np.random.default_rng(0).normal(size=(20, NUM_CHAINS, NUM_DIMENSIONS))
    return normal @ mixing.T + [1e3, 0.0, -5.0]


@pytest.mark.parametrize("is_dense", [False, True])
def test_moments_equal_those_of_all_vectors_at_once(steps: Any, is_dense: bool) -> None:
    # The first two steps have nobody in them, and chains come and go.
    weights = np.random.default_rng(1).integers(0, 2, steps.shape[:2]).astype(float)
    weights[:2] = 0.0
    moments = pooled(steps, is_dense=is_dense, weights=weights)
    counting = steps[weights > 0.0]
    expected = np.cov(counting, rowvar=False)
    assert moments.count == len(counting)
    np.testing.assert_allclose(moments.mean, counting.mean(0), rtol=1e-12)
    expected = expected if is_dense else np.diag(expected)
    np.testing.assert_allclose(covariance(moments), expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("is_dense", [False, True])
def test_rounding_is_no_spread_and_small_scales_are(steps: Any, is_dense: bool) -> None:
    # The mean of equal numbers is rounded, so their variance need not come out as zero.
    steps[:, :, 0] = 1e5 / 3.0
    steps[:, :, 1] = 1e6 + 1e-5 * steps[:, :, 1]
    np.testing.assert_array_equal(has_spread(pooled(steps, is_dense=is_dense)), [False, True, True])


def test_nothing_has_no_spread() -> None:
    assert not has_spread(no_moments(2, is_dense=False)).any()
    overflown = Moments(jnp.asarray(9.0), jnp.zeros(2), jnp.array([jnp.inf, jnp.nan]))
    assert not has_spread(overflown).any()
