"""Rows cut into blocks: every row once, one shape for all blocks, nothing that depends on workers."""

import json
from typing import ClassVar

import numpy as np
import pytest

from distmc.data.blocks import MASK, pack_blocks, plan_blocks, row_numbers
from distmc.data.data import Data
from distmc.errors import DataError, SpecError

CMUDICT_LENGTHS = {
    1: 51, 2: 1012, 3: 6881, 4: 16479, 5: 26109, 6: 27453, 7: 21249, 8: 15408, 9: 9374, 10: 5245, 11: 2936, 12: 1583,
    13: 800, 14: 344, 15: 139, 16: 68, 17: 27, 18: 4, 19: 2, 20: 1, 28: 1,
}  # fmt: skip


def flat_data(num_rows):
    rng = np.random.default_rng(num_rows)
    return Data(rows={"x": rng.normal(size=(num_rows, 2)), "row": np.arange(num_rows)})


def ragged_data(num_rows, longest=9):
    rng = np.random.default_rng(num_rows)
    lengths = rng.integers(1, longest + 1, num_rows)
    lengths[0] = longest
    word = rng.integers(1, 100, (num_rows, longest + 2)).astype(np.int8)
    word[np.arange(longest + 2) >= lengths[:, None]] = 0
    return Data(rows={"word": word, "n": lengths, "row": np.arange(num_rows), "z": rng.normal(size=(num_rows, 3))}, length="n")  # fmt: skip # noqa: E501


CASES = [flat_data(1), flat_data(7), flat_data(130), ragged_data(1), ragged_data(5), ragged_data(300)]


@pytest.mark.parametrize("data", CASES)
@pytest.mark.parametrize("num_blocks", [None, 1, 4, 16])
def test_every_row_is_packed_once_and_unchanged(data, num_blocks):
    plan = plan_blocks(data, num_blocks)
    packed = pack_blocks(data, plan, 0, plan.num_blocks)
    numbers = row_numbers(plan, 0, plan.num_blocks)
    seen = []
    for bucket, arrays, number in zip(plan.buckets, packed, numbers, strict=True):
        mask = arrays[MASK]
        assert mask.shape == number.shape == (plan.num_blocks, bucket.rows_per_block)
        assert np.array_equal(mask, number >= 0)
        assert np.array_equal(arrays["row"][mask], number[mask])
        for name in data.rows:
            original = data.rows[name][number[mask]]
            if name in (data.ragged or ()):
                original = original[:, : bucket.length]
            assert arrays[name].dtype == data.rows[name].dtype
            assert np.array_equal(arrays[name][mask], original)
        if bucket.length is not None:
            assert arrays["word"].shape[2] == bucket.length
            assert arrays["n"].max() <= bucket.length
        seen += number[mask].tolist()
    assert sorted(seen) == list(range(data.num_rows))


@pytest.mark.parametrize("data", CASES)
def test_padding_is_a_copy_of_a_real_row_of_its_bucket(data):
    plan = plan_blocks(data, 16)
    for arrays in pack_blocks(data, plan, 0, 16):
        real = set(arrays["row"][arrays[MASK]].tolist())
        assert set(arrays["row"].ravel().tolist()) == real


@pytest.mark.parametrize("data", [flat_data(130), ragged_data(300)])
def test_ranges_of_blocks_are_slices_of_the_whole(data):
    plan = plan_blocks(data, 8)
    whole = pack_blocks(data, plan, 0, 8)
    for start, stop in [(0, 3), (3, 8), (5, 5)]:
        for k, part in enumerate(pack_blocks(data, plan, start, stop)):
            assert all(np.array_equal(part[name], whole[k][name][start:stop]) for name in part)
        for part, number in zip(row_numbers(plan, start, stop), row_numbers(plan, 0, 8), strict=True):
            assert np.array_equal(part, number[start:stop])


