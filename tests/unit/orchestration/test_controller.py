"""The run as a state machine: every state with every event, then the stories that matter."""

from typing import get_args

import pytest
from control_scripts import (
    HANG_TIMEOUT,
    MEMBERS,
    NUM_STEPS,
    NUM_WORKERS,
    all_come,
    all_reply,
    controller,
    failed,
    finish_of,
    in_state,
    ready,
    replied,
    report,
    running,
    up,
)

from distmc.errors import CapacityError, Interrupted, StartError, WorkerError
from distmc.orchestration import messages as m
from distmc.orchestration.events import ChunkCommitted, StageBegan, WorkersStarted
from distmc.orchestration.states import State

EVENTS: dict[str, m.Event] = {
    "begin": m.RunRequested(),
    "stop": m.StopRequested("Ctrl-C"),
    "tick": m.Tick(),
    "no room": m.CapacityMissing("no room"),
    "worker up": up(99),
    "worker gone": m.WorkerGone(10),
    "start failed": m.StartFailed(99, m.Failure(rank=0, kind=m.FailureKind.DEAD, summary="words")),
    "workers leaving": m.WorkersLeaving(frozenset({11})),
    "reply": replied(1),
    "arrays": ready(1),
    "committed": m.Committed(1),
    "input": failed(1, m.FailureKind.INPUT, error=StartError("no start")),
    "raised": failed(1, m.FailureKind.APPLICATION),
    "died": failed(1, m.FailureKind.DEAD),
    "lost contact": failed(1, m.FailureKind.COLLECTIVE),
    "old reply": replied(1, generation=-1),
}
# Orders are out, and no chunk has been computed.
SETTING_UP = [State.MEETING, State.FORMING, State.LOADING, State.COMPILING, State.STARTING]
# A lost worker may keep others in these for long, so they get a moment to answer.
BLOCKING = [State.FORMING, State.STARTING]
WRITING = [State.RUNNING, State.REGROUPING, State.SAVING]
ENDED = [State.DONE, State.FAILED, State.CANCELLED]

# (state, event) → (next state, kinds of action in order). A pair that is not listed changes nothing.
BEHAVIOUR: dict[tuple[State, str], tuple[State, list[type]]] = {
    (State.PENDING, "begin"): (State.ACQUIRING, [m.Tell, m.Acquire]),
    (State.ACQUIRING, "no room"): (State.FAILED, [m.Tell, m.Finish]),
    (State.ACQUIRING, "start failed"): (State.ACQUIRING, [m.Release, m.Acquire]),
    **{
        (state, "start failed"): (state, [m.Release])
        for state in State
        if state not in ENDED and state is not State.ACQUIRING
    },
    **{
        (state, "workers leaving"): (state, [m.Acquire])
        for state in State
        if state not in ENDED and state is not State.PENDING
    },
    **{(state, "stop"): (State.CANCELLED, [m.Tell, m.Finish]) for state in [State.ACQUIRING, *SETTING_UP]},
    (State.PENDING, "stop"): (State.CANCELLED, [m.Tell, m.Finish]),
    **{(state, "input"): (State.FAILED, [m.Tell, m.Finish]) for state in SETTING_UP},
    **{
        (state, "died"): (State.ACQUIRING, [m.Tell, m.Tell, m.Release, m.Acquire])
        for state in SETTING_UP
        if state not in BLOCKING
    },
    **{
        (state, "raised"): (State.MEETING, [m.Tell, m.Release, m.Acquire, m.Tell, m.Tell, m.Meet])
        for state in SETTING_UP
        if state not in BLOCKING
    },
    **{(state, event): (State.TRIAGE, []) for state in BLOCKING for event in ("raised", "died")},
    **{(state, "lost contact"): (State.TRIAGE, []) for state in [*SETTING_UP, *WRITING]},
    **{(state, event): (State.TRIAGE, []) for state in WRITING for event in ("input", "raised", "died")},
    **{(state, "stop"): (State.STOPPING, []) for state in [*WRITING, State.TRIAGE]},
    **{(state, "arrays"): (state, [m.Commit]) for state in [*WRITING, State.TRIAGE, State.STOPPING]},
    (State.RUNNING, "committed"): (State.RUNNING, [m.Tell]),
    (State.REGROUPING, "committed"): (State.MEETING, [m.Tell, m.Release, m.Acquire, m.Tell, m.Tell, m.Meet]),
    (State.SAVING, "committed"): (State.DONE, [m.Tell, m.Tell, m.Finish]),
    (State.TRIAGE, "committed"): (State.TRIAGE, [m.Tell]),
    (State.STOPPING, "committed"): (State.CANCELLED, [m.Tell, m.Tell, m.Finish]),
    (State.STOPPING, "stop"): (State.CANCELLED, [m.Tell, m.Finish]),
}


