"""What a run tells about itself while it goes on; `on_event` callbacks and the progress display are fed with these."""

import dataclasses
from collections.abc import Callable
from typing import Literal, TypeAlias

from distmc.sampling.reports import ChunkReport

Stage: TypeAlias = Literal["starting workers", "connecting", "loading", "compiling", "starting", "sampling", "saving"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A worker of the current generation.

    Attributes
    ----------
    rank : int
        Its place in the generation.
    worker : int
        Its number, which stays the same over generations.
    node : str
        Address of its node.
    pid : int
        Number of its process on that node.
    """

    rank: int
    worker: int
    node: str
    pid: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageBegan:
    """The run entered a stage.

    Attributes
    ----------
    stage : str
        The stage.
    seconds : float
        Since the run began.
    """

    stage: Stage
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkersStarted:
    """All workers of a generation are up.

    Attributes
    ----------
    generation : int
        Number of the generation.
    members : tuple of Member
        The workers by rank.
    reason : str
        Why this generation was formed, in words.
    """

    generation: int
    members: tuple[Member, ...]
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkersLost:
    """A generation came to its end by a failure, and the run goes on with another.

    Attributes
    ----------
    generation : int
        The one that failed.
    cause : str
        The root cause in words.
    rank : int or None
        The worker that failed first, where that is known.
    node : str or None
        Its node.
    seconds : float
        Since the run began.
    """

    generation: int
    cause: str
    rank: int | None
    node: str | None
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingResumed:
    """A generation after the first has taken up the sampling.

    Attributes
    ----------
    generation : int
        Number of the generation.
    standstill_seconds : float
        From the end of the work before to now.
    steps_repeated : int
        Most steps that have to be made again.
    """

    generation: int
    standstill_seconds: float
    steps_repeated: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkCommitted:
    """A chunk is on disk.

    Attributes
    ----------
    report : ChunkReport
        Facts about the chunk.
    num_steps : int
        Steps of the whole run, warm-up included.
    seconds : float
        Since the run began.
    """

    report: ChunkReport
    num_steps: int
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEnded:
    """The run is over.

    Attributes
    ----------
    error : Exception or None
        What will be raised; None when all steps are committed.
    seconds : float
        Since the run began.
    """

    error: Exception | None
    seconds: float


RunEvent: TypeAlias = StageBegan | WorkersStarted | WorkersLost | SamplingResumed | ChunkCommitted | RunEnded
OnEvent: TypeAlias = Callable[[RunEvent], None]
