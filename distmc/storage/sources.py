"""Files of data, read into rows and constants.

Two formats say the same thing:

``.npz``
    Entries are row variables, except those named ``constants/NAME``. The entries ``__length__``, ``__missing__`` and
    ``__ragged__``, if there, hold the names that `Data` takes under these words.
``.nc``
    Data variables whose first dimension is called ``row`` are row variables, all others constants; coordinates are
    not read. The global attributes ``length``, ``missing`` and ``ragged``, if there, hold names.
"""

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr

from distmc.data.data import Data
from distmc.errors import DataError, RunDirectoryError
from distmc.storage.files import describe, replacing
from distmc.storage.netcdf import create_variable
from distmc.types import NumpyArray

ROW = "row"
"""Name of the dimension of rows in a netCDF file."""

_CONSTANTS = "constants/"
_OPTIONS = ("length", "missing", "ragged")
_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile)


def read_data(path: str | os.PathLike[str]) -> Data:
    """Read rows and constants from a file.

    Parameters
    ----------
    path : str or path
        A file that ends in ``.npz`` or ``.nc``; the page of `distmc.storage.sources` says what has to stand in it.

    Returns
    -------
    Data
        Checked like any other data.

    Raises
    ------
    DataError
        If the file is missing, unreadable or of another kind, or its content cannot be used.
    """
    file = _data_path(path)
    read = _read_npz if file.suffix == ".npz" else _read_netcdf
    try:
        # This raises in some versions of Python where a folder above the file gives no access.
        content = read(file) if file.exists() else None
    except _UNREADABLE as error:
        raise DataError(f"The file of data `{file}` could not be read: {describe(error)}. {_form(file)}") from error
    if content is None:
        raise DataError(f"The file of data `{file}` does not exist; give the path of an .npz or .nc file.")
    rows, constants, options = content
    if not rows:
        raise DataError(f"The file of data `{file}` has no row variables. {_rule(file)}")
    try:
        return Data(rows=rows, constants=constants, **options)
    except DataError as error:
        raise DataError(f"The file of data `{file}` cannot be used. {error}{_names(file, str(error))}") from error


def write_data(path: str | os.PathLike[str], data: Data | Mapping[str, Any]) -> None:
    """Write data to a file that `read_data` turns back into equal data.

    Parameters
    ----------
    path : str or path
        A file name that ends in ``.npz`` or ``.nc``.
    data : Data or mapping of array
        What to write; a mapping means that all of it is rows.

    Raises
    ------
    DataError
        If the name ends otherwise, a variable's name does not suit the format, or the file cannot be written.
    """
    file, data = _data_path(path), Data.coerce(data)
    _check_names(file, data)
    write: Callable[[Path, Data], None] = _write_npz if file.suffix == ".npz" else _write_netcdf
    try:
        with replacing(file) as temporary:
            write(temporary, data)
    except (RunDirectoryError, ValueError) as error:
        raise DataError(f"The file of data could not be written. {error}") from error


