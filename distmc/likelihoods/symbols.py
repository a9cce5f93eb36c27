"""Table lookup by symbol, and its transpose, the count of symbols, shared by all chains.

Both are products with one-hot vectors, which all chains share, so that under `jax.vmap` over chains each becomes one
matrix product. Past some twenty symbols indexing is faster on a CPU, and so it is wherever chains are the last axis.
Adding at indices in parallel, as a GPU would, has no fixed order and would not give the same bits twice; so counting
stays a product there.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from distmc.types import Array

_MOST_SYMBOLS_FOR_PRODUCTS = 20


def look_up(table: Array, symbols: Array) -> Array:
    """Return ``table[:, symbols]``, (K, n, ...), for symbols inside the table (K, M, ...)."""
    if table.ndim == 2 and table.shape[1] <= _MOST_SYMBOLS_FOR_PRODUCTS:
        return table @ _one_hot(symbols, table.shape[1], table.dtype)
    return table.at[:, symbols].get(mode="promise_in_bounds")


def count(weights: Array, symbols: Array, num_symbols: int) -> Array:
    """Return (K, M, ...): sums of the rows' `weights` (K, n, ...) by the symbol (n,), of M, that each row shows."""
    if weights.ndim == 2 and num_symbols <= _MOST_SYMBOLS_FOR_PRODUCTS:
        return _count_by_product(weights, symbols, num_symbols=num_symbols)
    of_chains = partial(_count_chains, num_symbols=num_symbols)
    by_index = of_chains if weights.ndim > 2 else _make_count_by_index(num_symbols)
    by_product = partial(_count_by_product, num_symbols=num_symbols)
    counts: Array = lax.platform_dependent(weights, symbols, cpu=by_index, default=by_product)
    return counts


def _count_by_product(weights: Array, symbols: Array, *, num_symbols: int) -> Array:
    one_hot = _one_hot(symbols, num_symbols, weights.dtype)
    return jnp.einsum("kn...,mn->km...", weights, one_hot)


def _count_chains(weights: Array, symbols: Array, *, num_symbols: int) -> Array:
    counts = jnp.zeros((weights.shape[0], num_symbols, *weights.shape[2:]), weights.dtype)
    return counts.at[:, symbols].add(weights, mode="promise_in_bounds")


def _make_count_by_index(num_symbols: int) -> Callable[[Array, Array], Array]:
    @jax.custom_batching.custom_vmap
    def count_by_index(weights: Array, symbols: Array) -> Array:
        counts = jnp.zeros((num_symbols, weights.shape[0]), weights.dtype)
        return counts.at[symbols].add(weights.T, mode="promise_in_bounds").T

    @count_by_index.def_vmap
    def over_chains(axis_size: int, in_batched: list[bool], weights: Array, symbols: Array) -> tuple[Array, bool]:
        # Chains that share the symbols are more states of one table: each row then adds one contiguous stretch.
        if in_batched[1]:
            weights = weights if in_batched[0] else jnp.broadcast_to(weights, (axis_size, *weights.shape))
            return lax.map(lambda pair: count_by_index(*pair), (weights, symbols)), True
        num_states, num_rows = weights.shape[1:]
        counts = count_by_index(weights.reshape(axis_size * num_states, num_rows), symbols)
        return counts.reshape(axis_size, num_states, num_symbols), True

    return count_by_index


def _one_hot(symbols: Array, num_symbols: int, dtype: jax.typing.DTypeLike) -> Array:
    """Return (M, n): one where the row shows the symbol."""
    return (symbols[None, :] == jnp.arange(num_symbols, dtype=symbols.dtype)[:, None]).astype(dtype)
