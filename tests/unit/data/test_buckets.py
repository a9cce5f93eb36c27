"""Where length buckets end."""

from itertools import combinations

import numpy as np
import pytest

from distmc.data.buckets import ENOUGH_PADDING, MAX_BUCKETS, choose_edges


def computed_steps(lengths, edges, num_blocks):
    bucket = np.searchsorted(edges, lengths)
    return sum(-(-int((bucket == k).sum()) // num_blocks) * num_blocks * edge for k, edge in enumerate(edges))


def least_steps(lengths, num_buckets, num_blocks):
    """Try every way to cut the lengths into this many buckets."""
    values = np.unique(lengths).tolist()
    ways = combinations(values[:-1], num_buckets - 1)
    return min(computed_steps(lengths, [*way, values[-1]], num_blocks) for way in ways)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_blocks", [1, 4])
def test_edges_are_the_best_of_all_and_no_more_than_needed(seed, num_blocks):
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(0.2, size=300).clip(max=12)
    edges = choose_edges(lengths, num_blocks)
    assert computed_steps(lengths, edges, num_blocks) == least_steps(lengths, len(edges), num_blocks)
    assert 1 - lengths.sum() / computed_steps(lengths, edges, num_blocks) <= ENOUGH_PADDING
    if len(edges) > 1:
        fewer = least_steps(lengths, len(edges) - 1, num_blocks)
        assert 1 - lengths.sum() / fewer > ENOUGH_PADDING


def test_equal_lengths_need_one_bucket():
    assert choose_edges(np.full(100, 7), 8) == (7,)


def test_more_buckets_are_not_taken_where_rounding_up_rows_costs_more():
    lengths = np.array([1, 2, 3, 4, 5, 6, 7, 8])
    assert choose_edges(lengths, 8) == (8,)


def test_many_distinct_lengths_are_thinned_but_all_rows_fit():
    lengths = np.random.default_rng(0).integers(1, 5000, 20_000)
    edges = choose_edges(lengths, 16)
    assert len(edges) <= MAX_BUCKETS
    assert list(edges) == sorted(set(edges))
    assert edges[-1] == lengths.max()
    assert 1 - lengths.sum() / computed_steps(lengths, edges, 16) <= ENOUGH_PADDING


def test_padding_stops_at_the_largest_number_of_buckets():
    lengths = 2 ** np.arange(14)
    assert len(choose_edges(lengths, 1)) <= MAX_BUCKETS
