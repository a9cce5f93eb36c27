"""The hidden Markov likelihood against enumeration of all paths and against autodiff of a plain log-space recursion."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.scipy.stats import norm, poisson

from distmc.errors import ModelError
from distmc.likelihoods import hmm, symbols

KINDS = ("categorical", "gaussian", "poisson", "general")
NUM_SYMBOLS = 5


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def dirichlet(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.dirichlet(np.ones(shape[-1]), size=shape[:-1]))


def problem(kind: str, seed: int = 0, num_states: int = 3, num_rows: int = 12, num_steps: int = 5) -> dict[str, Any]:
    """Return parameters, observations with missing ones, and ragged lengths."""
    rng = np.random.default_rng(seed)
    shape = (num_rows, num_steps)
    length = rng.integers(1, num_steps + 1, num_rows)
    length[:2] = 1, num_steps
    missing = rng.random(shape) < 0.2
    chain = (dirichlet(rng, num_states), dirichlet(rng, num_states, num_states))
    if kind == "categorical":
        emission = (dirichlet(rng, num_states, NUM_SYMBOLS),)
        observations = np.where(missing, -1, rng.integers(0, NUM_SYMBOLS, shape))
    elif kind == "poisson":
        emission = (jnp.asarray(rng.uniform(1, 6, num_states)),)
        observations = np.where(missing, -1, rng.poisson(3, shape))
    else:
        emission = (jnp.asarray(rng.normal(size=num_states)), jnp.asarray(rng.uniform(0.5, 2, num_states)))
        observations = np.where(missing, np.nan, rng.normal(size=shape))
    return {"parameters": chain + emission, "observations": observations, "length": length, "missing": missing}


def contributions(kind: str, parameters: Any, observations: Any, length: Any) -> jax.Array:
    if kind != "general":
        return getattr(hmm, kind)(*parameters, observations, length)
    initial, transition, loc, scale = parameters

    def log_density(emission: Any, observed: jax.Array) -> jax.Array:
        return norm.logpdf(observed[None], emission["loc"][:, None], emission["scale"][:, None])

    return hmm.general(initial, transition, log_density, {"loc": loc, "scale": scale}, observations, length)


def log_weights(kind: str, emission: Any, observations: Any, missing: Any) -> jax.Array:
    """Return (n, T, K)."""
    shown = jnp.where(missing, 0, observations)[..., None]
    if kind == "categorical":
        values = jnp.log(emission[0].T)[shown[..., 0].astype(int)]
    elif kind == "poisson":
        values = poisson.logpmf(shown, emission[0])
    else:
        values = norm.logpdf(shown, *emission)
    return jnp.where(jnp.asarray(missing)[..., None], 0, values)


def log_space(initial: jax.Array, transition: jax.Array, weights: jax.Array, length: Any) -> jax.Array:
    """Return the plain forward recursion in logarithms, for automatic differentiation."""

    def row(weights: jax.Array, length: jax.Array) -> jax.Array:
        def step(alpha: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
            time, weight = inputs
            new = jax.nn.logsumexp(alpha[:, None] + jnp.log(transition), axis=0) + weight
            return jnp.where(time < length, new, alpha), None

        times = jnp.arange(1, weights.shape[0])
        alpha, _ = jax.lax.scan(step, jnp.log(initial) + weights[0], (times, weights[1:]))
        return jax.nn.logsumexp(alpha)

    return jax.vmap(row)(weights, jnp.asarray(length))


def reference(kind: str, parameters: Any, given_problem: dict[str, Any]) -> jax.Array:
    weights = log_weights(kind, parameters[2:], given_problem["observations"], given_problem["missing"])
    return log_space(parameters[0], parameters[1], weights, given_problem["length"])


def value_and_gradient(function: Callable[[Any], jax.Array], parameters: Any, cotangent: Any) -> tuple[Any, Any]:
    @jax.jit
    def compiled(parameters: Any) -> tuple[Any, Any]:
        value, pull = jax.vjp(function, parameters)
        return value, pull(jnp.asarray(cotangent, value.dtype))[0]

    return compiled(parameters)


def assert_close(actual: Any, expected: Any, rtol: float) -> None:
    """Compare trees of arrays, each array on its own scale."""
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=rtol * float(np.max(np.abs(right))))


@pytest.mark.parametrize("kind", KINDS)
def test_equals_sum_over_all_paths(kind: str) -> None:
    case = problem(kind, num_rows=6, num_steps=4)
    initial, transition, *emission = (np.asarray(leaf) for leaf in case["parameters"])
    weights = np.exp(log_weights(kind, emission, case["observations"], case["missing"]))
    expected = []
    for row, length in enumerate(case["length"]):
        total = 0.0
        for path in itertools.product(range(len(initial)), repeat=int(length)):
            steps = transition[path[:-1], path[1:]].prod() * weights[row, np.arange(length), path].prod()
            total += initial[path[0]] * steps
        expected.append(np.log(total))
    actual = contributions(kind, case["parameters"], case["observations"], case["length"])
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


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
    expected = value_and_gradient(lambda p: reference(kind, p, case), parameters, cotangent)
    assert_close(actual, expected, 1e-10)


@pytest.mark.parametrize(("num_states", "num_symbols"), [(2, 39), (10, 8), (20, 1000)])
def test_more_states_and_symbols(num_states: int, num_symbols: int) -> None:
    rng = np.random.default_rng(0)
    parameters = (dirichlet(rng, num_states), dirichlet(rng, num_states, num_states))
    parameters += (dirichlet(rng, num_states, num_symbols),)
    shown = rng.integers(-1, num_symbols, (20, 18))
    case = {"observations": shown, "missing": shown < 0, "length": rng.integers(1, 19, 20)}
    actual = value_and_gradient(
        lambda p: contributions("categorical", p, shown, case["length"]), parameters, np.ones(20)
    )
    expected = value_and_gradient(lambda p: reference("categorical", p, case), parameters, np.ones(20))
    assert_close(actual, expected, 1e-10)


@pytest.mark.parametrize("num_symbols", [NUM_SYMBOLS, 2 * symbols._MOST_SYMBOLS_FOR_PRODUCTS])
def test_vmap_over_chains_equals_a_loop(num_symbols: int) -> None:
    rng = np.random.default_rng(2)
    shown, length = rng.integers(-1, num_symbols, (30, 20)), rng.integers(1, 21, 30)
    chains = (dirichlet(rng, 4, 3), dirichlet(rng, 4, 3, 3), dirichlet(rng, 4, 3, num_symbols))
    cotangent = rng.normal(size=(4, 30))
    together = value_and_gradient(
        lambda p: jax.vmap(hmm.categorical, (0, 0, 0, None, None))(*p, shown, length), chains, cotangent
    )

    @jax.jit
    def one(parameters: Any, cotangent: Any) -> tuple[Any, Any]:
        value, pull = jax.vjp(lambda p: hmm.categorical(*p, shown, length), parameters)
        return value, pull(cotangent)[0]

    alone = [
        jax.tree.map(np.asarray, one(jax.tree.map(lambda leaf, chain=chain: leaf[chain], chains), cotangent[chain]))
        for chain in range(4)
    ]
    assert_close(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone), 1e-13)


def test_vmap_over_chains_and_their_own_observations() -> None:
    rng = np.random.default_rng(3)
    shown = rng.integers(0, 40, (2, 7, 6))
    chains = (dirichlet(rng, 2, 3), dirichlet(rng, 2, 3, 3), dirichlet(rng, 2, 3, 40))

    def total(emission: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(hmm.categorical)(*chains[:2], emission, shown))

    def total_by_hand(emission: jax.Array) -> jax.Array:
        rows = [hmm.categorical(chains[0][c], chains[1][c], emission[c], shown[c]) for c in range(2)]
        return jnp.sum(jnp.stack(rows))

    assert_close(jax.jit(jax.grad(total))(chains[2]), jax.jit(jax.grad(total_by_hand))(chains[2]), 1e-12)


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ten_thousand_steps_do_not_underflow(dtype: Any) -> None:
    rng = np.random.default_rng(4)
    parameters = (dirichlet(rng, 3), dirichlet(rng, 3, 3), dirichlet(rng, 3, 8))
    shown = rng.integers(0, 8, (4, 10_000))
    case = {"observations": shown, "missing": shown < 0, "length": np.full(4, 10_000)}
    expected = value_and_gradient(lambda p: reference("categorical", p, case), parameters, np.ones(4))
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


def test_an_impossible_row_touches_no_other_row_or_chain() -> None:
    case = problem("categorical", num_rows=4, num_steps=6)
    initial, transition, emission = case["parameters"]
    blocked = emission.at[:, 2].set(0)
    chains = jax.tree.map(lambda *leaves: jnp.stack(leaves), (initial, transition, blocked), case["parameters"])
    shown = np.random.default_rng(0).choice([0, 1, 3, 4], (4, 6))
    impossible = shown.copy()
    impossible[1, 3] = 2
    batched = jax.vmap(hmm.categorical, (0, 0, 0, None))
    value, gradient = value_and_gradient(lambda p: batched(*p, impossible), chains, np.ones((2, 4)))
    assert value[0, 1] == -np.inf
    assert np.all(np.isfinite(np.delete(np.asarray(value).ravel(), 1)))
    others = [0, 2, 3]
    rest, rest_gradient = value_and_gradient(lambda p: batched(*p, shown[others]), chains, np.ones((2, 3)))
    np.testing.assert_allclose(value[0, np.array(others)], rest[0], rtol=1e-14)
    assert_close(jax.tree.map(lambda leaf: leaf[0], gradient), jax.tree.map(lambda leaf: leaf[0], rest_gradient), 1e-12)
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient)


def test_nan_parameters_of_one_chain_stay_there() -> None:
    case = problem("categorical", num_rows=4)
    chains = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * jnp.nan]), case["parameters"])
    value = jax.vmap(hmm.categorical, (0, 0, 0, None))(*chains, case["observations"])
    assert np.all(np.isfinite(value[0]))
    assert np.all(np.isnan(value[1]))


def test_a_symbol_outside_the_table_is_impossible() -> None:
    case = problem("categorical", num_rows=2)
    assert np.all(hmm.categorical(*case["parameters"], np.full((2, 3), NUM_SYMBOLS)) == -np.inf)


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
        actual = jax.jit(hmm.categorical)(*parameters, padded, padded_length)
        case = {"observations": padded, "missing": padded < 0, "length": np.maximum(padded_length, 1)}
        expected = reference("categorical", parameters, case)
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

    marked = (np.where(case["missing"], 123.0, case["observations"]), case["missing"])
    for shown, missing in ((case["observations"], None), marked):
        assert_close(jax.value_and_grad(value)(0.7, shown, missing), jax.value_and_grad(expected)(0.7), 1e-11)


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
    assert_close(jax.grad(total)(scale), jax.grad(expected)(scale), 1e-11)


def test_a_block_has_the_same_bits_in_any_loop() -> None:
    rng = np.random.default_rng(6)
    chains = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32), (dirichlet(rng, 8, 2), dirichlet(rng, 8, 2, 2), dirichlet(rng, 8, 2, 39))
    )
    shown, length = jnp.asarray(rng.integers(0, 39, (8, 30, 6))), jnp.asarray(rng.integers(1, 7, (8, 30)))

    @jax.jit
    def each_block(chains: Any, shown: Any, length: Any) -> Any:
        def block(_: None, rows: Any) -> tuple[None, Any]:
            function = jax.vmap(hmm.categorical, (0, 0, 0, None, None))
            value, pull = jax.vjp(lambda p: function(*p, *rows), chains)
            return None, (value, pull(jnp.ones_like(value)))

        return jax.lax.scan(block, None, (shown, length))[1]

    whole = each_block(chains, shown, length)
    for stop in (1, 2, 3):
        part = each_block(chains, shown[:stop], length[:stop])
        for left, right in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(left, right[:stop])


def test_value_alone_keeps_no_forward_variables() -> None:
    case = problem("categorical", num_rows=7, num_steps=31)
    jaxpr = str(jax.make_jaxpr(lambda *p: hmm.categorical(*p, case["observations"]))(*case["parameters"]))
    assert "f64[3,7]" in jaxpr
    assert "f64[6,3,7]" not in jaxpr
    assert "f64[5,3,7]" not in jaxpr


def test_chains_share_one_product_per_lookup_and_count() -> None:
    """Under vmap the emission products hold all chains' states in one matrix, without a copy per chain."""
    rng = np.random.default_rng(0)
    shown = rng.integers(0, NUM_SYMBOLS, (16, 3))
    chains = (dirichlet(rng, 8, 3), dirichlet(rng, 8, 3, 3), dirichlet(rng, 8, 3, NUM_SYMBOLS))

    def gradient(chains: Any) -> Any:
        function = jax.vmap(hmm.categorical, (0, 0, 0, None))
        return value_and_gradient(lambda p: function(*p, shown), chains, np.ones((8, 16)))

    program = jax.jit(gradient).lower(chains).compile().as_text()
    dots = [line for line in program.splitlines() if " dot(" in line]
    columns = NUM_SYMBOLS + 2
    shared = [line for line in dots if "f64[24,16]" in line.split(" dot(")[0] or f"f64[24,{columns}]" in line]
    # Three steps: a lookup in each pass and a count. Lookups of both passes may have been merged.
    assert len(shared) >= 6
    assert not any(f"[8,3,{columns}]" in line.split(" dot(")[0] for line in dots)


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
