"""The run as a state machine: every state with every event, then the stories that matter."""

import pytest
from control_scripts import (
    HANG_TIMEOUT,
    MEMBERS,
    NUM_STEPS,
    NUM_WORKERS,
    READY,
    all_reply,
    controller,
    failed,
    in_state,
    ready,
    replied,
    report,
    running,
)

from distmc.errors import CapacityError, DriftError, Interrupted, StartError, WorkerError
from distmc.orchestration import messages as m
from distmc.orchestration.controller import Controller
from distmc.orchestration.events import ChunkCommitted, RunEnded, StageBegan
from distmc.orchestration.states import State

EVENTS: dict[str, m.Event] = {
    "begin": m.RunRequested(),
    "stop": m.StopRequested("Ctrl-C"),
    "tick": m.Tick(),
    "no room": m.CapacityMissing("no room"),
    "workers ready": READY,
    "reply": replied(1),
    "arrays": ready(1),
    "committed": m.Committed(1),
    "raised": failed(1, m.FailureKind.APPLICATION),
    "died": failed(1, m.FailureKind.DEAD),
    "lost contact": failed(1, m.FailureKind.COLLECTIVE),
    "old reply": replied(1, generation=-1),
}
COMPUTING = [State.FORMING, State.LOADING, State.COMPILING, State.STARTING]
WRITING = [State.RUNNING, State.SAVING]

# (state, event) → (next state, kinds of action in order). A pair that is not listed changes nothing.
BEHAVIOUR: dict[tuple[State, str], tuple[State, list[type]]] = {
    (State.PENDING, "begin"): (State.ACQUIRING, [m.Tell, m.Acquire]),
    (State.ACQUIRING, "no room"): (State.FAILED, [m.Tell, m.Finish]),
    (State.ACQUIRING, "workers ready"): (State.FORMING, [m.Tell, m.Tell, m.Form]),
    **{
        (state, "stop"): (State.CANCELLED, [m.Tell, m.Finish]) for state in [State.PENDING, State.ACQUIRING, *COMPUTING]
    },
    **{
        (state, event): (State.FAILED, [m.Tell, m.Finish])
        for state in [State.PENDING, State.ACQUIRING, *COMPUTING]
        for event in ("raised", "died")
    },
    **{(state, "lost contact"): (State.TRIAGE, []) for state in [State.PENDING, State.ACQUIRING, *COMPUTING, *WRITING]},
    **{(state, event): (State.TRIAGE, []) for state in WRITING for event in ("raised", "died")},
    **{(state, "stop"): (State.STOPPING, []) for state in [*WRITING, State.TRIAGE]},
    **{(state, "arrays"): (state, [m.Commit]) for state in [*WRITING, State.TRIAGE, State.STOPPING]},
    (State.RUNNING, "committed"): (State.RUNNING, [m.Tell]),
    (State.SAVING, "committed"): (State.DONE, [m.Tell, m.Tell, m.Finish]),
    (State.TRIAGE, "committed"): (State.TRIAGE, [m.Tell]),
    (State.STOPPING, "committed"): (State.CANCELLED, [m.Tell, m.Tell, m.Finish]),
    (State.STOPPING, "stop"): (State.CANCELLED, [m.Tell, m.Finish]),
}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("state", State)
def test_every_state_with_every_event(state: State, name: str) -> None:
    control = in_state(state)
    actions = control.handle(EVENTS[name], 1.0)
    expected_state, expected_actions = BEHAVIOUR.get((state, name), (state, []))
    assert (control.state, [type(action) for action in actions]) == (expected_state, expected_actions)


def finish_of(actions: list[m.Action]) -> Exception | None:
    assert isinstance(actions[-1], m.Finish)
    told = actions[-2]
    assert isinstance(told, m.Tell)
    assert isinstance(told.event, RunEnded)
    assert told.event.error is actions[-1].error
    return actions[-1].error


def worker_error_of(actions: list[m.Action]) -> WorkerError:
    error = finish_of(actions)
    assert isinstance(error, WorkerError)
    return error


