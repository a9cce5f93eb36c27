"""Metrics of all forms: exact on normal targets, finite on whatever else a window may hold."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.metric import MetricRule, choose_form, standard_factor
from distmc.adaptation.window import Window
from distmc.kernels.base import GradientState
from distmc.kernels.metrics import Metric, to_position, to_whitened, whiten_grad
from distmc.types import Array

FORMS = ["diagonal", "dense", "low_rank"]
NUM_CHAINS, NUM_DIMENSIONS = 16, 6
MOST_STEPS = 200
MEAN = np.array([1e3, 0.0, -5.0, 1.0, 0.0, 2.0])


class PositionState(NamedTuple):
    """The state of a kernel that follows no gradients."""

    position: Array


def spread_of(seed: int = 0, condition: float = 1e3) -> Any:
    """Return a covariance with strong correlations and coordinates of different scales."""
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(NUM_DIMENSIONS, NUM_DIMENSIONS)))[0]
    scales = np.array([0.01, 1.0, 30.0, 1.0, 5.0, 0.2])
    return np.outer(scales, scales) * (axes * np.geomspace(1.0 / condition, 1.0, NUM_DIMENSIONS) @ axes.T)


COVARIANCE = spread_of()
PRECISION = np.linalg.inv(COVARIANCE)


def normal_steps(num_steps: int, covariance: Any = COVARIANCE, seed: int = 0) -> Any:
    normal = np.random.default_rng(seed).normal(size=(num_steps, NUM_CHAINS, NUM_DIMENSIONS))
    return MEAN + normal @ np.linalg.cholesky(covariance).T


@functools.cache
def learner(form: Any, has_grads: bool) -> Any:
    """Return a compiled function from a window's positions, gradients, number of steps and the metric before it."""

    @jax.jit
    def learn_from(
        positions: Array, grads: Array, num_steps: int, previous: Metric, has_arrived: Array | bool
    ) -> Metric:
        rule = MetricRule(num_dimensions=positions.shape[2], form=form)

        def state_at(step: Any) -> Any:
            if not has_grads:
                return PositionState(positions[step])
            return GradientState(positions[step], jnp.zeros(positions.shape[1]), grads[step])

        def add(step: Any, window: Window) -> Window:
            return rule.add(window, state_at(step), jnp.ones(positions.shape[1]))

        window = jax.lax.fori_loop(0, num_steps, add, rule.nothing(state_at(0)))
        return rule.estimate(window, previous, has_arrived)

    return learn_from


def learn(
    form: Any,
    positions: Any,
    grads: Any = None,
    previous: Metric | None = None,
    num_steps: Any = None,
    has_arrived: bool = True,
) -> Metric:
    """Return the metric after a window of (num_steps, num_chains, num_dimensions), or its first steps."""
    first = MetricRule(num_dimensions=positions.shape[2], form=form).first()
    steps = len(positions) if num_steps is None else num_steps
    arrays = [_lengthened(array) for array in (positions, positions if grads is None else grads)]
    metric: Metric = learner(form, grads is not None)(
        *arrays, steps, first if previous is None else previous, has_arrived
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(metric))
    # Compiled once for all windows, so none may change a shape.
    assert jax.tree.map(jnp.shape, metric) == jax.tree.map(jnp.shape, first)
    return metric


def _lengthened(steps: Any) -> Any:
    """Return steps followed by others that nobody looks at: equal shapes need one compilation."""
    return np.concatenate([steps, np.zeros((max(0, MOST_STEPS - len(steps)), *steps.shape[1:]))])


def grads_of(positions: Any, precision: Any = PRECISION) -> Any:
    return -(positions - MEAN) @ precision


@jax.jit
def all_maps(metric: Metric) -> tuple[Array, Array, Array]:
    """Return what the maps of a metric make of the axes, compiled as a whole."""
    identity = jnp.eye(metric.factor.shape[0])
    return to_position(metric, identity), to_whitened(metric, identity), whiten_grad(metric, identity)


def factor_of(metric: Metric) -> Any:
    """Return the matrix that maps whitened coordinates to positions, having seen to it that all maps agree."""
    positions, whitened, grads = (np.asarray(image) for image in all_maps(metric))
    factor = positions.T
    np.testing.assert_allclose(whitened.T @ factor, np.eye(len(factor)), atol=1e-9)
    np.testing.assert_allclose(grads, factor, rtol=1e-9, atol=1e-13 * np.abs(factor).max())
    return factor


