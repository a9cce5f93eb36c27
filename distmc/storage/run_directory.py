"""A run on disk: who may write where, and what counts as committed.

::

    runs/words/
      run.json          spec, versions, fingerprints, layout, generations, timings, status
      run.lock          held by the process that writes, while it does
      start.nc          where the chains start
      chunks/000012.nc  committed draws and statistics
      state/000012.nc   what a resumed run needs
      discarded/        what a resumed run did not go on from, if anything
      posterior.nc      all chunks as one DataTree, once the run has ended, finished or not

A chunk counts from the moment its file has its final name; its state is written after it. A run that continues
reads the latest good state, discards the chunks beyond it and repeats them. One process writes; any number may read.
"""

import contextlib
import dataclasses
import datetime
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distmc.errors import RunDirectoryError
from distmc.storage import assembly
from distmc.storage.chunks import ChunkHeader, committed, numbered, write_chunk
from distmc.storage.files import describe, flush_directory, local_path, remove, set_aside, write_text
from distmc.storage.identity import taken
from distmc.storage.netcdf import read_arrays, write_arrays
from distmc.storage.record import Generation, RunRecord
from distmc.storage.recovery import recover, states_to_keep
from distmc.storage.states import write_state
from distmc.storage.writer import is_abandoned, writing
from distmc.types import Checkpoint, NumpyArray, Phase