def test_no_event_is_left_out() -> None:
    assert {type(event) for event in EVENTS.values()} == set(get_args(m.Event))
    kinds = {event.failure.kind for event in EVENTS.values() if isinstance(event, m.WorkerFailed)}
    # Workers do not say of themselves that they differ from others, or are silent.
    assert kinds == set(m.FailureKind) - {m.FailureKind.DRIFT, m.FailureKind.SILENT}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("state", State)
def test_every_state_with_every_event(state: State, name: str) -> None:
    control = in_state(state)
    actions = control.handle(EVENTS[name], 1.0)
    expected_state, expected_actions = BEHAVIOUR.get((state, name), (state, []))
    assert (control.state, [type(action) for action in actions]) == (expected_state, expected_actions)


def test_a_run_from_begin_to_end() -> None:
    control = running(controller())
    # The arrays of the chunk are ordered before the next chunk, so that they are there while it is computed.
    assert all_reply(control, chunk=1, step=1) == [m.Collect(0, 0, 1), m.Advance(0, 2)]
    (commit,) = control.handle(ready(1), 1.0)
    assert isinstance(commit, m.Commit)
    assert commit.report.chunk == commit.arrays.chunk == 1
    (told,) = control.handle(m.Committed(1), 2.0)
    assert told == m.Tell(ChunkCommitted(report=report(1, 1), num_steps=NUM_STEPS, seconds=2.0))
    assert all_reply(control, chunk=2, step=3) == [m.Collect(0, 0, 2), m.Advance(0, 4)]
    control.handle(ready(2), 2.0)
    control.handle(m.Committed(2), 2.0)
    actions = all_reply(control, chunk=3, step=NUM_STEPS)
    assert actions[0] == m.Collect(0, 0, 3)
    assert isinstance(actions[1], m.Tell)
    assert isinstance(actions[1].event, StageBegan)
    assert actions[1].event.stage == "saving"
    control.handle(ready(3), 3.0)
    assert finish_of(control.handle(m.Committed(3), 3.0)) is None
    assert control.state is State.DONE
    assert control.pipeline.checkpoint is not None
    assert (control.pipeline.checkpoint.chunk, control.pipeline.committed_step) == (3, NUM_STEPS)


def test_workers_get_ranks_by_node_and_meet_before_they_connect() -> None:
    control = controller()
    control.handle(m.RunRequested(), 0.0)
    control.handle(up(0, "10.0.0.2"), 0.0)
    control.handle(up(1, "10.0.0.1"), 0.0)
    started, _, meet = control.handle(up(2, "10.0.0.1"), 0.0)
    assert isinstance(started, m.Tell)
    assert isinstance(started.event, WorkersStarted)
    assert isinstance(meet, m.Meet)
    assert [(member.rank, member.worker) for member in meet.members] == [(0, 1), (1, 2), (2, 0)]
    assert all_reply(control) == [m.Form(0)]


def test_order_waits_for_the_last_worker() -> None:
    control = in_state(State.COMPILING)
    for rank in range(NUM_WORKERS - 1):
        assert control.handle(replied(rank), 0.0) == []
    assert control.handle(replied(0), 0.0) == []
    assert control.handle(replied(NUM_WORKERS - 1), 0.0)[-1] == m.Start(0)


def test_run_that_was_complete_when_resumed_ends_at_once() -> None:
    control = in_state(State.STARTING)
    assert finish_of(all_reply(control, chunk=7, step=NUM_STEPS)) is None


def test_workers_wait_for_a_slow_disk() -> None:
    control = running(controller())
    all_reply(control, chunk=1, step=1)
    # Chunk 1 is not on disk yet when chunk 2 is done: its arrays are fetched, but no third chunk is ordered.
    assert all_reply(control, chunk=2, step=2) == [m.Collect(0, 0, 2)]
    control.handle(ready(1), 0.0)
    _, order = control.handle(m.Committed(1), 0.0)
    assert isinstance(order, m.Advance)


def test_chunks_grow_with_what_workers_report() -> None:
    control = controller(1, 1, num_steps=10_000)
    control.handle(m.RunRequested(), 0.0)
    control.handle(up(0), 0.0)
    for _ in range(4):
        control.handle(replied(0), 0.0)
    (*_, order) = control.handle(replied(0, report(0, 0)), 0.0)
    asked, step = [], 0
    for chunk in range(1, 8):
        assert isinstance(order, m.Advance)
        asked.append(order.num_steps)
        step += order.num_steps
        done = report(chunk, step, num_steps=order.num_steps, seconds=0.04 * order.num_steps)
        (*_, order) = control.handle(replied(0, done), 0.0)
        control.handle(ready(chunk), 0.0)
        control.handle(m.Committed(chunk), 0.0)
    # A step takes 40 ms, so 25 of them make a second.
    assert asked == [1, 2, 4, 8, 16, 25, 25]


