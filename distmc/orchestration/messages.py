"""What the controller hears (events) and what it orders (actions).

Events that come from workers carry the generation they were meant for; the controller drops those of an older one.
"""

import dataclasses
import enum
from typing import TypeAlias

from distmc.orchestration.events import Member, RunEvent
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport
from distmc.types import Checkpoint


class FailureKind(enum.Enum):
    """How a worker failed, in the order in which kinds are believed to be the cause of the others."""

    INPUT = "its input cannot be used"
    APPLICATION = "raised an exception"
    DEAD = "died"
    SILENT = "fell silent"
    COLLECTIVE = "lost contact with another worker"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """One worker's failure.

    Attributes
    ----------
    rank : int
        The worker.
    kind : FailureKind
        How it failed.
    summary : str
        One line in words.
    traceback : str
        Traceback in the worker as text, or nothing.
    error : Exception or None
        The exception itself, where it may be raised again or named as the cause.
    """

    rank: int
    kind: FailureKind
    summary: str
    traceback: str = ""
    error: Exception | None = None


# Events ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RunRequested:
    """The run shall begin."""


@dataclasses.dataclass(frozen=True)
class StopRequested:
    """The run shall end early; `reason` says who asked."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Tick:
    """Nothing happened for a moment; time has passed."""


@dataclasses.dataclass(frozen=True)
class CapacityMissing:
    """The workers could not be placed; `message` has the numbers."""

    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkersReady:
    """All workers of the generation are up; `members` are in the order of their ranks."""

    generation: int
    members: tuple[Member, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replied:
    """One worker has carried out the order that was given to all."""

    generation: int
    rank: int
    value: CompileReport | ChunkReport | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArraysReady:
    """The arrays of an agreed chunk have reached this process."""

    generation: int
    arrays: ChunkArrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerFailed:
    """One worker has failed."""

    generation: int
    failure: Failure


@dataclasses.dataclass(frozen=True)
class Committed:
    """The chunk is on disk."""

    chunk: int


FromWorkers: TypeAlias = WorkersReady | Replied | ArraysReady | WorkerFailed
Event: TypeAlias = RunRequested | StopRequested | Tick | CapacityMissing | FromWorkers | Committed


# Actions --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Acquire:
    """Find room for the workers and start them."""

    generation: int


@dataclasses.dataclass(frozen=True)
class Form:
    """Let the workers connect to one another."""

    generation: int


@dataclasses.dataclass(frozen=True)
class Load:
    """Let every worker load its rows."""

    generation: int


@dataclasses.dataclass(frozen=True)
class Compile:
    """Let every worker compile its program."""

    generation: int


@dataclasses.dataclass(frozen=True)
class Start:
    """Let the workers evaluate the starting positions together, and go on from `checkpoint` where there is one."""

    generation: int
    checkpoint: Checkpoint | None = None


@dataclasses.dataclass(frozen=True)
class Advance:
    """Let the workers make at most `num_steps` steps together."""

    generation: int
    num_steps: int


@dataclasses.dataclass(frozen=True)
class Collect:
    """Fetch the arrays of the latest chunk from one worker; ordered before the next `Advance`."""

    generation: int
    rank: int


@dataclasses.dataclass(frozen=True)
class Commit:
    """Write a chunk to disk, then answer `Committed`."""

    report: ChunkReport
    arrays: ChunkArrays


@dataclasses.dataclass(frozen=True)
class Tell:
    """Pass `event` on to whoever watches the run."""

    event: RunEvent


@dataclasses.dataclass(frozen=True)
class Finish:
    """Let go of all workers, and raise `error` if there is one."""

    error: Exception | None


Order: TypeAlias = Acquire | Form | Load | Compile | Start | Advance | Collect
Action: TypeAlias = Order | Commit | Tell | Finish
