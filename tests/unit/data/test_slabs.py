"""Slabs hold every row, in few sizes."""

import numpy as np
import pytest

from distmc.data import slabs
from distmc.data.blocks import plan_blocks
from distmc.data.data import Data
from distmc.data.slabs import row_slabs


def rectangular(num_rows):
    return Data(rows={"y": np.arange(float(num_rows)), "x": np.arange(3.0 * num_rows).reshape(-1, 3)})


@pytest.mark.parametrize("num_rows", [1, 2, 3, 100, 5000])
def test_every_row_is_there_and_never_all_at_once(num_rows):
    data = rectangular(num_rows)
    found = list(row_slabs(data, plan_blocks(data), 1))
    assert {number for slab in found for number in slab.numbers.tolist()} == set(range(num_rows))
    assert len({len(slab.numbers) for slab in found}) == 1
    assert all(len(slab.numbers) < num_rows for slab in found) or num_rows == 1
    for slab in found:
        np.testing.assert_array_equal(slab.rows["y"], data.rows["y"][slab.numbers])
        np.testing.assert_array_equal(slab.rows["x"], data.rows["x"][slab.numbers])


def test_slabs_are_as_large_as_some_blocks_but_no_smaller_than_is_worth_a_call(monkeypatch):
    data = rectangular(8000)
    plan = plan_blocks(data, 16)

    def sizes(most_blocks):
        return {len(slab.numbers) for slab in row_slabs(data, plan, most_blocks)}

    assert sizes(1) == {1024}
    assert sizes(3) == {1500}
    assert sizes(1000) == {4000}
    monkeypatch.setattr(slabs, "_MOST_NUMBERS", 40)
    assert sizes(3) == {10}


def test_slabs_of_ragged_rows_have_the_length_of_their_bucket():
    lengths = np.repeat([1, 2, 30], 40)
    data = Data(rows={"x": np.zeros((120, 30)), "n": lengths}, length="n")
    plan = plan_blocks(data, 2)
    assert len(plan.buckets) > 1
    found = list(row_slabs(data, plan, 1))
    assert {number for slab in found for number in slab.numbers.tolist()} == set(range(120))
    assert {slab.rows["x"].shape[1] for slab in found} == {bucket.length for bucket in plan.buckets}
    assert all((slab.rows["n"] <= slab.rows["x"].shape[1]).all() for slab in found)
