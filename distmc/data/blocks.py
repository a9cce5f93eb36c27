"""Rows cut into a fixed number of logical blocks.

The number of blocks follows from the data alone, so that the blocks, and with them every sum, are the same on
any number of workers. All blocks have one static shape: a block holds one sub-block of *every* length bucket.
A worker can therefore hold any contiguous range of blocks and run the same compiled program over each.
"""

import dataclasses
from typing import Any

import numpy as np

from distmc.data.buckets import choose_edges
from distmc.data.data import MASK, Data
from distmc.errors import DataError, SpecError
from distmc.types import NumpyArray

__all__ = ["MASK", "USUAL_BLOCKS", "BlockPlan", "Bucket", "pack_blocks", "plan_blocks", "row_numbers"]

# A block of about a thousand rows keeps vector units busy while its intermediates stay in cache; very wide rows
# make blocks smaller, at two mebibytes of float32. Each block costs a turn of a loop, and each addition of two of them
# some more; below about a hundred rows, or several thousand numbers, that costs more than another worker could save.
_MAX_ROWS_PER_BLOCK = 1024
_MAX_NUMBERS_PER_BLOCK = 1 << 19
_ROWS_WORTH_A_BLOCK = 128
_NUMBERS_WORTH_A_BLOCK = 1 << 13
_FEWEST_BLOCKS = 2
_MOST_BLOCKS_FOR_FEW_ROWS = 1 << 12

USUAL_BLOCKS = 64
"""So many blocks has data that is neither small nor very large."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bucket:
    """Rows of similar length, padded to one.

    Attributes
    ----------
    length : int or None
        Steps that each of the rows is padded to; None when rows are not ragged.
    rows_per_block : int
        Rows of this bucket in each block, padding included.
    num_rows : int
        Real rows in this bucket, over all blocks.
    """

    length: int | None
    rows_per_block: int
    num_rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """Which row goes to which block; a function of the data and the number of blocks.

    Attributes
    ----------
    num_blocks : int
        Number of blocks, a power of two.
    buckets : tuple of Bucket
        The parts that every block consists of, by ascending length.
    row_order : tuple of int64 array, each (num_rows of the bucket,)
        Row numbers of each bucket; slot s of the bucket, counted over all blocks, holds the s-th of them.
    padding_share : float
        Share of padding in all steps that are computed; in all rows where rows are not ragged.
    """

    num_blocks: int
    buckets: tuple[Bucket, ...]
    row_order: tuple[NumpyArray, ...] = dataclasses.field(compare=False, repr=False)
    padding_share: float

    @property
    def rows_per_block(self) -> int:
        """Rows of a block, all buckets together and padding included."""
        return sum(bucket.rows_per_block for bucket in self.buckets)

    def to_dict(self) -> dict[str, Any]:
        """Return what describes the plan as plain values for JSON; the order of rows follows from the data."""
        return {
            "num_blocks": self.num_blocks,
            "padding_share": self.padding_share,
            "buckets": [dataclasses.asdict(bucket) for bucket in self.buckets],
        }


def plan_blocks(data: Data, num_blocks: int | None = None) -> BlockPlan:
    """Decide how rows are divided over blocks.

    Parameters
    ----------
    data : Data
        Rows, with lengths where they are ragged.
    num_blocks : int or None
        Number of blocks, a power of two. None: 64, fewer but at least two where they would hold less than 128 rows
        and less than 8,192 numbers each, more where a block would exceed about a thousand rows or half a million
        numbers; one for a single row.

    Raises
    ------
    SpecError
        If `num_blocks` is not a power of two, or far too large.

    Notes
    -----
    Invariance: depends on nothing but its arguments.
    """
    chosen = _default_num_blocks(data) if num_blocks is None else num_blocks
    if chosen < 1 or chosen & (chosen - 1):
        raise SpecError(f"`num_blocks={chosen}` is not a power of two, which the fixed summation tree needs.")
    if chosen > max(_MOST_BLOCKS_FOR_FEW_ROWS, 2 * data.num_rows):
        raise SpecError(
            f"`num_blocks={chosen}` is far more than there are rows ({data.num_rows}), so most blocks would be "
            "padding; use fewer."
        )
    lengths = data.lengths
    if lengths is None:
        orders: list[NumpyArray] = [np.arange(data.num_rows, dtype=np.int64)]
        edges: list[int | None] = [None]
    else:
        found = choose_edges(lengths, chosen)
        bucket_of_row = np.searchsorted(found, lengths)
        orders = [np.flatnonzero(bucket_of_row == k).astype(np.int64) for k in range(len(found))]
        edges = list(found)
    buckets = tuple(
        Bucket(length=edge, rows_per_block=-(-len(order) // chosen), num_rows=len(order))
        for edge, order in zip(edges, orders, strict=True)
    )
    return BlockPlan(
        num_blocks=chosen,
        buckets=buckets,
        row_order=tuple(orders),
        padding_share=_padding_share(data, buckets, chosen),
    )


def pack_blocks(data: Data, plan: BlockPlan, start: int, stop: int) -> tuple[dict[str, NumpyArray], ...]:
    """Return the rows of blocks `start` to `stop`, the latter excluded, one mapping for each bucket.

    Parameters
    ----------
    data : Data
        The data that the plan was made for.
    plan : BlockPlan
        Its division.
    start, stop : int
        Range of blocks; only their rows are touched.

    Returns
    -------
    packed : tuple of dict
        For each bucket every row variable as (stop - start, rows_per_block, ...), ragged axes cut to the
        bucket's length, and `MASK`, a boolean (stop - start, rows_per_block), False for padding. Padding rows
        are copies of a real row of their bucket, so that a likelihood is finite there and the mask removes it
        exactly.

    Raises
    ------
    DataError
        If the range is not one of the plan's blocks.
    """
    packed = []
    for k, bucket in enumerate(plan.buckets):
        slots = _slots(plan, bucket, start, stop)
        source = plan.row_order[k][np.minimum(slots, bucket.num_rows - 1)]
        variables = take_rows(data, bucket, source)
        variables[MASK] = slots < bucket.num_rows
        packed.append(variables)
    return tuple(packed)


def take_rows(data: Data, bucket: Bucket, numbers: NumpyArray) -> dict[str, NumpyArray]:
    """Return rows of a bucket by their numbers, ragged axes cut to the bucket's length."""
    return {name: _cut(data, name, bucket)[numbers] for name in data.rows}


