"""The one binary tree along which blocks are added, and how workers share its work.

Blocks ``0 .. num_blocks - 1`` (a power of two) are the leaves. Node ``(level, index)`` covers the blocks
``index * 2**level`` up to ``(index + 1) * 2**level`` and its value is the value of its left child plus the value
of its right child. That tree belongs to the data, never to the cluster: however the blocks are dealt out, the
same additions are done in the same places, so the root has the same bits.

A worker holds a contiguous range of blocks and folds every subtree that lies whole in its range. Let
``num_workers = group_size * 2**k`` with `group_size` odd. The blocks are cut into ``2**k`` aligned subtrees, one
for each group of workers. Within a group the folded subtrees are gathered and joined; between groups whole
subtrees are left, so a join is an exchange and one addition (recursive doubling). Both halves together
take ``ceil(log2(num_workers))`` hops. For a power of two the gathering half has no hop at all.

Plain Python: everything here is known before a program is compiled.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple


class Node(NamedTuple):
    """A subtree: `index` counts the nodes of its `level` from the left; level 0 are the blocks."""

    level: int
    index: int  # type: ignore[assignment]


Hop = tuple[tuple[int, int], ...]
"""One exchange: pairs of (source rank, destination rank)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReductionPlan:
    """How `num_workers` workers add `num_blocks` blocks along the tree.

    Attributes
    ----------
    num_blocks : int
        Leaves of the tree, a power of two.
    num_workers : int
        At most `num_blocks`.
    """

    num_blocks: int
    num_workers: int

    def __post_init__(self) -> None:
        """Refuse what has no plan; a person's input is checked before, in words."""
        if self.num_blocks < 1 or self.num_blocks & (self.num_blocks - 1):
            raise ValueError(f"num_blocks={self.num_blocks} is not a power of two")
        if not 1 <= self.num_workers <= self.num_blocks:
            raise ValueError(f"num_workers={self.num_workers} is not between 1 and num_blocks={self.num_blocks}")

    @property
    def num_groups(self) -> int:
        """Largest power of two that divides the number of workers."""
        return self.num_workers & -self.num_workers

    @property
    def group_size(self) -> int:
        """Odd number of workers that share one aligned subtree."""
        return self.num_workers // self.num_groups

    @property
    def blocks_per_group(self) -> int:
        """Blocks of the aligned subtree that a group shares."""
        return self.num_blocks // self.num_groups

    @property
    def num_levels(self) -> int:
        """Levels of a group's subtree, leaves and root included."""
        return self.blocks_per_group.bit_length()

    @property
    def max_blocks_per_worker(self) -> int:
        """Blocks of the worker that holds most."""
        return max(stop - start for start, stop in map(self.block_range, range(self.num_workers)))

    @property
    def num_hops(self) -> int:
        """Exchanges in one reduction."""
        return len(self.gather_hops()) + len(self.doubling_hops())

    def block_range(self, rank: int) -> tuple[int, int]:
        """Return the first block of a worker and the one after its last."""
        group, member = divmod(rank, self.group_size)
        start, stop = self.member_range(member)
        return group * self.blocks_per_group + start, group * self.blocks_per_group + stop

    def member_range(self, member: int) -> tuple[int, int]:
        """Return a member's range, counted from the first block of its group."""
        return (
            self.blocks_per_group * member // self.group_size,
            self.blocks_per_group * (member + 1) // self.group_size,
        )

    def member_nodes(self, member: int) -> tuple[Node, ...]:
        """Return the largest subtrees that lie whole in a member's range, from left to right."""
        return tuple(aligned_nodes(*self.member_range(member)))

    @property
    def max_nodes_per_member(self) -> int:
        """Subtrees of the member that has most; 1 where the number of workers is a power of two."""
        return max(len(self.member_nodes(member)) for member in range(self.group_size))

    def gather_hops(self) -> tuple[tuple[int, Hop], ...]:
        """Return the exchanges within groups: how many members' subtrees travel, and between whom.

        Before the hop of distance ``d`` each member holds the subtrees of `d` members, itself first; it then
        receives those of the members that follow.
        """
        hops, held = [], 1
        while held < self.group_size:
            pairs = tuple(
                (group * self.group_size + (member + held) % self.group_size, group * self.group_size + member)
                for group in range(self.num_groups)
                for member in range(self.group_size)
            )
            hops.append((min(held, self.group_size - held), pairs))
            held *= 2
        return tuple(hops)

    def doubling_hops(self) -> tuple[Hop, ...]:
        """Return the exchanges between groups, lowest level of the tree first."""
        hops, distance = [], 1
        while distance < self.num_groups:
            hops.append(
                tuple(
                    (rank, (rank // self.group_size ^ distance) * self.group_size + rank % self.group_size)
                    for rank in range(self.num_workers)
                )
            )
            distance *= 2
        return tuple(hops)


def aligned_nodes(start: int, stop: int) -> Iterator[Node]:
    """Cut a range of blocks into the fewest aligned subtrees, from left to right."""
    while start < stop:
        room = (stop - start).bit_length() - 1
        level = room if start == 0 else min(room, (start & -start).bit_length() - 1)
        yield Node(level, start >> level)
        start += 1 << level
