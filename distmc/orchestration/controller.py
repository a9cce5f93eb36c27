"""The run as a state machine: what happened goes in, what to do next comes out.

::

    PENDING → ACQUIRING → FORMING → LOADING → COMPILING → STARTING → RUNNING → SAVING → DONE
                  └──────────┴─────────┴──────────┴───────────┴─────────┴────────┴→ TRIAGE → FAILED
    any of these ── stop requested → STOPPING (an agreed chunk is on its way to disk) → CANCELLED

The controller knows no Ray, no JAX, no clock and no file: the same facts always lead to the same orders. Each order
goes to all workers and is over when all have replied. A chunk is *agreed* once every worker has reported it with the
same digest; its arrays are then fetched, and written while the workers already compute the next chunk.
"""

from collections.abc import Sequence

from distmc.errors import CapacityError, Interrupted
from distmc.orchestration import messages as m
from distmc.orchestration import policies, verdicts
from distmc.orchestration.events import ChunkCommitted, Member, RunEnded, Stage, StageBegan, WorkersStarted
from distmc.orchestration.states import State
from distmc.sampling.reports import ChunkReport
from distmc.types import Checkpoint

_ENDED = frozenset({State.DONE, State.FAILED, State.CANCELLED})
_SETUP = frozenset({State.FORMING, State.LOADING, State.COMPILING})
# Loading and compiling may rightly take much longer than a chunk.
_SETUP_PATIENCE = 4.0


