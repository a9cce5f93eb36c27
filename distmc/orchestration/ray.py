"""Runs the workers of a run as actors on a Ray cluster."""

import contextlib
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
)

from distmc.orchestration import messages as m
from distmc.orchestration import policies, ray_cluster
from distmc.orchestration.events import Member
from distmc.orchestration.executor import BuildWorker
from distmc.orchestration.membership import Candidate
from distmc.orchestration.ray_process import Introduction
from distmc.orchestration.ray_shipping import ship
from distmc.orchestration.ray_slots import Slots
from distmc.orchestration.ray_worker import SavedProgram
from distmc.parallel import processes
from distmc.spec import Ray

if TYPE_CHECKING:
    from distmc.sampling.worker import WorkerTask

_ROOM_CHECK_SECONDS = 1.0
_NODE_CHECK_SECONDS = 2.0
# A process takes longer to start, so that those that wait for it are missed before they are called.
_IDLE_CHECK_SECONDS = 0.5
_REFILL_SECONDS = 10.0
# A run that is over by then would be begun again rather than kept ready for losses.
_RESERVE_SECONDS = 3.0
# What a loss has taken is made up for at once.
_RESERVE_AGAIN_SECONDS = 0.0
_RESERVE_CHECK_SECONDS = 10.0
_NEVER_RAN = "The actor never ran"
_WITHOUT_A_WORD = "connection error code 2. End of file"


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
        most = max(on.fewest_workers, min(on.most_workers, task.spec.num_blocks or on.most_workers))
        self.num_workers = (on.fewest_workers, most)
        self.hang_timeout_seconds = on.hang_timeout_seconds
        self.keeps_processes = on.num_gpus_per_worker == 0
        self._task = task
        self._on = on
        self._build_worker = build_worker
        # Undoes, in reverse order, whatever had been set up when the run ends.
        self._held = contextlib.ExitStack()
        self._is_fixed = False
        self._is_connected = False
        self._shipped: tuple[ray.ObjectRef[Any], ray.ObjectRef[Any]] | None = None
        self._slots = Slots(on, most)
        self._starting: dict[ray.ObjectRef[Any], int] = {}
        # Questions to processes that have nothing to do, whose end would not be heard of otherwise.
        self._asked: dict[ray.ObjectRef[Any], int] = {}
        self._members: tuple[Member, ...] = ()
        self._coordinators: list[processes.Coordinator] = []
        # Orders that have not been answered, with rank and number of the worker.
        self._pending: dict[ray.ObjectRef[Any], tuple[m.ToGeneration, int, int]] = {}
        # Compiled programs by the number of workers they are for, none where each has to compile for itself; and those
        # on their way here, with the order, the number of the worker that sends it, and that of all workers.
        self._programs: dict[int, list[ray.ObjectRef[Any]]] = {}
        self._saving: dict[ray.ObjectRef[Any], tuple[m.Compile, int, int]] = {}
        self._has_formed = False
        self._known_to_leave: frozenset[int] = frozenset()
        # Processes that are up and that the run does not count on.
        self._besides: frozenset[int] = frozenset()
        self._refill_at = math.inf
        self._reserve_at = math.inf
        self._deadline = 0.0
        self._next_room_check = 0.0
        self._next_node_check = 0.0
        self._next_idle_check = 0.0

    def __enter__(self) -> Self:
        """Return the executor; it connects when told to acquire workers."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill the workers, give their room back, and end what was started here."""
        self._pending.clear()
        self._starting.clear()
        self._asked.clear()
        self._saving.clear()
        self._held.close()

    def perform(self, order: m.Order) -> None:
        """Begin to carry out `order`."""
        match order:
            case m.Acquire():
                self._acquire(frozenset(order.besides))
            case m.Release():
                self._release(order.workers)
            case m.Meet():
                self._members = order.members
                for member in order.members:
                    self._ask(order, member.rank, "meet", order.generation, member.rank, len(order.members))
            case m.Form():
                self._form(order)
            case m.Load():
                # Once for all generations: what was shipped stays in the object store.
                self._shipped = self._shipped or ship(self._task, self._build_worker)
                self._ask_all(order, "load", *self._shipped)
            case m.Compile():
                self._compile(order)
            case m.Start():
                is_first = self._reserve_at == math.inf
                self._reserve_at = time.monotonic() + (_RESERVE_SECONDS if is_first else _RESERVE_AGAIN_SECONDS)
                self._ask_all(order, "start", order.checkpoint)
            case m.Advance():
                self._coordinators_are_done()
                self._ask_all(order, "advance", order.num_steps)
                self._keep_reserve()
            case m.Collect():
                self._ask(order, order.rank, "collect", order.generation, order.chunk)

    def poll(self, timeout: float) -> list[m.Event]:
        """Return what has happened, waiting at most `timeout` seconds for the first answer."""
        if not self._is_connected:
            return []
        self._refill()
        self._ask_idle()
        noticed = [*self._missing_capacity(), *self._changes_of_nodes()]
        references = [*self._pending, *self._starting, *self._asked, *self._saving]
        if not references:
            time.sleep(0 if noticed else timeout)
            return noticed
        ray.wait(references, num_returns=1, timeout=0 if noticed else timeout)
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        return [*noticed, *(event for reference in ready for event in self._answer(reference))]

    # Processes --------------------------------------------------------------------------------------------------------

    def _acquire(self, besides: frozenset[int]) -> None:
        self._besides = besides
        if not self._is_connected:
            self._is_fixed = self._held.enter_context(ray_cluster.connected(self._on))
            self._is_connected = True
            if self._is_fixed:
                ray_cluster.require_room(self._on, ray_cluster.node_resources())
            self._held.callback(self._close)
            self._deadline = time.monotonic() + self._on.start_timeout_seconds
        self._fill()

    def _fill(self) -> None:
        self._refill_at = math.inf
        for worker, actor in self._slots.fill():
            self._starting[actor.introduce.remote()] = worker

    def _refill(self) -> None:
        """Try once more to start a process that could not be started and that nobody waits for."""
        if time.monotonic() >= self._refill_at:
            self._fill()

    def _keep_reserve(self) -> None:
        """Keep processes ready once workers have been at work for a while; a GPU cannot be kept for one."""
        now = time.monotonic()
        if self.keeps_processes and now >= self._reserve_at:
            self._reserve_at = now + _RESERVE_CHECK_SECONDS
            self._slots.keep_reserve()

    def _close(self) -> None:
        self._slots.close()
        for coordinator in self._coordinators:
            coordinator.shutdown()

    def _release(self, workers: tuple[int, ...]) -> None:
        owing = self._owing()
        for worker in workers:
            self._slots.release(worker, owes_answer=worker in owing)
        # Orders that they owe an answer to stay pending; by then the answers mean nothing to the controller.
        self._starting = _without(self._starting, workers)
        self._asked = _without(self._asked, workers)

    def _owing(self) -> set[int]:
        """Return the processes that have not answered an order or a question."""
        return {*self._asked.values(), *(worker for _, _, worker in self._pending.values())}

    def _ask_idle(self) -> None:
        """Ask those that owe no answer whether they are still there."""
        now = time.monotonic()
        if now < self._next_idle_check:
            return
        self._next_idle_check = now + _IDLE_CHECK_SECONDS
        for worker in self._slots.node_of.keys() - self._owing():
            self._asked[self._slots.actor_of(worker).is_there.remote()] = worker

    def _missing_capacity(self) -> list[m.Event]:
        """Say so when the cluster has too little room for the workers, and nothing is going to change that."""
        num_up, now = len(self._slots.node_of.keys() - self._besides), time.monotonic()
        if num_up >= self._on.fewest_workers:
            self._deadline = now + self._on.start_timeout_seconds
        if num_up >= self._on.fewest_workers or now < self._next_room_check:
            return []
        self._next_room_check = now + _ROOM_CHECK_SECONDS
        nodes = ray_cluster.node_resources()
        fitting = ray_cluster.room(self._on, nodes)
        # A node that was lost may come back, so a run that has begun waits.
        is_final = not self._has_formed and (self._is_fixed or ray_cluster.is_fixed())
        if fitting < self._on.fewest_workers and is_final:
            return [m.CapacityMissing(ray_cluster.too_small(self._on, nodes, fitting))]
        if now < self._deadline:
            return []
        return [m.CapacityMissing(ray_cluster.too_late(self._on, num_up, is_placed=self._slots.are_placed))]

    def _changes_of_nodes(self) -> list[m.Event]:
        now = time.monotonic()
        if now < self._next_node_check:
            return []
        self._next_node_check = now + _NODE_CHECK_SECONDS
        if given_up := self._slots.renew():
            self._starting = _without(self._starting, given_up)
            self._fill()
        leaving = self._slots.avoid(ray_cluster.draining_nodes())
        news, self._known_to_leave = leaving - self._known_to_leave, leaving
        return [m.WorkersLeaving(news)] if news else []

    # Orders and answers -----------------------------------------------------------------------------------------------

    def _form(self, order: m.Form) -> None:
        # Here rather than in a worker, so that the loss of no worker takes the service with it.
        coordinator = processes.start_coordinator(ray.util.get_node_ip_address(), len(self._members))
        self._coordinators.append(coordinator)
        self._has_formed = True
        on_node = Counter(member.node for member in self._members)
        seen: Counter[str] = Counter()
        for member in self._members:
            self._ask(
                order,
                member.rank,
                "form",
                order.generation,
                coordinator=coordinator.address,
                local_rank=seen[member.node],
                num_local=on_node[member.node],
                num_cpus=self._on.num_cpus_per_worker,
                uses_gpu=self._on.num_gpus_per_worker > 0,
            )
            seen[member.node] += 1

    def _coordinators_are_done(self) -> None:
        """Stop the coordination services once all workers have detached from them, which they do when they start.

        One of an earlier generation has to outlast it: it would take those with it that still depend on it.
        """
        if not self._on.num_gpus_per_worker:
            while self._coordinators:
                self._coordinators.pop().shutdown()

    def _ask_all(self, order: m.ToGeneration, method: str, *arguments: object) -> None:
        for member in self._members:
            self._ask(order, member.rank, method, order.generation, *arguments)

    def _ask(self, order: m.ToGeneration, rank: int, method: str, /, *arguments: object, **named: object) -> None:
        worker = self._members[rank].worker
        self._pending[self._hand_out(worker, method, *arguments, **named)] = (order, rank, worker)

    def _hand_out(self, worker: int, method: str, /, *arguments: object, **named: object) -> "ray.ObjectRef[Any]":
        # By its name Ray's tools show what a worker is doing.
        carry_out = self._slots.actor_of(worker).carry_out.options(name=method)
        reference: ray.ObjectRef[Any] = carry_out.remote(method, *arguments, **named)
        return reference

    def _compile(self, order: m.Compile) -> None:
        """Let the first worker compile for all, unless the program for as many workers is here already."""
        size = len(self._members)
        give_up = policies.handover_patience(self.hang_timeout_seconds)
        if size in self._programs:
            self._ask_all(order, "compile", self._programs[size], give_up)
            return
        self._ask(order, 0, "compile", order.generation, [], give_up)
        first = self._members[0].worker
        saved = self._hand_out(first, "saved_program", order.generation)
        self._saving[saved] = (order, first, size)
        # On GPUs XLA lets all processes try kernels together, so that none can compile without the others.
        program = [] if self._on.num_gpus_per_worker else [saved]
        for member in self._members[1:]:
            self._ask(order, member.rank, "compile", order.generation, program, give_up)

    def _answer(self, reference: "ray.ObjectRef[Any]") -> list[m.Event]:
        if reference in self._starting:
            return self._introduced(self._starting.pop(reference), lambda: ray.get(reference))
        if reference in self._asked:
            return _still_there(reference, self._asked.pop(reference))
        if reference in self._saving:
            return self._saved(reference, *self._saving.pop(reference))
        order, rank, worker = self._pending.pop(reference)
        try:
            value = ray.get(reference)
        except RayError as error:
            value = _ray_failure(rank, error)
        if isinstance(value, m.Failure):
            return _failed(order, worker, value)
        if isinstance(order, m.Collect):
            return [m.ArraysReady(generation=order.generation, arrays=value)]
        return [m.Replied(generation=order.generation, rank=rank, value=value)]

    def _saved(self, reference: "ray.ObjectRef[Any]", order: m.Compile, worker: int, size: int) -> list[m.Event]:
        try:
            saved = ray.get(reference)
        except RayError as error:
            # It may have answered the order before, and the others wait in vain.
            return _failed(order, worker, _ray_failure(0, error))
        if isinstance(saved, SavedProgram):
            # Kept on this node, which the run cannot do without anyway.
            self._programs[size] = [] if saved.program is None else [ray.put(saved)]
        return []

    def _introduced(self, worker: int, get: Callable[[], Introduction]) -> list[m.Event]:
        try:
            found = get()
        except RayError as error:
            self._refill_at = time.monotonic() + _REFILL_SECONDS
            return [m.StartFailed(worker, _ray_failure(0, error))]
        self._slots.settle(worker, found.node_id, found.pid)
        candidate = Candidate(
            worker=worker, node=found.node, pid=found.pid, devices=tuple(found.devices), facts=found.facts
        )
        return [m.WorkerUp(candidate)]


