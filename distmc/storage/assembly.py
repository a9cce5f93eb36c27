"""Chunk files put together: one array a parameter, warm-up and draws apart.

One chunk at a time is in memory, whatever the length of the run, when the result is a file.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import netCDF4
import numpy as np
import xarray as xr

from distmc.errors import RunDirectoryError
from distmc.spec import Schedule
from distmc.storage import schema
from distmc.storage.chunks import ChunkHeader, of_phase, read_chunk
from distmc.storage.files import replacing
from distmc.storage.netcdf import create_variable, damaged
from distmc.storage.record import RunRecord
from distmc.storage.schema import SAMPLE_DIMS, Label
from distmc.types import NumpyArray, Phase

_PHASES: tuple[Phase, ...] = ("draws", "warmup")

Allocate: TypeAlias = Callable[["_Variable"], Any]
"""Makes room for a variable; what it returns takes ``[:, first:last] = array``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Variable:
    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def group(self) -> str:
        return self.path.split("/")[0]

    @property
    def name(self) -> str:
        return self.path.split("/")[1]


def write_posterior(path: Path, record: RunRecord, headers: Sequence[ChunkHeader]) -> None:
    """Write all chunks as one netCDF file that ArviZ reads as it is; equal chunks and record give equal bytes.

    Parameters
    ----------
    path : Path
        The file to write or replace.
    record : RunRecord
        What run.json says.
    headers : sequence of ChunkHeader
        All committed chunks, in order.

    Raises
    ------
    RunDirectoryError
        If there are no draws, a chunk is damaged, or the file cannot be written.
    """
    _require_draws(path, headers)
    with replacing(path) as temporary, netCDF4.Dataset(temporary, "w", format="NETCDF4") as file:
        _set_attributes(file, _run_attributes(record, headers))

        def allocate(variable: _Variable) -> Any:
            is_new = variable.group not in file.groups
            group = file.createGroup(variable.group)
            if is_new:
                _set_attributes(group, _group_attributes(record, headers))
            target = create_variable(group, variable.name, variable.dims, variable.shape, variable.dtype)
            for dim, size in zip(variable.dims, variable.shape, strict=True):
                _write_labels(group, dim, _labels(record, dim, size))
            return target

        _fill(record, headers, allocate)


def load(path: Path, record: RunRecord, headers: Sequence[ChunkHeader]) -> xr.DataTree:
    """Return what `write_posterior` would write, as a tree in memory.

    Raises
    ------
    RunDirectoryError
        If there are no draws yet, or a chunk is damaged.
    """
    _require_draws(path, headers)
    groups: dict[str, dict[str, xr.DataArray]] = {}

    def allocate(variable: _Variable) -> NumpyArray:
        values = np.empty(variable.shape, variable.dtype)
        coords = {
            dim: list(_labels(record, dim, size)) for dim, size in zip(variable.dims, variable.shape, strict=True)
        }
        groups.setdefault(variable.group, {})[variable.name] = xr.DataArray(values, dims=variable.dims, coords=coords)
        return values

    _fill(record, headers, allocate)
    tree = {name: xr.Dataset(arrays, attrs=_group_attributes(record, headers)) for name, arrays in groups.items()}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=_run_attributes(record, headers)), **tree})


def _fill(record: RunRecord, headers: Sequence[ChunkHeader], allocate: Allocate) -> None:
    for phase in _PHASES:
        total = sum(header.num_draws for header in of_phase(headers, phase))
        targets: dict[str, Any] = {}
        first = 0
        for header in of_phase(headers, phase):
            arrays = read_chunk(header)
            if not targets:
                variables = list(_variables(record, total, arrays))
                targets = {variable.path: allocate(variable) for variable in variables}
                shapes = {variable.path: variable.shape for variable in variables}
            last = first + header.num_draws
            _check_alike(header, arrays, shapes)
            for name, array in arrays.items():
                targets[name][:, first:last] = array
            first = last


def _variables(record: RunRecord, total: int, arrays: dict[str, NumpyArray]) -> Iterator[_Variable]:
    # The order of the first chunk, so that files are the same to the byte whatever chunks they came from.
    for path, array in arrays.items():
        dims = schema.dimensions(record.layout, path)
        shape = (array.shape[0], total, *array.shape[2:])
        yield _Variable(path=path, dims=dims, shape=shape, dtype=array.dtype)


def _check_alike(header: ChunkHeader, arrays: dict[str, NumpyArray], shapes: dict[str, tuple[int, ...]]) -> None:
    found = {name: (array.shape[0], *array.shape[2:]) for name, array in arrays.items()}
    wanted = {name: (shape[0], *shape[2:]) for name, shape in shapes.items()}
    if found != wanted or any(array.shape[1] != header.num_draws for array in arrays.values()):
        raise damaged(header.path, "its arrays have other names or shapes than those of the chunks before it")


def _require_draws(path: Path, headers: Sequence[ChunkHeader]) -> None:
    if not any(True for phase in _PHASES for _ in of_phase(headers, phase)):
        raise RunDirectoryError(f"`{path.parent}` holds no draws yet: no chunk has been committed. Run it further.")


def _labels(record: RunRecord, dim: str, size: int) -> tuple[Label, ...]:
    return tuple(record.layout.coords.get(dim, ())) or tuple(range(size))


def _write_labels(group: Any, dim: str, labels: tuple[Label, ...]) -> None:
    if dim in group.variables:
        return
    values = np.asarray(labels)
    if values.dtype.kind == "U":
        group.createVariable(dim, str, (dim,))[...] = values.astype(object)
    else:
        create_variable(group, dim, (dim,), values.shape, values.dtype)[...] = values


def _set_attributes(owner: Any, attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        owner.setncattr(key, value)


def _run_attributes(record: RunRecord, headers: Sequence[ChunkHeader]) -> dict[str, Any]:
    return {
        **_library_attributes(record),
        "seed": record.spec.seed,
        "spec": record.spec.to_json(),
        "model_fingerprint": record.model_fingerprint,
        "data_fingerprint": record.data_fingerprint,
        "status": record.status,
        "is_partial": int(record.status != "finished"),
        "num_workers": record.num_workers,
        "versions": json.dumps(dict(record.versions)),
        "timings": json.dumps(dict(record.timings)),
        **_times(headers),
    }


def _group_attributes(record: RunRecord, headers: Sequence[ChunkHeader]) -> dict[str, Any]:
    return {
        **_library_attributes(record),
        "sample_dims": list(SAMPLE_DIMS),
        "tuning_steps": record.spec.num_warmup,
        **_schedule_attributes(record.spec.schedule),
        **_times(headers),
    }


def _schedule_attributes(schedule: Schedule | None) -> dict[str, Any]:
    return {} if schedule is None else {**dataclasses.asdict(schedule), "windows": list(schedule.windows)}


def _library_attributes(record: RunRecord) -> dict[str, str]:
    version = record.versions.get("distmc", "unknown")
    return {
        "created_at": record.created_at,
        "creation_library": "distmc",
        "creation_library_version": version,
        "creation_library_language": "Python",
        "inference_library": "distmc",
        "inference_library_version": version,
    }


def _times(headers: Sequence[ChunkHeader]) -> dict[str, float]:
    return {
        "sampling_time": sum(header.seconds for header in of_phase(headers, "draws")),
        "warmup_time": sum(header.seconds for header in of_phase(headers, "warmup")),
    }
