"""How far a run has come, read from its directory alone."""

import dataclasses
import datetime
import itertools
import os
import statistics

from distmc.errors import RunDirectoryError
from distmc.storage.chunks import ChunkHeader, of_phase
from distmc.storage.record import RunRecord
from distmc.storage.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run has come.

    Attributes
    ----------
    record : RunRecord
        What run.json says; a run whose writer is certainly gone counts as interrupted.
    headers : tuple of ChunkHeader
        The committed chunks, in order.
    damage : str or None
        What is wrong with the chunks, where it shows without reading their draws.
    last_commit : datetime or None
        When the last chunk was written.
    """

    record: RunRecord
    headers: tuple[ChunkHeader, ...]
    damage: str | None
    last_commit: datetime.datetime | None

    @property
    def step(self) -> int:
        """Committed steps, warm-up included."""
        return sum(header.num_steps for header in self.headers)

    @property
    def num_draws(self) -> int:
        """Committed draws of each chain."""
        return sum(header.num_draws for header in of_phase(self.headers, "draws"))

    @property
    def slowest(self) -> ChunkHeader | None:
        """The chunk with the most time for a step."""
        return max(self._with_steps, key=_seconds_per_step, default=None)

    @property
    def median_seconds_per_step(self) -> float:
        """Over chunks; 0 where there is none."""
        return statistics.median(map(_seconds_per_step, self._with_steps)) if self._with_steps else 0.0

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Seconds of each stage of the latest start, up to sampling."""
        began = {name.removesuffix(" began"): seconds for name, seconds in self.record.timings.items()}
        stages = [stage for stage in began if stage != "saving"]
        return {stage: began[after] - began[stage] for stage, after in itertools.pairwise(stages)}

    @property
    def _with_steps(self) -> list[ChunkHeader]:
        return [header for header in self.headers if header.num_steps > 0]


def status_of(path: str | os.PathLike[str]) -> RunStatus:
    """Read how far a run has come.

    Raises
    ------
    RunDirectoryError
        If there is no run, or its record is damaged.
    """
    directory = RunDirectory.open(path)
    record = directory.read_record()
    headers: list[ChunkHeader] = []
    damage = None
    try:
        headers = directory.chunks()
    except RunDirectoryError as error:
        damage = str(error)
    last = headers[-1].path.stat().st_mtime if headers else None
    return RunStatus(
        record=record,
        headers=tuple(headers),
        damage=damage,
        last_commit=None if last is None else datetime.datetime.fromtimestamp(last, datetime.UTC),
    )


def _seconds_per_step(header: ChunkHeader) -> float:
    return header.seconds / header.num_steps
