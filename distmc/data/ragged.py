"""Sequences of different lengths, packed into the rectangle that arrays need."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from distmc.errors import DataError
from distmc.types import NumpyArray


def ragged(sequences: Sequence[Any], name: str = "sequence", *, length: str = "length") -> dict[str, NumpyArray]:
    """Pack sequences of different lengths into rows for `Data`.

    Parameters
    ----------
    sequences : sequence of array, each (num_steps, ...)
        One sequence for each row; they agree in all axes but the first.
    name, length : str
        Names of the two row variables that are returned.

    Returns
    -------
    rows : dict
        `name`: (num_rows, longest, ...), filled with 0 beyond each row's steps; `length`: (num_rows,) int32.

    Raises
    ------
    DataError
        If there are no sequences, one is empty, or they do not agree in their other axes.

    Examples
    --------
    >>> rows = ragged([[3, 1, 4], [1, 5]], name="word")
    >>> rows["word"].tolist(), rows["length"].tolist()
    ([[3, 1, 4], [1, 5, 0]], [3, 2])

    They are used as ``distmc.Data(rows=rows, length="length")``.
    """
    if name == length:
        raise DataError(f"`name` and `length` are both {name!r}; the two variables need different names.")
    if not isinstance(sequences, Iterable):
        raise DataError(
            f"`sequences` is of type `{type(sequences).__name__}`; give a list of arrays, one for each row."
        )
    arrays = [np.asarray(sequence) for sequence in sequences]
    if not arrays:
        raise DataError("`sequences` is empty; at least one sequence is needed.")
    lengths = np.array([_num_steps(row, array) for row, array in enumerate(arrays)], dtype=np.int32)
    _require_same_steps(arrays)
    is_real = np.arange(lengths.max()) < lengths[:, None]
    packed = np.zeros((*is_real.shape, *arrays[0].shape[1:]), np.result_type(*{array.dtype for array in arrays}))
    packed[is_real] = np.concatenate(arrays)
    return {name: packed, length: lengths}


def _num_steps(row: int, array: NumpyArray) -> int:
    if array.ndim == 0:
        raise DataError(f"Sequence {row} is a single number; each sequence is an array whose first axis is the step.")
    if array.dtype.kind not in "biuf":
        raise DataError(f"Sequence {row} has type `{array.dtype}`; steps must be boolean, integer or real numbers.")
    if len(array) == 0:
        raise DataError(f"Sequence {row} is empty; every row needs at least 1 step. Leave it out.")
    return len(array)


def _require_same_steps(arrays: list[NumpyArray]) -> None:
    first = arrays[0].shape[1:]
    for row, array in enumerate(arrays):
        if array.shape[1:] != first:
            raise DataError(
                f"Sequence {row} has steps of shape {array.shape[1:]}, sequence 0 of shape {first}; all steps must "
                "have the same shape."
            )