def _without(questions: "dict[ray.ObjectRef[Any], int]", workers: tuple[int, ...]) -> "dict[ray.ObjectRef[Any], int]":
    return {reference: worker for reference, worker in questions.items() if worker not in workers}


def _still_there(reference: "ray.ObjectRef[Any]", worker: int) -> list[m.Event]:
    try:
        ray.get(reference)
    except ActorUnavailableError:
        # It cannot be reached for the moment, and will be asked again.
        return []
    except RayError:
        return [m.WorkerGone(worker)]
    return []


def _failed(order: m.ToGeneration, worker: int, failure: m.Failure) -> list[m.Event]:
    failed = m.WorkerFailed(generation=order.generation, failure=failure)
    # By the time that one of several is heard of, another generation may be on its way, which has to know.
    return [failed, m.WorkerGone(worker)] if failure.kind is m.FailureKind.DEAD else [failed]


def _ray_failure(rank: int, error: RayError) -> m.Failure:
    """Describe what Ray reports in place of an answer."""
    text = str(error).strip()
    if isinstance(error, RayActorError | OutOfMemoryError | ObjectLostError):
        detail = re.search(r"Worker exit detail: (.*?)(?= Some common causes|\n|$)", text)
        reason = detail.group(1) if detail else text.splitlines()[-1]
        if _WITHOUT_A_WORD in reason:
            reason = "its process was killed, or crashed"
        # One that Ray had no place for any more has not failed either: its node went before it could start there.
        is_preemption = isinstance(error, ActorDiedError) and (error.preempted or _NEVER_RAN in text)
        summary = reason.strip().rstrip(".")
        return m.Failure(rank=rank, kind=m.FailureKind.DEAD, summary=summary, is_preemption=is_preemption)
    # The order never reached our code: its arguments could not be unpickled there, for instance.
    last = text.splitlines()[-1]
    return m.Failure(rank=rank, kind=m.FailureKind.APPLICATION, summary=last.rstrip("."), traceback=text)
