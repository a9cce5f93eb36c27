"""A run loses workers and goes on: who is blamed, who is let go, what is computed again, and when it gives up."""

import pytest
from control_scripts import (
    HANG_TIMEOUT,
    MEMBERS,
    NUM_STEPS,
    all_reply,
    controller,
    failed,
    finish_of,
    in_state,
    ready,
    replied,
    report,
    running,
    sampling,
    up,
)

from distmc.errors import CapacityError, DriftError, WorkerError
from distmc.orchestration import messages as m
from distmc.orchestration.controller import Controller
from distmc.orchestration.events import SamplingResumed, WorkersLost, WorkersStarted
from distmc.orchestration.states import State
from distmc.types import Checkpoint

Kind = m.FailureKind


def lost_of(actions: list[m.Action]) -> WorkersLost:
    """Return what is told of the generation that failed."""
    (lost,) = [act.event for act in actions if isinstance(act, m.Tell) and isinstance(act.event, WorkersLost)]
    return lost


def started_of(actions: list[m.Action]) -> WorkersStarted:
    """Return what is told of the generation that is formed."""
    (started,) = [act.event for act in actions if isinstance(act, m.Tell) and isinstance(act.event, WorkersStarted)]
    return started


def released(actions: list[m.Action]) -> list[int]:
    return [worker for action in actions if isinstance(action, m.Release) for worker in action.workers]


def commit(control: Controller, chunk: int, now: float = 0.0) -> list[m.Action]:
    control.handle(ready(chunk, control.generation), now)
    return control.handle(m.Committed(chunk), now)


def test_run_goes_on_from_the_last_chunk_on_disk() -> None:
    control = running(controller(fewest=2))
    all_reply(control, chunk=1, step=1)
    commit(control, 1)
    actions = control.handle(failed(1, Kind.DEAD, "killed"), 5.0)
    assert released(actions) == [MEMBERS[1].worker]
    assert control.generation == 1
    # Another process may take the place of the lost one, but nobody waits for it for long.
    assert control.handle(m.Tick(), 8.9) == []
    meet = control.handle(m.Tick(), 9.0)[-1]
    assert isinstance(meet, m.Meet)
    assert [member.worker for member in meet.members] == [MEMBERS[0].worker, MEMBERS[2].worker]
    for _ in range(4):
        (*_, order) = all_reply(control)
    assert isinstance(order, m.Start)
    assert order.checkpoint is not None
    assert (order.checkpoint.chunk, order.checkpoint.step) == (1, 1)
    resumed, _, _ = all_reply(control, chunk=1, step=1, now=10.5)
    # The chunk of two steps that was under way is made again.
    assert resumed == m.Tell(SamplingResumed(generation=1, standstill_seconds=5.5, steps_repeated=2))


def test_two_chunks_are_lost_at_most() -> None:
    control = running(controller(fewest=2))
    all_reply(control, chunk=1, step=1)
    # The next has two steps. It is done as well before the first is on disk, so that no third is ordered.
    all_reply(control, chunk=2, step=3)
    control.handle(failed(1, Kind.DEAD), 1.0)
    control.handle(m.Tick(), 3.0)
    control.handle(up(20), 4.0)
    for _ in range(4):
        all_reply(control)
    resumed, _, _ = all_reply(control, now=5.0, chunk=0)
    assert resumed == m.Tell(SamplingResumed(generation=1, standstill_seconds=4.0, steps_repeated=3))


def test_run_waits_for_as_many_workers_as_it_needs() -> None:
    control = running(controller())
    actions = control.handle(failed(1, Kind.DEAD), 0.0)
    assert control.state is State.ACQUIRING
    assert actions[-1] == m.Acquire()
    (*_, meet) = control.handle(up(99), 3.0)
    assert isinstance(meet, m.Meet)
    assert {member.worker for member in meet.members} == {MEMBERS[0].worker, MEMBERS[2].worker, 99}


def test_capacity_that_never_comes_back_ends_the_run_and_says_what_is_kept() -> None:
    control = running(controller())
    all_reply(control, chunk=1, step=1)
    commit(control, 1)
    control.handle(failed(1, Kind.DEAD), 0.0)
    error = finish_of(control.handle(m.CapacityMissing("no room."), 1.0))
    assert isinstance(error, CapacityError)
    assert "up to step 1 (chunk 1) are committed and kept" in str(error)


