"""A process in reserve on each node, which takes the place of a worker that is lost there.

Most of what a killed worker costs is another process starting and importing. One in reserve has done so beforehand;
it takes memory, but neither cores nor room of the cluster's.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distmc.orchestration.ray_cluster import quietly

# An idle process answers within milliseconds.
_ANSWER_SECONDS = 0.5


class Spare(NamedTuple):
    """A process in reserve, and the last question to it."""

    actor: Any
    asked: "ray.ObjectRef[Any]"


class Reserve:
    """The processes in reserve.

    Parameters
    ----------
    start : callable
        Starts a process that can be a worker, given Ray's options for where it is to be.
    """

    def __init__(self, start: Callable[..., Any]) -> None:
        self._start = start
        # By Ray's names of their nodes.
        self._spares: dict[str, Spare] = {}

    def keep(self, nodes: Collection[str]) -> None:
        """Have one process on each of these nodes, by Ray's names of them, and none elsewhere; waits for nothing."""
        self.drop(self._spares.keys() - set(nodes))
        answers = self._answers(self._spares, timeout=0)
        self._ask([node for node, is_well in answers.items() if is_well])
        self.drop([node for node, is_well in answers.items() if not is_well])
        for node in set(nodes) - self._spares.keys():
            actor = self._start(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            self._spares[node] = Spare(actor, actor.introduce.remote())

    def take(self, nodes: Collection[str]) -> dict[str, Any]:
        """Give away for good the processes of these nodes that answer at once; return them by their nodes."""
        up = [node for node, is_well in self._answers(self._spares.keys() & set(nodes), timeout=0).items() if is_well]
        self._ask(up)
        answers = self._answers(up, _ANSWER_SECONDS)
        taken = {node: self._spares.pop(node).actor for node in up if answers.get(node)}
        self.drop(set(up) - taken.keys())
        return taken

    def drop(self, nodes: Collection[str]) -> None:
        """End the processes of these nodes."""
        for node in set(nodes) & self._spares.keys():
            quietly(ray.kill, self._spares.pop(node).actor, no_restart=True)

    def close(self) -> None:
        """End all processes."""
        self.drop(self._spares.keys())

    def _ask(self, nodes: Collection[str]) -> None:
        """Ask the processes of these nodes whether they are still there."""
        for node in nodes:
            actor = self._spares[node].actor
            self._spares[node] = Spare(actor, actor.is_there.remote())

    def _answers(self, nodes: Collection[str], timeout: float) -> dict[str, bool]:
        """Say of those on these nodes that have answered their last question, or cannot any more, if they are well."""
        asked = [self._spares[node].asked for node in nodes]
        answered = set(ray.wait(asked, num_returns=len(asked), timeout=timeout)[0]) if asked else set()
        return {node: _is_well(self._spares[node].asked) for node in nodes if self._spares[node].asked in answered}


def _is_well(answered: "ray.ObjectRef[Any]") -> bool:
    try:
        ray.get(answered)
    except RayError:
        return False
    return True
