"""The run as a state machine: what happened goes in, what to do next comes out.

::

    PENDING → ACQUIRING → MEETING → FORMING → LOADING → COMPILING → STARTING → RUNNING → SAVING → DONE
                  ↑          └─────────┴─────────┴──────────┴───────────┴─────────┴────────┴→ TRIAGE → FAILED
                  ├──────────────────────────────────────── another generation ─────────────────┘
                  └── REGROUPING ← RUNNING, when workers shall join or leave
    any of these ── stop requested → STOPPING (an agreed chunk is on its way to disk) → CANCELLED

The controller knows no Ray, no JAX, no clock and no file: the same facts always lead to the same orders. Each order
goes to all workers and is over when all have replied. A chunk is *agreed* once every worker has reported it with the
same digest; its arrays are then fetched, and written while the workers already compute the next chunk. After a
failure the next generation goes on from the last chunk on disk, and so computes the same draws. With the last of all
chunks on disk the run is done, whatever else has failed.
"""

import math
from collections.abc import Sequence

from distmc.errors import CapacityError
from distmc.orchestration import messages as m
from distmc.orchestration import policies, verdicts
from distmc.orchestration.budget import FailureBudget
from distmc.orchestration.events import Member, Stage
from distmc.orchestration.journal import Journal
from distmc.orchestration.membership import Membership
from distmc.orchestration.pace import Pace
from distmc.orchestration.pipeline import Pipeline
from distmc.orchestration.states import State
from distmc.orchestration.triage import Triage, lost_ranks
from distmc.sampling.reports import ChunkReport
from distmc.types import Checkpoint

_ENDED = frozenset({State.DONE, State.FAILED, State.CANCELLED})


