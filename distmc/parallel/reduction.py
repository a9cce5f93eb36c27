"""Exact sums over blocks: folded inside a worker, joined between workers, in the order of one fixed tree.

`OrderedSum` is what runs use; `FastSum` leaves the order to the library's all-reduce and is there to be compared
with. Both are used inside `jax.shard_map`, where every worker executes the same program.
"""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from distmc.parallel.tree import Node, ReductionPlan
from distmc.types import Array

BlockValue = Callable[[Array], Array]
"""From a block's place in this worker's range to its value."""


class BlockSum(Protocol):
    """Sum of a value over all blocks of all workers."""

    plan: ReductionPlan

    def __call__(self, block_value: BlockValue, shape: tuple[int, ...], block_range: Array) -> Array:
        """Return the sum over all blocks, float64 and the same on every worker."""
        ...


class OrderedSum:
    """Sum over all blocks along the tree of `ReductionPlan`.

    Parameters
    ----------
    plan : ReductionPlan
        Who holds which blocks.
    axis_name : str
        Mesh axis of the workers.

    Notes
    -----
    Communication: ``ceil(log2(num_workers))`` exchanges in one reduction. Each carries the value once, or, where
    the number of workers has an odd factor, the subtrees of the members gathered so far.
    Invariance: the bits of the result depend on the blocks and their number alone.
    Memory: two values per level of the tree.
    """

    def __init__(self, plan: ReductionPlan, axis_name: str) -> None:
        self.plan = plan
        self._axis_name = axis_name

    def __call__(self, block_value: BlockValue, shape: tuple[int, ...], block_range: Array) -> Array:
        """Return the sum over all blocks of all workers.

        Parameters
        ----------
        block_value : callable
            From a block's place in this worker's range, counted from 0, to a float64 array of `shape`.
        shape : tuple of int
            Shape of a block's value.
        block_range : int32 array (2,)
            This worker's `ReductionPlan.block_range`, as a value: a compiler that knew how many blocks there are
            would unroll the loop for some numbers, and might round differently.

        Returns
        -------
        total : float64 array of `shape`
            The same on every worker.
        """
        member = lax.axis_index(self._axis_name) % self.plan.group_size
        # Barriers keep the compiler from merging the additions with what stands around them, which could
        # round differently in programs for different numbers of workers.
        subtrees = lax.optimization_barrier(self._fold(block_value, shape, block_range, member))
        total = self._join_groups(self._join_members(subtrees, member))
        # The sum of two that are not numbers is one of them, depending on which comes first; they can differ in bits.
        result: Array = lax.optimization_barrier(jnp.where(jnp.isnan(total), jnp.nan, total))
        return result

    def _fold(self, block_value: BlockValue, shape: tuple[int, ...], block_range: Array, member: Array) -> Array:
        """Fold the own range; return its largest subtrees, (max_nodes_per_member, *shape)."""
        if self.plan.max_blocks_per_worker == 1:
            # Nothing to join here; the loop would only cost time, which shows on small data.
            return block_value(jnp.int32(0))[None]
        start = block_range[0] % self.plan.blocks_per_group
        stop = start + block_range[1] - block_range[0]

        def add_block(block: Array, pending: Array) -> Array:
            return _carry(pending, block, start, block_value(block - start))

        # A subtree waits for its sibling at (is it a right child, level).
        pending: Array = jnp.zeros((2, self.plan.num_levels, *shape), jnp.float64)
        pending = lax.fori_loop(start, stop, add_block, pending)
        return pending.reshape(-1, *shape)[jnp.asarray(self._places())[member]]

    def _places(self) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
        """Where each member's subtrees wait after folding; unused entries repeat place 0 and are never read."""
        places = np.zeros((self.plan.group_size, self.plan.max_nodes_per_member), dtype=np.int32)
        for member in range(self.plan.group_size):
            for slot, node in enumerate(self.plan.member_nodes(member)):
                places[member, slot] = (node.index % 2) * self.plan.num_levels + node.level
        return places

    def _join_members(self, subtrees: Array, member: Array) -> Array:
        """Gather the subtrees of the group and join them to the group's one."""
        gathered = subtrees[None]
        for count, pairs in self.plan.gather_hops():
            received = lax.ppermute(gathered[:count], self._axis_name, pairs)
            gathered = jnp.concatenate([gathered, received])
        in_order = jnp.roll(gathered, member, axis=0)
        return join(
            [
                (node, in_order[member, slot])
                for member in range(self.plan.group_size)
                for slot, node in enumerate(self.plan.member_nodes(member))
            ]
        )

    def _join_groups(self, subtree: Array) -> Array:
        """Join whole subtrees of growing size; both partners add the same pair."""
        for pairs in self.plan.doubling_hops():
            subtree = subtree + lax.ppermute(subtree, self._axis_name, pairs)
        return subtree


class FastSum:
    """Sum over all blocks in whatever order is handy; bits depend on the number of workers.

    Parameters
    ----------
    plan : ReductionPlan
        Who holds which blocks.
    axis_name : str
        Mesh axis of the workers.

    Notes
    -----
    Communication: one all-reduce.
    Invariance: none.
    """

    def __init__(self, plan: ReductionPlan, axis_name: str) -> None:
        self.plan = plan
        self._axis_name = axis_name

    def __call__(self, block_value: BlockValue, shape: tuple[int, ...], block_range: Array) -> Array:
        """Return the sum over all blocks; see `OrderedSum`."""

        def add_block(place: Array, total: Array) -> Array:
            return total + block_value(place)

        total = lax.fori_loop(0, block_range[1] - block_range[0], add_block, jnp.zeros(shape, jnp.float64))
        return jnp.asarray(lax.psum(total, self._axis_name))


def join(subtrees: list[tuple[Node, Array]]) -> Array:
    """Add neighbouring subtrees, given from left to right, until one is left."""
    waiting: list[tuple[Node, Array]] = []
    for node, value in subtrees:
        while waiting and _are_siblings(waiting[-1][0], node):
            value = waiting.pop()[1] + value
            node = Node(node.level + 1, node.index // 2)
        waiting.append((node, value))
    if len(waiting) != 1:
        raise ValueError(f"the subtrees {[node for node, _ in subtrees]} do not join to one")
    return waiting[0][1]


def _are_siblings(left: Node, right: Node) -> bool:
    return left.level == right.level and left.index + 1 == right.index and right.index % 2 == 1


def _carry(pending: Array, block: Array, start: Array, value: Array) -> Array:
    """Add a block as a binary counter adds one: while the left sibling waits here, join and go up."""

    def left_sibling_waits(carry: tuple[Array, Array, Array]) -> Array:
        level, index, _ = carry
        return (index % 2 == 1) & (((index - 1) << level) >= start)

    def join_left_sibling(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        level, index, value = carry
        return level + 1, index // 2, pending[0, level] + value

    level, index, value = lax.while_loop(left_sibling_waits, join_left_sibling, (jnp.int32(0), block, value))
    return jax.lax.dynamic_update_slice(
        pending, value[None, None], (index % 2, level, *(jnp.int32(0) for _ in value.shape))
    )