def test_input_error_is_raised_as_it_is_without_another_try() -> None:
    control = in_state(State.STARTING)
    error = StartError("no finite start")
    assert finish_of(control.handle(failed(1, m.FailureKind.INPUT, error=error), 0.0)) is error


def test_exception_of_a_worker_in_this_process_is_the_cause() -> None:
    control = in_state(State.LOADING)
    origin = KeyError("x")
    control.handle(failed(0, m.FailureKind.APPLICATION, error=origin), 0.0)
    for _ in range(2):
        all_reply(control)
    error = finish_of(control.handle(failed(0, m.FailureKind.APPLICATION, error=origin, generation=1), 0.0))
    assert isinstance(error, WorkerError)
    assert error.__cause__ is origin


def test_missing_capacity_is_told_in_the_executors_words() -> None:
    control = in_state(State.ACQUIRING)
    error = finish_of(control.handle(m.CapacityMissing("room for 2"), 0.0))
    assert isinstance(error, CapacityError)
    assert str(error) == "room for 2"


def test_processes_that_never_come_up_end_the_run() -> None:
    control = in_state(State.ACQUIRING)
    failed_start = m.StartFailed(7, m.Failure(rank=0, kind=m.FailureKind.DEAD, summary="no such package"))
    for attempt in range(3):
        # Another that fails at the same time, as with its node, is no news.
        for now in (10.0 * attempt, 10.0 * attempt + 1.0):
            assert control.handle(failed_start, now) == [m.Release((7,)), m.Acquire()]
    error = finish_of(control.handle(failed_start, 30.0))
    assert isinstance(error, WorkerError)
    assert "Process 7 of the run could not be started: no such package." in str(error)
    assert error.rank is None
    assert error.node is None


def test_processes_that_others_can_do_without_may_fail_to_start() -> None:
    control = controller(fewest=1)
    control.handle(m.RunRequested(), 0.0)
    control.handle(up(1), 0.0)
    failed_start = m.StartFailed(7, m.Failure(rank=0, kind=m.FailureKind.DEAD, summary="no such package"))
    for _ in range(10):
        assert control.handle(failed_start, 0.0) == [m.Release((7,))]
    assert control.state is State.ACQUIRING


def test_stop_waits_for_an_agreed_chunk_but_not_for_ever() -> None:
    control = in_state(State.RUNNING)
    assert control.handle(m.StopRequested("Ctrl-C"), 0.0) == []
    assert control.handle(m.Tick(), 1.9) == []
    error = finish_of(control.handle(m.Tick(), 2.0))
    assert isinstance(error, Interrupted)
    assert "stopped by Ctrl-C while it was sampling; no step is committed yet" in str(error)


def test_stop_drops_the_chunk_in_flight() -> None:
    control = in_state(State.RUNNING)
    control.handle(ready(1), 0.0)
    control.handle(m.Committed(1), 0.0)
    error = finish_of(control.handle(m.StopRequested("SIGTERM"), 0.0))
    assert "1 of 10 steps are committed" in str(error)


def test_stop_asks_another_worker_for_the_arrays_if_the_first_is_lost() -> None:
    control = in_state(State.STOPPING)
    assert control.handle(failed(0, m.FailureKind.DEAD), 0.0) == [m.Collect(0, 1, 1)]
    control.handle(failed(1, m.FailureKind.DEAD), 0.0)
    assert isinstance(finish_of(control.handle(failed(2, m.FailureKind.DEAD), 0.0)), Interrupted)


def test_messages_of_an_older_generation_are_dropped() -> None:
    control = in_state(State.RUNNING)
    control.generation = 1
    for event in (failed(1, m.FailureKind.DEAD), ready(1), replied(1, report(1, 1, 1, digest="other"))):
        assert control.handle(event, 0.0) == []
    assert control.state is State.RUNNING


@pytest.mark.parametrize("state", [State.FORMING, State.LOADING, State.COMPILING])
def test_setting_up_may_take_longer_than_a_chunk(state: State) -> None:
    control = in_state(state)
    assert control.handle(m.Tick(), 2 * HANG_TIMEOUT) == []
    assert control.handle(m.Tick(), 4 * HANG_TIMEOUT) != []
    assert control.generation == 1


def test_members_know_their_place() -> None:
    control = in_state(State.MEETING)
    assert control.members == MEMBERS
    assert all_come(control) == []
