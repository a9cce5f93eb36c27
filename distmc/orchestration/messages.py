"""What the controller hears (events) and what it orders (actions).

Events that come from workers carry the generation they were meant for; the controller drops those of an older one.
"""

import dataclasses
import enum
from typing import TypeAlias

from distmc.orchestration.events import Member, RunEvent
from distmc.orchestration.membership import Candidate
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport
from distmc.types import Checkpoint


class FailureKind(enum.Enum):
    """How a worker failed, in the order in which kinds are believed to be the cause of the others."""

    INPUT = "its input cannot be used"
    APPLICATION = "raised an exception"
    DRIFT = "differs from the others"
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
    is_preemption : bool
        Whether the worker's node was taken away on purpose.
    """

    rank: int
    kind: FailureKind
    summary: str
    traceback: str = ""
    error: Exception | None = None
    is_preemption: bool = False


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


@dataclasses.dataclass(frozen=True)
class WorkerUp:
    """A worker process is up and waits for a place."""

    candidate: Candidate


@dataclasses.dataclass(frozen=True)
class WorkerGone:
    """A worker process that was up is gone, whatever it was doing."""

    worker: int


@dataclasses.dataclass(frozen=True)
class StartFailed:
    """A worker process did not come up."""

    worker: int
    failure: Failure


@dataclasses.dataclass(frozen=True)
class WorkersLeaving:
    """The nodes of these worker processes will be taken away soon."""

    workers: frozenset[int]


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
    """The chunk is on disk, after so many seconds of writing."""

    chunk: int
    seconds: float = 0.0


OfGeneration: TypeAlias = Replied | ArraysReady | WorkerFailed
OfProcesses: TypeAlias = WorkerUp | WorkerGone | StartFailed | WorkersLeaving
Event: TypeAlias = RunRequested | StopRequested | Tick | CapacityMissing | OfProcesses | OfGeneration | Committed


# Actions --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Acquire:
    """Find room for as many workers as the run can use, and start those that are missing.

    Attributes
    ----------
    besides : tuple of int
        Processes that are up and that the run does not count on: they are set aside, or their nodes will be gone soon.
    """

    besides: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Release:
    """Let go of these worker processes, whatever they are doing."""

    workers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Meet:
    """Give the workers their ranks and let them part from their former generation; shows that all are alive."""

    generation: int
    members: tuple[Member, ...]


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
    """Fetch the arrays of a chunk, one of the latest two, from one worker; ordered before the next `Advance`."""

    generation: int
    rank: int
    chunk: int


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


ToGeneration: TypeAlias = Meet | Form | Load | Compile | Start | Advance | Collect
Order: TypeAlias = Acquire | Release | ToGeneration
Action: TypeAlias = Order | Commit | Tell | Finish
