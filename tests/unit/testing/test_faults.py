"""Plans of faults can strike as they stand, and each fault strikes once."""

import threading
from pathlib import Path
from typing import Any

import pytest

from distmc.orchestration import session
from distmc.storage import files
from distmc.testing.faults import PHASES, SETUP, STEPPING, WRITING, Fault, Ledger, random_faults
from distmc.testing.injection import injected

NUM_WARMUP, NUM_DRAWS = 100, 400
SIZES = {"num_warmup": NUM_WARMUP, "num_draws": NUM_DRAWS}


@pytest.mark.parametrize("seed", range(20))
def test_random_faults_can_strike(seed: int) -> None:
    plan = random_faults(seed, 30, **SIZES)
    assert len(plan) == 30
    assert plan == random_faults(seed, 30, **SIZES)
    assert plan != random_faults(seed + 1, 30, **SIZES)
    steps = [fault.step for fault in plan if fault.waits_for_step]
    assert steps == sorted(steps)
    assert steps[-1] < NUM_WARMUP + NUM_DRAWS
    for before, fault in zip((None, *plan), plan, strict=False):
        assert fault.kind != "kill" or fault.phase not in WRITING
        if fault.phase in STEPPING:
            assert (fault.phase == "warmup") == (fault.step < NUM_WARMUP)
        if fault.phase in SETUP:
            # Something else made the setup necessary; the same twice in a row would end the run.
            assert before is not None
            assert before.phase in STEPPING
            assert before.kind != fault.kind


def test_all_kinds_and_phases_come_up() -> None:
    faults = [fault for seed in range(30) for fault in random_faults(seed, 50, kinds=tuple(PHASES), **SIZES)]
    assert {fault.kind for fault in faults} == set(PHASES)
    phases = {phase for phases in PHASES.values() for phase in phases}
    assert {fault.phase for fault in faults} == phases - {"record", "finalise"}


@pytest.mark.parametrize(
    ("kind", "phase", "words"),
    [("cut", "load", "cannot strike in `load`"), ("slow", "draws", "needs `seconds`"), ("flood", "draws", "cannot")],
)
def test_faults_that_cannot_strike_are_refused(kind: Any, phase: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Fault(kind=kind, phase=phase)


def test_of_many_only_one_can_claim_a_fault(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    claimed: list[int] = []

    def claim(rank: int) -> None:
        if Ledger(tmp_path / "ledger").claim(3, rank=rank):
            claimed.append(rank)

    threads = [threading.Thread(target=claim, args=(rank,)) for rank in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 1
    assert ledger.has_struck(3)
    assert not ledger.has_struck(2)
    (facts,) = ledger.read().values()
    assert facts["rank"] == claimed[0]
    assert [file.name for file in ledger.path.iterdir()] == ["0003.json"]


def test_nothing_is_injected_afterwards(tmp_path: Path) -> None:
    before = session.run, files._flush_to_disk
    with injected((), tmp_path):
        assert session.run is not before[0]
    assert (session.run, files._flush_to_disk) == before


def test_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    chunk = tmp_path / "chunks" / "000007.nc"
    chunk.parent.mkdir()
    chunk.write_text("before")
    plan = (Fault(kind="full disk", phase="finalise"),)
    with injected(plan, tmp_path / "ledger") as ledger:
        files.write_text(chunk, "after")
        with pytest.raises(files.RunDirectoryError, match=r"posterior\.nc` could not be written: No space left"):
            files.write_text(tmp_path / "posterior.nc", "draws")
        assert ledger.has_struck(0)
        files.write_text(tmp_path / "posterior.nc", "draws")
    assert chunk.read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chunks", "ledger", "posterior.nc"]
