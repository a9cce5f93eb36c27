"""What the progress display says, on a terminal and elsewhere."""

import dataclasses
import io
import time

import pytest
from rich.console import Console

from distmc.orchestration.events import (
    ChunkCommitted,
    Member,
    RunEnded,
    RunEvent,
    SamplingResumed,
    Stage,
    StageBegan,
    WorkersLost,
    WorkersStarted,
)
from distmc.progress import Tally, display
from distmc.sampling.reports import ChunkReport
from distmc.spec import RunSpec
from distmc.types import Phase

SPEC = RunSpec(num_chains=4, num_warmup=100, num_draws=300)


def stage(name: Stage, seconds: float) -> StageBegan:
    return StageBegan(stage=name, seconds=seconds)


def chunk(step: int, seconds: float, phase: Phase, num_divergent: int = 0, num_nonfinite: int = 0) -> ChunkCommitted:
    report = ChunkReport(
        rank=0,
        chunk=1,
        phase=phase,
        step=step,
        num_steps=1,
        digest="",
        seconds=1.0,
        step_size=0.125,
        num_integration_steps=7.0,
        acceptance_rate=0.81,
        num_divergent=num_divergent,
        num_nonfinite=num_nonfinite,
    )
    return ChunkCommitted(report=report, num_steps=400, seconds=seconds)


def tally_of(*events: RunEvent) -> Tally:
    tally = Tally(SPEC)
    for event in events:
        tally.note(event)
    return tally


def test_speed_and_time_left_follow_the_latest_chunks() -> None:
    chunks = [chunk(10 * number, 10.0 + number, "warmup") for number in range(1, 8)]
    tally = tally_of(stage("sampling", 10.0), *chunks)
    assert tally.steps_per_second == pytest.approx(10.0)
    assert tally.seconds_left == pytest.approx(33.0)


def test_no_time_left_is_guessed_from_the_slow_first_steps() -> None:
    # A step of 200 s, then ever faster ones: at the first rate the run would last a day.
    commits = [(1, 200.0), (2, 260.0), (4, 280.0), (8, 288.0), (16, 294.0), (32, 297.0), (64, 300.0)]
    tally = tally_of(stage("sampling", 0.0))
    for step, seconds in commits:
        tally.note(chunk(step, seconds, "warmup"))
        assert tally.seconds_left is None
        assert "left" not in tally.line()
        assert "steps/s" in tally.line()
    for later in range(1, 12):
        tally.note(chunk(64 + 2 * later, 300.0 + later, "warmup"))
    assert tally.seconds_left == pytest.approx((400 - 86) / 2.0)


def test_speed_of_draws_does_not_mix_with_warmup() -> None:
    tally = tally_of(stage("sampling", 0.0), chunk(100, 100.0, "warmup", 3), chunk(200, 110.0, "draws", 1))
    assert tally.steps_per_second == pytest.approx(10.0)
    assert tally.line() == (
        "[0:01:50] draws 200/400 steps · step size 0.125 · 7.0 integration steps · acceptance 0.81 · "
        "1 divergent · 40 draws/s · 0:00:20 left"
    )


def test_what_is_not_finite_is_counted_and_shown_only_where_there_is_any() -> None:
    tally = tally_of(stage("sampling", 0.0), chunk(10, 1.0, "warmup", 5, 4), chunk(20, 2.0, "warmup", 3, 2))
    assert " · 8 divergent · 6 not finite · " in tally.line()
    tally.note(chunk(101, 3.0, "draws", 1))
    assert "not finite" not in tally.line()
    tally.note(chunk(102, 4.0, "draws", 1, 1))
    assert " · 2 divergent · 1 not finite · " in tally.line()


def test_nothing_is_made_up_before_the_first_chunk() -> None:
    tally = tally_of(stage("compiling", 3.0))
    assert tally.line() == "[0:00:03] compiling"
    assert tally.seconds_left is None


STARTED = WorkersStarted(
    generation=0,
    members=(Member(rank=0, worker=0, node="a", pid=1), Member(rank=1, worker=1, node="b", pid=2)),
    reason="the run began",
)


def lines_of(*events: RunEvent) -> list[str]:
    stream = io.StringIO()
    with display(Tally(SPEC), Console(file=stream, width=60)) as on_event:
        for event in events:
            on_event(event)
    return stream.getvalue().splitlines()