def test_a_run_from_begin_to_end() -> None:
    control = running(controller())
    # The arrays of the chunk are ordered before the next chunk, so that they are there while it is computed.
    assert all_reply(control, chunk=1, step=1) == [m.Collect(0, 0), m.Advance(0, 2)]
    (commit,) = control.handle(ready(1), 1.0)
    assert isinstance(commit, m.Commit)
    assert commit.report.chunk == commit.arrays.chunk == 1
    (told,) = control.handle(m.Committed(1), 2.0)
    assert told == m.Tell(ChunkCommitted(report=report(1, 1), num_steps=NUM_STEPS, seconds=2.0))
    assert all_reply(control, chunk=2, step=3) == [m.Collect(0, 0), m.Advance(0, 4)]
    control.handle(m.Committed(2), 2.0)
    actions = all_reply(control, chunk=3, step=NUM_STEPS)
    assert actions[0] == m.Collect(0, 0)
    assert isinstance(actions[1], m.Tell)
    assert isinstance(actions[1].event, StageBegan)
    assert actions[1].event.stage == "saving"
    assert finish_of(control.handle(m.Committed(3), 3.0)) is None
    assert control.state is State.DONE
    assert control.committed == report(3, NUM_STEPS)


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
    assert all_reply(control, chunk=2, step=2) == [m.Collect(0, 0)]
    _, order = control.handle(m.Committed(1), 0.0)
    assert isinstance(order, m.Advance)


def test_replicas_that_differ_name_the_odd_one_and_commit_nothing() -> None:
    control = running(controller())
    control.handle(replied(0, report(1, 1, 0)), 0.0)
    control.handle(replied(1, report(1, 1, 1, digest="other")), 0.0)
    error = finish_of(control.handle(replied(2, report(1, 1, 2)), 0.0))
    assert isinstance(error, DriftError)
    assert (error.rank, error.node) == (1, MEMBERS[1].node)
    assert "No draws had been committed" in str(error)


def test_replicas_without_a_majority_blame_nobody() -> None:
    control = running(controller())
    for rank in range(NUM_WORKERS):
        actions = control.handle(replied(rank, report(1, 1, rank, digest=str(rank))), 0.0)
    error = finish_of(actions)
    assert isinstance(error, DriftError)
    assert error.rank is None
    assert "no majority" in str(error)


def test_death_explains_lost_contact_that_was_heard_of_before() -> None:
    control = running(controller())
    assert control.handle(failed(0, m.FailureKind.COLLECTIVE, "Gloo failed"), 0.0) == []
    assert control.handle(failed(2, m.FailureKind.COLLECTIVE, "Gloo failed"), 0.5) == []
    error = worker_error_of(control.handle(failed(1, m.FailureKind.DEAD, "killed"), 1.0))
    assert (error.rank, error.node) == (1, MEMBERS[1].node)
    assert "killed" in str(error)
    assert "process 101" in str(error)
    assert "Gloo" not in str(error)


def test_worker_that_is_silent_when_all_others_lost_contact_is_the_cause() -> None:
    control = running(controller())
    for rank in (0, 2):
        control.handle(failed(rank, m.FailureKind.COLLECTIVE), 0.0)
    assert control.handle(m.Tick(), 1.9) == []
    error = worker_error_of(control.handle(m.Tick(), 2.0))
    assert error.rank == 1
    assert "fell silent" in str(error)


def test_lost_contact_everywhere_suspects_the_network_without_waiting() -> None:
    control = running(controller())
    for rank in range(NUM_WORKERS):
        actions = control.handle(failed(rank, m.FailureKind.COLLECTIVE, "Gloo failed"), 0.0)
    assert "network" in str(worker_error_of(actions))


def test_worker_that_never_replied_is_the_silent_one() -> None:
    control = running(controller())
    for rank in (0, 2):
        control.handle(replied(rank, report(1, 1, rank)), 5.0)
    assert control.handle(m.Tick(), 4.9 + HANG_TIMEOUT) == []
    error = worker_error_of(control.handle(m.Tick(), 5.0 + HANG_TIMEOUT))
    assert error.rank == 1


def test_silence_of_all_blames_nobody() -> None:
    control = running(controller())
    error = worker_error_of(control.handle(m.Tick(), HANG_TIMEOUT))
    assert error.rank is None
    assert "All 3 workers fell silent" in str(error)
    assert "hang_timeout_seconds" in str(error)


