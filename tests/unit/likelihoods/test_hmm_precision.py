"""Small probabilities and short mantissas in the hidden Markov likelihood."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hmm_cases import (
    KINDS,
    assert_close,
    contributions,
    dirichlet,
    problem,
    reference_and_gradient,
    value_and_gradient,
)

from distmc.likelihoods import hmm


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ten_thousand_steps_do_not_underflow(dtype: Any) -> None:
    rng = np.random.default_rng(4)
    parameters = (dirichlet(rng, 3), dirichlet(rng, 3, 3), dirichlet(rng, 3, 8))
    shown = rng.integers(0, 8, (4, 10_000))
    case = {"observations": shown, "missing": shown < 0, "length": np.full(4, 10_000)}
    expected = reference_and_gradient("categorical", parameters, case, np.ones(4))
    lowered = jax.tree.map(lambda leaf: leaf.astype(dtype), parameters)
    actual = value_and_gradient(lambda p: hmm.categorical(*p, shown), lowered, np.ones(4))
    assert np.all(np.asarray(expected[0]) < -10_000)
    assert_close(actual, expected, 1e-10 if dtype == np.float64 else 1e-5)


def test_float32_contributions_are_not_rounded_at_the_total() -> None:
    """A row of minus a million nats: float32 itself is spaced by 0.06 there."""
    emission = jnp.asarray([[1e-20, 1 - 1e-20], [3e-20, 1 - 3e-20]], jnp.float32)
    flat = jnp.full(2, 0.5, jnp.float32)
    value = hmm.categorical(flat, jnp.full((2, 2), 0.5, jnp.float32), emission, np.zeros((1, 22_000), int))
    expected = 22_000 * np.log(np.mean(np.asarray(emission, np.float64)[:, 0]))
    assert value.dtype == jnp.float64
    assert abs(float(value[0]) - expected) < 22_000 * np.finfo(np.float32).eps


@pytest.mark.parametrize("kind", KINDS)
def test_float32_against_float64(kind: str) -> None:
    case = problem(kind, num_rows=200, num_steps=30)
    lowered = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), case["parameters"])
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), lowered)

    def evaluate(parameters: Any) -> tuple[Any, Any]:
        return value_and_gradient(
            lambda p: contributions(kind, p, case["observations"], case["length"]), parameters, np.ones(200)
        )

    single, double = evaluate(lowered), evaluate(exact)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(single[1]))
    # Each step rounds a few times; half a unit of 6e-8 each.
    np.testing.assert_allclose(single[0], double[0], atol=30 * 10 * 6e-8 * 3)
    assert_close(single[1], double[1], 2e-5)


def test_float32_without_double_precision() -> None:
    case = problem("categorical")
    expected = hmm.categorical(*case["parameters"], case["observations"], case["length"])
    with jax.enable_x64(False):
        value = hmm.categorical(
            *(np.float32(leaf) for leaf in case["parameters"]), case["observations"], case["length"]
        )
        assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_states_that_cannot_be_reached_make_no_nan(dtype: Any) -> None:
    """A state that the past rules out and the future asks for."""
    transition = jnp.asarray([[1.0, 0.0], [0.0, 1.0]], dtype)
    emission = jnp.asarray([[0.9, 0.1], [1e-30, 1.0]], dtype)
    shown = np.concatenate([np.zeros((1, 40), int), np.ones((1, 40), int)], axis=1)
    value, gradient = value_and_gradient(
        lambda p: hmm.categorical(*p, shown), (jnp.asarray([0.5, 0.5], dtype), transition, emission), np.ones(1)
    )
    np.testing.assert_allclose(value, np.log(0.5) + 40 * np.log(0.9) + 40 * np.log(0.1), rtol=1e-6)
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient)
