"""Chunk files: the committed draws and statistics of one compiled call each."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from distmc.errors import RunDirectoryError
from distmc.storage import schema
from distmc.storage.files import unreadable
from distmc.storage.netcdf import Attributes, damaged, read_arrays, read_header, write_arrays
from distmc.storage.schema import Layout
from distmc.types import NumpyArray, Phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkHeader:
    """What a chunk file says about itself.

    Attributes
    ----------
    path : Path
        The file.
    chunk : int
        Number of the chunk.
    phase : {"start", "warmup", "draws"}
        What its steps were for.
    first_step, num_steps : int
        Steps done before the chunk, and in it.
    num_draws : int
        Draws of each chain; fewer than steps where the run is thinned.
    seconds : float
        Wall time that the chunk took.
    """

    path: Path
    chunk: int
    phase: Phase
    first_step: int
    num_steps: int
    num_draws: int
    seconds: float


def numbered(directory: Path) -> dict[int, Path]:
    """Return the numbered files of a directory, in order of their numbers; none if there is no directory.

    Raises
    ------
    RunDirectoryError
        If the system refuses to list it.
    """
    try:
        # `glob` would take a directory that cannot be listed for an empty one.
        paths = list(directory.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unreadable(directory, error) from error
    files = {int(path.stem): path for path in paths if path.suffix == ".nc" and path.stem.isdecimal()}
    return dict(sorted(files.items()))


def write_chunk(
    path: Path,
    layout: Layout,
    *,
    chunk: int,
    phase: Phase,
    first_step: int,
    num_steps: int | None,
    draws: Mapping[str, NumpyArray],
    stats: Mapping[str, NumpyArray],
    unconstrained: NumpyArray | None,
    seconds: float,
) -> str:
    """Write one chunk file, see `RunDirectory.write_chunk`."""
    num_chains, num_draws = _sample_shape(draws)
    _check_shapes(chunk, layout, (num_chains, num_draws), draws, stats)
    arrays = schema.to_groups(phase, draws, stats, unconstrained)
    attributes: dict[str, str | int | float] = {
        "chunk": int(chunk),
        "phase": phase,
        "first_step": int(first_step),
        "num_steps": num_draws if num_steps is None else int(num_steps),
        "num_draws": num_draws,
        "seconds": float(seconds),
    }
    return write_arrays(path, arrays, attributes, {name: schema.dimensions(layout, name) for name in arrays})


def read_chunk(header: ChunkHeader) -> dict[str, NumpyArray]:
    """Return the verified arrays of a chunk by ``group/name``.

    Raises
    ------
    RunDirectoryError
        If the file is missing or unreadable.
    DamagedFileError
        If it is damaged.
    """
    arrays, _ = read_arrays(header.path)
    return arrays


def read_verified(number: int, path: Path) -> ChunkHeader:
    """Return the header of a chunk whose content is whole.

    Parameters
    ----------
    number : int
        Which chunk it should be.
    path : Path
        The file.

    Raises
    ------
    RunDirectoryError
        If the file is missing or unreadable.
    DamagedFileError
        If it is damaged, or another chunk.
    """
    _, fields = read_arrays(path)
    return _header(number, path, fields)


def committed(directory: Path) -> list[ChunkHeader]:
    """Return the headers of the chunks in a directory, which follow each other without a gap.

    Raises
    ------
    RunDirectoryError
        If a file is unreadable, or a chunk is missing between two others.
    """
    headers = [_header(number, path, read_header(path)) for number, path in numbered(directory).items()]
    step = 0
    for header in headers:
        if header.first_step != step:
            raise RunDirectoryError(
                f"`{header.path}` begins at step {header.first_step}, but the chunks before it end at step {step}: "
                "a chunk between them is missing. Restore it from a copy, or run again into a new directory."
            )
        step += header.num_steps
    return headers


def of_phase(headers: Sequence[ChunkHeader], phase: Phase) -> Iterator[ChunkHeader]:
    """Return the headers of the chunks with draws of one phase."""
    return (header for header in headers if header.phase == phase and header.num_draws > 0)


def _header(number: int, path: Path, fields: Attributes) -> ChunkHeader:
    try:
        header = ChunkHeader(
            path=path,
            chunk=int(fields["chunk"]),
            phase=fields["phase"],  # type: ignore[arg-type]
            first_step=int(fields["first_step"]),
            num_steps=int(fields["num_steps"]),
            num_draws=int(fields["num_draws"]),
            seconds=float(fields["seconds"]),
        )
    except (KeyError, ValueError) as error:
        raise damaged(path, f"it is not a chunk of a run ({error})") from error
    if header.chunk != number:
        raise damaged(path, f"it says that it is chunk {header.chunk}")
    return header


def _sample_shape(draws: Mapping[str, NumpyArray]) -> tuple[int, int]:
    for array in draws.values():
        return array.shape[0], array.shape[1]
    return 0, 0


def _check_shapes(
    chunk: int,
    layout: Layout,
    sample_shape: tuple[int, int],
    draws: Mapping[str, NumpyArray],
    stats: Mapping[str, NumpyArray],
) -> None:
    expected = {name: (*sample_shape, *layout.shapes[name]) for name in draws if name in layout.shapes}
    if draws and set(draws) != set(layout.shapes):
        raise RunDirectoryError(
            f"Chunk {chunk} has draws of {sorted(draws)}, but the run's parameters are {sorted(layout.shapes)}."
        )
    expected |= {name: sample_shape for name in stats} if draws else {}
    for name, array in {**draws, **stats}.items():
        if name in expected and array.shape != expected[name]:
            raise RunDirectoryError(
                f"`{name}` of chunk {chunk} has shape {array.shape}; the run needs {expected[name]}, "
                "that is (chain, draw, ...)."
            )