class Controller:
    """Decides what a run does next.

    Parameters
    ----------
    num_workers : int
        Workers of the run.
    num_steps : int
        Steps of the whole run, warm-up included.
    hang_timeout_seconds : float
        Silence after which workers are given up.
    checkpoint : Checkpoint, optional
        Where the run goes on; not given: at its beginning.
    """

    def __init__(
        self, *, num_workers: int, num_steps: int, hang_timeout_seconds: float, checkpoint: Checkpoint | None = None
    ) -> None:
        self.state = State.PENDING
        self.generation = 0
        self.members: tuple[Member, ...] = ()
        self.committed: ChunkReport | None = None
        self._num_workers = num_workers
        self._num_steps = num_steps
        self._hang_timeout = hang_timeout_seconds
        self._checkpoint = checkpoint
        self._chunk_length = 1
        # Replies to the order that is out, by rank; None when no order is out.
        self._replies: dict[int, object] | None = None
        # Agreed chunks whose arrays are not on disk yet, oldest first.
        self._agreed: list[ChunkReport] = []
        self._last_step = 0
        self._failures: list[m.Failure] = []
        self._failed_in = State.PENDING
        self._began = 0.0
        self._last_heard = 0.0
        self._deadline = 0.0
        self._stop_reason = ""
        self._stopped_in = State.PENDING

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be ordered."""
        return self.state in _ENDED

    def handle(self, event: m.Event, now: float) -> list[m.Action]:
        """Take notice of `event` and return what to do, in order.

        Parameters
        ----------
        event : Event
            What happened.
        now : float
            Seconds on a clock that never goes back.

        Returns
        -------
        list of Action
            Empty when there is nothing to do.
        """
        if self.has_ended or (isinstance(event, m.FromWorkers) and event.generation != self.generation):
            return []
        match event:
            case m.RunRequested():
                return self._begin(now) if self.state is State.PENDING else []
            case m.StopRequested():
                return self._stop(event, now)
            case m.Tick():
                return self._tick(now)
            case m.CapacityMissing():
                missing = self.state is State.ACQUIRING
                return self._end(State.FAILED, CapacityError(event.message), now) if missing else []
            case m.WorkersReady():
                return self._workers_ready(event, now)
            case m.Replied():
                return self._replied(event, now)
            case m.ArraysReady():
                return self._arrays_ready(event, now)
            case m.Committed():
                return self._chunk_committed(event, now)
            case m.WorkerFailed():
                return self._worker_failed(event.failure, now)

    # Towards sampling -------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> list[m.Action]:
        self._began = now
        self.state = State.ACQUIRING
        return [self._tell_stage("starting workers", now), m.Acquire(self.generation)]

    def _workers_ready(self, event: m.WorkersReady, now: float) -> list[m.Action]:
        if self.state is not State.ACQUIRING:
            return []
        self.members = event.members
        started = m.Tell(WorkersStarted(generation=self.generation, members=event.members))
        return [started, *self._order(State.FORMING, m.Form(self.generation), now, "connecting")]

    def _replied(self, event: m.Replied, now: float) -> list[m.Action]:
        if self._replies is None:
            return []
        self._last_heard = now
        self._replies[event.rank] = event.value
        if self.state is State.TRIAGE:
            return self._conclude_if_clear(now)
        if self.state is State.STOPPING or len(self._replies) < self._num_workers:
            return []
        replies, self._replies = self._replies, None
        match self.state:
            case State.FORMING:
                return self._order(State.LOADING, m.Load(self.generation), now, "loading")
            case State.LOADING:
                return self._order(State.COMPILING, m.Compile(self.generation), now, "compiling")
            case State.COMPILING:
                return self._order(State.STARTING, m.Start(self.generation, self._checkpoint), now, "starting")
            case _:
                reports = [value for _, value in sorted(replies.items()) if isinstance(value, ChunkReport)]
                return self._chunk_reported(reports, now)

    def _order(self, state: State, order: m.Order, now: float, stage: Stage | None = None) -> list[m.Action]:
        """Give `order` to all workers and wait for their replies in `state`."""
        self.state = state
        self._replies = {}
        self._last_heard = now
        return [order] if stage is None else [self._tell_stage(stage, now), order]

    # Chunks -----------------------------------------------------------------------------------------------------------

    def _chunk_reported(self, reports: Sequence[ChunkReport], now: float) -> list[m.Action]:
        odd = policies.odd_ranks({report.rank: report.digest for report in reports})
        if odd:
            return self._end(State.FAILED, verdicts.drift(odd, reports[0], self.members, self.committed), now)
        report = reports[0]
        self._last_step = report.step
        if self.state is State.STARTING:
            # The start holds no draws, so there is nothing to fetch or write.
            return [self._tell_stage("sampling", now), *self._advance(now)]
        self._chunk_length = policies.next_chunk_length(self._chunk_length, reports)
        self._agreed.append(report)
        return [m.Collect(self.generation, 0), *self._advance(now)]

    def _advance(self, now: float) -> list[m.Action]:
        """Order the next chunk, wait for the disk, or end, as the steps done so far demand."""
        self.state = State.RUNNING
        if self._last_step >= self._num_steps:
            if not self._agreed:
                return self._end(State.DONE, None, now)
            self.state = State.SAVING
            self._last_heard = now
            return [self._tell_stage("saving", now)]
        if len(self._agreed) > 1:
            # The disk is slower than the workers; they wait, or chunks would pile up in memory.
            return []
        return self._order(State.RUNNING, m.Advance(self.generation, self._chunk_length), now)

    def _arrays_ready(self, event: m.ArraysReady, now: float) -> list[m.Action]:
        report = next((report for report in self._agreed if report.chunk == event.arrays.chunk), None)
        self._last_heard = now
        return [] if report is None else [m.Commit(report, event.arrays)]

    def _chunk_committed(self, event: m.Committed, now: float) -> list[m.Action]:
        done = [report for report in self._agreed if report.chunk == event.chunk]
        if not done:
            return []
        self.committed = done[0]
        self._agreed.remove(done[0])
        tell = m.Tell(ChunkCommitted(report=done[0], num_steps=self._num_steps, seconds=now - self._began))
        match self.state:
            case State.RUNNING if self._replies is None:
                return [tell, *self._advance(now)]
            case State.SAVING if not self._agreed:
                return [tell, *self._end(State.DONE, None, now)]
            case State.TRIAGE:
                return [tell, *self._conclude_if_clear(now)]
            case State.STOPPING if not self._agreed:
                return [tell, *self._cancel(now)]
        return [tell]

    # Towards the end --------------------------------------------------------------------------------------------------

    def _stop(self, event: m.StopRequested, now: float) -> list[m.Action]:
        if not self._stop_reason:
            self._stop_reason, self._stopped_in = event.reason, self.state
        if not self._can_still_save() or self.state is State.STOPPING:
            return self._cancel(now)
        self.state = State.STOPPING
        self._deadline = now + policies.SAVING_SECONDS
        return []

    def _worker_failed(self, failure: m.Failure, now: float) -> list[m.Action]:
        self._failures.append(failure)
        if self.state is State.STOPPING:
            return [] if self._can_still_save() else self._cancel(now)
        if self.state is not State.TRIAGE:
            self._failed_in = self.state
            self.state = State.TRIAGE
            self._deadline = now + policies.TRIAGE_SECONDS
        return self._conclude_if_clear(now)

    def _tick(self, now: float) -> list[m.Action]:
        match self.state:
            case State.TRIAGE:
                return self._conclude(now) if now >= self._deadline else []
            case State.STOPPING:
                return self._cancel(now) if now >= self._deadline else []
            case State.PENDING | State.ACQUIRING:
                return []
        patience = self._hang_timeout * (_SETUP_PATIENCE if self.state in _SETUP else 1.0)
        if now - self._last_heard < patience:
            return []
        self._failed_in = self.state
        return self._conclude(now)

    def _can_still_save(self) -> bool:
        return bool(self._agreed) and all(failure.rank != 0 for failure in self._failures)

    def _conclude_if_clear(self, now: float) -> list[m.Action]:
        """End the triage early when no later message could change its outcome."""
        heard_of = {failure.rank for failure in self._failures} | set(self._replies or ())
        clear = any(map(policies.is_decisive, self._failures)) or len(heard_of) == self._num_workers
        return self._conclude(now) if clear and not self._can_still_save() else []

    def _conclude(self, now: float) -> list[m.Action]:
        failures = [*self._failures, *self._silent_workers(now)]
        cause = policies.root_cause(failures)
        error = verdicts.failure(cause, failures, self.members, self._num_workers, self._failed_in, self.committed)
        return self._end(State.FAILED, error, now)

    def _silent_workers(self, now: float) -> list[m.Failure]:
        """Return a failure for each worker that owes a reply and has not been heard of."""
        owing = {0} if self._failed_in is State.SAVING else set(range(self._num_workers)) - set(self._replies or ())
        summary = f"no answer for {now - self._last_heard:.0f} s"
        silent = sorted(owing - {failure.rank for failure in self._failures})
        return [m.Failure(rank=rank, kind=m.FailureKind.SILENT, summary=summary) for rank in silent]

    def _cancel(self, now: float) -> list[m.Action]:
        reached = self.committed.step if self.committed else 0
        return self._end(
            State.CANCELLED,
            Interrupted(
                f"The run was stopped by {self._stop_reason} while it was {self._stopped_in.value}; "
                f"{reached} of {self._num_steps} steps are committed and kept."
            ),
            now,
        )

    def _end(self, state: State, error: Exception | None, now: float) -> list[m.Action]:
        self.state = state
        return [m.Tell(RunEnded(error=error, seconds=now - self._began)), m.Finish(error)]

    def _tell_stage(self, stage: Stage, now: float) -> m.Tell:
        return m.Tell(StageBegan(stage=stage, seconds=now - self._began))
