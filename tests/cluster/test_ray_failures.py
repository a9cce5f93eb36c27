"""Real actors on a real (local) cluster are killed, stopped and broken; the run goes on, or ends soon and says why."""

import contextlib
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, TypeVar

import faulty
import pytest

from distmc.errors import CapacityError, DriftError, Interrupted, ModelError, StartError, WorkerError
from distmc.orchestration import policies
from distmc.orchestration.events import (
    ChunkCommitted,
    RunEnded,
    RunEvent,
    SamplingResumed,
    StageBegan,
    WorkersLost,
    WorkersStarted,
)
from distmc.orchestration.session import run
from distmc.parallel.cores import cores_for
from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.spec import Ray

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("ray_cluster")

Event = TypeVar("Event", bound=RunEvent)

# Detection takes a fraction of a second; the bounds allow for a machine that is busy with something else.
SOON = 15.0


class Watcher:
    """Keeps what a run tells and commits."""

    def __init__(self) -> None:
        self.pids: dict[int, int] = {}
        self.all_pids: set[int] = set()
        self.arrays: list[ChunkArrays] = []
        self.events: list[RunEvent] = []
        self.on_chunk: Callable[[int], None] | None = None
        self.also: Callable[[RunEvent], None] | None = None

    def commit(self, report: ChunkReport, arrays: ChunkArrays) -> None:
        assert report.chunk == arrays.chunk
        self.arrays.append(arrays)

    def on_event(self, event: RunEvent) -> None:
        self.events.append(event)
        if isinstance(event, WorkersStarted):
            self.pids = {member.rank: member.pid for member in event.members}
            self.all_pids |= set(self.pids.values())
        if isinstance(event, ChunkCommitted) and self.on_chunk is not None:
            self.on_chunk(event.report.chunk)
        if self.also is not None:
            self.also(event)

    def of(self, kind: type[Event]) -> list[Event]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def totals(self) -> list[float]:
        """What all steps have drawn, each once."""
        return [total for arrays in self.arrays for total in arrays.draws["total"][0]]

    @property
    def committed_steps(self) -> int:
        return sum(arrays.draws["total"].shape[1] for arrays in self.arrays)


@pytest.fixture
def watcher(process_tree: Any) -> Iterator[Watcher]:
    """Watch a run, and check afterwards that it left neither processes nor reserved cores behind."""
    watcher = Watcher()
    yield watcher
    assert process_tree.wait_until_gone(watcher.all_pids, 10.0) == set()
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
    # Ranks 0, 1 and 2 contribute 1 + 2 + 3 in every step.
    assert watcher.totals == [6.0 * step for step in range(1, 61)]
    assert isinstance(watcher.events[-1], RunEnded)


def test_workers_talk_over_the_address_of_their_node(watcher: Watcher) -> None:
    talks: list[set[str]] = []
    watcher.on_chunk = lambda chunk: talks.append(addresses_between(*watcher.pids.values()))
    start(watcher, num_workers=2)
    assert talks[0] == {ray.util.get_node_ip_address()}


def addresses_between(pid: int, other: int) -> set[str]:
    """Return the addresses over which two processes are connected with each other."""
    import psutil

    mine, theirs = (
        [(link.laddr, link.raddr) for link in psutil.Process(one).net_connections("tcp") if link.raddr]
        for one in (pid, other)
    )
    return {end.ip for here, there in mine if (there, here) in theirs for end in (here, there)}


def test_exception_that_comes_again_is_the_root_cause(watcher: Watcher) -> None:
    began = time.monotonic()
    with pytest.raises(WorkerError, match="the words of the user's own exception") as caught:
        start(watcher, faulty.build(faulty.Fault("raise", rank=1, step=30)), num_workers=2)
    assert time.monotonic() - began < SOON
    assert "failure number 2 since the last chunk" in caught.value.__notes__[-1]
    assert caught.value.rank == 1
    assert caught.value.node == ray.util.get_node_ip_address()
    assert "one_step" in caught.value.remote_traceback
    assert 0 < watcher.committed_steps <= 30
    assert f"step {watcher.committed_steps} " in str(caught.value)


