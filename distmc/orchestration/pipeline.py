"""Chunks on their way from the workers to the disk."""

from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.types import Checkpoint


class Pipeline:
    """Keeps the chunks that all workers agree on until they are on disk, and the state after the last that is.

    Parameters
    ----------
    checkpoint : Checkpoint or None
        Where the run goes on; None at its beginning.
    """

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self.checkpoint = checkpoint
        self.committed: ChunkReport | None = None
        self._agreed: list[ChunkReport] = []
        self._states: dict[int, Checkpoint] = {}

    def __len__(self) -> int:
        """Return the number of chunks that are not on disk yet."""
        return len(self._agreed)

    @property
    def committed_step(self) -> int:
        """Steps on disk."""
        return self.checkpoint.step if self.checkpoint is not None else 0

    @property
    def to_collect(self) -> tuple[int, ...]:
        """Chunks whose arrays have not arrived."""
        return tuple(report.chunk for report in self._agreed if report.chunk not in self._states)

    def agree(self, report: ChunkReport) -> None:
        """Take a chunk in."""
        self._agreed.append(report)

    def arrive(self, arrays: ChunkArrays) -> ChunkReport | None:
        """Take notice of the arrays of a chunk; return its report, or None if nobody waits for them."""
        report = self._find(arrays.chunk)
        if report is None or arrays.chunk in self._states:
            return None
        self._states[arrays.chunk] = Checkpoint(chunk=report.chunk, step=report.step, arrays=arrays.state)
        return report

    def commit(self, chunk: int) -> ChunkReport | None:
        """Take notice that a chunk is on disk; return its report, or None if it is not one of these."""
        report = self._find(chunk)
        if report is None:
            return None
        self._agreed.remove(report)
        self.checkpoint = self._states.pop(chunk, self.checkpoint)
        self.committed = report
        return report

    def drop(self) -> None:
        """Forget what is not on disk; it will be computed again."""
        self._agreed.clear()
        self._states.clear()

    def _find(self, chunk: int) -> ChunkReport | None:
        return next((report for report in self._agreed if report.chunk == chunk), None)