def test_what_a_resumed_run_had_before_is_kept_though_nothing_new_was_committed() -> None:
    before = Checkpoint(chunk=4, step=7, arrays={})
    control = running(
        Controller(num_workers=(3, 3), num_steps=NUM_STEPS, hang_timeout_seconds=HANG_TIMEOUT, checkpoint=before)
    )
    for generation in range(2):
        actions = control.handle(failed(1, Kind.APPLICATION, "words", generation=generation), 0.0)
        if generation == 0:
            sampling(control)
    assert "All steps up to step 7 (chunk 4) are committed and kept." in str(finish_of(actions))


def test_worker_that_raised_stays_and_is_asked_once_more() -> None:
    control = running(controller())
    actions = control.handle(failed(1, Kind.APPLICATION, "words"), 0.0)
    assert released(actions) == []
    assert lost_of(actions).rank == 1
    sampling(control)
    error = finish_of(control.handle(failed(2, Kind.APPLICATION, "the same words", generation=1), 0.0))
    assert isinstance(error, WorkerError)
    assert "the same words" in str(error)


def lose_one_and_hear_of_another(chunk_seconds: float) -> Controller:
    """Let worker 1 be replaced after it is lost; worker 0 is told, of worker 2 nothing is heard from then on."""
    control = running(controller(fewest=2))
    for rank in range(3):
        control.handle(replied(rank, report(1, 1, rank, seconds=chunk_seconds)), 10.0)
    commit(control, 1, 10.0)
    control.handle(failed(1, Kind.DEAD, "killed"), 10.0)
    control.handle(up(20), 11.0)
    assert control.state is State.MEETING
    for rank, member in enumerate(control.members):
        if member.worker != MEMBERS[2].worker:
            control.handle(replied(rank, generation=1), 12.0)
    return control


def test_worker_stuck_in_an_exchange_that_was_broken_off_is_replaced() -> None:
    control = lose_one_and_hear_of_another(chunk_seconds=1.0)
    assert control.handle(m.Tick(), 16.9) == []
    actions = control.handle(m.Tick(), 17.0)
    assert released(actions) == [MEMBERS[2].worker]
    started, _, _ = control.handle(up(21), 18.0)
    assert isinstance(started, m.Tell)
    assert isinstance(started.event, WorkersStarted)
    # The root cause comes first.
    cause, addition = started.event.reason.split("; ")
    assert cause.startswith("Worker 1 of 3 (node 10.0.0.1, process 101) died")
    assert addition.startswith("process 102 (node 10.0.0.2) did not come back")
    # Nobody is taken for stuck a second time, and it counts as no other failure.
    control.handle(m.Tick(), 18.0 + 0.9 * HANG_TIMEOUT)
    assert control.generation == 2
    for _ in range(4):
        all_reply(control)
    resumed, _, _ = all_reply(control, chunk=1, step=1, now=20.0)
    assert resumed == m.Tell(SamplingResumed(generation=2, standstill_seconds=10.0, steps_repeated=1))


def test_worker_that_may_still_compute_is_not_taken_for_stuck() -> None:
    control = lose_one_and_hear_of_another(chunk_seconds=8.0)
    assert control.handle(m.Tick(), 27.9) == []
    assert released(control.handle(m.Tick(), 28.0)) == [MEMBERS[2].worker]


def test_worker_that_still_compiles_is_not_taken_for_stuck() -> None:
    control = in_state(State.COMPILING)
    control.handle(failed(1, Kind.APPLICATION), 0.0)
    assert control.state is State.MEETING
    assert control.handle(m.Tick(), 0.9 * HANG_TIMEOUT) == []


def test_failures_are_forgiven_once_a_chunk_is_committed() -> None:
    control = running(controller())
    for generation in range(5):
        all_reply(control, chunk=generation + 1, step=generation + 1)
        commit(control, generation + 1)
        control.handle(failed(1, Kind.APPLICATION, generation=generation), 0.0)
        sampling(control, chunk=generation + 1, step=generation + 1)
    assert control.generation == 5


def test_deaths_without_progress_end_the_run() -> None:
    control = running(controller(fewest=1))
    for generation in range(3):
        control.handle(up(20 + generation), 0.0)
        control.handle(failed(0, Kind.DEAD, generation=generation), 0.0)
        sampling(control)
    error = finish_of(control.handle(failed(0, Kind.DEAD, "memory", generation=3), 0.0))
    assert isinstance(error, WorkerError)
    assert "memory" in str(error)


