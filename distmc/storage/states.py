"""State files: what a run needs to go on.

A state has dozens of leaves, most of them single numbers. With a variable for each, netCDF would take longer for them
than for the draws, so that leaves of one type share a variable, one after the other in the order that the file tells.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distmc.storage.netcdf import Attributes, damaged, read_arrays, storable, write_arrays
from distmc.types import NumpyArray

_LEAVES = "leaves"


def write_state(path: Path, state: Mapping[str, NumpyArray], attributes: Attributes) -> str:
    """Write a state by the names of its leaves, and facts about it; return the checksum, see `write_arrays`."""
    leaves = {name: storable(path, name, np.asarray(leaf)) for name, leaf in state.items()}
    by_type: dict[str, list[NumpyArray]] = {}
    for leaf in leaves.values():
        by_type.setdefault(leaf.dtype.name, []).append(leaf.ravel())
    order = [(name, leaf.dtype.name, leaf.shape) for name, leaf in leaves.items()]
    packed = {dtype: np.concatenate(of_type) for dtype, of_type in by_type.items()}
    return write_arrays(path, packed, {**attributes, _LEAVES: json.dumps(order)})


def read_state(path: Path) -> tuple[dict[str, NumpyArray], Attributes]:
    """Return the verified state and the facts that `write_state` was given.

    Raises
    ------
    RunDirectoryError
        If the file is missing or unreadable.
    DamagedFileError
        If it is damaged, or holds no state.
    """
    packed, attributes = read_arrays(path)
    try:
        order = json.loads(str(attributes.pop(_LEAVES)))
        ends: dict[str, int] = dict.fromkeys(packed, 0)
        state = {}
        for name, dtype, shape in order:
            begin = ends[dtype]
            ends[dtype] = begin + math.prod(shape)
            state[name] = packed[dtype][begin : ends[dtype]].reshape(shape)
    except (KeyError, ValueError) as error:
        raise damaged(path, f"it is not a state of a run ({error})") from error
    return state, attributes
