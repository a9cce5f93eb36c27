"""Shorthand for the facts that tests of the control plane are made of."""

import numpy as np

from distmc.orchestration import messages as m
from distmc.orchestration.controller import Controller
from distmc.orchestration.events import Member
from distmc.orchestration.states import State
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport, Phase

NUM_WORKERS = 3
NUM_STEPS = 10
HANG_TIMEOUT = 30.0
MEMBERS = tuple(Member(rank=rank, node=f"10.0.0.{rank}", pid=100 + rank) for rank in range(NUM_WORKERS))
READY = m.WorkersReady(generation=0, members=MEMBERS)


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


def ready(chunk: int) -> m.ArraysReady:
    return m.ArraysReady(generation=0, arrays=arrays(chunk))


def failed(rank: int, kind: m.FailureKind, summary: str = "words", error: Exception | None = None) -> m.WorkerFailed:
    return m.WorkerFailed(generation=0, failure=m.Failure(rank=rank, kind=kind, summary=summary, error=error))


def controller() -> Controller:
    return Controller(num_workers=NUM_WORKERS, num_steps=NUM_STEPS, hang_timeout_seconds=HANG_TIMEOUT)


def all_reply(control: Controller, chunk: int | None = None, step: int = 0, now: float = 0.0) -> list[m.Action]:
    """Let every worker reply, with a report of `chunk` if one is given; return what the last reply brings."""
    for rank in range(NUM_WORKERS):
        value = None if chunk is None else report(chunk, step, rank)
        actions = control.handle(replied(rank, value), now)
    return actions


def running(control: Controller) -> Controller:
    """Bring a fresh controller to its first chunk."""
    control.handle(m.RunRequested(), 0.0)
    control.handle(READY, 0.0)
    for _ in range(3):
        all_reply(control)
    all_reply(control, chunk=0)
    assert control.state is State.RUNNING
    return control


def in_state(state: State) -> Controller:
    """Return a controller that has come to `state`; in the running ones a chunk is on its way to disk."""
    control = controller()
    order = [State.PENDING, State.ACQUIRING, State.FORMING, State.LOADING, State.COMPILING, State.STARTING]
    if state in order:
        place = order.index(state)
        if place > 0:
            control.handle(m.RunRequested(), 0.0)
        if place > 1:
            control.handle(READY, 0.0)
        for _ in range(place - 2):
            all_reply(control)
    else:
        running(control)
        all_reply(control, chunk=1, step=NUM_STEPS if state in (State.SAVING, State.DONE) else 1)
    match state:
        case State.TRIAGE:
            control.handle(failed(2, m.FailureKind.COLLECTIVE), 0.0)
        case State.STOPPING:
            control.handle(m.StopRequested("Ctrl-C"), 0.0)
        case State.DONE:
            control.handle(m.Committed(1), 0.0)
        case State.FAILED:
            for _ in range(2):
                control.handle(failed(0, m.FailureKind.DEAD), 0.0)
        case State.CANCELLED:
            for _ in range(2):
                control.handle(m.StopRequested("Ctrl-C"), 0.0)
    assert control.state is state
    return control
