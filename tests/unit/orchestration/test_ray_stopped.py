"""A process that is stopped is killed; one that runs is left to whoever told it to end."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("ray")

from distmc.orchestration.ray_stopped import _kill_if_stopped

pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="states are read from /proc")


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        yield child
        child.kill()


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    while pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)


def test_stopped_process_is_killed(process: "subprocess.Popen[bytes]") -> None:
    stop(process.pid)
    _kill_if_stopped(process.pid)
    assert process.wait(timeout=10) == -signal.SIGKILL


def test_running_process_is_left_alone(process: "subprocess.Popen[bytes]") -> None:
    _kill_if_stopped(process.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)


def test_process_that_is_gone_is_no_error(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    _kill_if_stopped(process.pid)
