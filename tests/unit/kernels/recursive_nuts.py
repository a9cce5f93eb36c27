"""Multinomial NUTS for one chain as a recursion over lists: slow, and written without a look at the kernel.

A tree is the list of its leaves in the order of time. Whether it turns back is asked of its two halves and of itself,
by the momentum and the velocity in the original coordinates.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from distmc.types import NumpyArray

MAX_ENERGY_ERROR = 1000.0


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of phase space in original coordinates, and its energy minus that of the start."""

    position: NumpyArray
    momentum: NumpyArray
    energy_error: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step amounts to; fields as those of the kernel's info."""

    position: NumpyArray
    energy_error: float
    acceptance_rate: float
    num_integration_steps: int
    tree_depth: int
    reached_max_tree_depth: bool
    is_divergent: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Log-density, its gradient, step size, and the covariance that is the inverse mass matrix."""

    logdensity: Callable[[NumpyArray], float]
    grad: Callable[[NumpyArray], NumpyArray]
    covariance: NumpyArray
    step_size: float

    def energy(self, position: NumpyArray, momentum: NumpyArray) -> float:
        return 0.5 * float(momentum @ self.covariance @ momentum) - self.logdensity(position)

    def leapfrog(self, point: Point, time: int, start_energy: float) -> Point:
        """Integrate one step forwards or, with a `time` of -1, backwards."""
        step = time * self.step_size
        momentum = point.momentum + 0.5 * step * self.grad(point.position)
        position = point.position + step * self.covariance @ momentum
        momentum = momentum + 0.5 * step * self.grad(position)
        return Point(position, momentum, self.energy(position, momentum) - start_energy)


def pairs(first: int, last: int) -> list[tuple[int, int]]:
    """Return the pairs of leaves that must not turn back within a subtree, those of its halves included."""
    if first == last:
        return []
    middle = (first + last) // 2
    return [*pairs(first, middle), *pairs(middle + 1, last), *own_pairs(first, last)]


def own_pairs(first: int, last: int) -> list[tuple[int, int]]:
    """Return those of the subtree itself: its ends, and each half with the nearest leaf of the other one."""
    middle = (first + last) // 2
    return [(first, last), (first, middle + 1), (middle, last)]


def is_turning(early: Point, late: Point) -> bool:
    way = late.position - early.position
    return bool(early.momentum @ way <= 0.0 or late.momentum @ way <= 0.0)


def step(
    problem: Problem, start: NumpyArray, momentum: NumpyArray, coins: Callable[[int], Any], max_tree_depth: int
) -> Outcome:
    """Take one step; `coins` gives three numbers for each new leaf, counted from 1."""
    start_energy = problem.energy(start, momentum)
    tree = [Point(start, momentum, 0.0)]
    kept, rates, time, num_leaves, depth = tree[0], [], 1, 0, 0
    is_whole = is_divergent = False
    while depth < max_tree_depth and not is_whole:
        branch: list[Point] = []
        tip, chosen, log_weight = (tree[-1] if time == 1 else tree[0]), kept, -math.inf
        is_branch_bad, all_pairs = False, pairs(0, len(tree) - 1)
        while len(branch) < len(tree) and not is_branch_bad:
            tip = problem.leapfrog(tip, time, start_energy)
            branch.append(tip)
            num_leaves += 1
            rates.append(min(1.0, math.exp(-max(tip.energy_error, 0.0))))
            is_divergent = tip.energy_error > MAX_ENERGY_ERROR
            # Nothing that lies ahead can help a branch with such a pair among the leaves that it has by now.
            known = [pair for pair in all_pairs if max(pair) == len(branch) - 1]
            ordered = [(branch[one], branch[other])[::time] for one, other in known]
            is_branch_bad = is_divergent or any(is_turning(*pair) for pair in ordered)
            if not is_branch_bad:
                log_weight = float(np.logaddexp(log_weight, -tip.energy_error))
                chosen = tip if coins(num_leaves)[0] < math.exp(-tip.energy_error - log_weight) else chosen
        if is_branch_bad:
            break
        old_log_weight = float(np.logaddexp.reduce([-point.energy_error for point in tree]))
        kept = chosen if coins(num_leaves)[1] < math.exp(min(log_weight - old_log_weight, 0.0)) else kept
        tree = [*tree, *branch] if time == 1 else [*branch[::-1], *tree]
        depth += 1
        is_whole = any(is_turning(tree[one], tree[other]) for one, other in own_pairs(0, len(tree) - 1))
        time = -time if coins(num_leaves)[2] < 0.5 else time
    return Outcome(
        position=kept.position,
        energy_error=kept.energy_error,
        acceptance_rate=float(np.mean(rates)),
        num_integration_steps=num_leaves,
        tree_depth=depth,
        reached_max_tree_depth=depth == max_tree_depth and not is_whole,
        is_divergent=is_divergent,
    )
