"""What was observed, split into rows, which are divided over the workers, and constants, which all of them hold."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from distmc.data.facts import HASH, combine
from distmc.errors import DataError
from distmc.types import NumpyArray

MASK = "row_mask"
"""Name under which a packed block tells real rows from padding; no variable may carry it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Observed rows and constants, checked once.

    Integers of 64 bits whose values fit become 32 bits; everything else keeps its type. The arrays are
    read-only views of what was given wherever no conversion was needed.

    Attributes
    ----------
    rows : dict of array, each (num_rows, ...)
        Variables that have one entry for each row: booleans, integers or real numbers.
    constants : dict of array
        Variables that every row may need, for instance a design of the study.
    length : str or None
        Name of the integer row variable that holds each row's number of steps, at least 1. Rows are then
        *ragged*: only the first `length` steps along axis 1 of the ragged variables are real.
    missing : tuple of str
        Row variables in which NaN is allowed, as a mark for what was not observed.
    ragged : tuple of str or None
        Row variables whose axis 1 counts steps. None with `length`: all row variables of two or more
        dimensions that are long enough, which must then agree in their number of steps.

    Raises
    ------
    DataError
        If the variables do not fit together, or hold what no likelihood can use.
    """

    rows: Mapping[str, Any]
    constants: Mapping[str, Any] | None = None
    length: str | None = None
    missing: Sequence[str] = ()
    ragged: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Convert every variable to an array and refuse what cannot be used."""
        constants = {} if self.constants is None else self.constants
        _require_mapping("rows", self.rows)
        _require_mapping("constants", constants)
        _require_names(self.rows, constants)
        rows = {name: _as_array("rows", name, value) for name, value in self.rows.items()}
        fixed = {name: _as_array("constants", name, value) for name, value in constants.items()}
        _require_row_axis(rows)
        missing = _as_names("missing", self.missing)
        _require_known_rows("missing", missing, rows)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "constants", fixed)
        object.__setattr__(self, "missing", missing)
        object.__setattr__(self, "ragged", self._find_ragged(rows))
        self._require_finite(rows, fixed, missing)

    @classmethod
    def coerce(cls, value: "Data | Mapping[str, Any]") -> "Data":
        """Return `value` if it is `Data`, or read a mapping as rows.

        Raises
        ------
        DataError
            If it is neither, or the mapping cannot be used as rows.
        """
        if isinstance(value, Data):
            return value
        if isinstance(value, Mapping):
            return cls(rows=value)
        raise DataError(
            f"`data` is of type `{type(value).__name__}`; give a `distmc.Data`, or a mapping from names to arrays "
            "whose first axis is the row."
        )

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.rows.values())))

    @property
    def lengths(self) -> NumpyArray | None:
        """Number of steps of each row, (num_rows,), or None when rows are not ragged."""
        return None if self.length is None else self.rows[self.length]

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, types, shapes and values as hexadecimal text.

        The order in which variables were given does not matter.
        """
        return combine(self.facts())

    def facts(self) -> dict[str, str]:
        """Return what the fingerprint is taken of, part by part, so that two sets of data can be told apart in words.

        Returns
        -------
        facts : dict of str
            By the name of the part: words where there are some, ``sha256:...`` for values.
        """
        found = {"rows": str(self.num_rows), "`length`": str(self.length)}
        found["`missing`"] = ", ".join(sorted(self.missing)) or "none"
        found["`ragged`"] = ", ".join(sorted(self.ragged or ())) or "none"
        for name, array in sorted(self.rows.items()):
            found[f"row variable `{name}`"] = f"{array.dtype} of shape {array.shape[1:]} for each row"
            found[f"the content of `{name}`"] = _hash(array)
        for name, array in sorted((self.constants or {}).items()):
            found[f"constant `{name}`"] = f"{array.dtype} of shape {array.shape}"
            found[f"the content of `{name}`"] = _hash(array)
        return found

    def _find_ragged(self, rows: dict[str, NumpyArray]) -> tuple[str, ...] | None:
        if self.length is None:
            if self.ragged is not None:
                raise DataError("`ragged` is given without `length`; name the row variable that counts the steps.")
            return None
        longest = _longest(self.length, rows)
        if self.ragged is None:
            return _ragged_by_shape(self.length, longest, rows)
        names = _as_names("ragged", self.ragged)
        _require_known_rows("ragged", names, rows)
        for name in names:
            _require_steps(name, rows[name], self.length, longest)
        return names

    def _require_finite(
        self, rows: dict[str, NumpyArray], constants: dict[str, NumpyArray], missing: tuple[str, ...]
    ) -> None:
        for name, array in rows.items():
            if _has_infinity(array):
                row, _ = _first_row(np.isinf(array))
                raise DataError(
                    f"Row variable `{name}` is infinite in row {row}; every value must be finite, because one "
                    "infinite contribution makes the log-density useless. Remove the row or correct the value."
                )
            if name not in missing and _has_nan(array):
                raise DataError(_describe_nan(name, array, self.length, self.ragged or (), rows))
        for name, array in constants.items():
            if _has_nan(array):
                raise DataError(f"Constant `{name}` contains NaN; only row variables named in `missing` may.")


def _require_mapping(what: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise DataError(f"`{what}` is of type `{type(value).__name__}`; give a mapping from names to arrays.")


def _require_names(rows: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
    if not rows:
        raise DataError("`rows` is empty; give at least one variable whose first axis is the row.")
    for name in (*rows, *constants):
        if not isinstance(name, str) or not name:
            raise DataError(f"The variable name {name!r} is not usable; names are non-empty text.")
        if name == MASK:
            raise DataError(f"The variable name `{MASK}` is used by distmc for the mask of padding; choose another.")
    twice = sorted(set(rows) & set(constants))
    if twice:
        raise DataError(
            f"{_quote(twice)} stands in `rows` and in `constants`; the log-likelihood receives both in one mapping, "
            "so every name must be used once."
        )


def _as_array(group: str, name: str, value: object) -> NumpyArray:
    """Return a read-only array of a kind that JAX can hold."""
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(
            f"`{group}[{name!r}]` is a masked array, whose mask would be lost; mark missing values by NaN and name "
            "the variable in `missing`, or by an integer that the likelihood knows."
        )
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(
            f"`{group}[{name!r}]` cannot be read as one array ({error}); sequences of different lengths are packed "
            "by `distmc.ragged`."
        ) from error
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DataError(
            f"`{group}[{name!r}]` has type `{array.dtype}`; variables must be boolean, integer or real of at most 64 "
            f"bits, because devices hold nothing else.{_conversion_advice(array.dtype)}"
        )
    array = _narrow(array.astype(array.dtype.newbyteorder("="), copy=False))
    view = array.view()
    view.flags.writeable = False
    return view


def _conversion_advice(dtype: np.dtype[Any]) -> str:
    advice = {
        "O": " Convert it to numbers; text labels become integers by `numpy.unique(values, return_inverse=True)`.",
        "U": " Number the labels by `numpy.unique(values, return_inverse=True)`.",
        "S": " Number the labels by `numpy.unique(values, return_inverse=True)`.",
        "c": " Give real and imaginary part as two variables.",
        "M": " Give times as numbers since a fixed date.",
        "m": " Give durations as numbers of a fixed unit.",
        "f": " Convert it to float64.",
    }
    return advice.get(dtype.kind, "")


def _narrow(array: NumpyArray) -> NumpyArray:
    """Store 64-bit integers in 32 bits if all of them fit: half the memory, and faster on every device."""
    if array.dtype not in (np.int64, np.uint64) or array.size == 0:
        return array
    limits = np.iinfo(np.int32)
    fits = int(array.min()) >= limits.min and int(array.max()) <= limits.max
    return array.astype(np.int32) if fits else array


def _require_row_axis(rows: dict[str, NumpyArray]) -> None:
    for name, array in rows.items():
        if array.ndim == 0:
            raise DataError(f"Row variable `{name}` is a single number without a row axis; put it into `constants`.")
    counts = {name: len(array) for name, array in rows.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"`{name}`: {count}" for name, count in counts.items())
        raise DataError(
            f"The row variables disagree in their number of rows ({listed}); the first axis of each must be the row. "
            "Variables that belong to no row go into `constants`."
        )
    if not next(iter(counts.values())):
        raise DataError("The row variables have no rows; at least one row is needed.")


def _as_names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, Iterable):
        raise DataError(f"`{what}={names!r}` is no list of names; give those of row variables.")
    return tuple(names)


def _require_known_rows(what: str, names: tuple[str, ...], rows: dict[str, NumpyArray]) -> None:
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise DataError(f"`{what}` names {_quote(unknown)}, but the row variables are {_quote(rows)}.")


def _longest(length: str, rows: dict[str, NumpyArray]) -> int:
    _require_known_rows("length", (length,), rows)
    array = rows[length]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"`length` names `{length}` of type `{array.dtype}` and shape {array.shape}; it must be one integer for "
            "each row, the row's number of steps."
        )
    if array.min() < 1:
        row, _ = _first_row(array < 1)
        raise DataError(
            f"`{length}` is {array[row]} in row {row}; every row needs at least 1 step. Leave out empty rows: they "
            "carry no information."
        )
    return int(array.max())


def _ragged_by_shape(length: str, longest: int, rows: dict[str, NumpyArray]) -> tuple[str, ...]:
    wide = {name: array.shape[1] for name, array in rows.items() if array.ndim > 1 and name != length}
    found = {name: steps for name, steps in wide.items() if steps >= longest}
    if not found:
        held = ", ".join(f"`{name}` has {steps}" for name, steps in wide.items()) or "there is none"
        raise DataError(
            f"`{length}` counts up to {longest} steps, but no row variable has that many along axis 1 ({held}); give "
            f"the padded sequences, or leave out `length`."
        )
    if len(set(found.values())) > 1:
        listed = ", ".join(f"`{name}`: {steps}" for name, steps in found.items())
        raise DataError(
            f"It is not clear which row variables have steps along axis 1 ({listed}), because those that could have "
            f"disagree in size; name them, for instance `ragged=[{next(iter(found))!r}]`."
        )
    return tuple(found)


def _require_steps(name: str, array: NumpyArray, length: str, longest: int) -> None:
    if array.ndim < 2 or array.shape[1] < longest:
        raise DataError(
            f"Ragged variable `{name}` has shape {array.shape}, but `{length}` counts up to {longest} steps; axis 1 "
            "must hold at least that many."
        )


def _has_infinity(array: NumpyArray) -> bool:
    """Tell whether a value is infinite, without a temporary as large as the array."""
    if array.dtype.kind != "f" or array.size == 0:
        return False
    return bool(np.isinf(np.fmin.reduce(array, axis=None)) or np.isinf(np.fmax.reduce(array, axis=None)))


def _has_nan(array: NumpyArray) -> bool:
    return array.dtype.kind == "f" and array.size > 0 and bool(np.isnan(array.min()))


def _first_row(is_bad: NumpyArray) -> tuple[int, tuple[int, ...]]:
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(is_bad)), is_bad.shape))
    return index[0], index


def _describe_nan(
    name: str, array: NumpyArray, length: str | None, ragged: Sequence[str], rows: dict[str, NumpyArray]
) -> str:
    row, index = _first_row(np.isnan(array))
    if length is not None and name in ragged and index[1] >= rows[length][row]:
        return (
            f"Row variable `{name}` is NaN in row {row} at step {index[1]}, beyond the row's {rows[length][row]} "
            "steps; fill the padding with a number such as 0, because NaN spreads through gradients even where it is "
            "masked. `distmc.ragged` does so."
        )
    return (
        f"Row variable `{name}` is NaN in row {row}; values must be finite. If NaN means that nothing was observed and "
        f"the log-likelihood knows that, give `missing=[{name!r}]`; otherwise remove the row."
    )


def _hash(array: NumpyArray) -> str:
    """Return a hash of values in C order, taken a bounded piece at a time."""
    pieces = [array]
    if array.ndim and array.size:
        rows_per_piece = max(1, (1 << 24) // max(1, array.nbytes // len(array)))
        pieces = [array[first : first + rows_per_piece] for first in range(0, len(array), rows_per_piece)]
    digest = hashlib.sha256()
    for piece in pieces:
        # An array without values has no buffer that could be hashed.
        digest.update(np.ascontiguousarray(piece).data if piece.size else b"")
    return f"{HASH}{digest.hexdigest()}"


def _quote(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
