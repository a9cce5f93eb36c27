"""Named arrays in one netCDF-4 file with a checksum, written as a whole and verified when read.

An array named ``group/name`` becomes the variable `name` of the netCDF group `group`. Nothing is compressed: the
mantissas of float64 draws are noise, so compression would cost time and save next to nothing.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import netCDF4
import numpy as np

from distmc.errors import DamagedFileError, RunDirectoryError
from distmc.storage.files import describe, replacing, unreadable
from distmc.types import NumpyArray

Attributes: TypeAlias = dict[str, str | int | float]
"""Facts about a file as a whole."""

_CHECKSUM = "checksum"
_KINDS = "biuf"
_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError)


def write_arrays(
    path: Path,
    arrays: Mapping[str, NumpyArray],
    attributes: Mapping[str, str | int | float],
    dimensions: Mapping[str, tuple[str, ...]] | None = None,
) -> str:
    """Write arrays, attributes and their common checksum to `path` in one step.

    Parameters
    ----------
    path : Path
        The file to write or replace.
    arrays : mapping of str to array
        Booleans, whole numbers or floats of any shape.
    attributes : mapping of str to str, int or float
        Facts about the file.
    dimensions : mapping of str to tuple of str, optional
        Names of an array's axes; ``name_dim_0``, ``name_dim_1``, … where left out.

    Returns
    -------
    str
        The checksum.

    Raises
    ------
    RunDirectoryError
        If the file cannot be written or an array has a type that netCDF does not have.
    """
    arrays = {name: storable(path, name, np.asarray(array)) for name, array in arrays.items()}
    checksum = _digest(arrays, attributes)
    with replacing(path) as temporary, netCDF4.Dataset(temporary, "w", format="NETCDF4") as file:
        for name, array in arrays.items():
            group, _, short = name.rpartition("/")
            axes = (dimensions or {}).get(name) or tuple(f"{short}_dim_{axis}" for axis in range(array.ndim))
            variable = create_variable(
                file.createGroup(group) if group else file, short, axes, array.shape, array.dtype
            )
            if array.size:
                variable[...] = array
        for key, value in {**attributes, _CHECKSUM: checksum}.items():
            file.setncattr(key, value)
    return checksum


def read_arrays(path: Path) -> tuple[dict[str, NumpyArray], Attributes]:
    """Read what `write_arrays` wrote and verify it.

    Returns
    -------
    arrays : dict of array
        By the names they were written under.
    attributes : dict
        The facts about the file, without the checksum.

    Raises
    ------
    RunDirectoryError
        If the file is missing or the system refuses to read it; its content may be whole.
    DamagedFileError
        If it was read, and was cut short or changed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        with netCDF4.Dataset(path.name, mode="r", memory=content) as file:
            arrays = {name: _values(variable) for name, variable in _walk(file)}
            attributes = read_attributes(file)
        found = attributes.pop(_CHECKSUM, None)
        intact = found == _digest(arrays, attributes)
    except _DAMAGE as error:
        raise damaged(path, describe(error)) from error
    if not intact:
        raise damaged(path, "its content does not match its checksum")
    return arrays, attributes


def read_header(path: Path) -> Attributes:
    """Read only the attributes of a file, without verifying its arrays.

    Raises
    ------
    RunDirectoryError
        If the file is missing or the system refuses to read it.
    DamagedFileError
        If it is no netCDF file.
    """
    try:
        # The netCDF library does not tell a file that it cannot open from one that it cannot understand.
        path.open("rb").close()
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        with netCDF4.Dataset(path, mode="r") as file:
            return read_attributes(file)
    except _DAMAGE as error:
        raise damaged(path, describe(error)) from error


def damaged(path: Path, cause: str) -> DamagedFileError:
    """Return the error for a file that cannot be trusted."""
    return DamagedFileError(
        f"`{path}` is damaged: {cause}. It was cut short or changed after it was written; "
        "restore it from a copy, or run again into a new directory."
    )


def create_variable(
    group: Any,
    name: str,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> Any:
    """Create a netCDF variable, and those of its dimensions that are not there yet.

    Booleans, which netCDF does not have, become int8 marked in the way that xarray reads back as booleans.
    """
    for axis, size in zip(axes, shape, strict=True):
        if axis not in group.dimensions:
            group.createDimension(axis, size)
    is_bool = dtype.kind == "b"
    variable = group.createVariable(name, "i1" if is_bool else dtype, axes, fill_value=False)
    variable.set_auto_maskandscale(False)
    if is_bool:
        variable.setncattr("dtype", "bool")
    return variable


def read_attributes(file: Any) -> Attributes:
    """Return the attributes of an open file as plain Python values."""
    values = {key: file.getncattr(key) for key in file.ncattrs()}
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}


def _walk(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, variable in group.variables.items():
        yield prefix + name, variable
    for name, child in group.groups.items():
        yield from _walk(child, f"{prefix}{name}/")


def _values(variable: Any) -> NumpyArray:
    variable.set_auto_maskandscale(False)
    values = np.asarray(variable[...])
    return values.astype(bool) if "dtype" in variable.ncattrs() else values


def storable(path: Path, name: str, array: NumpyArray) -> NumpyArray:
    """Return an array as it can be written to `path`; refuse a type that netCDF does not have."""
    if array.dtype.kind not in _KINDS or array.dtype == np.float16 or array.dtype.itemsize > 8:
        raise RunDirectoryError(
            f"The array `{name}` of type {array.dtype} cannot be stored in `{path}`: netCDF has booleans, whole "
            "numbers, float32 and float64. Convert it first."
        )
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)


def _digest(arrays: Mapping[str, NumpyArray], attributes: Mapping[str, str | int | float]) -> str:
    digest = hashlib.sha256(json.dumps(dict(attributes), sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
