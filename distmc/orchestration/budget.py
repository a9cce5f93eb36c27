"""How often a run tries again before it takes a failure for its own."""

import math
from collections import Counter

from distmc.orchestration.messages import Failure, FailureKind

_TRIES = {
    FailureKind.INPUT: 0,
    # The same chunk gives the same exception again, unless the node was to blame.
    FailureKind.APPLICATION: 1,
    FailureKind.DRIFT: 1,
    FailureKind.DEAD: 3,
    FailureKind.SILENT: 3,
    FailureKind.COLLECTIVE: 3,
}


# Processes that cannot start for one reason, such as the loss of their node, say so within this time of the first.
_TOGETHER_SECONDS = 2.0


class FailureBudget:
    """Counts failures since the last chunk that was committed."""

    def __init__(self) -> None:
        self._counts: Counter[FailureKind] = Counter()
        self._start_failed_at = -math.inf

    @property
    def num_failures(self) -> int:
        """Failures since the last chunk that was committed, preemptions not counted."""
        return self._counts.total()

    def progress(self) -> None:
        """Forget the failures so far: a chunk has been committed since."""
        self._counts.clear()

    def allows(self, cause: Failure) -> bool:
        """Count a failure and say whether the run should go on after it.

        A failure that comes again before anything else was committed is the program's and not the cluster's. A
        machine that was taken away says nothing about the program.
        """
        if cause.is_preemption:
            return True
        self._counts[cause.kind] += 1
        return self._counts[cause.kind] <= _TRIES[cause.kind] and self._counts.total() <= max(_TRIES.values())

    def allows_start(self, cause: Failure, now: float) -> bool:
        """Do as `allows` for a process that could not be started; several that fail together count once."""
        if now - self._start_failed_at < _TOGETHER_SECONDS:
            return True
        self._start_failed_at = now
        return self.allows(cause)