def _data_path(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
        raise DataError(f"{path!r} is not a path; give that of an .npz or .nc file.")
    file = Path(path).expanduser()
    if file.suffix not in (".npz", ".nc"):
        ending = f"ends in `{file.suffix}`" if file.suffix else "has no ending"
        raise DataError(
            f"`{file}` {ending}; a file of data ends in `.npz` (NumPy) or `.nc` (netCDF). "
            "Convert it, for instance with numpy.savez or xarray."
        )
    return file


def _read_npz(path: Path) -> tuple[dict[str, NumpyArray], dict[str, NumpyArray], dict[str, Any]]:
    # Anything that is no archive NumPy would take for an array or a pickle.
    with zipfile.ZipFile(path):
        pass
    with np.load(path, allow_pickle=False) as entries:
        arrays = {name: _read_entry(entries, name) for name in entries.files}
    named = {option: arrays.pop(f"__{option}__") for option in _OPTIONS if f"__{option}__" in arrays}
    constants = {name.removeprefix(_CONSTANTS): value for name, value in arrays.items() if name.startswith(_CONSTANTS)}
    rows = {name: value for name, value in arrays.items() if not name.startswith(_CONSTANTS)}
    return rows, constants, _options({option: np.atleast_1d(value).tolist() for option, value in named.items()})


def _read_entry(entries: Mapping[str, NumpyArray], name: str) -> NumpyArray:
    try:
        return entries[name]
    except ValueError as error:
        raise ValueError(f"Entry `{name}`: {describe(error)}") from error


def _read_netcdf(path: Path) -> tuple[dict[str, NumpyArray], dict[str, NumpyArray], dict[str, Any]]:
    # Times stay numbers: a likelihood has no use for calendar dates.
    with xr.open_dataset(path, engine="netcdf4", decode_times=False) as dataset:
        arrays = {str(name): (variable.dims, variable.values) for name, variable in dataset.data_vars.items()}
        named = {
            option: np.atleast_1d(dataset.attrs[option]).tolist() for option in _OPTIONS if option in dataset.attrs
        }
    rows = {name: values for name, (dims, values) in arrays.items() if dims[:1] == (ROW,)}
    constants = {name: values for name, (dims, values) in arrays.items() if name not in rows}
    return rows, constants, _options(named)


def _options(named: dict[str, list[Any]]) -> dict[str, Any]:
    texts = {option: tuple(map(str, names)) for option, names in named.items()}
    return {option: names[0] if option == "length" else names for option, names in texts.items() if names}


def _entries(data: Data) -> Iterable[tuple[str, NumpyArray]]:
    yield from data.rows.items()
    for name, value in (data.constants or {}).items():
        yield _CONSTANTS + name, value
    for option, names in _named_options(data).items():
        yield f"__{option}__", np.asarray(names)


def _named_options(data: Data) -> dict[str, list[str]]:
    lists = {"length": [data.length] if data.length else [], "missing": data.missing, "ragged": data.ragged or ()}
    return {option: list(names) for option, names in lists.items() if names}


def _write_npz(path: Path, data: Data) -> None:
    # numpy.savez cannot hold a variable called `file`, and writes the time of day.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in _entries(data):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def _write_netcdf(path: Path, data: Data) -> None:
    with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
        for name, array in data.rows.items():
            _write_variable(file, name, array, (ROW, *_axes(name, array)[1:]))
        for name, array in (data.constants or {}).items():
            _write_variable(file, name, array, _axes(name, array))
        for option, names in _named_options(data).items():
            file.setncattr(option, names)


def _write_variable(file: Any, name: str, array: NumpyArray, axes: tuple[str, ...]) -> None:
    variable = create_variable(file, name, axes, array.shape, array.dtype)
    if array.size:
        variable[...] = array


def _axes(name: str, array: NumpyArray) -> tuple[str, ...]:
    return tuple(f"{name}_dim_{axis}" for axis in range(array.ndim))


def _check_names(file: Path, data: Data) -> None:
    names = (*data.rows, *(data.constants or {}))
    for name in names:
        if "/" in name or (name.startswith("__") and name.endswith("__")) or (name == ROW and file.suffix == ".nc"):
            raise DataError(
                f"The variable `{name}` cannot be written to `{file}`: slashes, names like `__length__` and, in .nc "
                f"files, the name `{ROW}` have a meaning of their own there. Rename it."
            )


def _form(file: Path) -> str:
    if file.suffix == ".npz":
        return (
            "It must be an archive of arrays of numbers, whole and as numpy.savez writes it; turn an array of objects "
            "into numbers first, for instance by `astype(float)`."
        )
    return "It must be a whole file in netCDF's format."


def _names(file: Path, told: str) -> str:
    """Say what a file calls that which Python calls `constants` and `missing`, if one of them was told of."""
    if "`constants`" not in told and "`missing=" not in told:
        return ""
    if file.suffix == ".npz":
        return " In a file, a constant is an entry `constants/NAME`, and `__missing__` holds what `missing` names."
    return f" In a file, a constant's first dimension is not called `{ROW}`, and `missing` is a global attribute."


def _rule(file: Path) -> str:
    if file.suffix == ".npz":
        return "Every entry is one, except those named `constants/NAME`, `__length__`, `__missing__` and `__ragged__`."
    return f"Those are the variables whose first dimension is called `{ROW}`; rename that dimension."
