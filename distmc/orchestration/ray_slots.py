"""Room for workers on a Ray cluster, and the actors that fill it.

The fewest workers that a run needs share one placement group, so that all of them are placed or none. Each further
one has a group of its own: a group that waits is what tells an autoscaler to bring a machine. Actors are never
restarted behind the controller's back, and orders are never repeated.
"""

import contextlib
import dataclasses
import os
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from distmc.orchestration import ray_cluster
from distmc.orchestration.ray_worker import WorkerActor
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
    """

    group: PlacementGroup
    index: int
    worker: int | None = None
    actor: Any = None


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
        self._leaving: set[int] = set()
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
        staying = sum(slot.worker not in self._leaving for slot in self._slots)
        for _ in range(self._most - staying):
            self._hold(1)
        return [self._start(slot) for slot in self._slots if slot.actor is None]

    @property
    def are_placed(self) -> bool:
        """Whether Ray has given the fewest workers their room."""
        return bool(self._slots) and self._slots[0].group.wait(timeout_seconds=0)

    def actor_of(self, worker: int) -> Any:
        """Return the handle of a process."""
        return next(slot.actor for slot in self._slots if slot.worker == worker)

    def leave(self, workers: frozenset[int]) -> None:
        """Take notice of processes whose nodes will be gone soon: they need a substitute."""
        self._leaving |= workers

    def release(self, worker: int) -> None:
        """Kill a process; its room is kept for another unless its node is about to go."""
        for slot in [slot for slot in self._slots if slot.worker == worker]:
            _quietly(ray.kill, slot.actor, no_restart=True)
            slot.worker, slot.actor = None, None
            if worker in self._leaving and self._is_alone(slot):
                self._give_back(slot)
        self._leaving.discard(worker)

    def close(self) -> None:
        """Kill all processes and give all room back."""
        for slot in self._slots:
            if slot.actor is not None:
                _quietly(ray.kill, slot.actor, no_restart=True)
        for group in {slot.group.id: slot.group for slot in self._slots}.values():
            _quietly(remove_placement_group, group)
        self._slots.clear()

    def _hold(self, num_workers: int) -> None:
        # Packed: neighbours in rank share a node, where messages are quickest, and a growing cluster stays small.
        group = placement_group([ray_cluster.bundle(self._on)] * num_workers, strategy="PACK")
        self._slots += [Slot(group, index) for index in range(num_workers)]

    def _is_alone(self, slot: Slot) -> bool:
        return sum(other.group.id == slot.group.id for other in self._slots) == 1

    def _give_back(self, slot: Slot) -> None:
        _quietly(remove_placement_group, slot.group)
        self._slots.remove(slot)

    def _start(self, slot: Slot) -> tuple[int, Any]:
        environment = processes.worker_environment(
            self._on.num_cpus_per_worker,
            uses_gpu=self._on.num_gpus_per_worker > 0,
            hang_timeout_seconds=self._on.hang_timeout_seconds,
            xla_flags=os.environ.get("XLA_FLAGS", ""),
        )
        remote: Any = ray.remote(WorkerActor)
        slot.actor = remote.options(
            num_cpus=self._on.num_cpus_per_worker,
            num_gpus=self._on.num_gpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(slot.group, slot.index),
            runtime_env={"env_vars": environment},
        ).remote()
        slot.worker = self._next_worker
        self._next_worker += 1
        return slot.worker, slot.actor


def _quietly(release: Any, *arguments: object, **named: object) -> None:
    """Call `release`; a cluster that is gone has nothing left to be released."""
    with contextlib.suppress(RayError, ConnectionError, ValueError):
        release(*arguments, **named)
