"""Many chains at once in the hidden Markov likelihood: each as if it were alone, to the bit in any loop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hmm_cases import NUM_SYMBOLS, assert_close, dirichlet, problem, value_and_gradient

from distmc.likelihoods import hmm, symbols


@pytest.mark.parametrize(
    ("num_states", "num_symbols"),
    [(3, NUM_SYMBOLS), (4, NUM_SYMBOLS), (3, 2 * symbols._MOST_SYMBOLS_FOR_PRODUCTS)],
)
def test_vmap_over_chains_equals_a_loop(num_states: int, num_symbols: int) -> None:
    rng = np.random.default_rng(2)
    shown, length = rng.integers(-1, num_symbols, (30, 20)), rng.integers(1, 21, 30)
    chains = (dirichlet(rng, 4, num_states), dirichlet(rng, 4, num_states, num_states))
    chains += (dirichlet(rng, 4, num_states, num_symbols),)
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
