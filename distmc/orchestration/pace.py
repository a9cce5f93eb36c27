"""How fast a run is, how long it stands still, and whether more workers would pay."""

from collections.abc import Collection

from distmc.sampling.reports import ChunkReport

GROWTH_SECONDS = 10.0


class Pace:
    """Keeps the times of a run; all are seconds on one clock that never goes back.

    Attributes
    ----------
    longest_chunk : float
        What the longest chunk, or start, has taken.
    commit_seconds : float
        What it took to write the last chunk.
    """

    def __init__(self) -> None:
        self.longest_chunk = 0.0
        self.commit_seconds = 0.0
        self._paused_at: float | None = None
        self._formed_at = 0.0
        self._running_since = 0.0
        # By number of workers: what it took last. The first time includes compiling.
        self._forming_seconds: dict[int, float] = {}
        self._longest_forming = 0.0
        self._step_seconds = 0.0
        self._steps_to_repeat = 0

    def pause(self, now: float) -> None:
        """Take notice that nothing is computed from now on; of several calls the first counts."""
        if self._paused_at is None:
            self._paused_at = now

    def form(self, now: float) -> None:
        """Take notice that a generation is being formed."""
        self._formed_at = now

    def repeat(self, num_steps: int) -> None:
        """Take notice of steps whose draws are lost; of several losses in one pause the largest counts."""
        self._steps_to_repeat = max(self._steps_to_repeat, num_steps)

    def resume(self, num_workers: int, now: float) -> tuple[float, int]:
        """Take notice that workers compute again; return for how long they did not, and the steps to repeat."""
        cost = 0.0 if self._paused_at is None else now - self._paused_at, self._steps_to_repeat
        self._paused_at = None
        self._steps_to_repeat = 0
        self._running_since = now
        self._forming_seconds[num_workers] = now - self._formed_at
        self._longest_forming = max(self._longest_forming, now - self._formed_at)
        return cost

    def note(self, reports: Collection[ChunkReport]) -> None:
        """Take notice of a chunk, or of a start, which the slowest worker has timed best."""
        self._step_seconds = max(report.seconds / max(1, report.num_steps) for report in reports)
        self.longest_chunk = max(self.longest_chunk, *(report.seconds for report in reports))

    def growth_pays(self, num_workers: int, num_possible: int, steps_left: int, now: float) -> bool:
        """Say whether forming a generation of `num_possible` workers costs less than it is expected to save.

        Workers that come one after the other should join together, so a generation lasts for `GROWTH_SECONDS`.
        """
        if num_possible <= num_workers or now - self._running_since < GROWTH_SECONDS:
            return False
        saved = steps_left * self._step_seconds * (1.0 - num_workers / num_possible)
        return saved > self._forming_seconds.get(num_possible, self._longest_forming)