def test_worker_that_is_not_told_of_a_loss_is_replaced(watcher: Watcher, tmp_path: pathlib.Path) -> None:
    first: dict[int, int] = {}

    def kill(chunk: int) -> None:
        if chunk == 5:
            first.update(watcher.pids)
            os.kill(first[0], signal.SIGKILL)

    watcher.on_chunk = kill
    deaf = faulty.Fault("deaf", rank=2, once=tmp_path / "once")
    start(watcher, faulty.build(deaf, step_seconds=0.02), faulty.task(num_draws=100))
    assert watcher.totals == [6.0 * step for step in range(1, 121)]
    (lost,), (resumed,) = watcher.of(WorkersLost), watcher.of(SamplingResumed)
    assert f"process {first[0]}) died" in lost.cause
    _, second, last = watcher.of(WorkersStarted)
    assert last.reason.startswith(f"{lost.cause}; process {first[2]} ")
    assert {first[0], first[2]}.isdisjoint(watcher.pids.values())
    # From the second group's connecting to another start of workers; to start two of them, one after the other, takes
    # as long as the machine lets it.
    after = watcher.events[watcher.events.index(second) :]
    waiting, given_up, *_ = (event.seconds for event in after if isinstance(event, StageBegan))
    assert policies.PARTING_SECONDS < given_up - waiting < policies.PARTING_SECONDS + 2.0
    assert resumed.standstill_seconds - (given_up - waiting) < SOON


def test_worker_that_exits_at_the_same_place_again_and_again_ends_the_run(watcher: Watcher) -> None:
    with pytest.raises(WorkerError, match=r"Worker 1 of 2 .* died") as caught:
        start(watcher, faulty.build(faulty.Fault("exit", rank=1, step=30)), num_workers=2)
    assert caught.value.rank == 1
    assert "failure number 4 since the last chunk" in caught.value.__notes__[-1]
    assert [lost.rank for lost in watcher.of(WorkersLost)] == [1, 1, 1]
    assert len(watcher.all_pids) == 1 + 4


@pytest.mark.parametrize("rank", [0, 1])
def test_run_goes_on_without_a_killed_worker(watcher: Watcher, rank: int) -> None:
    killed = []

    def kill(chunk: int) -> None:
        if chunk == 5 and not killed:
            killed.append(watcher.pids[rank])
            os.kill(killed[0], signal.SIGKILL)

    watcher.on_chunk = kill
    start(watcher, faulty.build(step_seconds=0.02), faulty.task(num_draws=100))
    assert watcher.totals == [6.0 * step for step in range(1, 121)]
    (lost,), (resumed,) = watcher.of(WorkersLost), watcher.of(SamplingResumed)
    assert (lost.rank, lost.generation, lost.node) == (rank, 0, ray.util.get_node_ip_address())
    assert f"process {killed[0]}) died" in lost.cause
    assert resumed.standstill_seconds < SOON
    assert killed[0] not in watcher.pids.values()
    # Only once in the run did a worker compile.
    assert [bool(arrays.state["has_compiled"]) for arrays in (watcher.arrays[0], watcher.arrays[-1])] == [True, False]


@pytest.mark.parametrize("is_alive", [True, False])
def test_process_in_reserve_takes_the_place_of_a_killed_worker(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch, is_alive: bool
) -> None:
    from distmc.orchestration import ray as ray_executor
    from distmc.orchestration.ray_reserve import Reserve

    kept: list[Reserve] = []
    keep = Reserve.keep
    monkeypatch.setattr(Reserve, "keep", lambda reserve, nodes: (kept.append(reserve), keep(reserve, nodes)))
    monkeypatch.setattr(ray_executor, "_RESERVE_SECONDS", 0.0)
    monkeypatch.setattr(ray_executor, "_RESERVE_AGAIN_SECONDS", 0.0)
    in_reserve: list[int] = []

    def kill(chunk: int) -> None:
        if chunk == 5 and not in_reserve:
            (spare,) = kept[0]._spares.values()
            in_reserve.append(ray.get(spare.actor.introduce.remote(), timeout=30.0).pid)
            watcher.all_pids.add(in_reserve[0])
            assert in_reserve[0] not in watcher.pids.values()
            if not is_alive:
                os.kill(in_reserve[0], signal.SIGKILL)
            os.kill(watcher.pids[1], signal.SIGKILL)

    watcher.on_chunk = kill
    start(watcher, faulty.build(step_seconds=0.02), faulty.task(num_draws=100), num_workers=2)
    assert watcher.totals == [3.0 * step for step in range(1, 121)]
    (lost,) = watcher.of(WorkersLost)
    assert lost.rank == 1
    assert (in_reserve[0] in watcher.pids.values()) == is_alive
    # Another one is ready for the next loss.
    assert len(kept) >= 2


