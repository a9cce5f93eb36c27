"""Runs the workers of a run as actors on a Ray cluster.

Each worker is an actor in a bundle of its own of one placement group, so that all of them are placed or none. Actors
are never restarted behind the controller's back, and orders are never repeated.
"""

import contextlib
import os
import re
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distmc.orchestration import messages as m
from distmc.orchestration import ray_cluster
from distmc.orchestration.events import Member
from distmc.orchestration.executor import BuildWorker
from distmc.orchestration.ray_shipping import ship
from distmc.orchestration.ray_worker import WorkerActor
from distmc.parallel import processes
from distmc.spec import Ray

if TYPE_CHECKING:
    from distmc.sampling.worker import WorkerTask

_PLACEMENT_POLL_SECONDS = 0.05
_ROOM_CHECK_SECONDS = 1.0


class RayExecutor:
    """Hosts the workers of a run on Ray.

    Parameters
    ----------
    task : WorkerTask
        What the workers are to do.
    on : Ray
        Which cluster, how many workers, and what each of them reserves.
    build_worker : BuildWorker
        Makes the worker inside an actor.
    """

    def __init__(self, task: "WorkerTask", on: Ray, build_worker: BuildWorker) -> None:
        self.num_workers = on.num_workers
        self.hang_timeout_seconds = on.hang_timeout_seconds
        self._task = task
        self._on = on
        self._build_worker = build_worker
        # Undoes, in reverse order, whatever had been set up when the run ends.
        self._held = contextlib.ExitStack()
        self._is_fixed = False
        self._group: PlacementGroup | None = None
        self._actors: list[Any] = []
        self._introductions: dict[int, tuple[str, list[str], int]] = {}
        self._members: tuple[Member, ...] = ()
        self._coordinator: processes.Coordinator | None = None
        self._pending: dict[ray.ObjectRef[Any], tuple[m.Order, int]] = {}
        self._deadline = 0.0
        self._next_room_check = 0.0

    def __enter__(self) -> Self:
        """Return the executor; it connects when told to acquire workers."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the workers, give their room back, and end what was started here."""
        self._pending.clear()
        self._held.close()

    def perform(self, order: m.Order) -> None:
        """Begin to carry out `order`."""
        generation = order.generation
        match order:
            case m.Acquire():
                self._acquire()
            case m.Form():
                self._form(order)
            case m.Load():
                task, build_worker = ship(self._task, self._build_worker)
                self._ask_all(order, "load", generation, task, build_worker)
            case m.Compile():
                self._ask_all(order, "compile", generation)
            case m.Start():
                self._ask_all(order, "start", generation, order.checkpoint)
            case m.Advance():
                self._coordinator_is_done()
                self._ask_all(order, "advance", generation, order.num_steps)
            case m.Collect():
                self._ask(order, order.rank, "collect", generation)

    def poll(self, timeout: float) -> list[m.Event]:
        """Return what the workers have answered, waiting at most `timeout` seconds for the first answer."""
        if self._group is not None and not self._members:
            late = self._placement_failure()
            if late is not None:
                return [late]
            if not self._actors and not self._place():
                time.sleep(min(timeout, _PLACEMENT_POLL_SECONDS))
                return []
        if not self._pending:
            time.sleep(timeout)
            return []
        references = list(self._pending)
        ray.wait(references, num_returns=1, timeout=timeout)
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        return [event for reference in ready for event in self._answer(reference)]

    # Placing workers --------------------------------------------------------------------------------------------------

    def _acquire(self) -> None:
        self._is_fixed = self._held.enter_context(ray_cluster.connected(self._on))
        if self._is_fixed:
            ray_cluster.require_room(self._on, ray_cluster.node_resources())
        # Packed: neighbours in rank share a node, where messages are quickest, and a growing cluster stays small.
        bundles = [ray_cluster.bundle(self._on)] * self.num_workers
        self._group = placement_group(bundles, strategy="PACK")
        self._held.callback(_quietly, remove_placement_group, self._group)
        self._deadline = time.monotonic() + self._on.start_timeout_seconds

    def _place(self) -> bool:
        """Start the actors once the placement group stands; say whether it does."""
        if self._group is None or not self._group.wait(0):
            return False
        environment = processes.worker_environment(
            self._on.num_cpus_per_worker,
            uses_gpu=self._on.num_gpus_per_worker > 0,
            hang_timeout_seconds=self.hang_timeout_seconds,
            xla_flags=os.environ.get("XLA_FLAGS", ""),
        )
        remote: Any = ray.remote(WorkerActor)
        for index in range(self.num_workers):
            actor = remote.options(
                num_cpus=self._on.num_cpus_per_worker,
                num_gpus=self._on.num_gpus_per_worker,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, index),
                runtime_env={"env_vars": environment},
            ).remote()
            self._held.callback(_quietly, ray.kill, actor, no_restart=True)
            self._actors.append(actor)
            self._ask(m.Acquire(0), index, "introduce")
        return True

    def _placement_failure(self) -> m.CapacityMissing | None:
        now = time.monotonic()
        if now >= self._next_room_check and not self._actors:
            self._next_room_check = now + _ROOM_CHECK_SECONDS
            nodes = ray_cluster.node_resources()
            fitting = ray_cluster.room(self._on, nodes)
            if fitting < self.num_workers and (self._is_fixed or ray_cluster.is_fixed()):
                return m.CapacityMissing(ray_cluster.too_small(self._on, nodes, fitting))
        if now < self._deadline:
            return None
        return m.CapacityMissing(ray_cluster.too_late(self._on, len(self._actors) - len(self._introductions)))

    def _introduced(self, index: int, introduction: tuple[str, list[str], int]) -> list[m.Event]:
        self._introductions[index] = introduction
        if len(self._introductions) < self.num_workers:
            return []
        # Ranks follow nodes and then devices, so that the first sums of the reduction stay inside a node.
        order = sorted(range(self.num_workers), key=lambda index: (*self._introductions[index][:2], index))
        self._actors = [self._actors[index] for index in order]
        self._members = tuple(
            Member(rank=rank, node=self._introductions[index][0], pid=self._introductions[index][2])
            for rank, index in enumerate(order)
        )
        return [m.WorkersReady(generation=0, members=self._members)]

    # Orders and answers -----------------------------------------------------------------------------------------------

    def _form(self, order: m.Form) -> None:
        # Here rather than in a worker, so that the loss of no worker takes the service with it.
        coordinator = processes.start_coordinator(ray.util.get_node_ip_address(), self.num_workers)
        self._coordinator = self._held.enter_context(coordinator)
        on_node = Counter(member.node for member in self._members)
        seen: Counter[str] = Counter()
        for member in self._members:
            self._ask(
                order,
                member.rank,
                "form",
                order.generation,
                rank=member.rank,
                num_workers=self.num_workers,
                coordinator=coordinator.address,
                local_rank=seen[member.node],
                num_local=on_node[member.node],
                num_cpus=self._on.num_cpus_per_worker,
                uses_gpu=self._on.num_gpus_per_worker > 0,
            )
            seen[member.node] += 1

    def _coordinator_is_done(self) -> None:
        """Stop the coordination service once the workers have detached from it, which they do when they start."""
        if self._coordinator is not None and not self._on.num_gpus_per_worker:
            self._coordinator.shutdown()
            self._coordinator = None

    def _ask_all(self, order: m.Order, method: str, *arguments: object) -> None:
        for rank in range(self.num_workers):
            self._ask(order, rank, method, *arguments)

    def _ask(self, order: m.Order, rank: int, method: str, /, *arguments: object, **named: object) -> None:
        reference = getattr(self._actors[rank], method).remote(*arguments, **named)
        self._pending[reference] = (order, rank)

    def _answer(self, reference: "ray.ObjectRef[Any]") -> list[m.Event]:
        order, rank = self._pending.pop(reference)
        try:
            value = ray.get(reference)
        except RayError as error:
            value = _ray_failure(rank, error)
        if isinstance(value, m.Failure):
            return [m.WorkerFailed(generation=order.generation, failure=value)]
        match order:
            case m.Acquire():
                return self._introduced(rank, value)
            case m.Collect():
                return [m.ArraysReady(generation=order.generation, arrays=value)]
        return [m.Replied(generation=order.generation, rank=rank, value=value)]


def _ray_failure(rank: int, error: RayError) -> m.Failure:
    """Describe what Ray reports in place of an answer."""
    text = str(error).strip()
    if isinstance(error, RayActorError | OutOfMemoryError):
        detail = re.search(r"Worker exit detail: (.*?)(?= Some common causes|\n|$)", text)
        reason = detail.group(1) if detail else text.splitlines()[-1]
        return m.Failure(rank=rank, kind=m.FailureKind.DEAD, summary=reason.strip().rstrip("."))
    # The order never reached our code: its arguments could not be unpickled there, for instance.
    last = text.splitlines()[-1]
    return m.Failure(rank=rank, kind=m.FailureKind.APPLICATION, summary=last.rstrip("."), traceback=text)


def _quietly(release: Any, *arguments: object, **named: object) -> None:
    """Call `release`; a cluster that is gone has nothing left to be released."""
    with contextlib.suppress(RayError, ConnectionError, ValueError):
        release(*arguments, **named)