compiled_standard_factor = jax.jit(standard_factor)
compiled_to_whitened = jax.jit(to_whitened)


@pytest.mark.parametrize("form", ["dense", "low_rank"])
def test_gradients_make_the_metric_of_a_normal_target_exact(form: str) -> None:
    # Few draws, and from another distribution, much wider than the target, as those of chains under way are.
    positions = MEAN + 100.0 * (normal_steps(3, spread_of(seed=5, condition=100.0)) - MEAN)
    factor = factor_of(learn(form, positions, grads_of(positions)))
    np.testing.assert_allclose(factor @ factor.T, COVARIANCE, rtol=1e-3, atol=1e-6 * np.abs(COVARIANCE).min())
    whitened = np.linalg.solve(factor, np.linalg.cholesky(COVARIANCE))
    np.testing.assert_allclose(np.linalg.svd(whitened)[1], 1.0, rtol=1e-3)


def test_gradients_make_the_scales_of_independent_coordinates_exact() -> None:
    scales = np.array([0.01, 1.0, 30.0, 1.0, 5.0, 0.2])
    positions = MEAN + 100.0 * np.random.default_rng(0).normal(size=(2, NUM_CHAINS, NUM_DIMENSIONS))
    metric = learn("diagonal", positions, grads_of(positions, np.diag(scales**-2.0)))
    np.testing.assert_allclose(metric.factor, scales, rtol=1e-10)