def test_worker_that_dies_while_it_has_nothing_to_do_is_not_called_again(watcher: Watcher) -> None:
    first: dict[int, int] = {}

    def kill(chunk: int) -> None:
        if chunk == 5:
            first.update(watcher.pids)
            os.kill(first[0], signal.SIGKILL)

    def kill_the_other(event: RunEvent) -> None:
        if isinstance(event, WorkersLost):
            # By then it has answered. It waits for somebody in the place of the first, who starts after this only.
            time.sleep(0.5)
            os.kill(first[1], signal.SIGKILL)

    watcher.on_chunk = kill
    watcher.also = kill_the_other
    start(watcher, faulty.build(step_seconds=0.02), faulty.task(num_draws=100), num_workers=2)
    (lost,) = watcher.of(WorkersLost)
    assert f"process {first[0]}) died" in lost.cause
    assert set(first.values()).isdisjoint(watcher.pids.values())


def test_stopped_worker_is_given_up_after_the_hang_timeout(watcher: Watcher) -> None:
    stopped = []

    def stop(chunk: int) -> None:
        if chunk == 3 and not stopped:
            stopped.append(watcher.pids[1])
            os.kill(stopped[0], signal.SIGSTOP)

    watcher.on_chunk = stop
    start(watcher, task=faulty.task(num_draws=100), num_workers=2, hang_timeout_seconds=4.0)
    assert watcher.totals == [3.0 * step for step in range(1, 121)]
    (lost,), (resumed,) = watcher.of(WorkersLost), watcher.of(SamplingResumed)
    assert lost.rank == 1
    assert f"process {stopped[0]}) fell silent" in lost.cause
    assert resumed.standstill_seconds < SOON


@pytest.mark.parametrize(
    ("kind", "rank", "doing"),
    [
        ("hang in load", 1, "loading data"),
        ("stop in load", 1, "loading data"),
        # The one that compiles; the other waits for its program.
        ("stop in compile", 0, "compiling"),
    ],
)
def test_worker_that_hangs_before_it_starts_is_named_and_replaced(
    watcher: Watcher, tmp_path: pathlib.Path, kind: faulty.Kind, rank: int, doing: str
) -> None:
    hang = faulty.Fault(kind, rank=rank, once=tmp_path / "struck")
    start(watcher, faulty.build(hang), num_workers=2, hang_timeout_seconds=3.0)
    assert watcher.committed_steps == 60
    (lost,) = watcher.of(WorkersLost)
    assert lost.rank == rank
    assert f"fell silent while the run was {doing}" in lost.cause


@pytest.mark.parametrize("kind", ["exit in compile", "exit after compile"])
def test_those_that_wait_for_a_program_are_not_blamed_for_its_loss(
    watcher: Watcher, tmp_path: pathlib.Path, kind: faulty.Kind
) -> None:
    lost_once = faulty.Fault(kind, rank=0, once=tmp_path / "struck")
    start(watcher, faulty.build(lost_once))
    assert watcher.committed_steps == 60
    (lost,) = watcher.of(WorkersLost)
    assert lost.rank == 0
    assert "died while the run was compiling" in lost.cause
    assert len(watcher.all_pids) == 2 + 2


