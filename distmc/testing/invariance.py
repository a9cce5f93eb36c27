"""Compares runs bit by bit and says in words where they first part.

Draws of one model, data and specification must not depend on where they were computed. To see that yours do not::

    from distmc.testing import invariance

    invariance.check(
        lambda on: distmc.sample(model, data, num_chains=8, num_warmup=50, num_draws=50, on=on),
        [distmc.Local(), distmc.Ray(num_workers=2), distmc.Ray(num_workers=3)],
    )

The earliest difference is the one that tells: from there on, everything differs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distmc.spec import Placement
from distmc.types import NumpyArray

_WARMUP = "warmup"
_BEFORE_ALL_DRAWS = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Where two runs first differ.

    Attributes
    ----------
    variable : str
        Name, with its group in front.
    words : str
        What differs; also what `str` gives.
    chain, draw : int or None
        Where, counted from 0, the draw from the start of warm-up or of sampling; None where whole variables differ.
    element : tuple of int
        Place in a draw of a variable that is an array.
    """

    variable: str
    words: str
    chain: int | None = None
    draw: int | None = None
    element: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return the words."""
        return self.words


def check(run: Callable[[Placement], Any], placements: Sequence[Placement]) -> None:
    """Run on each placement and compare with the first.

    Parameters
    ----------
    run : callable
        From a placement to draws, as `first_difference` takes them.
    placements : sequence of Local or Ray
        At least two.

    Raises
    ------
    AssertionError
        If draws differ; says where first.
    """
    if len(placements) < 2:
        raise ValueError(f"{len(placements)} placements were given; a comparison needs at least two.")
    reference = run(placements[0])
    for placement in placements[1:]:
        require_identical(reference, run(placement), names=(repr(placements[0]), repr(placement)))


def require_identical(left: Any, right: Any, names: tuple[str, str] = ("left", "right")) -> None:
    """Raise where two runs differ in any bit.

    Parameters
    ----------
    left, right : xarray.DataTree or mapping of array
        As in `first_difference`.
    names : pair of str
        What to call them.

    Raises
    ------
    AssertionError
        Says in words where they first differ.
    """
    difference = first_difference(left, right, names)
    if difference is not None:
        raise AssertionError(str(difference))


def first_difference(left: Any, right: Any, names: tuple[str, str] = ("left", "right")) -> Difference | None:
    """Return the earliest place where two runs differ in any bit, or None.

    Parameters
    ----------
    left, right : xarray.DataTree or mapping of array
        Runs as `distmc.sample` and `distmc.open_run` return them, or arrays (num_chains, num_draws, ...) by name,
        where names that begin with ``warmup`` come before all others.
    names : pair of str
        What to call them.
    """
    ours, theirs = _by_name(left), _by_name(right)
    for name in [*ours, *theirs]:
        if name not in ours or name not in theirs:
            has, lacks = names if name in ours else names[::-1]
            return Difference(variable=name, words=f"`{name}` is in {has} but not in {lacks}.")
    found = [first for name in ours if (first := _first_in(name, ours[name], theirs[name], names))]
    return min(found, key=_when, default=None)


def _by_name(run: Any) -> dict[str, NumpyArray]:
    """Return arrays (num_chains, num_draws, ...) by name; of a tree, those variables that have these axes."""
    if isinstance(run, Mapping) and not hasattr(run, "children"):
        return {name: np.asarray(values) for name, values in run.items()}
    return {
        f"{group}/{name}": variable.transpose("chain", "draw", ...).values
        for group, node in run.children.items()
        for name, variable in node.data_vars.items()
        if {"chain", "draw"} <= set(variable.dims)
    }


def _first_in(name: str, left: NumpyArray, right: NumpyArray, names: tuple[str, str]) -> Difference | None:
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        pair = (f"{array.dtype} {array.shape} in {called}" for array, called in zip((left, right), names, strict=True))
        return Difference(variable=name, words=f"`{name}` is {' but '.join(pair)}.")
    differs = _bits(left) != _bits(right)
    if not differs.any():
        return None
    draw = int(np.argmax(differs.any(axis=(0, *range(2, differs.ndim)))))
    chain, *element = (int(place) for place in np.argwhere(differs[:, draw])[0])
    at = (chain, draw, *element)
    values = (
        f"{array[at]} ({_hex(array[at])}) in {called}" for array, called in zip((left, right), names, strict=True)
    )
    inside = f"[{', '.join(map(str, element))}]" if element else ""
    words = (
        f"`{name}{inside}` first differs in draw {draw} of chain {chain}: {' but '.join(values)}. "
        f"{np.count_nonzero(differs)} of its {differs.size} numbers differ."
    )
    return Difference(variable=name, words=words, chain=chain, draw=draw, element=tuple(element))


def _when(difference: Difference) -> tuple[bool, int, int]:
    is_after_warmup = not difference.variable.startswith(_WARMUP)
    if difference.draw is None or difference.chain is None:
        return False, _BEFORE_ALL_DRAWS, _BEFORE_ALL_DRAWS
    return is_after_warmup, difference.draw, difference.chain


def _bits(array: NumpyArray) -> NumpyArray:
    """Return the bit patterns as unsigned integers, which tell all numbers apart, also signed zeros and not-numbers."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _hex(number: Any) -> str:
    bits = int(_bits(np.asarray(number).reshape(1))[0])
    return f"0x{bits:0{2 * number.dtype.itemsize}x}"