def row_numbers(plan: BlockPlan, start: int, stop: int) -> tuple[NumpyArray, ...]:
    """Return the row number in every slot of blocks `start` to `stop`, the latter excluded.

    Returns
    -------
    numbers : tuple of int64 array, each (stop - start, rows_per_block)
        One for each bucket; -1 for padding.
    """
    numbers = []
    for order, bucket in zip(plan.row_order, plan.buckets, strict=True):
        slots = _slots(plan, bucket, start, stop)
        numbers.append(np.where(slots < bucket.num_rows, order[np.minimum(slots, bucket.num_rows - 1)], -1))
    return tuple(numbers)


def _slots(plan: BlockPlan, bucket: Bucket, start: int, stop: int) -> NumpyArray:
    if not 0 <= start <= stop <= plan.num_blocks:
        raise DataError(f"Blocks {start} to {stop} are asked for, but the plan has {plan.num_blocks} blocks.")
    slots = np.arange(start * bucket.rows_per_block, stop * bucket.rows_per_block, dtype=np.int64)
    return slots.reshape(stop - start, bucket.rows_per_block)


def _cut(data: Data, name: str, bucket: Bucket) -> NumpyArray:
    array: NumpyArray = data.rows[name]
    return array[:, : bucket.length] if name in (data.ragged or ()) else array


def _default_num_blocks(data: Data) -> int:
    rows, numbers = data.num_rows, _num_numbers(data)
    worth = max(rows / _ROWS_WORTH_A_BLOCK, numbers / _NUMBERS_WORTH_A_BLOCK)
    needed = max(rows / _MAX_ROWS_PER_BLOCK, numbers / _MAX_NUMBERS_PER_BLOCK)
    wanted = min(rows, max(_FEWEST_BLOCKS, min(USUAL_BLOCKS, worth), needed))
    # The largest power of two that is not above what is wanted, except that a limit of size is kept.
    below = 1 << (int(wanted).bit_length() - 1)
    is_too_large = rows > below * _MAX_ROWS_PER_BLOCK or numbers > below * _MAX_NUMBERS_PER_BLOCK
    return 2 * below if is_too_large and below < rows else below


def _num_numbers(data: Data) -> int:
    """Return how many numbers all rows hold, padding excluded."""
    total = 0
    for name, array in data.rows.items():
        if data.lengths is not None and name in (data.ragged or ()):
            total += int(np.sum(data.lengths, dtype=np.int64)) * int(np.prod(array.shape[2:]))
        else:
            total += array.size
    return total


def _padding_share(data: Data, buckets: tuple[Bucket, ...], num_blocks: int) -> float:
    computed = num_blocks * sum(bucket.rows_per_block * (bucket.length or 1) for bucket in buckets)
    real = data.num_rows if data.lengths is None else int(np.sum(data.lengths, dtype=np.int64))
    return 1 - real / computed
