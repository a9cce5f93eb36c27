"""The Ray actor that hosts one worker."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import ray

from distmc.orchestration import policies
from distmc.orchestration.executor import BuildWorker, HostedWorker
from distmc.orchestration.messages import Failure
from distmc.parallel import processes
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport
from distmc.types import Checkpoint

if TYPE_CHECKING:
    from distmc.sampling.worker import WorkerTask

Reply = TypeVar("Reply")


class WorkerActor:
    """Carries out orders one after the other; what goes wrong comes back as a `Failure`, never as an exception.

    Every order names its generation, and orders of another generation than the present one are refused.
    """

    def __init__(self) -> None:
        self._generation = -1
        self._rank = 0
        self._num_workers = 1
        self._uses_gpu = False
        self._worker: HostedWorker | None = None

    def introduce(self) -> tuple[str, list[str], int]:
        """Return the address of this node, the GPUs given to this actor, and the number of this process."""
        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        return ray.util.get_node_ip_address(), gpus, os.getpid()

    def form(
        self, generation: int, *, rank: int, num_workers: int, coordinator: str, local_rank: int, num_local: int,
        num_cpus: int, uses_gpu: bool,
    ) -> Failure | None:  # fmt: skip
        """Become worker `rank` of `generation` and connect to the others."""
        self._generation = generation
        self._rank = rank
        self._num_workers = num_workers
        self._uses_gpu = uses_gpu

        def connect() -> None:
            if not uses_gpu:
                processes.pin_to_cores(local_rank, num_local, num_cpus)
            processes.join(coordinator, num_workers, rank, ray.util.get_node_ip_address())

        return self._attempt(generation, connect, with_others=True)

    def load(self, generation: int, task: "WorkerTask", build_worker: BuildWorker) -> Failure | None:
        """Make the worker and let it load its rows.

        The arguments are unpickled when this is called, which is after `form`: a model may hold JAX arrays, and
        making one starts the devices, which must not happen before the processes are connected.
        """

        def load() -> None:
            self._worker = build_worker(task, self._rank, self._num_workers)
            self._worker.load()

        return self._attempt(generation, load, with_others=True)

    def compile(self, generation: int) -> CompileReport | Failure:
        """Compile the program."""
        return self._attempt(generation, lambda: self._loaded().compile(), with_others=True)

    def start(self, generation: int, checkpoint: Checkpoint | None) -> ChunkReport | Failure:
        """Evaluate the starting positions together, which also connects the workers to each other directly."""

        def start() -> ChunkReport:
            report = self._loaded().start(checkpoint)
            # Collectives on GPUs may still need the coordinator for connections that are made later.
            if not self._uses_gpu:
                processes.detach()
            return report

        return self._attempt(generation, start, with_others=True)

    def advance(self, generation: int, num_steps: int) -> ChunkReport | Failure:
        """Make at most `num_steps` steps."""
        return self._attempt(generation, lambda: self._loaded().advance(num_steps), with_others=True)

    def collect(self, generation: int) -> ChunkArrays | Failure:
        """Return the arrays of the last chunk."""
        return self._attempt(generation, lambda: self._loaded().collect())

    def _attempt(self, generation: int, do: Callable[[], Reply], *, with_others: bool = False) -> Reply | Failure:
        try:
            if generation != self._generation:
                raise RuntimeError(f"An order of generation {generation} reached generation {self._generation}.")
            return do()
        except Exception as error:
            failure = policies.describe_exception(error, self._rank, uses_collectives=with_others)
            return policies.portable(failure)

    def _loaded(self) -> HostedWorker:
        if self._worker is None:
            raise RuntimeError("The worker was given an order before it was told to load.")
        return self._worker
