"""Slabs: rows that are evaluated together where blocks do not matter, one call a slab."""

from collections.abc import Iterator
from typing import NamedTuple

from distmc.data.blocks import BlockPlan, take_rows
from distmc.data.data import Data
from distmc.types import NumpyArray

_MOST_NUMBERS = 1 << 20
_ROWS_WORTH_A_CALL = 1024


class Slab(NamedTuple):
    """Some rows.

    Attributes
    ----------
    numbers : int array (rows of the slab,)
    rows : dict of array, each (rows of the slab, ...)
        Ragged axes are cut to the length of the rows' bucket.
    """

    numbers: NumpyArray
    rows: dict[str, NumpyArray]


def row_slabs(data: Data, plan: BlockPlan, most_blocks: int) -> Iterator[Slab]:
    """Give all rows, one slab after the other.

    Parameters
    ----------
    data : Data
    plan : BlockPlan
        Its division.
    most_blocks : int
        How many blocks a slab may be as large as; where blocks are small, slabs have a thousand rows all the same.

    Yields
    ------
    slab : Slab
        Of one bucket, and never all rows of it if there are two or more. All slabs of a bucket have one size, so that
        a program is compiled once for them; for that, the last one may repeat some rows.
    """
    most_rows = max(_ROWS_WORTH_A_CALL, plan.rows_per_block * most_blocks)
    for bucket, order in zip(plan.buckets, plan.row_order, strict=True):
        numbers_per_row = sum(array.size for array in take_rows(data, bucket, order[:1]).values())
        size = min(-(-len(order) // 2), most_rows, max(1, _MOST_NUMBERS // max(1, numbers_per_row)))
        for first in (*range(0, len(order) - size, size), len(order) - size):
            numbers = order[first : first + size]
            yield Slab(numbers, take_rows(data, bucket, numbers))