@pytest.mark.parametrize("state", [State.FORMING, State.LOADING, State.COMPILING])
def test_setting_up_may_take_longer_than_a_chunk(state: State) -> None:
    control = in_state(state)
    assert control.handle(m.Tick(), 2 * HANG_TIMEOUT) == []
    assert state.value in str(worker_error_of(control.handle(m.Tick(), 4 * HANG_TIMEOUT)))


def test_failure_waits_for_an_agreed_chunk_to_reach_the_disk() -> None:
    control = in_state(State.RUNNING)
    control.handle(failed(1, m.FailureKind.DEAD), 0.0)
    control.handle(ready(1), 0.1)
    error = worker_error_of(control.handle(m.Committed(1), 0.2))
    assert "up to step 1 (chunk 1) are committed" in str(error)


def test_failure_waits_no_longer_than_the_triage() -> None:
    control = in_state(State.RUNNING)
    control.handle(failed(1, m.FailureKind.DEAD), 0.0)
    assert worker_error_of(control.handle(m.Tick(), 2.0)).rank == 1


def test_failure_of_the_worker_that_holds_the_arrays_ends_at_once() -> None:
    control = in_state(State.RUNNING)
    assert worker_error_of(control.handle(failed(0, m.FailureKind.DEAD), 0.0)).rank == 0


def test_input_error_is_raised_as_it_is() -> None:
    control = in_state(State.STARTING)
    error = StartError("no finite start")
    assert finish_of(control.handle(failed(1, m.FailureKind.INPUT, error=error), 0.0)) is error


def test_exception_of_a_worker_in_this_process_is_the_cause() -> None:
    control = in_state(State.LOADING)
    origin = KeyError("x")
    error = worker_error_of(control.handle(failed(0, m.FailureKind.APPLICATION, error=origin), 0.0))
    assert error.__cause__ is origin


def test_missing_capacity_is_told_in_the_executors_words() -> None:
    control = in_state(State.ACQUIRING)
    error = finish_of(control.handle(m.CapacityMissing("room for 2"), 0.0))
    assert isinstance(error, CapacityError)
    assert str(error) == "room for 2"


def test_stop_waits_for_an_agreed_chunk_but_not_for_ever() -> None:
    control = in_state(State.RUNNING)
    assert control.handle(m.StopRequested("Ctrl-C"), 0.0) == []
    assert control.handle(m.Tick(), 4.9) == []
    error = finish_of(control.handle(m.Tick(), 5.0))
    assert isinstance(error, Interrupted)
    assert "stopped by Ctrl-C while it was sampling; 0 of 10" in str(error)


def test_stop_drops_the_chunk_in_flight() -> None:
    control = in_state(State.RUNNING)
    control.handle(m.Committed(1), 0.0)
    error = finish_of(control.handle(m.StopRequested("SIGTERM"), 0.0))
    assert "1 of 10 steps are committed" in str(error)


def test_stop_while_stopping_for_a_worker_without_arrays() -> None:
    control = in_state(State.STOPPING)
    assert isinstance(finish_of(control.handle(failed(0, m.FailureKind.DEAD), 0.0)), Interrupted)


def test_messages_of_an_older_generation_are_dropped() -> None:
    control = in_state(State.RUNNING)
    control.generation = 1
    for event in (failed(1, m.FailureKind.DEAD), ready(1), replied(1, report(1, 1, 1, digest="other"))):
        assert control.handle(event, 0.0) == []
    assert control.state is State.RUNNING


def test_chunks_grow_with_what_workers_report() -> None:
    control = Controller(num_workers=1, num_steps=10_000, hang_timeout_seconds=HANG_TIMEOUT)
    control.handle(m.RunRequested(), 0.0)
    control.handle(READY, 0.0)
    for _ in range(3):
        control.handle(replied(0), 0.0)
    (*_, order) = control.handle(replied(0, report(0, 0)), 0.0)
    asked, step = [], 0
    for chunk in range(1, 8):
        assert isinstance(order, m.Advance)
        asked.append(order.num_steps)
        step += order.num_steps
        done = report(chunk, step, num_steps=order.num_steps, seconds=0.04 * order.num_steps)
        (*_, order) = control.handle(replied(0, done), 0.0)
        control.handle(m.Committed(chunk), 0.0)
    # A step takes 40 ms, so 25 of them make a second.
    assert asked == [1, 2, 4, 8, 16, 25, 25]
