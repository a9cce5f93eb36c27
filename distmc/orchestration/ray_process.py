"""The Ray actor: a process that can be a worker.

Libraries read the environment when they are imported or first used, so it is settled here before any of them is. Ray
can do so as well, with a runtime environment, but then starts Python and imports itself twice for every process.
"""

import dataclasses
import gc
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from distmc.orchestration.ray_worker import WorkerHost


@dataclasses.dataclass(frozen=True, kw_only=True)
class Introduction:
    """What a process says of itself when it is up.

    Attributes
    ----------
    node, node_id : str
        Address of its node, and Ray's name for it.
    devices : list of str
        GPUs given to it.
    pid : int
        Number of its process.
    facts : dict of str
        What may decide the last bits.
    """

    node: str
    node_id: str
    devices: list[str]
    pid: int
    facts: dict[str, str]


class WorkerProcess:
    """Hosts a worker once it has been introduced.

    Parameters
    ----------
    environment : mapping of str
        Variables to set before anything else happens.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        self._host: WorkerHost | None = None

    def introduce(self) -> Introduction:
        """Import whatever takes long, and say where this process lives."""
        # Modules stay for good. Looking through them for garbage would take a sixteenth of this process's start while
        # they are imported, and later a third of parting and connecting.
        gc.disable()
        try:
            import distmc.sampling.worker  # noqa: F401 - so that a worker that joins a run keeps nobody waiting
            from distmc.orchestration.facts import machine_facts
            from distmc.orchestration.ray_worker import WorkerHost

            gc.freeze()
        finally:
            gc.enable()
        self._host = WorkerHost()
        context = ray.get_runtime_context()
        return Introduction(
            node=ray.util.get_node_ip_address(),
            node_id=context.get_node_id(),
            devices=context.get_accelerator_ids().get("GPU", []),
            pid=os.getpid(),
            facts=machine_facts(),
        )

    def is_there(self) -> None:
        """Answer, which only a process that lives can do."""

    def carry_out(self, order: str, /, *arguments: Any, **named: Any) -> Any:
        """Hand an order on to the worker's host; `order` is the name of its method."""
        return getattr(self._host, order)(*arguments, **named)
