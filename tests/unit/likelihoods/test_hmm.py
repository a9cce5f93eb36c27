"""The hidden Markov likelihood against enumeration of all paths and against autodiff of a plain log-space recursion."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hmm_cases import (
    KINDS,
    NUM_SYMBOLS,
    assert_close,
    contributions,
    dirichlet,
    log_space,
    log_weights,
    problem,
    reference,
    reference_and_gradient,
    value_and_gradient,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.scipy.stats import norm

from distmc.errors import ModelError
from distmc.likelihoods import hmm

# Compiled as one program: compiling each operation by itself takes longer.
compiled_log_weights = jax.jit(log_weights, static_argnums=0)
compiled_reference = jax.jit(reference, static_argnums=0)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_sum_over_all_paths(kind: str) -> None:
    case = problem(kind, num_rows=6, num_steps=4)
    initial, transition, *emission = (np.asarray(leaf) for leaf in case["parameters"])
    weights = np.exp(compiled_log_weights(kind, emission, case["observations"], case["missing"]))
    expected = []
    for row, length in enumerate(case["length"]):
        total = 0.0
        for path in itertools.product(range(len(initial)), repeat=int(length)):
            steps = transition[path[:-1], path[1:]].prod() * weights[row, np.arange(length), path].prod()
            total += initial[path[0]] * steps
        expected.append(np.log(total))
    actual = jax.jit(lambda p: contributions(kind, p, case["observations"], case["length"]))(case["parameters"])
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def padded_to(num_steps: int, case: dict[str, Any]) -> dict[str, Any]:
    """Return what the plain recursion needs of a case, with steps that it ignores: one program is for all lengths."""
    beyond = ((0, 0), (0, num_steps - case["missing"].shape[1]))
    return {"length": case["length"]} | {name: np.pad(case[name], beyond) for name in ("observations", "missing")}


@pytest.mark.parametrize("num_steps", [1, 2, 7, 31])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_equals_autodiff_of_log_space(kind: str, num_steps: int) -> None:
    case = problem(kind, seed=num_steps, num_steps=num_steps)
    # Free numbers: nothing may rest on rows that sum to one.
    parameters = jax.tree.map(lambda leaf: leaf * 1.3, case["parameters"])
    cotangent = np.random.default_rng(1).normal(size=len(case["length"]))
    cotangent[3] = 0
    actual = value_and_gradient(
        lambda p: contributions(kind, p, case["observations"], case["length"]), parameters, cotangent
    )
    expected = reference_and_gradient(kind, parameters, padded_to(31, case), cotangent)
    assert_close(actual, expected, 1e-10)


@pytest.mark.parametrize(("num_states", "num_symbols"), [(1, 8), (2, 39), (4, 8), (8, 8), (10, 8), (20, 1000)])
def test_more_states_and_symbols(num_states: int, num_symbols: int) -> None:
    rng = np.random.default_rng(0)
    parameters = (dirichlet(rng, num_states), dirichlet(rng, num_states, num_states))
    parameters += (dirichlet(rng, num_states, num_symbols),)
    shown = rng.integers(-1, num_symbols, (20, 18))
    case = {"observations": shown, "missing": shown < 0, "length": rng.integers(1, 19, 20)}
    actual = value_and_gradient(
        lambda p: contributions("categorical", p, shown, case["length"]), parameters, np.ones(20)
    )
    expected = reference_and_gradient("categorical", parameters, case, np.ones(20))
    assert_close(actual, expected, 1e-10)


@settings(max_examples=25, deadline=None)
@given(
    shown=st.lists(st.lists(st.integers(-1, 3), min_size=1, max_size=9), min_size=1, max_size=4),
    seed=st.integers(0, 100),
)
def test_any_ragged_rows(shown: list[list[int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    length = np.array([len(row) for row in shown])
    padded = np.full((4, 9), -1)
    padded_length = np.zeros(4, int)
    padded_length[: len(shown)] = length
    for index, row in enumerate(shown):
        padded[index, : len(row)] = row
    parameters = (dirichlet(rng, 2), dirichlet(rng, 2, 2), dirichlet(rng, 2, 4))
    with jax.enable_x64(True):
        actual = np.asarray(jax.jit(hmm.categorical)(*parameters, padded, padded_length))
        case = {"observations": padded, "missing": padded < 0, "length": np.maximum(padded_length, 1)}
        expected = np.asarray(compiled_reference("categorical", parameters, case))
    np.testing.assert_allclose(actual[: len(shown)], expected[: len(shown)], rtol=1e-12, atol=1e-13)


def test_general_takes_trees_covariates_and_marks_of_missing() -> None:
    case = problem("gaussian")
    initial, transition, loc, scale = case["parameters"]
    covariate = np.random.default_rng(5).normal(size=case["observations"].shape)

    def log_density(slope: jax.Array, observed: dict[str, jax.Array]) -> jax.Array:
        mean = loc[:, None] + slope * observed["x"]
        return norm.logpdf(observed["y"], mean, scale[:, None])

    def value(slope: jax.Array, shown: Any, missing: Any) -> jax.Array:
        observed = {"y": shown, "x": covariate}
        return jnp.sum(hmm.general(initial, transition, log_density, slope, observed, case["length"], missing))

    def expected(slope: jax.Array) -> jax.Array:
        residual = np.nan_to_num(case["observations"]) - slope * covariate
        weights = log_weights("gaussian", (loc, scale), residual, case["missing"])
        return jnp.sum(log_space(initial, transition, weights, case["length"]))

    by_hand = jax.jit(jax.value_and_grad(expected))(0.7)
    marked = (np.where(case["missing"], 123.0, case["observations"]), case["missing"])
    for shown, missing in ((case["observations"], None), marked):
        compiled = jax.jit(jax.value_and_grad(functools.partial(value, shown=shown, missing=missing)))
        assert_close(compiled(0.7), by_hand, 1e-11)


def test_general_differentiates_what_the_density_closes_over() -> None:
    case = problem("gaussian")

    def total(scale: jax.Array) -> jax.Array:
        initial, transition, loc, _ = case["parameters"]
        return jnp.sum(
            hmm.general(
                initial,
                transition,
                lambda loc, y: norm.logpdf(y, loc[:, None], scale[:, None]),
                loc,
                case["observations"],
                case["length"],
            )
        )

    def expected(scale: jax.Array) -> jax.Array:
        return jnp.sum(hmm.gaussian(*case["parameters"][:3], scale, case["observations"], case["length"]))

    scale = case["parameters"][3]
    assert_close(jax.jit(jax.grad(total))(scale), jax.jit(jax.grad(expected))(scale), 1e-11)


def test_a_symbol_outside_the_table_is_impossible() -> None:
    case = problem("categorical", num_rows=2)
    assert np.all(hmm.categorical(*case["parameters"], np.full((2, 3), NUM_SYMBOLS)) == -np.inf)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.ones(3), np.ones((2, 2)), np.ones((3, 4)), np.zeros((2, 5), int)), "`transition`"),
        ((np.ones((8, 3)), np.ones((8, 3, 3)), np.ones((8, 3, 4)), np.zeros((2, 5), int)), "jax.vmap"),
        ((np.ones(3), np.ones((3, 3)), np.ones((3, 4)), np.zeros((2, 5))), "integers"),
        ((np.ones(3), np.ones((3, 3)), np.ones((3, 4)), np.zeros(5, int)), "(n, T)"),
        ((np.ones(3), np.ones((3, 3)), np.ones((3, 4)), np.zeros((2, 5), int), np.ones(3, int)), "`length`"),
    ],
)
def test_refuses_in_words(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ModelError) as refusal:
        hmm.categorical(*arguments)
    assert words in str(refusal.value)


def test_general_refuses_a_density_of_the_wrong_shape() -> None:
    with pytest.raises(ModelError, match="states first"):
        hmm.general(np.ones(3), np.ones((3, 3)), lambda p, y: y[:, None] - p, np.ones(3), np.zeros((4, 5)))