def test_plenty_of_draws_make_gradients_unnecessary() -> None:
    positions = normal_steps(200, np.diag(np.arange(1.0, 7.0)))
    flat = positions.reshape(-1, NUM_DIMENSIONS)
    # Gradients as of a target half as wide.
    scales = np.sqrt(np.arange(1.0, 7.0))
    grads = grads_of(positions, np.diag((0.5 * scales) ** -2.0))
    np.testing.assert_allclose(learn("diagonal", positions, grads).factor, flat.std(0, ddof=1), rtol=1e-10)
    factor = factor_of(learn("dense", positions, grads))
    np.testing.assert_allclose(factor @ factor.T, np.cov(flat, rowvar=False), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(learn("diagonal", positions, grads, num_steps=30).factor, 0.5 * scales, rtol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_decide_while_chains_are_under_way_however_many_draws_there_are(form: str) -> None:
    scales = np.sqrt(np.arange(1.0, 7.0))
    positions = MEAN + 100.0 * (normal_steps(200, np.diag(scales**2)) - MEAN)
    grads = grads_of(positions, np.diag(scales**-2.0))
    factor = factor_of(learn(form, positions, grads, has_arrived=False))
    np.testing.assert_allclose(factor @ factor.T, np.diag(scales**2), rtol=1e-3, atol=1e-3)
    if form != "low_rank":  # Its kept draws are never plenty for six directions.
        factor = factor_of(learn(form, positions, grads, has_arrived=True))
        assert np.all(np.sqrt(np.diag(factor @ factor.T)) > 50.0 * scales)


def test_without_gradients_scales_are_standard_deviations_and_correlations_are_shrunk() -> None:
    positions = normal_steps(2, spread_of(condition=10.0))
    flat = positions.reshape(-1, NUM_DIMENSIONS)
    np.testing.assert_allclose(learn("diagonal", positions).factor, flat.std(0, ddof=1), rtol=1e-9)
    covariance = np.cov(flat, rowvar=False)
    share = NUM_DIMENSIONS / len(flat)
    expected = np.where(np.eye(NUM_DIMENSIONS, dtype=bool), covariance, covariance / (1.0 + share**3))
    factor = factor_of(learn("dense", positions))
    np.testing.assert_allclose(factor @ factor.T, expected, rtol=1e-9)


def test_low_rank_finds_wide_and_narrow_directions_among_many() -> None:
    rng = np.random.default_rng(0)
    size = 128
    # No coordinate has a larger part in them than another: else scales that are best for each coordinate alone would
    # not be those that leave few directions to be stretched.
    directions = walsh_matrix(size)[:, [3, 22, 37, 64, 90, 125]] / np.sqrt(size)
    stretch = np.array([30.0, 10.0, 4.0, 0.2, 0.1, 0.02])
    scales = np.exp(rng.uniform(-4.0, 4.0, size))
    root = scales[:, None] * (np.eye(size) + directions * (stretch - 1.0) @ directions.T)
    precision = np.linalg.inv(root @ root.T)
    positions = rng.normal(size=(40, NUM_CHAINS, size)) @ root.T

    def spread_after(form: str, grads: Any) -> float:
        metric = learn(form, positions, grads)
        values = np.linalg.svd(np.asarray(compiled_to_whitened(metric, root.T)))[1]
        return float(values[0] / values[-1])

    assert spread_after("diagonal", -positions @ precision) > 100.0
    assert spread_after("low_rank", -positions @ precision) < 2.0
    # Positions alone see the wide directions; sampling noise makes others look narrower than they are.
    assert spread_after("low_rank", None) < 0.2 * spread_after("diagonal", None)


@pytest.mark.parametrize(("stretch", "is_needed"), [(1.0, False), (1.3, False), (1.6, True), (0.6, True)])
def test_low_rank_is_diagonal_where_no_direction_differs_much(stretch: float, is_needed: bool) -> None:
    along = np.ones((NUM_DIMENSIONS, 1)) / np.sqrt(NUM_DIMENSIONS)
    root = np.eye(NUM_DIMENSIONS) + (stretch - 1.0) * along @ along.T
    positions = normal_steps(20, root @ root.T)
    metric = learn("low_rank", positions, grads_of(positions, np.linalg.inv(root @ root.T)))
    assert metric.stretch is not None
    assert bool(metric.stretch.is_needed) == is_needed
    factor = factor_of(metric)
    if not is_needed:
        np.testing.assert_array_equal(factor, np.diag(metric.factor))


def walsh_matrix(size: int) -> Any:
    """Return orthogonal columns of entries 1 and -1; the size is a power of two."""
    return np.ones((1, 1)) if size == 1 else np.kron(walsh_matrix(size // 2), [[1.0, 1.0], [1.0, -1.0]])


@pytest.mark.parametrize("form", FORMS)
def test_coordinates_that_never_moved_keep_their_scale(form: Any) -> None:
    positions = normal_steps(20)
    # The mean of equal numbers is rounded, so their variance need not come out as zero.
    positions[:, :, 0], positions[:, :, 1] = 0.1, 1e5 / 3.0
    scales = jnp.array([2.0, 7.0, 1.0, 1.0, 1.0, 1.0])
    first = MetricRule(num_dimensions=NUM_DIMENSIONS, form=form).first()
    scaled = scales[:, None] * first.factor if form == "dense" else scales * first.factor
    for grads in (None, grads_of(positions)):
        factor = factor_of(learn(form, positions, grads, first._replace(factor=scaled)))
        np.testing.assert_allclose(factor[:2, :2], np.diag([2.0, 7.0]), atol=1e-9)
        np.testing.assert_allclose(factor[:2, 2:], 0.0, atol=1e-9)
        np.testing.assert_allclose(factor[2:, :2], 0.0, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_coordinates_without_a_gradient_go_by_their_positions(form: Any) -> None:
    positions = normal_steps(20, np.diag([4.0, 1.0, 9.0, 1.0, 1.0, 1.0]))
    grads = grads_of(positions, np.diag([0.0, 1.0, 1.0 / 9.0, 1.0, 1.0, 1.0]))
    factor = factor_of(learn(form, positions, grads))
    np.testing.assert_allclose(np.sqrt(np.sum(factor[0] ** 2)), positions[..., 0].std(ddof=1), rtol=0.2)


@jax.jit
def whole_map(metric: Metric) -> Array:
    return to_position(metric, jnp.eye(metric.factor.shape[0])).T


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("has_grads", [False, True])
def test_whatever_chains_do_the_metric_stays_finite(form: Any, has_grads: bool) -> None:
    rng = np.random.default_rng(0)
    good = normal_steps(8)
    twin = good.copy()
    twin[:, :, 1] = twin[:, :, 0]
    cases = {
        "all in one place": np.zeros_like(good),
        "one chain moves": np.where(np.arange(NUM_CHAINS)[:, None] == 3, good, 0.0),
        "the same step again and again": np.broadcast_to(good[:1], good.shape),
        "two coordinates are one": twin,
        "on a line": rng.normal(size=(8, NUM_CHAINS, 1)) * np.ones(NUM_DIMENSIONS),
        "far apart": 1e150 * good,
        "far away": 1e300 + good,
        "close together": 1e-150 * good,
        "some not finite": np.where(rng.random(good.shape) < 0.05, np.nan, good),
        "none finite": np.full_like(good, np.inf),
    }
    with np.errstate(all="ignore"):
        for positions in cases.values():
            grads = [grads_of(positions), np.zeros_like(positions), 1e200 * rng.normal(size=positions.shape)]
            for grad in grads if has_grads else [None]:
                for num_steps in (1, 8):
                    metric = learn(form, positions, grad, num_steps=num_steps)
                    assert np.all(np.diagonal(np.asarray(whole_map(metric))) != 0.0)


@pytest.mark.parametrize("broken", [[[1.0, 2.0], [2.0, 1.0]], [[1.0, np.nan], [np.nan, 1.0]]])
def test_matrices_without_a_factor_do_not_get_one(broken: Any) -> None:
    good = jnp.eye(2)
    for spread, grad_spread in ((jnp.asarray(broken), good), (jnp.asarray(broken), None)):
        assert not np.all(np.isfinite(compiled_standard_factor(spread, grad_spread, jnp.asarray(50.0))))


@pytest.mark.parametrize("num_draws", [1, 2, 4])
def test_directions_that_few_draws_do_not_show_keep_their_scale(num_draws: int) -> None:
    rng = np.random.default_rng(num_draws)
    positions = rng.normal(size=(num_draws, NUM_DIMENSIONS))
    # A standard normal target, whose gradients are as far as positions, but slightly off.
    grads = -positions * rng.uniform(0.9, 1.1, size=NUM_DIMENSIONS)
    spread, grad_spread = (jnp.asarray(kept.T @ kept / num_draws) for kept in (positions, grads))
    assert np.linalg.matrix_rank(spread) == num_draws
    factor = compiled_standard_factor(spread, grad_spread, jnp.asarray(float(num_draws)))
    assert np.all(np.isfinite(factor))
    np.testing.assert_allclose(np.linalg.eigvalsh(factor @ factor.T), 1.0, atol=0.2)


def test_the_ridge_fades_with_the_number_of_draws() -> None:
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(NUM_DIMENSIONS, NUM_DIMENSIONS)))[0]
    variances = np.geomspace(1e-4, 1.0, NUM_DIMENSIONS)

    def narrowest(draws_per_dimension: float) -> float:
        """Return the least variance that is learned, as a multiple of the true one."""
        spread, grad_spread = (jnp.asarray(axes * values @ axes.T) for values in (variances, 1.0 / variances))
        factor = compiled_standard_factor(spread, grad_spread, jnp.asarray(draws_per_dimension * NUM_DIMENSIONS))
        return float(np.linalg.eigvalsh(factor @ factor.T)[0] / variances[0])

    assert narrowest(0.5) > 5.0
    assert 2.0 < narrowest(1.0) < 5.0
    np.testing.assert_allclose(narrowest(10.0), 1.0, rtol=0.06)
    np.testing.assert_allclose(narrowest(100.0), 1.0, rtol=1e-3)


def test_auto_follows_dimensions_and_draws() -> None:
    assert choose_form("auto", num_dimensions=50, num_draws=195 * 32) == "dense"
    assert choose_form("auto", num_dimensions=100, num_draws=195 * 2) == "dense"
    assert choose_form("auto", num_dimensions=300, num_draws=100) == "low_rank"
    assert choose_form("auto", num_dimensions=1000, num_draws=10**6) == "low_rank"
    assert choose_form("auto", num_dimensions=10**5, num_draws=10**6) == "diagonal"
    # Without windows no metric is ever estimated.
    assert choose_form("auto", num_dimensions=2, num_draws=0) == "diagonal"
    for kind in FORMS:
        assert choose_form(kind, num_dimensions=5000, num_draws=1) == kind  # type: ignore[arg-type]
