"""Room for workers on a Ray cluster, and the actors that fill it.

The fewest workers that a run needs share one placement group, so that all of them are placed or none. Each further
one has a group of its own: a group that waits is what tells an autoscaler to bring a machine. Actors are never
restarted behind the controller's back, and orders are never repeated.
"""

import dataclasses
import os
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distmc.orchestration import ray_cluster
from distmc.orchestration.ray_cluster import quietly
from distmc.orchestration.ray_process import WorkerProcess
from distmc.orchestration.ray_reserve import Reserve
from distmc.orchestration.ray_stopped import end_stopped
from distmc.parallel import processes
from distmc.spec import Ray


@dataclasses.dataclass
class Slot:
    """Room for one worker: a bundle of a placement group.

    Attributes
    ----------
    group : PlacementGroup
        The group, which may wait for room.
    index : int
        The bundle's place in it.
    worker : int or None
        Number of the process in it.
    actor : actor handle or None
        The process.
    node : str or None
        Ray's name of the node on which a process was last seen in it.
    pid : int or None
        Number of that process there, while it is up.
    """

    group: PlacementGroup
    index: int
    worker: int | None = None
    actor: Any = None
    node: str | None = None
    pid: int | None = None


class Slots:
    """All room that a run holds.

    Parameters
    ----------
    on : Ray
        How many workers, and what each of them reserves.
    most : int
        Most workers that the run can use.
    """

    def __init__(self, on: Ray, most: int) -> None:
        self._on = on
        self._most = most
        self._slots: list[Slot] = []
        self._reserve = Reserve(self._process)
        self._draining: frozenset[str] = frozenset()
        self._next_worker = 0

    def fill(self) -> list[tuple[int, Any]]:
        """Hold room for as many workers as the run can use, and start those that are missing.

        Returns
        -------
        list of (int, actor handle)
            Numbers and handles of the processes that were started now; they come up when there is room.
        """
        if not self._slots:
            self._hold(self._on.fewest_workers)
        usable = [slot for slot in self._slots if slot.node not in self._draining]
        for _ in range(self._most - len(usable)):
            usable += self._hold(1)
        # Room on a node that is there comes first: what was held on a lost one may wait for long for another.
        living = ray_cluster.living_nodes()
        empty = sorted((slot for slot in usable if slot.actor is None), key=lambda slot: slot.node not in living)
        num_missing = max(0, self._most - len(usable) + len(empty))
        for slot in filter(self._is_alone, empty[num_missing:]):
            self._give_back(slot)
        wanted = empty[:num_missing]
        ready = self._reserve.take({slot.node for slot in wanted if slot.node is not None} & living)
        return [self._start(slot, ready.pop(slot.node or "", None)) for slot in wanted]

    @property
    def are_placed(self) -> bool:
        """Whether Ray has given the fewest workers their room."""
        return bool(self._slots) and self._slots[0].group.wait(timeout_seconds=0)

    @property
    def node_of(self) -> dict[int, str]:
        """The nodes of all processes that are up, by their numbers."""
        up = ((slot.worker, slot.node) for slot in self._slots if slot.pid is not None)
        return {worker: node for worker, node in up if worker is not None and node is not None}

    def actor_of(self, worker: int) -> Any:
        """Return the handle of a process."""
        return self._slot_of(worker).actor

    def settle(self, worker: int, node: str, pid: int) -> None:
        """Take notice that a process is up, and where."""
        slot = self._slot_of(worker)
        slot.node, slot.pid = node, pid

    def avoid(self, nodes: frozenset[str]) -> frozenset[int]:
        """Take notice that nodes will be gone soon, and return the processes there, which need substitutes.

        Room on such a node is used again only once Ray has moved it to another one.
        """
        self._draining = nodes
        self._reserve.drop(nodes)
        return frozenset(worker for worker, node in self.node_of.items() if node in nodes)

    def renew(self) -> tuple[int, ...]:
        """Ask anew for room that went with its node, and of which nothing is left.

        Ray looks for other room by itself, but without a pause while there is none. That takes a whole core of the head
        and keeps everything else there waiting (https://github.com/ray-project/ray/pull/65007).

        Returns
        -------
        tuple of int
            Numbers of the processes that were to start there, and never will.
        """
        given_up: tuple[int, ...] = ()
        for group in self._moving():
            slots = [slot for slot in self._slots if slot.group.id == group.id]
            for slot in slots:
                if slot.actor is not None:
                    quietly(ray.kill, slot.actor, no_restart=True)
            quietly(remove_placement_group, group)
            given_up += tuple(slot.worker for slot in slots if slot.worker is not None)
            anew = self._group(len(slots))
            for slot in slots:
                slot.group, slot.worker, slot.actor, slot.node = anew, None, None, None
        return given_up

    def keep_reserve(self) -> None:
        """Have one process in reserve on each node that has workers, and will keep them."""
        self._reserve.keep(set(self.node_of.values()) - self._draining)

    def release(self, worker: int, *, owes_answer: bool) -> None:
        """Kill a process; its room is kept for another unless its node is about to go.

        Parameters
        ----------
        worker : int
            Number of the process.
        owes_answer : bool
            Whether an order or a question was not answered, which may be because the process is stopped.
        """
        for slot in [slot for slot in self._slots if slot.worker == worker]:
            quietly(ray.kill, slot.actor, no_restart=True)
            if owes_answer and slot.pid is not None and slot.node is not None:
                quietly(end_stopped, slot.pid, slot.node)
            slot.worker, slot.actor, slot.pid = None, None, None
            if slot.node in self._draining and self._is_alone(slot):
                self._give_back(slot)

    def close(self) -> None:
        """Kill all processes and give all room back."""
        self._reserve.close()
        for slot in self._slots:
            if slot.actor is not None:
                quietly(ray.kill, slot.actor, no_restart=True)
        for group in {slot.group.id: slot.group for slot in self._slots}.values():
            quietly(remove_placement_group, group)
        self._slots.clear()

    def _slot_of(self, worker: int) -> Slot:
        return next(slot for slot in self._slots if slot.worker == worker)

    def _hold(self, num_workers: int) -> list[Slot]:
        group = self._group(num_workers)
        held = [Slot(group, index) for index in range(num_workers)]
        self._slots += held
        return held

    def _group(self, num_workers: int) -> PlacementGroup:
        # Packed: neighbours in rank share a node, where messages are quickest, and a growing cluster stays small.
        group: PlacementGroup = placement_group([ray_cluster.bundle(self._on)] * num_workers, strategy="PACK")
        return group

    def _moving(self) -> list[PlacementGroup]:
        """Return the groups that Ray looks for other room for, and in which no process is up."""
        in_use = {slot.group.id for slot in self._slots if slot.pid is not None}
        left = {slot.group.id: slot.group for slot in self._slots if slot.node is not None}
        empty = [group for number, group in left.items() if number not in in_use]
        return [group for group in empty if placement_group_table(group).get("state") == "RESCHEDULING"]

    def _is_alone(self, slot: Slot) -> bool:
        return sum(other.group.id == slot.group.id for other in self._slots) == 1

    def _give_back(self, slot: Slot) -> None:
        quietly(remove_placement_group, slot.group)
        self._slots.remove(slot)

    def _start(self, slot: Slot, ready: Any) -> tuple[int, Any]:
        """Let a process work in a slot: the one that is `ready`, or else a new one."""
        slot.actor = ready or self._process(
            num_cpus=self._on.num_cpus_per_worker,
            num_gpus=self._on.num_gpus_per_worker,
            scheduling_strategy=PlacementGroupSchedulingStrategy(slot.group, slot.index),
        )
        slot.worker = self._next_worker
        self._next_worker += 1
        return slot.worker, slot.actor

    def _process(self, **where: Any) -> Any:
        """Start a process that can be a worker."""
        environment = processes.worker_environment(
            self._on.num_cpus_per_worker,
            uses_gpu=self._on.num_gpus_per_worker > 0,
            hang_timeout_seconds=self._on.hang_timeout_seconds,
            xla_flags=os.environ.get("XLA_FLAGS", ""),
        )
        remote: Any = ray.remote(WorkerProcess)
        return remote.options(max_restarts=0, max_task_retries=0, **where).remote(environment)
