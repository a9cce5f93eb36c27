"""Real actors on a real (local) cluster are killed, stopped and broken; the run ends soon and says why."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import faulty
import pytest

from distmc.errors import CapacityError, DriftError, Interrupted, ModelError, StartError, WorkerError
from distmc.orchestration.events import ChunkCommitted, RunEnded, RunEvent, WorkersStarted
from distmc.orchestration.session import run
from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.spec import Ray

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("ray_cluster")

# Detection takes a fraction of a second; the bounds allow for a machine that is busy with something else.
SOON = 15.0


class Watcher:
    """Keeps what a run tells and commits."""

    def __init__(self) -> None:
        self.pids: dict[int, int] = {}
        self.arrays: list[ChunkArrays] = []
        self.events: list[RunEvent] = []
        self.on_chunk: Callable[[int], None] | None = None

    def commit(self, report: ChunkReport, arrays: ChunkArrays) -> None:
        assert report.chunk == arrays.chunk
        self.arrays.append(arrays)

    def on_event(self, event: RunEvent) -> None:
        self.events.append(event)
        if isinstance(event, WorkersStarted):
            self.pids = {member.rank: member.pid for member in event.members}
        if isinstance(event, ChunkCommitted) and self.on_chunk is not None:
            self.on_chunk(event.report.chunk)

    @property
    def committed_steps(self) -> int:
        return sum(arrays.draws["total"].shape[1] for arrays in self.arrays)


@pytest.fixture
def watcher(process_tree: Any) -> Iterator[Watcher]:
    """Watch a run, and check afterwards that it left neither processes nor reserved cores behind."""
    watcher = Watcher()
    yield watcher
    assert process_tree.wait_until_gone(set(watcher.pids.values()), 10.0) == set()
    groups = ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} <= {"REMOVED"}


def start(watcher: Watcher, build: Any = None, task: Any = None, **on: Any) -> None:
    placement = Ray(**{"num_workers": 3, **on})
    run(
        task or faulty.task(),
        placement,
        commit=watcher.commit,
        on_event=watcher.on_event,
        build_worker=build or faulty.build(),
    )


def test_all_steps_are_committed_in_order(watcher: Watcher) -> None:
    start(watcher)
    assert [arrays.chunk for arrays in watcher.arrays] == list(range(1, len(watcher.arrays) + 1))
    totals = [total for arrays in watcher.arrays for total in arrays.draws["total"][0]]
    # Ranks 0, 1 and 2 contribute 1 + 2 + 3 in every step.
    assert totals == [6.0 * step for step in range(1, 61)]
    assert isinstance(watcher.events[-1], RunEnded)


def test_exception_in_one_worker_is_the_root_cause(watcher: Watcher) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerError, match="the words of the user's own exception") as caught:
        start(watcher, faulty.build(faulty.Fault("raise", rank=1, step=30)))
    assert time.monotonic() - began < SOON
    assert caught.value.rank == 1
    assert caught.value.node == ray.util.get_node_ip_address()
    assert "one_step" in caught.value.remote_traceback
    assert 0 < watcher.committed_steps <= 30
    assert f"step {watcher.committed_steps} " in str(caught.value)


@pytest.mark.parametrize("rank", [0, 2])
def test_worker_that_exits_is_the_root_cause(watcher: Watcher, rank: int) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerError, match=rf"Worker {rank} of 3 .* died") as caught:
        start(watcher, faulty.build(faulty.Fault("exit", rank=rank, step=30)))
    assert time.monotonic() - began < SOON
    assert caught.value.rank == rank


@pytest.mark.parametrize("rank", [0, 1])
def test_worker_killed_from_outside_is_the_root_cause(watcher: Watcher, rank: int) -> None:
    killed_at = []

    def kill(chunk: int) -> None:
        if chunk == 5:
            os.kill(watcher.pids[rank], signal.SIGKILL)
            killed_at.append(time.monotonic())

    watcher.on_chunk = kill
    with pytest.raises(WorkerError, match=rf"Worker {rank} of 3 .* died") as caught:
        start(watcher, faulty.build(step_seconds=0.02), faulty.task(num_draws=1000))
    assert time.monotonic() - killed_at[0] < SOON
    assert caught.value.rank == rank
    assert len(watcher.arrays) >= 5


def test_stopped_worker_is_named_after_the_hang_timeout(watcher: Watcher) -> None:
    stopped_at = []

    def stop(chunk: int) -> None:
        if chunk == 3:
            os.kill(watcher.pids[1], signal.SIGSTOP)
            stopped_at.append(time.monotonic())

    watcher.on_chunk = stop
    with pytest.raises(WorkerError, match=r"Worker 1 of 3 .* fell silent") as caught:
        start(watcher, task=faulty.task(num_draws=1000), hang_timeout_seconds=4.0)
    assert time.monotonic() - stopped_at[0] < 4.0 + SOON
    assert caught.value.rank == 1


def test_worker_that_hangs_while_loading_is_named(watcher: Watcher) -> None:
    with pytest.raises(WorkerError, match=r"Worker 2 of 3 .* fell silent while the run was loading data"):
        start(watcher, faulty.build(faulty.Fault("hang in load", rank=2)), hang_timeout_seconds=0.5)


def test_replica_that_differs_is_the_odd_one(watcher: Watcher) -> None:
    with pytest.raises(DriftError, match=r"Worker 1 .* differs from the others") as caught:
        start(watcher, faulty.build(faulty.Fault("drift", rank=1, step=30)))
    assert caught.value.rank == 1
    assert watcher.committed_steps <= 30


def test_input_error_of_a_worker_comes_out_as_itself(watcher: Watcher) -> None:
    with pytest.raises(StartError, match="chain 3"):
        start(watcher, faulty.build(faulty.Fault("start error", rank=2)))


def test_model_that_does_not_pickle_is_refused(watcher: Watcher) -> None:
    lock = threading.Lock()
    with pytest.raises(ModelError, match="does not pickle"):
        start(watcher, task=faulty.task(log_likelihood=lambda params, data: lock))


def test_model_that_does_not_unpickle_is_a_failure_of_the_worker(watcher: Watcher) -> None:
    with pytest.raises(WorkerError, match=r"loading data.*only in the driver"):
        start(watcher, task=faulty.task(log_likelihood=OnlyHere()))


class OnlyHere:
    """Unpickles in the process that made it and in no other."""

    def __reduce__(self) -> Any:
        return _only_in, (os.getpid(),)


def _only_in(pid: int) -> None:
    if os.getpid() != pid:
        raise ImportError("this module is only in the driver")


def test_model_may_hold_jax_arrays(watcher: Watcher) -> None:
    import jax.numpy as jnp

    # Unpickling one starts the devices, which would be too early before the workers are connected.
    start(watcher, task=faulty.task(log_likelihood=jnp.ones(3)))
    assert watcher.committed_steps == 60


@pytest.mark.parametrize(
    ("on", "told"),
    [
        ({"num_workers": 5}, ["5", "room for 4", "4 CPU", "at most 4"]),
        ({"num_workers": 1, "num_cpus_per_worker": 8}, ["8 CPU", "room for 0", "4 CPU", "less per worker"]),
        ({"num_workers": 1, "num_gpus_per_worker": 1}, ["1 GPU", "0 GPU"]),
    ],
    ids=["workers", "cores of a node", "GPUs"],
)
def test_too_much_is_refused_soon_and_with_numbers(watcher: Watcher, on: dict[str, int], told: list[str]) -> None:
    began = time.monotonic()
    with pytest.raises(CapacityError) as caught:
        start(watcher, **on)
    assert time.monotonic() - began < SOON
    for words in told:
        assert words in str(caught.value)


def test_cluster_held_by_other_work_is_waited_for_and_then_named(watcher: Watcher) -> None:
    group = ray.util.placement_group([{"CPU": 3}])
    assert group.wait(10)
    try:
        with pytest.raises(CapacityError, match="other work holds the cluster, of which only 1 CPU"):
            start(watcher, start_timeout_seconds=1.0)
    finally:
        ray.util.remove_placement_group(group)


def test_error_of_the_disk_ends_the_run(watcher: Watcher) -> None:
    def fail(report: ChunkReport, arrays: ChunkArrays) -> None:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run(faulty.task(), Ray(num_workers=2), commit=fail, on_event=watcher.on_event, build_worker=faulty.build())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_request_to_stop_keeps_what_is_committed(watcher: Watcher, number: signal.Signals) -> None:
    asked_at = []

    def ask(chunk: int) -> None:
        if chunk == 5:
            os.kill(os.getpid(), number)
            asked_at.append(time.monotonic())

    watcher.on_chunk = ask
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="steps are committed and kept") as caught:
        start(watcher, faulty.build(step_seconds=0.02), faulty.task(num_draws=1000))
    assert time.monotonic() - asked_at[0] < SOON
    assert signal.getsignal(number) is before
    assert f"{watcher.committed_steps} of 1020 steps" in str(caught.value)
