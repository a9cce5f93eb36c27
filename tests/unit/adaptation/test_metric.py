"""Pooled moments, and the metric made of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.metric import cholesky, estimate_metric, identity_metric, invert_lower, wants_dense
from distmc.adaptation.moments import Moments, add_positions, no_moments

NUM_CHAINS, NUM_DIMENSIONS = 6, 3


def pooled(steps: Any, *, is_dense: bool, weight: Any = None) -> Moments:
    """Take in positions step by step, (num_steps, num_chains, num_dimensions)."""
    weight = jnp.ones(steps.shape[1]) if weight is None else jnp.asarray(weight)
    moments = no_moments(steps.shape[2], is_dense=is_dense)
    add = jax.jit(add_positions)
    for position in steps:
        moments = add(moments, jnp.asarray(position), weight)
    return moments


@pytest.fixture
def steps() -> Any:
    rng = np.random.default_rng(0)
    mixing = np.array([[3.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.0, -2.0, 30.0]])
    return rng.normal(size=(20, NUM_CHAINS, NUM_DIMENSIONS)) @ mixing.T + [1e3, 0.0, -5.0]


def test_moments_equal_those_of_all_positions_at_once(steps: Any) -> None:
    flat = steps.reshape(-1, NUM_DIMENSIONS)
    for is_dense in (False, True):
        moments = pooled(steps, is_dense=is_dense)
        covariance = np.cov(flat, rowvar=False)
        expected = covariance if is_dense else np.diag(covariance)
        assert moments.count == len(flat)
        np.testing.assert_allclose(moments.mean, flat.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.scatter / (moments.count - 1), expected, rtol=1e-10, atol=1e-9)


def test_chains_without_weight_are_not_among_the_moments(steps: Any) -> None:
    weight = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    counting = steps[:, weight > 0].reshape(-1, NUM_DIMENSIONS)
    for is_dense in (False, True):
        moments = pooled(steps, is_dense=is_dense, weight=weight)
        covariance = np.cov(counting, rowvar=False)
        expected = covariance if is_dense else np.diag(covariance)
        np.testing.assert_allclose(moments.scatter / (len(counting) - 1), expected, rtol=1e-10, atol=1e-9)


def test_diagonal_metric_is_the_standard_deviation(steps: Any) -> None:
    metric = estimate_metric(pooled(steps, is_dense=False), identity_metric(NUM_DIMENSIONS, is_dense=False))
    expected = steps.reshape(-1, NUM_DIMENSIONS).std(0, ddof=1)
    np.testing.assert_allclose(metric.factor, expected, rtol=1e-10)
    np.testing.assert_allclose(metric.inverse_factor, 1.0 / expected, rtol=1e-10)


def test_dense_metric_is_the_covariance_with_shrunk_correlations(steps: Any) -> None:
    moments = pooled(steps, is_dense=True)
    metric = estimate_metric(moments, identity_metric(NUM_DIMENSIONS, is_dense=True))
    covariance = np.cov(steps.reshape(-1, NUM_DIMENSIONS), rowvar=False)
    kept = float(moments.count) / (float(moments.count) + NUM_DIMENSIONS)
    expected = np.where(np.eye(NUM_DIMENSIONS, dtype=bool), covariance, kept * covariance)
    np.testing.assert_allclose(metric.factor @ metric.factor.T, expected, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(metric.factor @ metric.inverse_factor, np.eye(NUM_DIMENSIONS), atol=1e-10)


@pytest.mark.parametrize("is_dense", [False, True])
def test_coordinates_that_never_moved_keep_their_scale(steps: Any, is_dense: bool) -> None:
    stuck = steps.copy()
    # The mean of equal numbers is rounded, so their variance need not come out as zero.
    stuck[:, :, 0], stuck[:, :, 1] = 0.1, 1e5 / 3.0
    scales = jnp.array([2.0, 7.0, 1.0])
    previous = identity_metric(NUM_DIMENSIONS, is_dense=is_dense)
    previous = jax.tree.map(lambda factor: factor * scales[:, None] if is_dense else factor * scales, previous)
    metric = estimate_metric(pooled(stuck, is_dense=is_dense), previous)
    factor = np.diag(metric.factor) if is_dense else np.asarray(metric.factor)
    np.testing.assert_allclose(factor, [2.0, 7.0, steps[..., 2].std(ddof=1)], rtol=1e-8)
    assert np.all(np.isfinite(metric.inverse_factor))


def test_small_scales_far_from_zero_are_not_mistaken_for_rounding() -> None:
    steps = 1e6 + 1e-5 * np.random.default_rng(0).normal(size=(20, NUM_CHAINS, 1))
    metric = estimate_metric(pooled(steps, is_dense=False), identity_metric(1, is_dense=False))
    np.testing.assert_allclose(metric.factor, 1e-5, rtol=0.2)


@pytest.mark.parametrize(
    "broken", [[[1.0, 2.0], [2.0, 1.0]], [[1.0, np.nan], [np.nan, 1.0]], [[1.0, np.inf], [np.inf, 4.0]]]
)
def test_covariance_without_a_factor_falls_back_to_its_diagonal(broken: list[list[float]]) -> None:
    scatter = 1e6 * jnp.asarray(broken)
    moments = Moments(jnp.asarray(1e6), jnp.zeros(2), scatter)
    metric = estimate_metric(moments, identity_metric(2, is_dense=True))
    np.testing.assert_allclose(metric.factor, np.diag(np.sqrt(np.diag(broken))), rtol=1e-5)
    np.testing.assert_allclose(metric.inverse_factor, np.diag(1.0 / np.sqrt(np.diag(broken))), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 17])
def test_factorisations_equal_those_of_the_library(size: int) -> None:
    rows = np.random.default_rng(size).normal(size=(3 * size, size))
    matrix = rows.T @ rows + np.eye(size)
    factor = cholesky(jnp.asarray(matrix))
    np.testing.assert_allclose(factor, np.linalg.cholesky(matrix), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(invert_lower(factor), np.linalg.inv(np.linalg.cholesky(matrix)), rtol=1e-8, atol=1e-10)


def test_auto_is_dense_where_positions_can_carry_it() -> None:
    assert wants_dense("auto", num_dimensions=50, num_positions=15 * 32)
    assert not wants_dense("auto", num_dimensions=300, num_positions=15 * 32)
    assert not wants_dense("auto", num_dimensions=2, num_positions=0)
    assert not wants_dense("auto", num_dimensions=5000, num_positions=10**9)
    assert wants_dense("dense", num_dimensions=5000, num_positions=1)
    assert not wants_dense("diagonal", num_dimensions=2, num_positions=10**9)