def test_workers_that_die_with_their_node_are_one_failure() -> None:
    control = controller(fewest=1, most=5)
    control.handle(m.RunRequested(), 0.0)
    for worker in range(5):
        control.handle(up(worker), 0.0)
    sampling(control)
    control.handle(failed(1, Kind.DEAD), 1.0)
    for worker in range(1, 5):
        # Their failures belong to the generation before, but they must not be called to the next meeting.
        control.handle(failed(worker, Kind.DEAD), 1.0)
        released_now = released(control.handle(m.WorkerGone(worker), 1.0))
        assert released_now == ([] if worker == 1 else [worker])
    meet = control.handle(m.Tick(), 5.0)[-1]
    assert isinstance(meet, m.Meet)
    assert [member.worker for member in meet.members] == [0]
    assert control.generation == 1
    sampling(control, now=5.0)


def test_death_of_a_worker_with_a_place_is_told_by_its_failure() -> None:
    control = running(controller())
    assert control.handle(m.WorkerGone(MEMBERS[1].worker), 0.0) == []


def test_newcomer_that_dies_is_replaced() -> None:
    control = running(controller())
    control.handle(up(50), 0.0)
    assert control.handle(m.WorkerGone(50), 0.0) == [m.Release((50,)), m.Acquire()]


def test_busy_worker_is_not_blamed_for_contact_that_others_lost() -> None:
    control = running(controller(fewest=2))
    control.handle(failed(0, Kind.COLLECTIVE, "Gloo failed"), 1.0)
    control.handle(failed(1, Kind.COLLECTIVE, "Gloo failed"), 1.0)
    actions = control.handle(m.Tick(), 3.0)
    assert "lost contact" in lost_of(actions).cause
    assert released(actions) == []


@pytest.mark.parametrize("kind", [Kind.APPLICATION, Kind.DRIFT])
def test_run_goes_on_without_a_worker_that_fails_the_same_way_again(kind: m.FailureKind) -> None:
    control = running(controller(fewest=2))

    def fail(now: float) -> list[m.Action]:
        if kind is Kind.APPLICATION:
            return control.handle(failed(1, kind, "no module", generation=control.generation), now)
        digests = ["same", "odd", "same"]
        for rank, digest in enumerate(digests):
            value = report(1, 1, rank, digest=digest)
            actions = control.handle(replied(rank, value, control.generation), now)
        return actions

    fail(1.0)
    sampling(control, now=1.0)
    actions = fail(2.0)
    # The worker stays where it is, without a place, so that nobody is started in its stead, or waited for.
    assert released(actions) == []
    assert m.Acquire(besides=(MEMBERS[1].worker,)) in actions
    meet = actions[-1]
    assert isinstance(meet, m.Meet)
    assert MEMBERS[1].worker not in [member.worker for member in meet.members]
    assert len(meet.members) == 2


def test_machines_that_are_taken_away_do_not_count() -> None:
    control = running(controller(fewest=1))
    for generation in range(10):
        control.handle(up(20 + generation), 0.0)
        control.handle(failed(0, Kind.DEAD, generation=generation, is_preemption=True), 0.0)
        sampling(control)
    assert control.generation == 10


def test_death_explains_lost_contact_that_was_heard_of_before() -> None:
    control = running(controller())
    assert control.handle(failed(0, Kind.COLLECTIVE, "Gloo failed"), 0.0) == []
    assert control.handle(failed(2, Kind.COLLECTIVE, "Gloo failed"), 0.5) == []
    actions = control.handle(failed(1, Kind.DEAD, "killed"), 1.0)
    lost = lost_of(actions)
    assert (lost.rank, lost.node, lost.generation) == (1, MEMBERS[1].node, 0)
    assert "killed" in lost.cause
    assert "process 101" in lost.cause
    assert "Gloo" not in lost.cause
    assert released(actions) == [MEMBERS[1].worker]


def test_worker_that_is_silent_when_all_others_lost_contact_is_the_cause() -> None:
    control = running(controller())
    # They have waited for it for four fifths of the limit.
    for rank in (0, 2):
        control.handle(failed(rank, Kind.COLLECTIVE), 24.0)
    assert control.handle(m.Tick(), 25.9) == []
    actions = control.handle(m.Tick(), 26.0)
    assert lost_of(actions).rank == 1
    assert "fell silent" in lost_of(actions).cause
    assert released(actions) == [MEMBERS[1].worker]


def test_lost_contact_everywhere_keeps_all_workers() -> None:
    control = running(controller())
    for rank in range(3):
        actions = control.handle(failed(rank, Kind.COLLECTIVE, "Gloo failed"), 0.0)
    assert released(actions) == []
    assert control.state is State.MEETING


