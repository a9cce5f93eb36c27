"""Rows of different lengths and missing observations in the hidden Markov likelihood."""

import jax
import numpy as np
import pytest
from hmm_cases import KINDS, contributions, problem, value_and_gradient

from distmc.likelihoods import hmm


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_beyond_the_length_changes_no_bit(kind: str) -> None:
    case = problem(kind, num_steps=9)
    beyond = np.arange(9) >= case["length"][:, None]
    missing = np.nan if case["observations"].dtype.kind == "f" else -1
    cotangent = np.random.default_rng(1).normal(size=len(beyond))
    function = jax.jit(
        lambda shown: value_and_gradient(
            lambda p: contributions(kind, p, shown, case["length"]), case["parameters"], cotangent
        )
    )
    before = function(case["observations"])
    for rubbish in (0, 3, 1_000_000, missing):
        after = function(np.where(beyond, rubbish, case["observations"]).astype(case["observations"].dtype))
        for left, right in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(left, right)


def test_shorter_padding_gives_the_same_value() -> None:
    case = problem("categorical", num_steps=8)
    rows = case["length"] <= 5
    cut = hmm.categorical(*case["parameters"], case["observations"][rows, :5], case["length"][rows])
    whole = hmm.categorical(*case["parameters"], case["observations"][rows], case["length"][rows])
    np.testing.assert_allclose(cut, whole, rtol=1e-15)


def test_a_row_of_no_steps_contributes_nothing() -> None:
    case = problem("categorical", num_rows=3)
    value, gradient = value_and_gradient(
        lambda p: hmm.categorical(*p, case["observations"], np.zeros(3, int)), case["parameters"], np.ones(3)
    )
    np.testing.assert_array_equal(value, 0)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))


def test_all_missing_has_probability_one() -> None:
    case = problem("categorical")
    value = hmm.categorical(*case["parameters"], np.full((2, 6), -1))
    np.testing.assert_allclose(value, 0, atol=1e-14)
    everything = hmm.gaussian(*problem("gaussian")["parameters"], np.full((2, 6), np.nan))
    np.testing.assert_allclose(everything, 0, atol=1e-14)