def test_replica_that_differs_again_is_the_odd_one(watcher: Watcher) -> None:
    with pytest.raises(DriftError, match=r"Worker 1 .* differs from the others") as caught:
        start(watcher, faulty.build(faulty.Fault("drift", rank=1, step=30)))
    assert caught.value.rank == 1
    assert watcher.committed_steps <= 30


def test_input_error_of_a_worker_comes_out_as_itself(watcher: Watcher) -> None:
    with pytest.raises(StartError, match="chain 3"):
        start(watcher, faulty.build(faulty.Fault("start error", rank=1)), num_workers=2)


def test_model_that_does_not_pickle_is_refused(watcher: Watcher) -> None:
    lock = threading.Lock()
    with pytest.raises(ModelError, match="does not pickle"):
        start(watcher, task=faulty.task(log_likelihood=lambda params, data: lock), num_workers=2)


def test_model_that_does_not_unpickle_is_a_failure_of_the_worker(watcher: Watcher) -> None:
    with pytest.raises(WorkerError, match=r"loading data.*only in the driver"):
        start(watcher, task=faulty.task(log_likelihood=OnlyHere()), num_workers=2)


class OnlyHere:
    """Unpickles in the process that made it and in no other."""

    def __reduce__(self) -> Any:
        return _only_in, (os.getpid(),)


def _only_in(pid: int) -> None:
    if os.getpid() != pid:
        raise ImportError("this module is only in the driver")


def test_an_actor_begins_without_what_reads_the_environment() -> None:
    class Actor:
        def libraries(self) -> set[str]:
            return {"jax", "jaxlib", "numpy", "numpyro", "scipy"} & sys.modules.keys()

    actor = ray.remote(num_cpus=0)(Actor).remote()
    assert ray.get(actor.libraries.remote(), timeout=60.0) <= ({"numpy"} if find_spec("pyarrow") else set())
    ray.kill(actor)


def test_worker_gets_a_process_in_which_no_task_has_started_jax(watcher: Watcher) -> None:
    # Otherwise the worker's environment would come too late.
    def import_jax() -> int:
        import jax

        jax.devices()
        return os.getpid()

    task = ray.remote(num_cpus=1)(import_jax)
    used = set(ray.get([task.remote() for _ in range(4)]))
    start(watcher, num_workers=2)
    assert watcher.committed_steps == 60
    assert watcher.all_pids.isdisjoint(used)


def test_two_workers_of_a_node_have_cores_of_their_own_and_a_model_with_jax_arrays(watcher: Watcher) -> None:
    import jax.numpy as jnp

    places: dict[int, tuple[list[set[int]], int]] = {}
    watcher.on_chunk = lambda chunk: places.update({rank: place_of(pid) for rank, pid in watcher.pids.items()})
    # Unpickling one starts the devices, which would be too early before the workers are connected.
    start(watcher, task=faulty.task(log_likelihood=jnp.ones(3)), num_workers=2)
    assert watcher.committed_steps == 60
    # As many as the worker has cores, not as many as the machine has.
    assert [num_threads for _, num_threads in places.values()] == [1, 1]
    # Two workers are most of a machine of two or three cores; elsewhere the choice is left to the system.
    given = os.sched_getaffinity(0)
    # The threads that compute are those of XLA; the first thread gives them their work.
    assert all(own == places[rank][0][0] for rank in range(2) for own in places[rank][0])
    cores = [places[rank][0][0] for rank in range(2)]
    assert cores == [set(cores_for(rank, 2, 1, given) or given) for rank in range(2)]
    assert len(given) not in (2, 3) or ([len(own) for own in cores] == [1, 1] and cores[0].isdisjoint(cores[1]))


def place_of(pid: int) -> tuple[list[set[int]], int]:
    """Return the cores of a process's first thread and of those of XLA, and how many of these share its arithmetic."""
    places, num_threads = [os.sched_getaffinity(pid)], 0
    for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
        # Some threads end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = (thread / "comm").read_text().strip()
            num_threads += name == "tf_XLAEigen"
            if name.startswith("tf_"):
                places.append(os.sched_getaffinity(int(thread.name)))
    return places, num_threads


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
