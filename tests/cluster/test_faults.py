"""Runs through dozens of faults of all kinds, in all phases, end with the bits of a run in which nothing failed.

The run without faults, on `Local`, is the oracle. Each run with faults has a process of its own, which may be killed,
and a cluster of four raylets on this machine: a head that only drives, and three nodes with room for one worker each.
"""

import contextlib
import dataclasses
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fault_driver
import pytest
import xarray as xr
from cluster_nodes import drain, seconds_of_control_service, wait_until_known_as_lost
from fault_plans import CHUNK_STEPS, DRIVER_KILLED, DRIVER_KILLED_LOCALLY, IN_ONE_PROCESS, ON_THE_CLUSTER, STOPPED

import distmc
from distmc.storage import RunDirectory
from distmc.testing.faults import PHASES, Kind, Ledger, Plan
from distmc.testing.invariance import require_identical

ray = pytest.importorskip("ray")

# It takes a minute or two where nothing else runs.
pytestmark = [pytest.mark.timeout(600)]

DRIVER = Path(fault_driver.__file__)
ROOT = DRIVER.parents[2]
HANG_SECONDS = 5.0
# `ray job stop` kills what has not ended after this time.
SECONDS_TO_END = 3.0
LEAVING = "workers leave before their nodes do"
# Ray itself would take fifteen seconds to declare a node lost that does not answer any more.
HEALTH_CHECKS = {"health_check_period_ms": 1000, "health_check_failure_threshold": 2}
# The run asks every two seconds what has become of its room.
SECONDS_TO_TAKE_NOTICE = 3.0
# One with others left, and all that there are; one that says so before does not count.
NODES_LOST = 3


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run through faults has told."""

    told: list[dict[str, Any]]
    directory: Path
    ledger: Ledger
    kills: int

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.told if line["kind"] == kind]


class Driver:
    """A run in a process of its own, which says what happens."""

    def __init__(self, given: dict[str, Any], **environment: str) -> None:
        path = os.pathsep.join([str(ROOT), str(DRIVER.parent)])
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), json.dumps(given)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        self.told: list[dict[str, Any]] = []
        self.other_lines: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: list[str] = []
        for read in (self._read_told, self._read_errors):
            threading.Thread(target=read, daemon=True).start()

    def wait_for(self, is_it: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any] | None:
        """Return the next thing told of this sort; None if the process ends before."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"nothing of the sort within {seconds} s; {self.told[-5:]}") from None
            if line is None:
                return None
            self.told.append(json.loads(line))
            if is_it(self.told[-1]):
                return self.told[-1]

    def finish(self, seconds: float) -> int:
        """Wait for the end and return how the process ended."""
        self.wait_for(lambda told: False, seconds)
        code = self.process.wait(timeout=10)
        assert code in (0, -signal.SIGKILL), self.last_words
        return code

    @property
    def last_words(self) -> str:
        """The end of what the process has said of errors."""
        return "".join(self._errors)[-3000:]

    def _read_told(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self._lines.put(line)
            elif line.strip():
                self.other_lines.append(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)


def compiled_on_disk(folder: Path) -> dict[str, str | float]:
    """Return settings of JAX, as variables of the environment, that keep compiled programs on disk."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.0,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
    }


@contextlib.contextmanager
def driving(folder: Path, plan: Plan = (), address: str | None = None, **given: Any) -> Iterator[Driver]:
    """Drive a run on the cluster with this address; without one, in one process."""
    on = {} if address is None else {"num_workers": (1, 3), "address": address, **given.pop("on", {})}
    faults = [dataclasses.asdict(fault) for fault in plan]
    places = {"path": str(folder / "run"), "ledger": str(folder / "ledger")}
    # A process that computes by itself starts often here; the workers of a cluster send each other their programs.
    environment = {} if address else {name: str(value) for name, value in compiled_on_disk(folder).items()}
    driver = Driver({**places, "plan": faults, "ray": on or None, "chunk_steps": CHUNK_STEPS, **given}, **environment)
    try:
        yield driver
    finally:
        driver.process.kill()
        driver.process.wait()


def drive(
    folder: Path, plan: Plan, address: str | None, told: list[dict[str, Any]], seconds: float, **given: Any
) -> int:
    """Drive a run until its process ends; return how it did."""
    with driving(folder, plan, address, **given) as driver:
        code = driver.finish(seconds)
    # The output belongs to results; that processes die is told by distmc alone.
    assert driver.other_lines == []
    told += driver.told
    print(*(line for line in driver.told if line["kind"] != "step"), sep="\n")
    return code


def endure(folder: Path, plan: Plan, address: str | None = None, seconds: float = 500.0, **given: Any) -> Outcome:
    """Drive a run to its end, again each time that its process is killed; all faults have struck then."""
    deadline = time.monotonic() + seconds
    told: list[dict[str, Any]] = []
    kills = 0
    while drive(folder, plan, address, told, deadline - time.monotonic(), **given) != 0:
        kills += 1
        assert kills <= len(plan)
    outcome = Outcome(told, folder / "run", Ledger(folder / "ledger"), kills)
    left = [str(fault) for index, fault in enumerate(plan) if not outcome.ledger.has_struck(index)]
    assert left == []
    return outcome


def count(plan: Plan, *kinds: Kind) -> int:
    return sum(fault.kind in kinds for fault in plan)


def blamed(outcome: Outcome, plan: Plan, *kinds: Kind) -> list[bool]:
    """Say of each fault of these kinds that struck a worker whether somebody was told of it as the root cause."""
    causes = [lost["cause"] for lost in outcome.of("lost")]
    found = []
    for index, facts in outcome.ledger.read().items():
        if plan[index].kind in kinds and "rank" in facts:
            who = f"Worker {facts['rank']} of {facts['num_workers']} (node "
            found.append(any(cause.startswith(who) and f"process {facts['pid']})" in cause for cause in causes))
    return found


def damaged(outcome: Outcome, plan: Plan) -> list[str]:
    """Return the files whose content was changed, in the order of the plan."""
    struck = sorted(outcome.ledger.read().items())
    return [facts["file"] for index, facts in struck if plan[index].kind in ("corrupt", "truncate")]


def require_few_steps_repeated(outcome: Outcome) -> None:
    """Two chunks are lost at most, and none where workers join or leave."""
    reasons: dict[int, str] = {}
    for told in outcome.told:
        if told["kind"] == "started":
            reasons[told["generation"]] = told["reason"]
        if told["kind"] == "resumed":
            is_planned = reasons[told["generation"]] in ("more workers have come", LEAVING)
            assert told["repeated"] <= (0 if is_planned else 2 * CHUNK_STEPS), told


def require_reference(outcome: Outcome, reference: xr.DataTree) -> None:
    with distmc.open_run(outcome.directory) as tree:
        require_identical(reference, tree, names=("the oracle", "the run"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    path = tmp_path_factory.mktemp("runs") / "reference"
    return distmc.sample(
        fault_driver.MODEL, fault_driver.DATA, path=path, progress=False, **fault_driver.SETTINGS
    ).load()


@pytest.fixture(scope="module")
def cluster(process_tree: Any) -> Iterator[Any]:
    """Start a head and three nodes; afterwards none of their processes may be left."""
    from ray.cluster_utils import Cluster

    before = process_tree.descendants(os.getpid())
    head = {"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False, "_system_config": HEALTH_CHECKS}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(3):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        started = process_tree.descendants(os.getpid()) - before
        cluster.shutdown()
    assert process_tree.wait_until_gone(started, 20.0) == set()


@pytest.mark.timeout(400)
def test_faults_of_workers(tmp_path: Path, cluster: Any, reference: xr.DataTree) -> None:
    outcome = endure(tmp_path, ON_THE_CLUSTER, cluster.address, seconds=350.0)
    require_reference(outcome, reference)
    # The run has gone on by itself all the time.
    assert outcome.of("finished")[0]["stops"] == []
    assert all(blamed(outcome, ON_THE_CLUSTER, "raise"))
    # Of two that are killed at once, and of one whose chunk was saved already, nobody need have been told.
    is_blamed = blamed(outcome, ON_THE_CLUSTER, "kill")
    assert sum(is_blamed) >= len(is_blamed) - 2
    causes = [lost["cause"] for lost in outcome.of("lost")]
    require_few_steps_repeated(outcome)
    # Where a worker died or raised, that is the cause, and not that others lost contact with it.
    assert 0 < sum("lost contact with another worker" in cause for cause in causes) <= count(ON_THE_CLUSTER, "cut")
    differing = sum("differs from the others" in cause or "do not agree" in cause for cause in causes)
    assert differing == count(ON_THE_CLUSTER, "drift")
    assert all(lost["node"] for lost in outcome.of("lost") if lost["rank"] is not None)
    reasons = [generation.reason for generation in RunDirectory.open(outcome.directory).read_record().generations]
    assert set(causes) <= set(reasons)


def test_faults_without_a_cluster(tmp_path: Path, reference: xr.DataTree) -> None:
    outcome = endure(tmp_path, IN_ONE_PROCESS)
    require_reference(outcome, reference)
    stops = outcome.of("finished")[0]["stops"]
    files = ("/run/chunks/", "/run/state/", "/run/chunks/", "/run/chunks/", "/run/posterior.nc")
    for stop, file in zip(stops, files, strict=True):
        assert file in stop
    assert ["No space left on device" in stop for stop in stops] == [True, True, True, False, True]
    # The files that were changed are named by the run that finds them, be it at its end, or when it goes on.
    of_states, of_chunk = damaged(outcome, IN_ONE_PROCESS)[:2], damaged(outcome, IN_ONE_PROCESS)[2]
    warnings = outcome.of("finished")[0]["warnings"]
    for file in (*of_states, of_chunk):
        assert any(f"{file}` is damaged" in told and "goes on from" in told for told in warnings)
    assert f"{of_chunk}` is damaged" in stops[3]
    require_few_steps_repeated(outcome)


def test_driver_killed_without_a_cluster(tmp_path: Path, reference: xr.DataTree) -> None:
    outcome = endure(tmp_path, DRIVER_KILLED_LOCALLY)
    require_reference(outcome, reference)
    assert outcome.kills == 6
    # It was found, set aside, and made again.
    (chunk,) = damaged(outcome, DRIVER_KILLED_LOCALLY)
    assert [file.name for file in outcome.directory.glob("discarded/*/chunks/*")].count(Path(chunk).name) == 1


def test_driver_killed_and_resumed_without_the_cluster(tmp_path: Path, cluster: Any, reference: xr.DataTree) -> None:
    told: list[dict[str, Any]] = []
    code = drive(tmp_path, DRIVER_KILLED, cluster.address, told, 100.0, on={"num_workers": 2})
    assert code == -signal.SIGKILL
    assert told[-1]["step"] <= 105
    # Once the disk had room again, the run went on where it was.
    assert [line["reason"] for line in told if line["kind"] == "started"] == ["the run began", "the run was resumed"]
    outcome = endure(tmp_path, DRIVER_KILLED)
    require_reference(outcome, reference)
    stops, warnings = (outcome.of("finished")[0][name] for name in ("stops", "warnings"))
    assert len(stops) == 2
    (chunk,) = damaged(outcome, DRIVER_KILLED)
    assert f"{chunk}` is damaged" in stops[1]
    assert any(f"{chunk}` is damaged" in warning for warning in warnings)


def test_workers_that_hang(tmp_path: Path, cluster: Any, reference: xr.DataTree) -> None:
    outcome = endure(tmp_path, STOPPED, cluster.address, on={"hang_timeout_seconds": HANG_SECONDS})
    require_reference(outcome, reference)
    causes = [lost["cause"] for lost in outcome.of("lost")]
    assert all("fell silent" in cause for cause in causes)
    *in_chunks, in_start = blamed(outcome, STOPPED, "stop")
    assert all(in_chunks)
    # In the first sum all wait for each other, and nobody gives up before the others.
    assert in_start or (causes[-1].startswith("All ") and outcome.of("lost")[-1]["rank"] is None)
    require_few_steps_repeated(outcome)


def test_nodes_come_and_go(tmp_path: Path, cluster: Any, reference: xr.DataTree) -> None:
    first, second, third = cluster.worker_nodes
    cluster.remove_node(second)
    cluster.remove_node(third)
    hurry = tmp_path / "hurry"
    with driving(tmp_path, address=cluster.address, dawdles_until=str(hurry)) as driver:

        def wait_for_workers(count: int) -> dict[str, Any]:
            """Wait until so many workers take steps."""
            started = driver.wait_for(lambda told: told["kind"] == "started" and len(told["pids"]) == count, 60.0)
            assert started is not None, driver.last_words
            assert driver.wait_for(lambda told: told["kind"] == "step", 60.0)
            return started

        def wait_for_starts(apart: float) -> None:
            """Wait as long as workers are called together, not more than some seconds apart."""
            while driver.wait_for(lambda told: told["kind"] == "started", apart):
                pass

        wait_for_workers(1)
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        wait_for_workers(3)
        drain(cluster, first)
        assert wait_for_workers(2)["reason"] == LEAVING
        cluster.remove_node(first)
        lost = next(iter(cluster.worker_nodes))
        cluster.remove_node(lost, allow_graceful=False)
        wait_for_workers(1)
        # What is left would be large enough for what was lost there, were it free. Nobody looks again and again.
        wait_until_known_as_lost(cluster, lost)
        time.sleep(SECONDS_TO_TAKE_NOTICE)
        before = seconds_of_control_service(cluster)
        time.sleep(2.0)
        assert seconds_of_control_service(cluster) - before < 1.0
        cluster.add_node(num_cpus=1)
        wait_for_workers(2)
        assert [told["kind"] for told in driver.told].count("lost") == 1
        for node in list(cluster.worker_nodes):
            cluster.remove_node(node, allow_graceful=False)
        assert driver.wait_for(lambda told: told["kind"] == "lost", 60.0)
        # There is no room for anybody, so the run waits; it may have called one before that was heard of.
        with pytest.raises(AssertionError, match="nothing of the sort"):
            wait_for_starts(6.0)
        cluster.add_node(num_cpus=1)
        wait_for_workers(1)
        hurry.touch()
        assert driver.wait_for(lambda told: told.get("step", 0) > fault_driver.NUM_WARMUP, 60.0)
        end_as_a_job_is_ended(driver.process)
        told = driver.told
    print(*(line for line in told if line["kind"] != "step"), sep="\n")
    sizes = "".join(str(len(line["pids"])) for line in told if line["kind"] == "started")
    assert re.fullmatch("12?321211?", sizes)
    assert all(" died while the run was " in line["cause"] for line in told if line["kind"] == "lost")
    assert RunDirectory.open(tmp_path / "run").read_record().status == "interrupted"
    with xr.open_datatree(tmp_path / "run" / "posterior.nc") as partial:
        draws = partial["posterior"].load()
    num_draws = draws.sizes["draw"]
    assert 0 < num_draws < fault_driver.NUM_DRAWS
    assert draws.equals(reference["posterior"].isel(draw=slice(num_draws)))
    # It goes on with another number of workers than it had.
    cluster.add_node(num_cpus=1)
    outcome = endure(tmp_path, (), cluster.address, on={"num_workers": 2})
    assert [len(started["pids"]) for started in outcome.of("started")] == [2]
    require_reference(outcome, reference)
    require_few_steps_repeated(Outcome(told, outcome.directory, outcome.ledger, 0))


def end_as_a_job_is_ended(process: "subprocess.Popen[str]") -> None:
    """Ask a process to end, and kill it if it does not do so soon."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS_TO_END)
    process.kill()
    process.wait()


def test_there_are_enough_faults() -> None:
    on_ray = ON_THE_CLUSTER, DRIVER_KILLED[:2], STOPPED
    # All but those that only take time.
    kinds = tuple(kind for kind in PHASES if kind != "slow")
    num_on_ray = sum(count(plan, *kinds) for plan in on_ray) + NODES_LOST
    assert num_on_ray >= 60
