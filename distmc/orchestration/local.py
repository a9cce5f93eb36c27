"""Runs the one worker of a run in this process, without Ray."""

import collections
import math
import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

from distmc.orchestration import messages as m
from distmc.orchestration import policies
from distmc.orchestration.executor import BuildWorker, HostedWorker
from distmc.orchestration.membership import Candidate

if TYPE_CHECKING:
    from distmc.sampling.worker import WorkerTask


class LocalExecutor:
    """Carries out each order when it is polled, in the calling thread.

    Parameters
    ----------
    task : WorkerTask
        What the worker is to do.
    build_worker : BuildWorker
        Makes the worker.
    """

    num_workers = (1, 1)
    hang_timeout_seconds = math.inf
    keeps_processes = True

    def __init__(self, task: "WorkerTask", build_worker: BuildWorker) -> None:
        self._task = task
        self._build_worker = build_worker
        self._worker: HostedWorker | None = None
        self._orders: collections.deque[m.Order] = collections.deque()

    def perform(self, order: m.Order) -> None:
        """Put `order` in the queue."""
        self._orders.append(order)

    def poll(self, timeout: float) -> list[m.Event]:
        """Carry out the next order, if there is one; it takes as long as it takes."""
        if not self._orders:
            return []
        order = self._orders.popleft()
        if isinstance(order, m.Acquire):
            return [m.WorkerUp(Candidate(worker=0, node="this machine", pid=os.getpid()))]
        if isinstance(order, m.Release):
            return []
        try:
            return [self._carry_out(order)]
        except Exception as error:
            failure = policies.describe_exception(error, 0, uses_collectives=False)
            return [m.WorkerFailed(generation=order.generation, failure=failure)]

    def __enter__(self) -> Self:
        """Return the executor; there is nothing to connect to."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drop the worker and with it its arrays."""
        self._worker = None
        self._orders.clear()

    def _carry_out(self, order: m.ToGeneration) -> m.Event:
        generation = order.generation
        match order:
            case m.Meet():
                self._worker = None
                return m.Replied(generation=generation, rank=0)
            case m.Form():
                # Alone in the run, this process has nobody to connect to.
                return m.Replied(generation=generation, rank=0)
            case m.Load():
                self._worker = self._build_worker(self._task, 0, 1)
                self._worker.load()
                return m.Replied(generation=generation, rank=0)
            case m.Compile():
                return m.Replied(generation=generation, rank=0, value=self._loaded().compile())
            case m.Start():
                return m.Replied(generation=generation, rank=0, value=self._loaded().start(order.checkpoint))
            case m.Advance():
                return m.Replied(generation=generation, rank=0, value=self._loaded().advance(order.num_steps))
            case m.Collect():
                return m.ArraysReady(generation=generation, arrays=self._loaded().collect(order.chunk))

    def _loaded(self) -> HostedWorker:
        if self._worker is None:
            raise RuntimeError("The worker was given an order before it was told to load.")
        return self._worker
