"""The chains of a `jax.vmap` as last axis of every array, in place of the first.

Where a recursion spends its time looking rows up in a table of each chain, chains that lie side by side are looked up
together: one contiguous stretch for each row, where chains in front want one number at a time. A vector unit has to be
filled, so this pays from some thirty chains on; docs/decisions/chains-last.md has figures.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from distmc.types import Array, PyTree

FEWEST_CHAINS = 32


def chains_last(function: Callable[[PyTree, PyTree], PyTree]) -> Callable[[PyTree, PyTree], PyTree]:
    """Return `function` such that `jax.vmap` over many chains gives it their axis last.

    Parameters
    ----------
    function : callable
        ``function(of_chain, shared)``, of pytrees of arrays. It has to accept one axis more behind those of every leaf
        of `of_chain`, and to return it behind those of all that it returns.

    Returns
    -------
    callable
        The same function. To few chains, to chains that do not share `shared`, and to derivatives of the function,
        `jax.vmap` does what it always does.
    """

    @jax.custom_batching.custom_vmap
    def of_one(of_chain: PyTree, shared: PyTree) -> PyTree:
        return function(of_chain, shared)

    @of_one.def_vmap
    def of_many(num_chains: int, is_batched: list[Any], of_chain: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
        def behind(leaf: Array, is_batched: bool) -> Array:
            if is_batched:
                return jnp.moveaxis(leaf, 0, -1)
            return jnp.broadcast_to(leaf[..., None], (*leaf.shape, num_chains))

        if num_chains < FEWEST_CHAINS or any(jax.tree.leaves(is_batched[1])):
            axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, tuple(is_batched))
            result = jax.vmap(function, axes, axis_size=num_chains)(of_chain, shared)
        else:
            result = function(jax.tree.map(behind, of_chain, is_batched[0]), shared)
            result = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), result)
        return result, jax.tree.map(lambda _: True, result)

    @jax.custom_jvp
    def differentiable(of_chain: PyTree, shared: PyTree) -> PyTree:
        return of_one(of_chain, shared)

    # A function with a rule for `jax.vmap` has no derivative in reverse; this one is not taken with chains last.
    differentiable.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))
    result: Callable[[PyTree, PyTree], PyTree] = differentiable
    return result