class Controller:
    """Decides what a run does next.

    Parameters
    ----------
    num_workers : tuple of int
        Fewest and most workers of the run.
    num_steps : int
        Steps of the whole run, warm-up included.
    hang_timeout_seconds : float
        Silence after which workers are given up.
    checkpoint : Checkpoint, optional
        Where the run goes on; not given: at its beginning.
    keeps_processes : bool
        Whether a process can serve in one generation after another. Otherwise all start afresh for each.
    """

    def __init__(
        self,
        *,
        num_workers: tuple[int, int],
        num_steps: int,
        hang_timeout_seconds: float,
        checkpoint: Checkpoint | None = None,
        keeps_processes: bool = True,
    ) -> None:
        self.state = State.PENDING
        self.generation = 0
        self.membership, self.pipeline = Membership(*num_workers), Pipeline(checkpoint)
        self._num_steps = num_steps
        self._hang_timeout = hang_timeout_seconds
        self._keeps_processes = keeps_processes
        self._budget = FailureBudget()
        self._reason = "the run began" if checkpoint is None else "the run was resumed"
        self._chunk_length = 1
        # Replies to the order that is out, by rank; None when no order is out.
        self._replies: dict[int, object] | None = None
        # Of the run: those that all workers have reported, and those that they will have come to by what is ordered.
        self._last_step = self._ordered_step = 0
        self._triage, self._journal = Triage(), Journal(num_steps)
        self._last_heard = self._deadline = 0.0
        self._gather_until: float | None = None  # When a generation is formed even if others are late.
        self._parting_patience = math.inf  # Seconds that members have to come back from the generation before.
        self._pace = Pace()
        self._stop_reason, self._stopped_in = "", State.PENDING

    @property
    def members(self) -> tuple[Member, ...]:
        """The workers of the present generation by rank."""
        return self.membership.members

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
        if self.state in _ENDED or (isinstance(event, m.OfGeneration) and event.generation != self.generation):
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
                error = CapacityError(verdicts.with_kept(event.message, self.pipeline.checkpoint))
                return self._end(State.FAILED, error, now) if missing else []
            case m.WorkerUp():
                self.membership.add(event.candidate)
                return self._gather(now)
            case m.WorkerGone():
                return self._worker_gone(event.worker)
            case m.StartFailed():
                return self._start_failed(event, now)
            case m.WorkersLeaving():
                self.membership.leave(event.workers)
                return [m.Acquire(self.membership.leaving)] if self.state is not State.PENDING else []
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
        self._journal.begin(now)
        self._pace.pause(now)
        self.state = State.ACQUIRING
        return [self._journal.stage("starting workers", now), m.Acquire(self.membership.leaving)]

    def _gather(self, now: float) -> list[m.Action]:
        """Form a generation once as many workers are there as are wanted, or enough of them and the others late."""
        if self.state is not State.ACQUIRING or not self.membership.is_enough:
            return []
        if self._gather_until is None:
            self._gather_until = now + policies.GATHERING_SECONDS
        if not self.membership.is_complete and now < self._gather_until:
            return []
        members = self.membership.form()
        self.pipeline.collector = 0
        self._pace.form(now)
        started = self._journal.formed(self.generation, members, self._reason)
        return [started, *self._order(State.MEETING, m.Meet(self.generation, members), now, "connecting")]

    def _worker_gone(self, worker: int) -> list[m.Action]:
        """Let go of a process that is gone; of one with a place its failure tells more, unless that comes too late."""
        has_place = self.state is not State.ACQUIRING and self.membership.is_seated(worker)
        if has_place or not self.membership.has(worker):
            return []
        self.membership.remove([worker])
        return [m.Release((worker,)), m.Acquire(self.membership.leaving)]

    def _start_failed(self, event: m.StartFailed, now: float) -> list[m.Action]:
        if self.state is not State.ACQUIRING or self.membership.is_enough:
            # The others can do without it.
            return [m.Release((event.worker,))]
        if not self._budget.allows_start(event.failure, now):
            return self._end(State.FAILED, verdicts.not_started(event, self.pipeline.checkpoint), now)
        return [m.Release((event.worker,)), m.Acquire(self.membership.leaving)]

    def _replied(self, event: m.Replied, now: float) -> list[m.Action]:
        if self._replies is None:
            return []
        self._last_heard = now
        self._replies[event.rank] = event.value
        if self.state is State.TRIAGE:
            return self._conclude_if_clear(now)
        if self.state is State.STOPPING or len(self._replies) < len(self.members):
            return []
        replies, self._replies = self._replies, None
        match self.state:
            case State.MEETING:
                return self._order(State.FORMING, m.Form(self.generation), now)
            case State.FORMING:
                return self._order(State.LOADING, m.Load(self.generation), now, "loading")
            case State.LOADING:
                return self._order(State.COMPILING, m.Compile(self.generation), now, "compiling")
            case State.COMPILING:
                order = m.Start(self.generation, self.pipeline.checkpoint)
                return self._order(State.STARTING, order, now, "starting")
            case _:
                reports = [value for _, value in sorted(replies.items()) if isinstance(value, ChunkReport)]
                return self._chunk_reported(reports, now)

    def _order(self, state: State, order: m.Order, now: float, stage: Stage | None = None) -> list[m.Action]:
        """Give `order` to all workers and wait for their replies in `state`."""
        self.state = state
        self._replies = {}
        self._last_heard = now
        return [order] if stage is None else [self._journal.stage(stage, now), order]

    # Chunks -----------------------------------------------------------------------------------------------------------

    def _chunk_reported(self, reports: Sequence[ChunkReport], now: float) -> list[m.Action]:
        odd = policies.odd_ranks({report.rank: report.digest for report in reports})
        if odd:
            return self._drifted(odd, reports[0], now)
        report = reports[0]
        self._last_step = self._ordered_step = report.step
        self._pace.note(reports)
        if self.state is State.STARTING:
            # The start holds no draws, so there is nothing to fetch or write.
            return [*self._sampling_began(now), *self._advance(now)]
        self._chunk_length = policies.next_chunk_length(self._chunk_length, reports, self._pace.commit_seconds)
        self.pipeline.agree(report)
        return [m.Collect(self.generation, self.pipeline.collector, report.chunk), *self._advance(now)]

    def _sampling_began(self, now: float) -> list[m.Action]:
        cost = self._pace.resume(len(self.members), now)
        stage = self._journal.stage("sampling", now)
        return [self._journal.resumed(self.generation, *cost), stage] if self.generation else [stage]

    def _advance(self, now: float) -> list[m.Action]:
        """Order the next chunk, wait for the disk, let workers join or leave, or end, as things stand."""
        self.state = State.RUNNING
        if self._last_step >= self._num_steps:
            if not self.pipeline:
                return self._end(State.DONE, None, now)
            self.state = State.SAVING
            self._last_heard = now
            return [self._journal.stage("saving", now)]
        if self._shall_regroup(now):
            self.state = State.REGROUPING
            self._last_heard = now
            return self._regroup(now) if not self.pipeline else []
        if len(self.pipeline) > 1:
            # The disk is slower than the workers; they wait, or chunks would pile up in memory.
            return []
        self._ordered_step = min(self._num_steps, self._last_step + self._chunk_length)
        return self._order(State.RUNNING, m.Advance(self.generation, self._chunk_length), now)

    def _arrays_ready(self, event: m.ArraysReady, now: float) -> list[m.Action]:
        report = self.pipeline.arrive(event.arrays)
        self._last_heard = now
        return [] if report is None else [m.Commit(report, event.arrays)]

    def _chunk_committed(self, event: m.Committed, now: float) -> list[m.Action]:
        report = self.pipeline.commit(event.chunk)
        if report is None:
            return []
        self._budget.progress()
        self._pace.commit_seconds = event.seconds
        tell = self._journal.committed(report, now)
        if report.step >= self._num_steps:
            return [tell, *self._end(State.DONE, None, now)]
        match self.state:
            case State.RUNNING if self._replies is None:
                return [tell, *self._advance(now)]
            case State.REGROUPING if not self.pipeline:
                return [tell, *self._regroup(now)]
            case State.TRIAGE:
                return [tell, *self._conclude_if_clear(now)]
            case State.STOPPING if not self.pipeline:
                return [tell, *self._cancel(now)]
        return [tell]

    # Other workers ----------------------------------------------------------------------------------------------------

    def _shall_regroup(self, now: float) -> bool:
        if not self.membership.is_enough:
            return False
        steps_left, possible = self._num_steps - self._last_step, self.membership.size_if_formed
        is_worth_it = self._pace.growth_pays(len(self.members), possible, steps_left, now)
        return is_worth_it or bool(self.membership.leaving_members)

    def _regroup(self, now: float) -> list[m.Action]:
        """Let members leave that will be gone soon, and newcomers join; nothing is computed twice."""
        leaving = self.membership.leaving_members
        reason = "workers leave before their nodes do" if leaving else "more workers have come"
        self._pace.pause(now)
        return self._next_generation(leaving, reason, now, self.membership.size_if_formed)

    def _recover(self, cause: m.Failure, failures: Sequence[m.Failure], error: Exception, now: float) -> list[m.Action]:
        """Go on from the last chunk on disk without those that are lost, or fail if this has happened too often."""
        suspects: frozenset[int] = frozenset()
        if not self._budget.allows(cause):
            suspects = policies.dispensable(cause, failures, len(self.members), self.membership.fewest)
            if not suspects:
                return self._end(State.FAILED, verdicts.with_count(error, self._budget.num_failures), now)
            # They keep their room, so that nobody takes their places there.
            self.membership.leave(self.membership.workers_of(suspects))
        reason = verdicts.in_words(cause, failures, self.members, self._triage.failed_in)
        told = self._journal.lost(self.generation, reason, error, now)
        self._pace.repeat(self._ordered_step - self.pipeline.committed_step)
        self.pipeline.drop()
        lost, wanted = self.membership.workers_of(lost_ranks(failures)), len(self.members) - len(suspects)
        return [told, *self._next_generation(lost, reason, now, wanted)]

    def _replace_stuck(self, now: float) -> list[m.Action]:
        """Go on without those that have not come back from an exchange that the last failure broke off."""
        stuck = sorted(self._owing())
        reason = verdicts.with_stuck(self._reason, stuck, self.members)
        return self._next_generation(self.membership.workers_of(stuck), reason, now, len(self.members))

    def _next_generation(self, without: Sequence[int], reason: str, now: float, wanted: int) -> list[m.Action]:
        """Go on without some once as many as `wanted` are there, or after a while with those that are."""
        self.membership.want(wanted)
        if not self._keeps_processes:
            without = tuple(member.worker for member in self.members)
        self.membership.remove(without)
        self.generation += 1
        self.state = State.ACQUIRING
        self._reason = reason
        self._replies = None
        self._parting_patience = policies.parting_patience(self._triage.failed_in, self._pace.longest_chunk)
        self._triage = Triage()
        self._gather_until = now + policies.REPLACEMENT_SECONDS if self._keeps_processes else None
        stage = [] if self.membership.is_complete else [self._journal.stage("starting workers", now)]
        return [*stage, m.Release(tuple(without)), m.Acquire(self.membership.leaving), *self._gather(now)]

    # Failures ---------------------------------------------------------------------------------------------------------

    def _worker_failed(self, failure: m.Failure, now: float) -> list[m.Action]:
        if self.state in (State.PENDING, State.ACQUIRING):
            return []
        self._triage.failures.append(failure)
        self._pace.pause(now)
        others = self.pipeline.collect_elsewhere(failure.rank, self._triage.lost, len(self.members))
        salvage: list[m.Action] = [m.Collect(self.generation, rank, chunk) for rank, chunk in others]
        if self.state is State.STOPPING:
            return salvage if self.pipeline.can_be_saved(self._triage.lost) else self._cancel(now)
        if self.state is not State.TRIAGE:
            self._triage.begin(self.state, now)
            self.state = State.TRIAGE
        return [*salvage, *self._conclude_if_clear(now)]

    def _conclude_if_clear(self, now: float) -> list[m.Action]:
        """End the triage early when no later message could change its outcome."""
        is_clear = self._triage.is_clear(self._replies or (), len(self.members))
        return self._conclude(now) if is_clear and not self.pipeline.can_be_saved(self._triage.lost) else []

    def _conclude(self, now: float) -> list[m.Action]:
        patience = policies.patience(self._triage.failed_in, self._hang_timeout)
        failures = self._triage.with_silent(self._owing(), now - self._last_heard, patience)
        cause = policies.root_cause(failures)
        error = verdicts.failure(cause, failures, self.members, self._triage.failed_in, self.pipeline.checkpoint)
        return self._recover(cause, failures, error, now)

    def _drifted(self, odd: Sequence[int], report: ChunkReport, now: float) -> list[m.Action]:
        facts = self.membership.facts_that_differ(odd)
        error = verdicts.drift(odd, report, self.members, self.pipeline.checkpoint, facts)
        summary = verdicts.difference(odd, report, self.members, facts)
        failures = [m.Failure(rank=rank, kind=m.FailureKind.DRIFT, summary=summary, error=error) for rank in odd]
        self._pace.pause(now)
        self._triage.begin(self.state, now)
        return self._recover(failures[0], failures, error, now)

    def _owing(self) -> set[int]:
        """Return the ranks that have an answer to give."""
        if self._replies is None:
            return {self.pipeline.collector}
        return set(range(len(self.members))) - set(self._replies)

    def _tick(self, now: float) -> list[m.Action]:
        match self.state:
            case State.TRIAGE:
                return self._conclude(now) if self._triage.is_over(now) else []
            case State.STOPPING:
                return self._cancel(now) if now >= self._deadline else []
            case State.PENDING | State.ACQUIRING:
                return self._gather(now)
            case State.MEETING if now - self._last_heard >= self._parting_patience:
                return self._replace_stuck(now)
        if now - self._last_heard < policies.patience(self.state, self._hang_timeout):
            return []
        self._pace.pause(now)
        self._triage.begin(self.state, now)
        return self._conclude(now)

    # Towards the end --------------------------------------------------------------------------------------------------

    def _stop(self, event: m.StopRequested, now: float) -> list[m.Action]:
        if not self._stop_reason:
            self._stop_reason, self._stopped_in = event.reason, self.state
        if not self.pipeline.can_be_saved(self._triage.lost) or self.state is State.STOPPING:
            return self._cancel(now)
        self.state = State.STOPPING
        self._deadline = now + policies.SAVING_SECONDS
        return []

    def _cancel(self, now: float) -> list[m.Action]:
        kept = self.pipeline.committed_step, self._num_steps
        return self._end(State.CANCELLED, verdicts.stopped(self._stop_reason, self._stopped_in, *kept), now)

    def _end(self, state: State, error: Exception | None, now: float) -> list[m.Action]:
        self.state = state
        return [self._journal.ended(error, now), m.Finish(error)]