def test_workers_that_are_lost_and_come_back_are_told_of() -> None:
    lines = lines_of(
        STARTED,
        stage("sampling", 0.0),
        chunk(1, 1.0, "warmup"),
        WorkersLost(generation=0, cause="Worker 1 of 2 died", rank=1, node="b", seconds=1.5),
        dataclasses.replace(STARTED, generation=1, reason="Worker 1 of 2 died"),
        SamplingResumed(generation=1, standstill_seconds=2.25, steps_repeated=4),
        chunk(400, 90.0, "draws"),
        RunEnded(error=None, seconds=90.0),
    )
    text = "\n".join(lines)
    assert "] generation 0: Worker 1 of 2 died. The run goes on from step 1.\n" in text
    # The reason has just been told.
    assert "] generation 1: 2 workers\n" in text
    assert "sampling again after 2.2 s, up to 4 steps once more" in text
    assert "generation 1 of 2 workers" in text
    assert lines[-1] == "400 steps of 4 chains on 2 workers in 0:01:30, 2.2 s of it lost to 1 change of workers"


def test_workers_that_join_and_leave_are_told_of() -> None:
    lost = "Worker 1 of 2 died"
    reasons = ["more workers have come", lost, f"{lost}; process 7 did not come back", "workers leave"]
    started = [dataclasses.replace(STARTED, generation=number + 1, reason=why) for number, why in enumerate(reasons)]
    died = WorkersLost(generation=1, cause=lost, rank=1, node="b", seconds=1.5)
    lines = lines_of(STARTED, started[0], died, *started[1:])
    assert [line.partition("] ")[2] for line in lines] == [
        "generation 1: 2 workers (more workers have come)",
        "generation 1: Worker 1 of 2 died. The run goes on from step 0.",
        "generation 2: 2 workers",
        "generation 3: 2 workers (process 7 did not come back)",
        "generation 4: 2 workers (workers leave)",
    ]


def test_a_resumed_run_goes_on_counting_generations_and_has_lost_nothing_by_it() -> None:
    resumed = dataclasses.replace(STARTED, generation=3, reason="the run was resumed")
    lines = lines_of(resumed, RunEnded(error=None, seconds=90.0))
    assert lines[0].endswith("generation 3: 2 workers (the run was resumed)")
    assert lines[-1] == "0 steps of 4 chains on 2 workers in 0:01:30"


def test_a_resumed_run_counts_its_own_steps_at_the_end() -> None:
    lines = lines_of(STARTED, chunk(301, 1.0, "draws"), chunk(400, 90.0, "draws"), RunEnded(error=None, seconds=90.0))
    assert lines[-1] == "100 steps of 4 chains on 2 workers in 0:01:30"


def test_plain_lines_come_seldom_and_close_with_the_total() -> None:
    lines = lines_of(
        stage("starting workers", 0.0),
        STARTED,
        stage("sampling", 1.0),
        *(chunk(step, 1.0 + step / 8, "warmup") for step in range(1, 101)),
        chunk(400, 17.0, "draws"),
        stage("saving", 17.0),
        RunEnded(error=None, seconds=18.0),
    )
    assert [line.split("·")[0].strip() for line in lines] == [
        "[0:00:00] starting workers",
        "[0:00:01] first steps",
        "[0:00:01] warm-up 1/400 steps",
        "[0:00:06] warm-up 41/400 steps",
        "[0:00:11] warm-up 81/400 steps",
        "[0:00:17] draws 400/400 steps",
        "400 steps of 4 chains on 2 workers in 0:00:18",
    ]


def test_failed_run_is_not_announced_as_done() -> None:
    lines = lines_of(stage("compiling", 0.0), RunEnded(error=RuntimeError("words"), seconds=1.0))
    assert lines == ["[0:00:00] compiling"]


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_shows_bar_and_facts(width: int) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None)
    with display(Tally(SPEC), console) as on_event:
        on_event(stage("sampling", 0.0))
        on_event(chunk(200, 10.0, "draws"))
        on_event(chunk(300, 15.0, "draws"))
        # What is shown follows the events by a fraction of a second.
        time.sleep(0.3)
        on_event(RunEnded(error=None, seconds=20.0))
    shown = stream.getvalue()
    for words in ("300/400 steps", "step size 0.125", "draws/s", "0:00:05 left"):
        assert words in shown
    # A chunk of the test has one step, so the first is taken for the 200th of a run that was resumed.
    assert "101 steps of 4 chains on 0 workers in 0:00:20" in shown
