"""What hosts one worker in its process on Ray."""

import functools
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import ray
from ray.exceptions import RayError

from distmc.orchestration import policies
from distmc.orchestration.differences import FEATURES
from distmc.orchestration.executor import BuildWorker, HostedWorker
from distmc.orchestration.facts import machine_facts
from distmc.orchestration.messages import Failure
from distmc.orchestration.policies import LostPeer
from distmc.parallel import cores, processes
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport
from distmc.types import Checkpoint

if TYPE_CHECKING:
    from distmc.sampling.worker import WorkerTask

Reply = TypeVar("Reply")


class SavedProgram(NamedTuple):
    """A compiled program on its way to other workers.

    Attributes
    ----------
    processor_features : str
        Of the machine that it was compiled on; on another one it may crash, without a word before.
    program : bytes or None
        None if it cannot leave its process.
    """

    processor_features: str
    program: bytes | None


class WorkerHost:
    """Carries out orders one after the other; what goes wrong comes back as a `Failure`, never as an exception.

    Every order names its generation, and orders of another generation than the present one are refused.
    """

    def __init__(self) -> None:
        self._generation = -1
        self._rank = 0
        self._num_workers = 1
        self._uses_gpu = False
        self._worker: HostedWorker | None = None
        # Where to sample, settled when it connects; GPUs need no cores.
        self._keep_to_cores: Callable[[], None] = lambda: None

    def meet(self, generation: int, rank: int, num_workers: int) -> Failure | None:
        """Become worker `rank` of `generation`, and part from the generation before."""
        self._generation = generation
        self._rank = rank
        self._num_workers = num_workers
        return self._attempt(generation, self._part)

    def form(
        self, generation: int, *, coordinator: str, local_rank: int, num_local: int, num_cpus: int, uses_gpu: bool
    ) -> Failure | None:
        """Connect to the other workers of `generation`."""
        self._uses_gpu = uses_gpu

        def connect() -> None:
            # A chunk of the former generation may have been collected since, which starts the devices.
            self._part()
            if not uses_gpu:
                cores.share_cores(num_local, num_cpus)
                self._keep_to_cores = functools.partial(cores.keep_to_cores, local_rank, num_local, num_cpus)
            processes.join(coordinator, self._num_workers, self._rank, ray.util.get_node_ip_address())

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

    def compile(self, generation: int, program: "list[ray.ObjectRef[Any]]", give_up: float) -> CompileReport | Failure:
        """Compile the program, or take over one that another worker has compiled.

        Parameters
        ----------
        generation : int
            Of this order.
        program : list of at most one ObjectRef
            What `saved_program` returns or will return there. In a list, so that Ray hands it on unfulfilled: should
            its worker be lost, this one is not to be taken for it.
        give_up : float
            Seconds to wait for it.
        """

        def compile_or_load() -> CompileReport:
            saved = _handed_over(program, give_up)
            if saved is None and self._rank > 0:
                # Others may compile for themselves as well.
                self._keep_to_cores()
            return self._loaded().compile(saved)

        return self._attempt(generation, compile_or_load, with_others=True)

    def saved_program(self, generation: int) -> SavedProgram | Failure:
        """Return the compiled program for other workers."""
        return self._attempt(
            generation, lambda: SavedProgram(machine_facts()[FEATURES], self._loaded().saved_program())
        )

    def start(self, generation: int, checkpoint: Checkpoint | None) -> ChunkReport | Failure:
        """Evaluate the starting positions together, which also connects the workers to each other directly."""

        def start() -> ChunkReport:
            self._keep_to_cores()
            report = self._loaded().start(checkpoint)
            # Collectives on GPUs may still need the coordinator for connections that are made later.
            if not self._uses_gpu:
                processes.detach()
            return report

        return self._attempt(generation, start, with_others=True)

    def advance(self, generation: int, num_steps: int) -> ChunkReport | Failure:
        """Make at most `num_steps` steps."""
        return self._attempt(generation, lambda: self._loaded().advance(num_steps), with_others=True)

    def collect(self, generation: int, chunk: int) -> ChunkArrays | Failure:
        """Return the arrays of a chunk."""
        return self._attempt(generation, lambda: self._loaded().collect(chunk))

    def _attempt(self, generation: int, do: Callable[[], Reply], *, with_others: bool = False) -> Reply | Failure:
        try:
            if generation != self._generation:
                raise RuntimeError(f"An order of generation {generation} reached generation {self._generation}.")
            return do()
        except Exception as error:
            failure = policies.portable(policies.describe_exception(error, self._rank, uses_collectives=with_others))
            # What its frames hold would keep the connections open.
            traceback.clear_frames(error.__traceback__)
        if with_others:
            # The others may be waiting for this worker, and would for ever.
            self._part()
        return failure

    def _part(self) -> None:
        """Leave the devices, and with them the group of processes; chunks on the host stay."""
        if self._worker is not None:
            self._worker.release()
        if not self._uses_gpu:
            processes.leave()

    def _loaded(self) -> HostedWorker:
        if self._worker is None:
            raise RuntimeError("The worker was given an order before it was told to load.")
        return self._worker


def _handed_over(program: "list[ray.ObjectRef[Any]]", give_up: float) -> bytes | None:
    """Wait for a program that another worker has compiled or compiles; None if this one has to do so itself.

    Raises
    ------
    LostPeer
        If it does not come.
    """
    if not program:
        return None
    try:
        saved: SavedProgram | Failure = ray.get(program[0], timeout=give_up)
    except RayError as error:
        raise LostPeer("the program that the first worker was to compile for all has not come") from error
    if isinstance(saved, Failure):
        raise LostPeer(f"the first worker, which was to compile for all, failed: {saved.summary}")
    return saved.program if saved.processor_features == machine_facts()[FEATURES] else None