def test_lost_contact_again_and_again_suspects_the_network() -> None:
    control = running(controller())
    for generation in range(4):
        for rank in range(3):
            actions = control.handle(failed(rank, Kind.COLLECTIVE, generation=generation), 0.0)
        if generation < 3:
            sampling(control)
    assert "network" in str(finish_of(actions))


@pytest.mark.parametrize("state", [State.FORMING, State.STARTING])
def test_workers_that_may_be_blocked_by_the_lost_one_are_let_go(state: State) -> None:
    control = in_state(state)
    control.handle(replied(0), 0.0)
    assert control.handle(failed(1, Kind.DEAD), 0.0) == []
    actions = control.handle(m.Tick(), 2.0)
    assert lost_of(actions).rank == 1
    assert released(actions) == [MEMBERS[1].worker, MEMBERS[2].worker]


def test_worker_that_never_replied_is_the_silent_one() -> None:
    control = running(controller())
    for rank in (0, 2):
        control.handle(replied(rank, report(1, 1, rank)), 5.0)
    assert control.handle(m.Tick(), 4.9 + HANG_TIMEOUT) == []
    assert lost_of(control.handle(m.Tick(), 5.0 + HANG_TIMEOUT)).rank == 1


def test_silence_of_all_blames_nobody_and_replaces_everybody() -> None:
    control = running(controller())
    actions = control.handle(m.Tick(), HANG_TIMEOUT)
    assert lost_of(actions).rank is None
    assert lost_of(actions).cause == "All 3 workers fell silent while the run was sampling: no answer for 30 s"
    assert released(actions) == [member.worker for member in MEMBERS]


def test_agreed_chunk_reaches_the_disk_before_the_run_goes_on() -> None:
    control = in_state(State.RUNNING)
    control.handle(failed(1, Kind.DEAD), 0.0)
    control.handle(ready(1), 0.1)
    actions = control.handle(m.Committed(1), 0.2)
    assert lost_of(actions).rank == 1
    assert control.pipeline.committed_step == 1


def test_agreed_chunk_is_fetched_from_another_worker_if_the_first_is_lost() -> None:
    control = in_state(State.RUNNING)
    assert control.handle(failed(0, Kind.DEAD), 0.0) == [m.Collect(0, 1, 1)]
    control.handle(ready(1), 0.1)
    lost_of(control.handle(m.Committed(1), 0.2))
    assert control.pipeline.committed_step == 1


@pytest.mark.parametrize("event", [failed(0, Kind.DEAD), m.StopRequested("Ctrl-C")], ids=["loss", "stop"])
def test_run_whose_last_chunk_gets_to_disk_is_done(event: m.Event) -> None:
    control = in_state(State.SAVING)
    control.handle(event, 0.0)
    assert control.state in (State.TRIAGE, State.STOPPING)
    control.handle(ready(1), 0.0)
    assert finish_of(control.handle(m.Committed(1), 0.0)) is None
    assert control.state is State.DONE


def test_only_the_worker_that_sends_a_chunk_is_blamed_where_nobody_else_owes_an_answer() -> None:
    control = running(controller())
    # The disk is behind by two chunks, so no other is ordered.
    for chunk in (1, 2):
        all_reply(control, chunk=chunk, step=chunk)
    actions = control.handle(m.Tick(), HANG_TIMEOUT)
    assert lost_of(actions).rank == 0
    assert released(actions) == [MEMBERS[0].worker]


def test_agreed_chunk_is_waited_for_no_longer_than_the_triage() -> None:
    control = in_state(State.RUNNING)
    control.handle(failed(1, Kind.DEAD), 0.0)
    assert lost_of(control.handle(m.Tick(), 2.0)).rank == 1
    assert control.pipeline.committed_step == 0
    assert len(control.pipeline) == 0


def test_processes_that_cannot_serve_twice_are_all_replaced() -> None:
    control = Controller(num_workers=(1, 1), num_steps=NUM_STEPS, hang_timeout_seconds=9.0, keeps_processes=False)
    control.handle(m.RunRequested(), 0.0)
    control.handle(up(5), 0.0)
    sampling(control)
    actions = control.handle(failed(0, Kind.APPLICATION), 0.0)
    assert released(actions) == [5]
    assert control.state is State.ACQUIRING


# Drift ----------------------------------------------------------------------------------------------------------------


def drift(control: Controller, odd: tuple[int, ...] = (1,)) -> list[m.Action]:
    for rank in range(3):
        digest = f"other {rank}" if rank in odd else "same"
        actions = control.handle(replied(rank, report(1, 1, rank, digest=digest), control.generation), 0.0)
    return actions


