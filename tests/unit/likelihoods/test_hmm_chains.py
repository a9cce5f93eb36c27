"""Many chains at once in the hidden Markov likelihood: each as if it were alone, to the bit in any loop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hmm_cases import NUM_SYMBOLS, assert_close, dirichlet, problem, reference, value_and_gradient

from distmc.likelihoods import hmm, symbols
from distmc.likelihoods.chains_last import FEWEST_CHAINS as MANY
from distmc.likelihoods.emissions import SymbolEmission

FEW = 4


@pytest.mark.parametrize(
    ("num_chains", "num_states", "num_symbols"),
    [
        (FEW, 3, NUM_SYMBOLS),
        (FEW, 4, NUM_SYMBOLS),
        (FEW, 3, 2 * symbols._MOST_SYMBOLS_FOR_PRODUCTS),
        (MANY, 1, NUM_SYMBOLS),
        (MANY, 4, NUM_SYMBOLS),
        (MANY + 1, 2, 2 * symbols._MOST_SYMBOLS_FOR_PRODUCTS),
        (MANY, 7, NUM_SYMBOLS),
    ],
)
@pytest.mark.parametrize("is_ragged", [True, False])
def test_vmap_over_chains_equals_a_loop(num_chains: int, num_states: int, num_symbols: int, is_ragged: bool) -> None:
    rng = np.random.default_rng(2)
    shown, length = rng.integers(-1, num_symbols, (30, 20)), rng.integers(1, 21, 30) if is_ragged else None
    chains = chains_of(rng, num_chains, num_states, num_symbols)
    cotangent = rng.normal(size=(num_chains, 30))
    together = value_and_gradient(
        lambda p: jax.vmap(hmm.categorical, (0, 0, 0, None, None))(*p, shown, length), chains, cotangent
    )

    @jax.jit
    def one(parameters: Any, cotangent: Any) -> tuple[Any, Any]:
        value, pull = jax.vjp(lambda p: hmm.categorical(*p, shown, length), parameters)
        return value, pull(cotangent)[0]

    alone = [
        jax.tree.map(np.asarray, one(jax.tree.map(lambda leaf, chain=chain: leaf[chain], chains), cotangent[chain]))
        for chain in range(num_chains)
    ]
    assert_close(together, jax.tree.map(lambda *leaves: np.stack(leaves), *alone), 1e-13)


@pytest.mark.parametrize("num_chains", [FEW, MANY])
def test_chains_may_share_some_parameters(num_chains: int) -> None:
    rng = np.random.default_rng(4)
    shown = rng.integers(0, NUM_SYMBOLS, (9, 6))
    _, transition, emission = chains_of(rng, num_chains, 3, NUM_SYMBOLS)
    initial = dirichlet(rng, 3)
    given = (initial, transition, emission), (None, 0, 0, None)
    repeated = (np.tile(initial, (num_chains, 1)), transition, emission), (0, 0, 0, None)
    results = [
        value_and_gradient(lambda p, axes=axes: jax.vmap(hmm.categorical, axes)(*p, shown), p, np.ones((num_chains, 9)))
        for p, axes in (given, repeated)
    ]
    value, (by_initial, *rest) = results[1]
    assert_close(results[0], (value, (by_initial.sum(0), *rest)), 1e-12)


def test_many_chains_lie_side_by_side() -> None:
    """Their axis is the last of the forward variables, unless the emission has reason to want it first."""
    rng = np.random.default_rng(5)
    shown = rng.integers(0, NUM_SYMBOLS, (9, 6))

    def steps(num_chains: int, num_states: int) -> str:
        function = jax.vmap(hmm.categorical, (0, 0, 0, None))
        return str(jax.make_jaxpr(lambda *p: function(*p, shown))(*chains_of(rng, num_chains, num_states, NUM_SYMBOLS)))

    assert f"f64[3,9,{MANY}]" in steps(MANY, 3)
    assert f"f64[{FEW},3,9]" in steps(FEW, 3)
    many_states = next(number for number in range(1, 20) if not SymbolEmission().suits_chains_last(number))
    assert f"f64[{MANY},{many_states},9]" in steps(MANY, many_states)


@pytest.mark.parametrize("num_chains", [2, MANY])
def test_vmap_over_chains_and_their_own_observations(num_chains: int) -> None:
    rng = np.random.default_rng(3)
    shown = rng.integers(0, 40, (num_chains, 7, 6))
    chains = chains_of(rng, num_chains, 3, 40)

    def total(emission: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(hmm.categorical)(*chains[:2], emission, shown))

    # One chain's emission is in no other's terms of the sum. A program of all chains would take seconds to compile.
    @jax.jit
    @jax.grad
    def by_hand(emission: jax.Array, initial: jax.Array, transition: jax.Array, shown: jax.Array) -> jax.Array:
        return jnp.sum(hmm.categorical(initial, transition, emission, shown))

    initial, transition, emission = chains
    alone = [by_hand(emission[c], initial[c], transition[c], shown[c]) for c in range(num_chains)]
    assert_close(jax.jit(jax.grad(total))(emission), np.stack(alone), 1e-12)


@pytest.mark.parametrize("num_chains", [2, MANY])
def test_an_impossible_row_touches_no_other_row_or_chain(num_chains: int) -> None:
    case = problem("categorical", num_rows=4, num_steps=6)
    initial, transition, emission = case["parameters"]
    blocked = np.array(emission)
    blocked[:, 2] = 0
    possible = [case["parameters"]] * (num_chains - 1)
    chains = jax.tree.map(lambda *leaves: np.stack(leaves), (initial, transition, blocked), *possible)
    shown = np.random.default_rng(0).choice([0, 1, 3, 4], (4, 6))
    impossible = shown.copy()
    impossible[1, 3] = 2
    batched = jax.vmap(hmm.categorical, (0, 0, 0, None))
    value, gradient = jax.tree.map(
        np.asarray, value_and_gradient(lambda p: batched(*p, impossible), chains, np.ones((num_chains, 4)))
    )
    assert value[0, 1] == -np.inf
    assert np.all(np.isfinite(np.delete(value.ravel(), 1)))
    others = [0, 2, 3]
    rest, rest_gradient = jax.tree.map(
        np.asarray, value_and_gradient(lambda p: batched(*p, shown[others]), chains, np.ones((num_chains, 3)))
    )
    np.testing.assert_allclose(value[0, others], rest[0], rtol=1e-14)
    assert_close(jax.tree.map(lambda leaf: leaf[0], gradient), jax.tree.map(lambda leaf: leaf[0], rest_gradient), 1e-12)
    assert all(np.all(np.isfinite(leaf)) for leaf in gradient)


@pytest.mark.parametrize("num_chains", [2, MANY])
def test_nan_parameters_of_one_chain_stay_there(num_chains: int) -> None:
    case = problem("categorical", num_rows=4)
    leaves = [np.asarray(leaf) for leaf in case["parameters"]]
    chains = [np.stack([leaf, leaf * np.nan, *[leaf] * (num_chains - 2)]) for leaf in leaves]
    function = jax.vmap(hmm.categorical, (0, 0, 0, None))
    value = np.asarray(jax.jit(lambda *p: function(*p, case["observations"]))(*chains))
    assert np.all(np.isfinite(np.delete(value, 1, axis=0)))
    assert np.all(np.isnan(value[1]))


@pytest.mark.parametrize("num_chains", [8, MANY])
def test_a_block_has_the_same_bits_in_any_loop(num_chains: int) -> None:
    rng = np.random.default_rng(6)
    chains = jax.tree.map(lambda leaf: leaf.astype(np.float32), chains_of(rng, num_chains, 2, 39))
    shown, length = rng.integers(0, 39, (8, 30, 6)), rng.integers(1, 7, (8, 30))

    @jax.jit
    def each_block(chains: Any, shown: Any, length: Any) -> Any:
        def block(_: None, rows: Any) -> tuple[None, Any]:
            function = jax.vmap(hmm.categorical, (0, 0, 0, None, None))
            value, pull = jax.vjp(lambda p: function(*p, *rows), chains)
            return None, (value, pull(jnp.ones_like(value)))

        return jax.lax.scan(block, None, (shown, length))[1]

    whole = jax.tree.map(np.asarray, each_block(chains, shown, length))
    for stop in (1, 2, 3):
        part = each_block(chains, shown[:stop], length[:stop])
        for left, right in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(left, right[:stop])


def test_second_derivatives_of_one_chain_and_of_many() -> None:
    case = problem("categorical", num_rows=4, num_steps=4)
    initial, transition, emission = case["parameters"]

    def total(emission: jax.Array) -> jax.Array:
        return jnp.sum(hmm.categorical(initial, transition, emission, case["observations"], case["length"]))

    def total_by_hand(emission: jax.Array) -> jax.Array:
        return jnp.sum(reference("categorical", (initial, transition, emission), case))

    expected = jax.jit(jax.hessian(total_by_hand))(emission)
    assert_close(jax.jit(jax.jacrev(jax.grad(total)))(emission), expected, 1e-11)
    many = jax.jit(jax.vmap(jax.hessian(total)))(np.stack([emission] * MANY))
    assert_close(many, np.stack([expected] * MANY), 1e-11)


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
    chains = chains_of(rng, 8, 3, NUM_SYMBOLS)

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


def chains_of(rng: np.random.Generator, num_chains: int, num_states: int, num_symbols: int) -> tuple[np.ndarray, ...]:
    """Return initial, transition and emission probabilities; parts of NumPy arrays are taken without compiling."""
    initial, transition = dirichlet(rng, num_chains, num_states), dirichlet(rng, num_chains, num_states, num_states)
    emission = dirichlet(rng, num_chains, num_states, num_symbols)
    return np.asarray(initial), np.asarray(transition), np.asarray(emission)
