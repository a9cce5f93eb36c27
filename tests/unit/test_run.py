"""What a run notes of itself, and what it tells."""

from pathlib import Path

import pytest

from distmc.orchestration.events import Member, RunEvent, SamplingResumed, WorkersLost, WorkersStarted
from distmc.run import _Ledger
from distmc.spec import RunSpec
from distmc.storage import Layout, RunDirectory, RunRecord

MEMBERS = (Member(rank=0, worker=0, node="a", pid=1),)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    record = RunRecord(spec=RunSpec(), model_fingerprint="", data_fingerprint="", layout=Layout(shapes={"mean": ()}))
    return RunDirectory.create(tmp_path / "run", record)


def session() -> list[RunEvent]:
    """Return what a session tells that begins, loses its workers and goes on."""
    return [
        WorkersStarted(generation=0, members=MEMBERS, reason="began"),
        WorkersLost(generation=0, cause="Worker 0 died", rank=0, node="a", seconds=1.0),
        WorkersStarted(generation=1, members=MEMBERS, reason="Worker 0 died"),
        SamplingResumed(generation=1, standstill_seconds=2.0, steps_repeated=3),
    ]


def test_generations_are_told_with_the_numbers_that_run_json_has(directory: RunDirectory) -> None:
    for first in (0, 2):
        told: list[RunEvent] = []
        tell = _Ledger(directory, RunSpec(), None).telling(told.append)
        for event in session():
            tell(event)
        assert [getattr(event, "generation", None) for event in told] == [first, first, first + 1, first + 1]
    recorded = directory.read_record().generations
    assert [generation.number for generation in recorded] == [0, 1, 2, 3]
    assert [generation.steps_repeated for generation in recorded] == [0, 3, 0, 3]