RECORD, LOCK, START, CHUNKS, STATE = "run.json", "run.lock", "start.nc", "chunks", "state"
POSTERIOR, DISCARDED = "posterior.nc", "discarded"


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A directory that holds a run; made by `create` or `open`.

    Attributes
    ----------
    path : Path
        The directory.
    """

    path: Path

    @classmethod
    def create(cls, path: str | os.PathLike[str], record: RunRecord, start: NumpyArray | None = None) -> "RunDirectory":
        """Make the directory of a new run; nothing is left behind when that is refused.

        Parameters
        ----------
        path : str or path
            A directory that does not exist yet or is empty; parents are made.
        record : RunRecord
            What run.json shall say.
        start : float64 array (num_chains, num_dimensions), optional
            Unconstrained positions where the chains start, for a run that has to begin again.

        Raises
        ------
        RunDirectoryError
            If something is there already, or the directory cannot be written.
        """
        directory = cls(local_path(path))
        directory._refuse_taken(record)
        made: list[Path] = []
        try:
            directory._claim(made)
            if start is not None:
                write_arrays(directory.path / START, {"position": start}, {})
            # Last: a directory with a record is a run that can be resumed.
            directory.write_record(record)
            flush_directory(directory.path.parent)
        except BaseException:
            _unmake(directory.path, made)
            raise
        return directory

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunDirectory":
        """Open the directory of a run that exists.

        Raises
        ------
        RunDirectoryError
            If there is no run, or its record is damaged.
        """
        directory = cls(local_path(path))
        directory.read_record()
        return directory

    def read_record(self) -> RunRecord:
        """Return what run.json says; a run whose writer is certainly gone counts as interrupted.

        Raises
        ------
        RunDirectoryError
            If it is missing or damaged.
        """
        record = RunRecord.read(self.path / RECORD)
        is_cut_off = record.status == "running" and is_abandoned(self.path / LOCK)
        return dataclasses.replace(record, status="interrupted") if is_cut_off else record

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which this process is known as the one that writes.

        Raises
        ------
        RunDirectoryError
            On entering, if another process writes.
        """
        return writing(self.path / LOCK, self._is_over)

    def write_record(self, record: RunRecord) -> None:
        """Replace run.json."""
        write_text(self.path / RECORD, record.to_json())

    def update(self, **changes: Any) -> RunRecord:
        """Change fields of run.json, such as `status` or `timings`, and return the new record."""
        record = dataclasses.replace(RunRecord.read(self.path / RECORD), **changes)
        self.write_record(record)
        return record

    def add_generation(self, reason: str, nodes: tuple[str, ...]) -> Generation:
        """Note that a new membership of workers begins; `nodes` names each worker's node by rank."""
        generations = self.read_record().generations
        generation = Generation(number=len(generations), reason=reason, nodes=nodes)
        self.update(generations=(*generations, generation))
        return generation

    def note_standstill(self, seconds: float, steps_repeated: int) -> None:
        """Note what the change to the latest generation has cost."""
        *earlier, latest = self.read_record().generations
        latest = dataclasses.replace(latest, standstill_seconds=round(seconds, 3), steps_repeated=steps_repeated)
        self.update(generations=(*earlier, latest))

    def write_chunk(
        self,
        *,
        chunk: int,
        phase: Phase,
        first_step: int,
        num_steps: int | None = None,
        draws: Mapping[str, NumpyArray],
        stats: Mapping[str, NumpyArray],
        unconstrained: NumpyArray | None = None,
        seconds: float = 0.0,
    ) -> str:
        """Commit a chunk; a chunk of the same number is replaced.

        Parameters
        ----------
        chunk : int
            Number of the chunk.
        phase : {"start", "warmup", "draws"}
            What its steps were for; one of "start" has none.
        first_step : int
            Steps done before the chunk.
        num_steps : int, optional
            Steps in the chunk; not given: as many as draws.
        draws : mapping of str to array, each (num_chains, num_draws, *event)
            Constrained parameters by name.
        stats : mapping of str to array, each (num_chains, num_draws)
            Statistics by distmc's names.
        unconstrained : array (num_chains, num_draws, num_dimensions), optional
            The draws as positions; kept on disk only when given.
        seconds : float, optional
            Wall time that the chunk took.

        Returns
        -------
        str
            Checksum of the file's content.

        Raises
        ------
        RunDirectoryError
            If the arrays do not fit the run, or the file cannot be written.
        """
        return write_chunk(
            self._file(CHUNKS, chunk),
            self.read_record().layout,
            chunk=chunk,
            phase=phase,
            first_step=first_step,
            num_steps=num_steps,
            draws=draws,
            stats=stats,
            unconstrained=unconstrained,
            seconds=seconds,
        )

    def chunks(self) -> list[ChunkHeader]:
        """Return the headers of all committed chunks, in order.

        Raises
        ------
        RunDirectoryError
            If a chunk is missing between two others, or unreadable.
        """
        return committed(self.path / CHUNKS)

    def write_state(self, *, chunk: int, step: int, state: Mapping[str, NumpyArray]) -> str:
        """Save what a resumed run needs after `chunk`; the latest two are kept, and older ones ever further apart.

        Parameters
        ----------
        chunk : int
            Number of the chunk that has just been committed.
        step : int
            Steps done by then.
        state : mapping of str to array
            The state by name.

        Returns
        -------
        str
            Checksum of the file's content.

        Raises
        ------
        RunDirectoryError
            If the file cannot be written.
        """
        checksum = write_state(self._file(STATE, chunk), state, {"chunk": int(chunk), "step": int(step)})
        files = numbered(self.path / STATE)
        for number in files.keys() - states_to_keep(list(files)):
            remove(files[number])
        return checksum

    def read_start(self) -> NumpyArray:
        """Return where the chains start, (num_chains, num_dimensions).

        Raises
        ------
        RunDirectoryError
            If the file is missing or damaged.
        """
        return read_arrays(self.path / START)[0]["position"]

    def recover(self) -> Checkpoint | None:
        """Return where the run goes on, and set aside what is beyond; warn of files that are missing or damaged.

        Returns
        -------
        checkpoint : Checkpoint or None
            None: at the beginning.

        Raises
        ------
        RunDirectoryError
            If a file cannot be read, whatever is in it; nothing is changed then.
        """
        found = recover(self.path / CHUNKS, self.path / STATE)
        aside = self.discard_chunks_after(-1 if found.checkpoint is None else found.checkpoint.chunk)
        if found.problems:
            moved = f" The files beyond are in `{aside}` now and can be deleted." if aside else ""
            warnings.warn(f"{found}{moved}", stacklevel=2)
        return found.checkpoint

    def discard_chunks_after(self, chunk: int) -> Path | None:
        """Move chunks and states beyond `chunk` aside, before a run continues from there.

        Returns
        -------
        Path or None
            The directory that holds them now, named after the time; None: there were none.

        Raises
        ------
        RunDirectoryError
            If the file system refuses.
        """
        aside = self.path / DISCARDED / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H-%M-%S.%fZ}"
        # States first, so that none is ever without its chunk.
        for folder in (STATE, CHUNKS):
            files = reversed(numbered(self.path / folder).items())
            set_aside([file for number, file in files if number > chunk], aside / folder)
        return aside if aside.exists() else None

    def finish(self) -> Path:
        """Write posterior.nc from the committed chunks, then note in run.json that the run is finished.

        Returns
        -------
        Path
            Where posterior.nc is.

        Raises
        ------
        RunDirectoryError
            If a chunk is missing or damaged, or the file cannot be written.
        """
        record = dataclasses.replace(self.read_record(), status="finished", error=None)
        assembly.write_posterior(self.posterior_file, record, self.chunks())
        self.write_record(record)
        return self.posterior_file

    def write_partial(self) -> Path:
        """Write posterior.nc from the chunks so far, marked as partial; `finish` replaces it.

        Raises
        ------
        RunDirectoryError
            If a chunk is damaged, there are no draws yet, or the file cannot be written.
        """
        assembly.write_posterior(self.posterior_file, self.read_record(), self.chunks())
        return self.posterior_file

    def discard_if_empty(self) -> bool:
        """Remove a run that has no committed chunk, so that the next attempt can have its place.

        Returns
        -------
        bool
            Whether it was removed; files of others in the directory stay.
        """
        try:
            if numbered(self.path / CHUNKS):
                return False
        except RunDirectoryError:
            # What cannot be listed may well hold chunks.
            return False
        _unmake(self.path, [self.path, self.path / CHUNKS, self.path / STATE])
        return True

    @property
    def posterior_file(self) -> Path:
        """Return where posterior.nc is, or will be."""
        return self.path / POSTERIOR

    def _is_over(self) -> bool:
        try:
            return RunRecord.read(self.path / RECORD).status != "running"
        except RunDirectoryError:
            return False

    def _file(self, folder: str, chunk: int) -> Path:
        return self.path / folder / f"{chunk:06d}.nc"

    def _claim(self, made: list[Path]) -> None:
        """Make the directories, noting in `made` those that were not there before."""
        try:
            for directory in (*reversed(self.path.parents), self.path):
                with contextlib.suppress(FileExistsError):
                    if not directory.exists():
                        directory.mkdir()
                        made.append(directory)
            # Of two processes that get this far at once, only one can make these.
            for directory in (self.path / CHUNKS, self.path / STATE):
                directory.mkdir()
                made.append(directory)
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory `{self.path}` could not be made: {describe(error)}. "
                "Give a path that can be written and that no other run uses."
            ) from error

    def _refuse_taken(self, record: RunRecord) -> None:
        try:
            entries = sorted(entry.name for entry in self.path.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunDirectoryError(f"`{self.path}` cannot become a run directory: {describe(error)}.") from error
        if RECORD in entries:
            raise RunDirectoryError(taken(self.path, self.read_record(), record))
        if entries:
            raise RunDirectoryError(
                f"`{self.path}` is not empty (it holds {', '.join(entries[:3])}{', …' if entries[3:] else ''}) and is "
                "no run. A run needs a directory of its own; give another path."
            )


def _unmake(path: Path, made: list[Path]) -> None:
    """Remove again what a refused `create` made; a directory with somebody else's files stays."""
    if path / CHUNKS in made:
        for name in (RECORD, START, LOCK):
            with contextlib.suppress(OSError):
                (path / name).unlink(missing_ok=True)
    for directory in reversed(made):
        with contextlib.suppress(OSError):
            directory.rmdir()
