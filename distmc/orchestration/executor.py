"""What a session needs from whatever hosts the workers."""

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from distmc.orchestration.messages import Event, Order
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport
from distmc.types import Checkpoint

if TYPE_CHECKING:
    from distmc.sampling.worker import WorkerTask


class HostedWorker(Protocol):
    """One process's share of a run, as `distmc.sampling.worker.Worker` offers it."""

    def load(self) -> None:
        """Load this worker's rows on the host."""

    def compile(self, saved: bytes | None = None) -> CompileReport:
        """Compile the program, or take over a saved one; runs no collective."""

    def saved_program(self) -> bytes | None:
        """Return the compiled program for other processes; None if it cannot leave this one."""

    def start(self, checkpoint: Checkpoint | None = None) -> ChunkReport:
        """Evaluate the starting positions together with the other workers; go on from `checkpoint` if given."""

    def advance(self, num_steps: int) -> ChunkReport:
        """Make at most `num_steps` steps together with the other workers."""

    def collect(self, number: int) -> ChunkArrays:
        """Return the arrays of a chunk, the last or the one before it."""

    def release(self) -> None:
        """Drop the devices and all that lies on them; chunks on the host can still be collected."""


class BuildWorker(Protocol):
    """Makes the worker of one process; must pickle, as it is called where the worker lives.

    Tests pass their own to let workers fail in every way.
    """

    def __call__(self, task: "WorkerTask", rank: int, num_workers: int) -> HostedWorker:
        """Return the worker with place `rank` among `num_workers`."""


class Executor(Protocol):
    """Hosts the workers of a run; leaving it lets go of all it holds, whatever happened.

    Orders are carried out in the order given. What comes of them is heard from `poll`, with the order's generation.
    """

    num_workers: tuple[int, int]
    """Fewest and most workers."""
    hang_timeout_seconds: float
    keeps_processes: bool
    """Whether a worker process can serve in one generation after another."""

    def perform(self, order: Order) -> None:
        """Begin to carry out `order`; does not wait for it."""

    def poll(self, timeout: float) -> Sequence[Event]:
        """Return what has happened, waiting at most about `timeout` seconds for something to happen."""

    def __enter__(self) -> Self:
        """Return the executor."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of workers and connections."""


def build_worker(task: "WorkerTask", rank: int, num_workers: int) -> HostedWorker:
    """Make the worker that distmc ships."""
    from distmc.sampling.worker import Worker

    worker: HostedWorker = Worker(task, rank, num_workers)
    return worker
