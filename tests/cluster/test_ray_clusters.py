"""Runs that start a Ray cluster take it down again, however they end; runs that find one leave it alone."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import faulty
import pytest

from distmc.errors import SpecError
from distmc.orchestration.session import run
from distmc.spec import Ray

ray = pytest.importorskip("ray")

SCRIPT = pathlib.Path(__file__).with_name("small_run.py")
ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def started(
    num_workers: int, num_draws: int, address: str = "local", **environment: str
) -> Iterator["subprocess.Popen[str]"]:
    """Start a run in a process group of its own, as a shell would."""
    path = os.pathsep.join([str(ROOT), str(SCRIPT.parent)])
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(num_workers), str(num_draws), address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_chunks(process: "subprocess.Popen[str]", count: int) -> list[str]:
    """Return the first lines of what the run prints, up to the commit of its chunk `count`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        count -= line.startswith("step")
        if not count:
            return lines
    raise AssertionError(f"the run ended early: {lines}")


def test_run_says_nothing_itself_and_leaves_nothing(process_tree: Any) -> None:
    with started(2, 40) as process:
        lines = read_chunks(process, 1)
        below = process_tree.descendants(process.pid)
        out, err = process.communicate(timeout=60)
    assert len(below) > 2
    assert process.returncode == 0
    assert err == ""
    lines += out.splitlines()
    assert all(line.startswith(("pids", "step")) for line in lines), lines
    assert lines[-1] == "step 60"
    assert process_tree.wait_until_gone(below, 10.0) == set()


def test_ctrl_c_reaches_every_process_and_only_stops_the_run(process_tree: Any) -> None:
    with started(2, 100_000) as process:
        lines = read_chunks(process, 7)
        below = process_tree.descendants(process.pid)
        # A terminal sends Ctrl-C to the whole process group, Ray's processes included.
        os.killpg(process.pid, signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 20.0
    assert process.returncode == 130
    assert err == ""
    *lines, verdict = [*lines, *out.splitlines()]
    last_step = lines[-1].removeprefix("step ")
    assert verdict.startswith("Interrupted: The run was stopped by Ctrl-C while it was sampling")
    assert f" {last_step} of 100020 steps are committed" in verdict
    assert process_tree.wait_until_gone(below, 10.0) == set()


def test_workers_go_when_the_driver_is_killed(process_tree: Any) -> None:
    with started(2, 100_000) as process:
        pids = read_chunks(process, 7)[0].split()[1:]
        process.kill()
    assert len(pids) == 2
    assert process_tree.wait_until_gone(set(map(int, pids)), 15.0) == set()


def test_more_workers_than_cores_are_refused_before_anything_starts() -> None:
    too_many = (os.cpu_count() or 1) + 1
    began = time.monotonic()
    with started(too_many, 40) as process:
        out, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 15.0
    assert process.returncode == 4
    assert f"CapacityError: `num_workers={too_many}` with 1 CPU each do not fit" in out
    assert "pids" not in out


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("how", ["address", "environment"])
def test_cluster_that_was_there_is_used_and_left_alone(how: str, process_tree: Any) -> None:
    there = ray.get_runtime_context().gcs_address
    given = {"address": there} if how == "address" else {"address": "", "RAY_ADDRESS": there}
    # Three workers need more cores than a cluster started by the run itself could have here.
    with started(3, 40, **given) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    lines = out.splitlines()
    assert lines[-1] == "step 60"
    pids = set(map(int, lines[0].split()[1:]))
    assert process_tree.wait_until_gone(pids, 10.0) == set()
    assert ray.get(ray.remote(lambda: "alive").remote()) == "alive"


def test_cluster_that_is_not_there_is_told_soon() -> None:
    began = time.monotonic()
    with started(2, 40, address="127.0.0.1:1") as process:
        out, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 15.0
    assert process.returncode == 4
    assert "CapacityError: No Ray cluster answers at `127.0.0.1:1`" in out


@pytest.mark.usefixtures("ray_cluster")
def test_another_address_than_the_one_connected_to_is_refused() -> None:
    with pytest.raises(SpecError, match="already connected"):
        run(faulty.task(), Ray(address="127.0.0.1:1"), commit=lambda report, arrays: None)


def test_ray_client_is_refused() -> None:
    with started(2, 40, address="ray://127.0.0.1:10001") as process:
        out, _ = process.communicate(timeout=60)
    assert "SpecError: `address='ray://127.0.0.1:10001'`" in out