def test_only_the_rows_of_the_range_are_touched():
    class Watched(np.ndarray):
        touched: ClassVar[list[int]] = []

        def __getitem__(self, index):
            if isinstance(index, np.ndarray):
                self.touched.extend(index.ravel().tolist())
            return super().__getitem__(index)

    data = flat_data(64)
    data.rows["x"] = data.rows["x"].view(Watched)
    plan = plan_blocks(data, 8)
    pack_blocks(data, plan, 2, 4)
    assert set(Watched.touched) == set(range(16, 32))


def test_cmudict_is_padded_by_less_than_a_quarter():
    lengths = np.repeat(list(CMUDICT_LENGTHS), list(CMUDICT_LENGTHS.values()))
    lengths = np.random.default_rng(0).choice(lengths, 50_000, replace=False)
    data = Data(rows={"word": np.zeros((50_000, 28), np.int8), "n": lengths}, length="n")
    for num_blocks in (None, 16, 64, 256):
        plan = plan_blocks(data, num_blocks)
        assert plan.padding_share <= 0.25
        assert len(plan.buckets) <= 8
        steps = sum(arrays["word"].size for arrays in pack_blocks(data, plan, 0, plan.num_blocks))
        assert plan.padding_share == pytest.approx(1 - lengths.sum() / steps)
    assert plan_blocks(data).num_blocks == 64


@pytest.mark.parametrize(
    ("num_rows", "num_numbers", "expected"),
    [(1, 1, 1), (2, 1, 2), (3, 1, 2), (255, 1, 2), (256, 1, 2), (512, 1, 4), (1024, 1, 8), (8191, 1, 32), (8192, 1, 64),
     (60_000, 1, 64), (70_000, 1, 128), (1_000_000, 1, 1024), (100, 1000, 8), (3, 100_000, 2), (1, 10_000_000, 1),
     (2000, 2000, 64), (2000, 100_000, 512)],
)  # fmt: skip
def test_default_number_of_blocks(num_rows, num_numbers, expected):
    data = Data(rows={"x": np.broadcast_to(np.int8(0), (num_rows, num_numbers))})
    plan = plan_blocks(data)
    assert plan.num_blocks == expected
    assert plan.rows_per_block <= 1024


def test_long_rows_make_blocks_smaller():
    lengths = np.full(4000, 1000)
    data = Data(rows={"x": np.broadcast_to(np.int8(0), (4000, 1000)), "n": lengths}, length="n")
    plan = plan_blocks(data)
    assert plan.num_blocks * 2**19 >= 4000 * 1000
    assert plan_blocks(Data(rows={"x": np.zeros((4000, 1))})).num_blocks <= plan.num_blocks


def test_far_more_blocks_than_rows_are_refused():
    assert plan_blocks(flat_data(10), 1024).num_blocks == 1024
    with pytest.raises(SpecError, match=r"`num_blocks=1099511627776` is far more than there are rows \(10\)"):
        plan_blocks(flat_data(10), 1 << 40)


@pytest.mark.parametrize("num_blocks", [0, 3, -4, 48])
def test_the_number_of_blocks_must_be_a_power_of_two(num_blocks):
    with pytest.raises(SpecError, match=f"`num_blocks={num_blocks}` is not a power of two"):
        plan_blocks(flat_data(10), num_blocks)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 5), (3, 2)])
def test_a_range_outside_the_plan_is_refused(start, stop):
    data = flat_data(10)
    plan = plan_blocks(data, 4)
    with pytest.raises(DataError, match="the plan has 4 blocks"):
        pack_blocks(data, plan, start, stop)
    with pytest.raises(DataError, match="the plan has 4 blocks"):
        row_numbers(plan, start, stop)


def test_a_plan_is_a_function_of_data_and_number_and_becomes_json():
    data = ragged_data(300)
    plan = plan_blocks(data, 8)
    assert plan == plan_blocks(ragged_data(300), 8)
    described = json.loads(json.dumps(plan.to_dict()))
    assert described["num_blocks"] == 8
    assert sum(bucket["num_rows"] for bucket in described["buckets"]) == 300
