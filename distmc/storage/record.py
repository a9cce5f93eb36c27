"""What run.json says about a run."""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from distmc.errors import InputError, RunDirectoryError
from distmc.spec import Local, Placement, Ray, RunSpec
from distmc.storage.files import unreadable
from distmc.storage.schema import Layout
from distmc.versions import library_versions

Status: TypeAlias = Literal["running", "finished", "failed", "interrupted"]

FORMAT = 1
"""Version of the layout of a run directory."""


def now() -> str:
    """Return the time in UTC as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """One membership of workers.

    Attributes
    ----------
    number : int
        0 for the workers that began the run.
    reason : str
        Why this membership was formed.
    nodes : tuple of str
        Node of each worker, by rank.
    started_at : str
        Time in UTC, ISO 8601.
    standstill_seconds : float
        From the end of the work before to the first step of this generation; 0 for the first.
    steps_repeated : int
        Most steps that had to be made again.
    """

    number: int
    reason: str
    nodes: tuple[str, ...]
    started_at: str = dataclasses.field(default_factory=now)
    standstill_seconds: float = 0.0
    steps_repeated: int = 0

    def __post_init__(self) -> None:
        """Turn a list, as JSON has it, into a tuple."""
        object.__setattr__(self, "nodes", tuple(self.nodes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All facts about a run that are not draws.

    Attributes
    ----------
    spec : RunSpec
        What was asked for.
    model_fingerprint, data_fingerprint : str
        Hashes that a resumed run must meet again.
    layout : Layout
        Shapes, axes and labels of the parameters.
    versions : mapping of str to str
        Versions of Python and libraries.
    status : {"running", "finished", "failed", "interrupted"}
        How far the run came. On disk a run whose writer was killed is still "running"; see
        `RunDirectory.read_record`.
    generations : tuple of Generation
        The memberships of workers so far.
    timings : mapping of str to float
        Seconds by what they were spent on.
    created_at : str
        Time in UTC, ISO 8601.
    model_facts, data_facts : mapping of str to str
        What the fingerprints are taken of, part by part, to say in words what differs.
    error : str or None
        Why the run ended before its end, root cause first, where it could still say so.
    source : mapping of str to str
        What the command line was given: `model`, `data` and the `directory` they were named in, or `words` of the
        demonstration. Empty: the run was started from Python.
    placement : Local or Ray
        Where the run was computed when it was last begun, resumed or extended.
    """

    spec: RunSpec
    model_fingerprint: str
    data_fingerprint: str
    layout: Layout
    versions: Mapping[str, str] = dataclasses.field(default_factory=library_versions)
    status: Status = "running"
    generations: tuple[Generation, ...] = ()
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    created_at: str = dataclasses.field(default_factory=now)
    model_facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data_facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    error: str | None = None
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)
    placement: Placement = dataclasses.field(default_factory=Local)

    @property
    def num_workers(self) -> int:
        """Workers of the latest generation."""
        return len(self.generations[-1].nodes) if self.generations else 1

    def to_json(self) -> str:
        """Return JSON text that `from_json` turns back into an equal record."""
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["spec"] = json.loads(self.spec.to_json())
        fields["layout"] = self.layout.to_dict()
        fields["placement"] = dataclasses.asdict(self.placement)
        fields["generations"] = [dataclasses.asdict(generation) for generation in self.generations]
        return json.dumps({"format": FORMAT, **fields}, indent=2) + "\n"

    @classmethod
    def read(cls, file: Path) -> "RunRecord":
        """Read the record in a file as it is written there.

        Raises
        ------
        RunDirectoryError
            If the file is missing, unreadable or damaged.
        """
        try:
            return cls.from_json(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunDirectoryError(
                f"`{file.parent}` holds no run: `{file}` does not exist. Give the directory that a run was written to."
            ) from error
        except RunDirectoryError as error:
            raise RunDirectoryError(f"`{file}` cannot be used. {error}") from error
        except OSError as error:
            raise unreadable(file, error) from error

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """Read back what `to_json` wrote.

        Raises
        ------
        RunDirectoryError
            If the text is not a record that this version understands.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            version = fields.pop("format")
            if version != FORMAT:
                raise RunDirectoryError(
                    f"The record has format {version!r}; this version of distmc reads format {FORMAT}. "
                    "Use the version of distmc that wrote it."
                )
            if fields["status"] not in get_args(Status):
                raise ValueError(f"unknown status {fields['status']!r}")
            fields["spec"] = RunSpec.from_json(json.dumps(fields["spec"]))
            fields["layout"] = Layout(**fields["layout"])
            fields["generations"] = tuple(Generation(**generation) for generation in fields["generations"])
            placement = fields.pop("placement", {})
            return cls(**fields, placement=Ray(**placement) if placement else Local())
        except KeyError as error:
            raise RunDirectoryError(f"The record is not one of a distmc run: it has no field {error}.") from error
        except (ValueError, TypeError, AttributeError, InputError) as error:
            raise RunDirectoryError(f"The record is not one of a distmc run: {error}.") from error
