"""A run whose process was killed does not pass for one that goes on."""

import contextlib
import dataclasses
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distmc import open_run
from distmc.errors import RunDirectoryError
from distmc.storage import RunDirectory, RunRecord

WRITE_FOREVER = """
import sys, time
from distmc.storage import RunDirectory
with RunDirectory.open(sys.argv[1]).writing():
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other_process(run: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    """Return a process that writes `run`."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, run.path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_a_run_goes_on_while_its_process_lives_and_is_interrupted_once_that_is_killed(
    run: RunDirectory, write_steps: Callable[..., None], other_process: subprocess.Popen[str]
) -> None:
    write_steps(run, 10, 14)
    assert run.read_record().status == "running"
    assert open_run(run.path).attrs["status"] == "running"
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert json.loads((run.path / "run.json").read_text())["status"] == "running"
    assert run.read_record().status == "interrupted"
    assert open_run(run.path).attrs["status"] == "interrupted"


def test_two_processes_do_not_write_one_run(run: RunDirectory, other_process: subprocess.Popen[str]) -> None:
    with pytest.raises(RunDirectoryError, match="Another process is writing"), run.writing():
        pass
    assert run.read_record().status == "running"
    other_process.kill()
    other_process.wait()
    with run.writing():
        assert run.read_record().status == "running"


def test_the_lock_is_gone_when_writing_ends_and_the_run_says_so(run: RunDirectory) -> None:
    before = sorted(run.path.iterdir())
    with contextlib.suppress(ZeroDivisionError), run.writing():
        assert run.read_record().status == "running"
        run.update(status="failed")
        raise ZeroDivisionError
    assert sorted(run.path.iterdir()) == before


def test_a_run_that_could_not_say_that_it_ended_is_interrupted(run: RunDirectory) -> None:
    with contextlib.suppress(ZeroDivisionError), run.writing():
        raise ZeroDivisionError
    assert json.loads((run.path / "run.json").read_text())["status"] == "running"
    assert run.read_record().status == "interrupted"
    # Nor does it pass for running while nobody writes it any more, after it could not be taken up.
    with contextlib.suppress(ZeroDivisionError), run.writing():
        raise ZeroDivisionError
    assert run.read_record().status == "interrupted"


def test_a_run_without_a_lock_is_not_judged(run: RunDirectory) -> None:
    """Its process may be about to make it; and another machine may not see it yet."""
    assert run.read_record().status == "running"


def test_an_empty_run_that_could_not_say_that_it_ended_leaves_nothing(run: RunDirectory) -> None:
    with contextlib.suppress(ZeroDivisionError), run.writing():
        raise ZeroDivisionError
    assert run.discard_if_empty()
    assert not run.path.exists()


@pytest.fixture
def cut_off(run: RunDirectory) -> RunDirectory:
    """Return `run` as a killed process leaves it."""
    (run.path / "run.lock").write_text(socket.gethostname())
    return run


def test_a_lock_of_another_machine_is_not_judged(cut_off: RunDirectory) -> None:
    assert cut_off.read_record().status == "interrupted"
    (cut_off.path / "run.lock").write_text("another machine")
    assert cut_off.read_record().status == "running"


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_a_run_that_ended_stays_what_it_was(cut_off: RunDirectory, status: str) -> None:
    cut_off.write_record(dataclasses.replace(cut_off.read_record(), status=status))
    assert cut_off.read_record().status == status


def test_a_new_run_at_the_path_of_a_killed_one_is_told_so(cut_off: RunDirectory, record: RunRecord) -> None:
    with pytest.raises(RunDirectoryError, match="status 'interrupted'"):
        RunDirectory.create(cut_off.path, record)


def test_a_lock_that_cannot_be_written_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"run\.lock` could not be written: No such file"):
        RunDirectory(tmp_path / "none").writing().__enter__()
