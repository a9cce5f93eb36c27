"""The picture of the controller's states shows every step that the controller takes."""

import pathlib
from typing import Any

import pytest
from control_scripts import HANG_TIMEOUT, all_reply, failed, in_state, ready, up

from distmc.errors import StartError
from distmc.orchestration import messages as m
from distmc.orchestration.states import State

SCRIPT = pathlib.Path(__file__).parents[3] / "docs" / "images" / "draw_states.py"
LATE = 5 * HANG_TIMEOUT
EVENTS: list[tuple[m.Event, float]] = [
    (m.RunRequested(), 0.0),
    (m.StopRequested("Ctrl-C"), 0.0),
    (m.Tick(), LATE),
    (m.CapacityMissing("no room"), 0.0),
    (up(99), 0.0),
    (m.WorkersLeaving(frozenset({11})), 0.0),
    (ready(1), 0.0),
    (m.Committed(1), 0.0),
    *((failed(1, kind, error=StartError("words")), 0.0) for kind in m.FailureKind if kind is not m.FailureKind.DRIFT),
]
HAS_ORDERS = {State.MEETING, State.FORMING, State.LOADING, State.COMPILING, State.STARTING, State.RUNNING}


@pytest.fixture(scope="module")
def follows() -> set[tuple[State, State]]:
    variables: dict[str, Any] = {"__name__": "draw_states", "__file__": str(SCRIPT)}
    exec(compile(SCRIPT.read_text(encoding="utf-8"), str(SCRIPT), "exec"), variables)
    found: set[tuple[State, State]] = variables["FOLLOWS"]
    return found


def reachable(before: State, event: m.Event | None, follows: set[tuple[State, State]]) -> set[State]:
    """Return the states that one event may lead to, since some take no time; only a failure passes through triage."""
    is_failure = isinstance(event, m.WorkerFailed | m.Tick)
    passing = {State.TRIAGE, State.ACQUIRING} if is_failure else {State.ACQUIRING, State.REGROUPING, State.STOPPING}
    arrows = follows if isinstance(event, m.CapacityMissing) else follows - {(State.ACQUIRING, State.FAILED)}
    reached, waiting = {before}, [before]
    while waiting:
        state = waiting.pop()
        for after in {after for first, after in arrows if first is state} - reached:
            reached.add(after)
            waiting += [after] if after in passing else []
    return reached


@pytest.mark.parametrize("before", State)
def test_steps_of_the_controller_are_in_the_picture(before: State, follows: set[tuple[State, State]]) -> None:
    taken = set()
    for event, now in EVENTS:
        control = in_state(before)
        control.handle(event, now)
        taken.add(control.state)
        assert control.state in reachable(before, event, follows), event
    if before in HAS_ORDERS:
        control = in_state(before)
        all_reply(control, chunk=1, step=1)
        taken.add(control.state)
        assert control.state in reachable(before, None, follows)
    assert (len(taken) == 1) == (before in {State.DONE, State.FAILED, State.CANCELLED})
