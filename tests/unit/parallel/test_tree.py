"""However many workers share the blocks, they walk the same tree."""

import dataclasses
import itertools
import math
from typing import Any

import pytest

from distmc.parallel.reduction import join
from distmc.parallel.tree import Node, ReductionPlan, aligned_nodes

ALL_BLOCKS = (1, 2, 4, 8, 16, 32, 64)


@dataclasses.dataclass(frozen=True)
class Sum:
    """A sum written down instead of computed: the number of a block, or a pair of sums.

    Addition commutes to the bit, so a pair is written with the lower blocks first; it does not associate.
    """

    terms: Any
    first: int

    def __add__(self, other: "Sum") -> "Sum":
        left, right = (self, other) if self.first < other.first else (other, self)
        return Sum((left.terms, right.terms), left.first)


def subtree(node: Node, offset: int = 0) -> Sum:
    """Return the sum that a node of the tree stands for."""
    if node.level == 0:
        return Sum(node.index + offset, node.index + offset)
    left = Node(node.level - 1, 2 * node.index)
    return subtree(left, offset) + subtree(Node(left.level, left.index + 1), offset)


def plans(num_blocks: int) -> list[ReductionPlan]:
    return [ReductionPlan(num_blocks=num_blocks, num_workers=count) for count in range(1, num_blocks + 1)]


def reduce_on_paper(plan: ReductionPlan) -> list[Sum]:
    """Carry out a plan with written sums; return what every worker ends up with."""
    # Each worker holds the folded subtrees of some members of its group, its own first.
    held = [[own_subtrees(plan, rank)] for rank in range(plan.num_workers)]
    for count, pairs in plan.gather_hops():
        received = {destination: held[source][:count] for source, destination in pairs}
        held = [held[rank] + received[rank] for rank in range(plan.num_workers)]
    totals = [join_group(plan, rank, held[rank]) for rank in range(plan.num_workers)]
    for pairs in plan.doubling_hops():
        arriving = {destination: totals[source] for source, destination in pairs}
        totals = [totals[rank] + arriving[rank] for rank in range(plan.num_workers)]
    return totals


def own_subtrees(plan: ReductionPlan, rank: int) -> list[Sum]:
    group, member = divmod(rank, plan.group_size)
    return [subtree(node, offset=group * plan.blocks_per_group) for node in plan.member_nodes(member)]


def join_group(plan: ReductionPlan, rank: int, held: list[list[Sum]]) -> Sum:
    """Join the gathered subtrees of a group, which arrive in the order of members, counted from the own one."""
    assert len(held) == plan.group_size
    own = rank % plan.group_size
    in_order = [held[(member - own) % plan.group_size] for member in range(plan.group_size)]
    nodes = [plan.member_nodes(member) for member in range(plan.group_size)]
    return join(
        [pair for subtrees, places in zip(in_order, nodes, strict=True) for pair in zip(places, subtrees, strict=True)]
    )


@pytest.mark.parametrize("num_blocks", ALL_BLOCKS)
def test_every_number_of_workers_adds_in_the_same_places(num_blocks: int) -> None:
    whole_tree = subtree(Node(num_blocks.bit_length() - 1, 0))
    for plan in plans(num_blocks):
        assert all(total == whole_tree for total in reduce_on_paper(plan)), plan


def test_paper_tells_another_order_apart() -> None:
    a, b, c, d = (Sum(block, block) for block in range(4))
    assert (a + b) + (c + d) == subtree(Node(2, 0))
    assert (d + c) + (b + a) == subtree(Node(2, 0))
    assert ((a + b) + c) + d != subtree(Node(2, 0))
    assert (a + c) + (b + d) != subtree(Node(2, 0))


@pytest.mark.parametrize("num_blocks", ALL_BLOCKS)
def test_ranges_of_workers_divide_the_blocks(num_blocks: int) -> None:
    for plan in plans(num_blocks):
        ranges = [plan.block_range(rank) for rank in range(plan.num_workers)]
        assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
        assert ranges[-1][1] == num_blocks
        sizes = [stop - start for start, stop in ranges]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert plan.max_blocks_per_worker == max(sizes)


@pytest.mark.parametrize("num_blocks", ALL_BLOCKS)
def test_nodes_of_members_divide_their_group(num_blocks: int) -> None:
    for plan in plans(num_blocks):
        for member in range(plan.group_size):
            covered = [block for node in plan.member_nodes(member) for block in blocks_under(node)]
            assert covered == list(range(*plan.member_range(member)))
            assert len(plan.member_nodes(member)) <= plan.max_nodes_per_member
        if plan.group_size == 1:
            assert plan.max_nodes_per_member == 1


@pytest.mark.parametrize("num_blocks", ALL_BLOCKS)
def test_hops_are_as_few_as_can_be_and_permutations(num_blocks: int) -> None:
    for plan in plans(num_blocks):
        # A result that depends on all workers cannot be everywhere in fewer exchanges.
        assert plan.num_hops == math.ceil(math.log2(plan.num_workers))
        hops = [pairs for _, pairs in plan.gather_hops()] + list(plan.doubling_hops())
        for pairs in hops:
            sources, destinations = zip(*pairs, strict=True)
            assert sorted(sources) == sorted(destinations) == list(range(plan.num_workers))
            assert all(source != destination for source, destination in pairs)


def test_powers_of_two_never_gather() -> None:
    for num_workers in (1, 2, 4, 8, 16):
        plan = ReductionPlan(num_blocks=16, num_workers=num_workers)
        assert plan.gather_hops() == ()
        assert plan.group_size == 1


def test_aligned_nodes_are_the_fewest() -> None:
    for start in range(33):
        for stop in range(start, 33):
            nodes = list(aligned_nodes(start, stop))
            assert [block for node in nodes for block in blocks_under(node)] == list(range(start, stop))
            # A range whose neighbours nowhere are siblings cannot be cut into fewer.
            for left, right in itertools.pairwise(nodes):
                assert not (left.level == right.level and left.index // 2 == right.index // 2)


@pytest.mark.parametrize(("num_blocks", "num_workers"), [(0, 1), (3, 1), (12, 2), (-4, 1), (4, 0), (4, 5)])
def test_what_has_no_plan_is_refused(num_blocks: int, num_workers: int) -> None:
    with pytest.raises(ValueError, match="is not"):
        ReductionPlan(num_blocks=num_blocks, num_workers=num_workers)


def test_join_refuses_what_is_not_one_tree() -> None:
    with pytest.raises(ValueError, match="do not join"):
        join([(Node(0, 0), 1.0), (Node(0, 2), 1.0)])
    with pytest.raises(ValueError, match="do not join"):
        join([(Node(0, 1), 1.0), (Node(0, 2), 1.0)])


def blocks_under(node: Node) -> range:
    return range(node.index << node.level, (node.index + 1) << node.level)
