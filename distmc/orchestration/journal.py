"""What a run says of itself while it goes on."""

from distmc.orchestration.events import (
    ChunkCommitted,
    Member,
    RunEnded,
    SamplingResumed,
    Stage,
    StageBegan,
    WorkersLost,
    WorkersStarted,
)
from distmc.orchestration.messages import Tell
from distmc.sampling.reports import ChunkReport


class Journal:
    """Puts what happens into events for whoever watches.

    Parameters
    ----------
    num_steps : int
        Steps of the whole run, warm-up included.
    """

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._began = 0.0

    def begin(self, now: float) -> None:
        """Count the seconds of the run from now on."""
        self._began = now

    def stage(self, stage: Stage, now: float) -> Tell:
        """Say what comes next."""
        return Tell(StageBegan(stage=stage, seconds=now - self._began))

    def formed(self, generation: int, members: tuple[Member, ...], reason: str) -> Tell:
        """Say who computes from now on, and why others did before."""
        return Tell(WorkersStarted(generation=generation, members=members, reason=reason))

    def lost(self, generation: int, cause: str, error: Exception, now: float) -> Tell:
        """Say what a generation came to its end by; `error` is what would be raised if nothing could be done."""
        rank, node = getattr(error, "rank", None), getattr(error, "node", None)
        return Tell(WorkersLost(generation=generation, cause=cause, rank=rank, node=node, seconds=now - self._began))

    def resumed(self, generation: int, standstill_seconds: float, steps_repeated: int) -> Tell:
        """Say what the change to `generation` has cost."""
        return Tell(
            SamplingResumed(generation=generation, standstill_seconds=standstill_seconds, steps_repeated=steps_repeated)
        )

    def committed(self, report: ChunkReport, now: float) -> Tell:
        """Say that a chunk is on disk."""
        return Tell(ChunkCommitted(report=report, num_steps=self._num_steps, seconds=now - self._began))

    def ended(self, error: Exception | None, now: float) -> Tell:
        """Say that the run is over."""
        return Tell(RunEnded(error=error, seconds=now - self._began))
