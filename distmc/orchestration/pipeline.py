"""Chunks on their way from the workers to the disk."""

from collections.abc import Collection

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
        self.collector = 0
        self._agreed: list[ChunkReport] = []
        self._states: dict[int, Checkpoint] = {}

    def __len__(self) -> int:
        """Return the number of chunks that are not on disk yet."""
        return len(self._agreed)

    @property
    def committed_step(self) -> int:
        """Steps on disk."""
        return self.checkpoint.step if self.checkpoint is not None else 0

    def collect_elsewhere(self, failed: int, lost: Collection[int], num_workers: int) -> list[tuple[int, int]]:
        """Choose another worker if the one whose arrays are fetched is lost; all hold the same.

        Parameters
        ----------
        failed : int
            Rank that has just failed.
        lost : collection of int
            Ranks whose processes are of no more use.
        num_workers : int
            Workers of the generation.

        Returns
        -------
        list of (int, int)
            Rank to ask, and chunk whose arrays have not arrived.
        """
        others = sorted(set(range(num_workers)) - set(lost))
        if failed != self.collector or failed not in lost or not others:
            return []
        self.collector = others[0]
        missing = [report.chunk for report in self._agreed if report.chunk not in self._states]
        return [(self.collector, chunk) for chunk in missing]

    def can_be_saved(self, lost: Collection[int]) -> bool:
        """Say whether there are chunks that are not on disk yet but will be, as long as nobody else is lost."""
        return bool(self) and self.collector not in lost

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
        return report

    def drop(self) -> None:
        """Forget what is not on disk; it will be computed again."""
        self._agreed.clear()
        self._states.clear()

    def _find(self, chunk: int) -> ChunkReport | None:
        return next((report for report in self._agreed if report.chunk == chunk), None)
