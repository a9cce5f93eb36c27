"""What is known of a failure until its cause is clear."""

from collections.abc import Collection

from distmc.orchestration.messages import Failure, FailureKind
from distmc.orchestration.states import State

TRIAGE_SECONDS = 2.0

# On CPUs workers give up waiting for a silent one after four fifths of the limit; some silence lies before that.
_LONG = 0.75
# A worker that waits for a lost one here does so for longer than a run should stand still.
_BLOCKING = frozenset({State.FORMING, State.STARTING})
_DECISIVE = frozenset({FailureKind.INPUT, FailureKind.APPLICATION, FailureKind.DRIFT, FailureKind.DEAD})
_LOST = frozenset({FailureKind.DEAD, FailureKind.SILENT})


class Triage:
    """The failures of one generation.

    Attributes
    ----------
    failed_in : State
        What the run was doing when the first was heard of.
    failures : list of Failure
        In the order in which they were heard of.
    """

    def __init__(self) -> None:
        self.failed_in = State.PENDING
        self.failures: list[Failure] = []
        self._deadline = 0.0

    def begin(self, failed_in: State, now: float) -> None:
        """Start the time in which others may explain the failure."""
        self.failed_in = failed_in
        self._deadline = now + TRIAGE_SECONDS

    def is_over(self, now: float) -> bool:
        """Say whether nobody is waited for any longer."""
        return now >= self._deadline

    @property
    def lost(self) -> frozenset[int]:
        """Ranks whose processes are of no more use."""
        return lost_ranks(self.failures)

    @property
    def is_decisive(self) -> bool:
        """Whether nothing that may still be heard could explain the failures, and nobody is blocked by them."""
        kinds = {failure.kind for failure in self.failures}
        return FailureKind.INPUT in kinds or (not kinds.isdisjoint(_DECISIVE) and self.failed_in not in _BLOCKING)

    def is_clear(self, replied: Collection[int], num_workers: int) -> bool:
        """Say whether no later message could change the outcome."""
        heard_of = {failure.rank for failure in self.failures} | set(replied)
        return self.is_decisive or len(heard_of) == num_workers

    def with_silent(self, owing: Collection[int], silence: float, patience: float) -> list[Failure]:
        """Return all failures, and one for each worker that owes an answer and has had the time to give it.

        Where lost contact is reported early, a worker that owes an answer may be busy: it will notice as well.
        """
        is_blocked = self.failed_in in _BLOCKING
        if self.is_decisive or not (is_blocked or silence >= _LONG * patience):
            return list(self.failures)
        summary = f"no answer for {silence:.0f} s"
        silent = sorted(set(owing) - {failure.rank for failure in self.failures})
        return [*self.failures, *(Failure(rank=rank, kind=FailureKind.SILENT, summary=summary) for rank in silent)]


def lost_ranks(failures: Collection[Failure]) -> frozenset[int]:
    """Return the ranks whose processes are of no more use."""
    return frozenset(failure.rank for failure in failures if failure.kind in _LOST)
