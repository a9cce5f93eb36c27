"""Length buckets: which rows are padded to which number of steps.

A bucket holds all rows whose number of steps lies between two edges and pads them to the upper one. Where the
edges are best is found exactly, by dynamic programming over the histogram of lengths; how many buckets there
are is a compromise, because each one is compiled on its own.
"""

import numpy as np

from distmc.types import NumpyArray

MAX_BUCKETS = 8
ENOUGH_PADDING = 0.2
"""Padding share below which another bucket is not worth its compilation."""

_MAX_CANDIDATES = 256


def choose_edges(lengths: NumpyArray, num_blocks: int) -> tuple[int, ...]:
    """Return the buckets' numbers of steps, ascending; the last is the longest row's.

    The cost of a bucket is the number of steps that are computed for it: its rows, rounded up to a multiple of
    the number of blocks, times its length. The fewest buckets are taken that keep the padding share below
    `ENOUGH_PADDING`; where even `MAX_BUCKETS` do not, those with the least padding.

    Parameters
    ----------
    lengths : int array (num_rows,)
        Number of steps of each row, at least 1.
    num_blocks : int
        Number of blocks that each bucket is divided over.
    """
    candidates, counts = _histogram(lengths)
    real_steps = int(np.sum(lengths, dtype=np.int64))
    cost = _costs(candidates, counts, num_blocks)
    best: tuple[int, tuple[int, ...]] | None = None
    # total[j] is the least cost of the first j candidates; path[j] holds the edges that reach it.
    total = cost[0]
    path: list[tuple[int, ...]] = [(int(candidate),) for candidate in candidates]
    for _ in range(MAX_BUCKETS):
        if best is None or total[-1] < best[0]:
            best = int(total[-1]), path[-1]
        if 1 - real_steps / best[0] <= ENOUGH_PADDING:
            break
        total, path = _add_bucket(total, path, cost, candidates)
    assert best is not None
    return best[1]


def _histogram(lengths: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    """Return candidate edges and the number of rows that end at each; the edges are thinned where there are many."""
    values, counts = np.unique(lengths, return_counts=True)
    if len(values) <= _MAX_CANDIDATES:
        return values.astype(np.int64), counts.astype(np.int64)
    steps = np.cumsum(values.astype(np.float64) * counts)
    shares = np.linspace(0, steps[-1], _MAX_CANDIDATES + 1)[1:]
    kept = np.unique(np.minimum(np.searchsorted(steps, shares), len(values) - 1))
    groups = np.add.reduceat(counts, np.concatenate([[0], kept[:-1] + 1]))
    return values[kept].astype(np.int64), groups.astype(np.int64)


def _costs(candidates: NumpyArray, counts: NumpyArray, num_blocks: int) -> NumpyArray:
    """Return the cost of a bucket of the candidates i to j, both included; unusable entries are huge."""
    before = np.concatenate([[0], np.cumsum(counts)])
    rows = before[None, 1:] - before[:-1, None]
    cost = -(-rows // num_blocks) * num_blocks * candidates[None, :]
    return np.where(rows > 0, cost, np.iinfo(np.int64).max // 2)


def _add_bucket(
    total: NumpyArray, path: list[tuple[int, ...]], cost: NumpyArray, candidates: NumpyArray
) -> tuple[NumpyArray, list[tuple[int, ...]]]:
    """Return least costs and edges with one bucket more, which ends at each candidate."""
    new_total, new_path = total.copy(), list(path)
    for j in range(1, len(candidates)):
        options = total[:j] + cost[1 : j + 1, j]
        i = int(np.argmin(options))
        if options[i] < new_total[j]:
            new_total[j] = options[i]
            new_path[j] = (*path[i], int(candidates[j]))
    return new_total, new_path
