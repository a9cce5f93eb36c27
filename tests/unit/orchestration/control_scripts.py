"""Shorthand for the facts that tests of the control plane are made of."""

import numpy as np

from distmc.errors import StartError
from distmc.orchestration import messages as m
from distmc.orchestration.controller import Controller
from distmc.orchestration.events import Member, RunEnded
from distmc.orchestration.membership import Candidate
from distmc.orchestration.states import State
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport
from distmc.types import Phase

NUM_WORKERS = 3
NUM_STEPS = 10
HANG_TIMEOUT = 30.0
CANDIDATES = tuple(
    Candidate(worker=10 + rank, node=f"10.0.0.{rank}", pid=100 + rank, facts={"processor": f"kind {rank % 2}"})
    for rank in range(NUM_WORKERS)
)
MEMBERS = tuple(
    Member(rank=rank, worker=candidate.worker, node=candidate.node, pid=candidate.pid)
    for rank, candidate in enumerate(CANDIDATES)
)


def report(chunk: int, step: int, rank: int = 0, digest: str = "same", phase: Phase = "draws", num_steps: int = 1,
           seconds: float = 0.01) -> ChunkReport:  # fmt: skip
    return ChunkReport(
        rank=rank,
        chunk=chunk,
        phase=phase,
        step=step,
        num_steps=num_steps,
        digest=digest,
        seconds=seconds,
        step_size=0.1,
        num_integration_steps=4.0,
        acceptance_rate=0.8,
        num_divergent=0,
        num_nonfinite=0,
    )


def arrays(chunk: int) -> ChunkArrays:
    return ChunkArrays(
        chunk=chunk, phase="draws", first_step=0, draws={}, unconstrained=np.zeros((1, 1, 1)), stats={}, state={}
    )


def replied(rank: int, value: CompileReport | ChunkReport | None = None, generation: int = 0) -> m.Replied:
    return m.Replied(generation=generation, rank=rank, value=value)


def ready(chunk: int, generation: int = 0) -> m.ArraysReady:
    return m.ArraysReady(generation=generation, arrays=arrays(chunk))


def failed(
    rank: int, kind: m.FailureKind, summary: str = "words", error: Exception | None = None, generation: int = 0,
    is_preemption: bool = False,
) -> m.WorkerFailed:  # fmt: skip
    failure = m.Failure(rank=rank, kind=kind, summary=summary, error=error, is_preemption=is_preemption)
    return m.WorkerFailed(generation=generation, failure=failure)


def up(worker: int, node: str = "10.0.0.9", **more: object) -> m.WorkerUp:
    return m.WorkerUp(Candidate(worker=worker, node=node, pid=100 + worker, **more))  # type: ignore[arg-type]


def controller(fewest: int = NUM_WORKERS, most: int = NUM_WORKERS, num_steps: int = NUM_STEPS) -> Controller:
    return Controller(num_workers=(fewest, most), num_steps=num_steps, hang_timeout_seconds=HANG_TIMEOUT)


def finish_of(actions: list[m.Action]) -> Exception | None:
    """Return what the run ends with."""
    assert isinstance(actions[-1], m.Finish)
    told = actions[-2]
    assert isinstance(told, m.Tell)
    assert isinstance(told.event, RunEnded)
    assert told.event.error is actions[-1].error
    return actions[-1].error


def all_come(control: Controller, now: float = 0.0) -> list[m.Action]:
    """Let all workers come up; return what the last one brings."""
    for candidate in CANDIDATES:
        actions = control.handle(m.WorkerUp(candidate), now)
    return actions


def all_reply(control: Controller, chunk: int | None = None, step: int = 0, now: float = 0.0) -> list[m.Action]:
    """Let every worker reply, with a report of `chunk` if one is given; return what the last reply brings."""
    for rank in range(len(control.members)):
        value = None if chunk is None else report(chunk, step, rank)
        actions = control.handle(replied(rank, value, control.generation), now)
    return actions


def sampling(control: Controller, chunk: int = 0, step: int = 0, now: float = 0.0) -> Controller:
    """Bring a controller from the meeting of its workers to its next chunk."""
    assert control.state is State.MEETING
    for _ in range(4):
        all_reply(control, now=now)
    all_reply(control, chunk=chunk, step=step, now=now)
    assert control.state is State.RUNNING
    return control


def running(control: Controller) -> Controller:
    """Bring a fresh controller to its first chunk."""
    control.handle(m.RunRequested(), 0.0)
    all_come(control)
    return sampling(control)


_ON_THE_WAY = [
    State.PENDING,
    State.ACQUIRING,
    State.MEETING,
    State.FORMING,
    State.LOADING,
    State.COMPILING,
    State.STARTING,
]


def in_state(state: State) -> Controller:
    """Return a controller that has come to `state`; in the running ones a chunk is on its way to disk."""
    control = controller()
    if state in _ON_THE_WAY:
        place = _ON_THE_WAY.index(state)
        if place > 0:
            control.handle(m.RunRequested(), 0.0)
        if place > 1:
            all_come(control)
        for _ in range(place - 2):
            all_reply(control)
    elif state is State.REGROUPING:
        control = controller(fewest=2)
        running(control)
        control.handle(m.WorkersLeaving(frozenset({12})), 0.0)
        all_reply(control, chunk=1, step=1)
    else:
        running(control)
        all_reply(control, chunk=1, step=NUM_STEPS if state in (State.SAVING, State.DONE) else 1)
    match state:
        case State.TRIAGE:
            control.handle(failed(2, m.FailureKind.COLLECTIVE), 0.0)
        case State.STOPPING:
            control.handle(m.StopRequested("Ctrl-C"), 0.0)
        case State.DONE:
            control.handle(ready(1), 0.0)
            control.handle(m.Committed(1), 0.0)
        case State.FAILED:
            control.handle(ready(1), 0.0)
            control.handle(m.Committed(1), 0.0)
            control.handle(failed(0, m.FailureKind.INPUT, error=StartError("no start")), 0.0)
        case State.CANCELLED:
            for _ in range(2):
                control.handle(m.StopRequested("Ctrl-C"), 0.0)
    assert control.state is state
    return control