def test_replicas_that_differ_roll_back_once() -> None:
    control = running(controller())
    actions = drift(control)
    lost = lost_of(actions)
    assert lost.rank == 1
    assert "differs from the others" in lost.cause
    # In what they differ is kept, though the run goes on.
    assert lost.cause.endswith("(chunk 1); their machines differ in: processor kind 1 against kind 0")
    assert started_of(actions).reason == lost.cause
    sampling(control)
    error = finish_of(drift(control))
    assert isinstance(error, DriftError)
    assert (error.rank, error.node) == (1, MEMBERS[1].node)
    assert "No steps had been committed" in str(error)
    assert "processor kind 1 against kind 0" in str(error)


def test_nothing_is_said_of_machines_that_do_not_differ() -> None:
    control = controller()
    control.handle(m.RunRequested(), 0.0)
    for worker in range(3):
        control.handle(up(worker, facts={"processor": "kind 0"}), 0.0)
    sampling(control)
    assert lost_of(drift(control)).cause.endswith("no longer the same to the bit after step 1 (chunk 1)")


def test_replicas_without_a_majority_blame_nobody() -> None:
    control = running(controller())
    lost = lost_of(drift(control, (0, 1, 2)))
    assert lost.rank is None
    assert lost.cause.startswith("The workers do not agree")
    sampling(control)
    error = finish_of(drift(control, (0, 1, 2)))
    assert isinstance(error, DriftError)
    assert error.rank is None
    assert "no majority" in str(error)


# Joining and leaving --------------------------------------------------------------------------------------------------


def step_on(control: Controller, first: int, last: int, now: float) -> list[m.Action]:
    """Let chunks of one slow step each be computed and committed."""
    actions: list[m.Action] = []
    for step in range(first, last + 1):
        for rank in range(len(control.members)):
            actions = control.handle(replied(rank, report(step, step, rank, seconds=9.0), control.generation), now)
        actions = [*actions, *commit(control, step, now)]
    return actions


def test_newcomers_join_at_the_end_of_a_chunk_if_it_pays() -> None:
    control = controller(fewest=1)
    control.handle(m.RunRequested(), 0.0)
    control.handle(up(0), 0.0)
    assert control.handle(m.Tick(), 4.9) == []
    control.handle(m.Tick(), 5.0)
    sampling(control, now=6.0)
    control.handle(up(1), 7.0)
    control.handle(up(2), 7.0)
    # Too soon after the last change.
    step_on(control, 1, 1, now=8.0)
    assert control.generation == 0
    actions = step_on(control, 2, 2, now=17.0)
    (meet,) = [action for action in actions if isinstance(action, m.Meet)]
    assert [member.worker for member in meet.members] == [0, 1, 2]
    assert started_of(actions).reason == "more workers have come"
    # Nothing is lost: they go on from the chunk that was just computed.
    assert control.pipeline.committed_step == 2


@pytest.mark.parametrize(("step_seconds", "is_worth_it"), [(0.0, False), (7.0, False), (9.0, True)])
def test_newcomers_stay_out_near_the_end(step_seconds: float, is_worth_it: bool) -> None:
    control = controller(fewest=1)
    control.handle(m.RunRequested(), 0.0)
    control.handle(up(0), 0.0)
    control.handle(m.Tick(), 5.0)
    # To form a generation takes four seconds.
    sampling(control, now=9.0)
    control.handle(up(1), 10.0)
    # A second worker saves half of the last step.
    control.handle(replied(0, report(1, NUM_STEPS - 1, seconds=step_seconds)), 90.0)
    commit(control, 1, 90.0)
    assert control.generation == int(is_worth_it)


def test_workers_leave_before_their_nodes_do() -> None:
    control = running(controller(fewest=2))
    leaving = MEMBERS[0].worker
    assert control.handle(m.WorkersLeaving(frozenset({leaving})), 0.0) == [m.Acquire(besides=(leaving,))]
    actions = step_on(control, 1, 1, now=1.0)
    assert released(actions) == [MEMBERS[0].worker]
    assert [member.worker for member in control.members] == [MEMBERS[1].worker, MEMBERS[2].worker]
    assert control.pipeline.committed_step == 1


def test_worker_that_cannot_be_spared_stays_until_another_comes() -> None:
    control = running(controller())
    control.handle(m.WorkersLeaving(frozenset({MEMBERS[0].worker})), 0.0)
    step_on(control, 1, 1, now=1.0)
    assert control.generation == 0
    control.handle(up(50), 1.0)
    step_on(control, 2, 2, now=2.0)
    assert {member.worker for member in control.members} == {MEMBERS[1].worker, MEMBERS[2].worker, 50}
