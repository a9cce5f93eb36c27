"""Carries a run from its first order to its last: controller, executor, disk and watcher meet here."""

import collections
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from distmc.errors import Interrupted
from distmc.orchestration import messages as m
from distmc.orchestration.controller import Controller
from distmc.orchestration.events import OnEvent, RunEvent
from distmc.orchestration.executor import BuildWorker, Executor, build_worker
from distmc.orchestration.signals import StopSignals
from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.spec import Placement, Ray
from distmc.types import Checkpoint

if TYPE_CHECKING:
    from distmc.sampling.worker import WorkerTask

POLL_SECONDS = 0.2


class CommitChunk(Protocol):
    """Writes a chunk; when it returns, the chunk has to survive the loss of every process."""

    def __call__(self, report: ChunkReport, arrays: ChunkArrays) -> object:
        """Write the draws, statistics and state in `arrays`."""


def run(
    task: "WorkerTask",
    on: Placement,
    *,
    commit: CommitChunk,
    on_event: OnEvent | None = None,
    build_worker: BuildWorker = build_worker,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Do all steps of a run on the workers that `on` describes.

    Parameters
    ----------
    task : WorkerTask
        Model, data, spec and where to start.
    on : Local or Ray
        Where to compute.
    commit : callable (ChunkReport, ChunkArrays) -> None
        Writes one chunk. Called in this thread, in the order of the chunks, while the workers compute the next.
    on_event : callable (RunEvent) -> None, optional
        Told of every stage, chunk and the end. What it raises ends the run.
    build_worker : BuildWorker, optional
        Makes the worker of a process.
    checkpoint : Checkpoint, optional
        Where to go on; not given: at the beginning.

    Raises
    ------
    CapacityError
        If the cluster cannot give the workers.
    WorkerError
        If a worker fails; names the root cause.
    DriftError
        If replicas differ.
    InputError
        If a worker finds that model, data or start cannot be used.
    Interrupted
        On Ctrl-C or SIGTERM. What was committed is kept.
    """
    spec = task.spec
    try:
        with StopSignals() as stop, _executor(task, on, build_worker) as executor:
            controller = Controller(
                num_workers=executor.num_workers,
                keeps_processes=executor.keeps_processes,
                num_steps=spec.num_steps,
                hang_timeout_seconds=executor.hang_timeout_seconds,
                checkpoint=checkpoint,
            )
            drive(controller, executor, commit=commit, on_event=on_event or _ignore, stop_reason=lambda: stop.reason)
    except KeyboardInterrupt as error:
        raise Interrupted("The run was interrupted at once; what was committed is kept.") from error


def drive(
    controller: Controller,
    executor: Executor,
    *,
    commit: CommitChunk,
    on_event: OnEvent,
    stop_reason: Callable[[], str | None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Pass events and orders between `controller` and `executor` until the run is over.

    Parameters
    ----------
    controller : Controller
        Fresh.
    executor : Executor
        Connected.
    commit, on_event : callable
        As in `run`.
    stop_reason : callable () -> str or None
        Says who has asked to stop, or None.
    clock : callable () -> float
        Seconds that never go back.
    """
    events: collections.deque[m.Event] = collections.deque([m.RunRequested()])
    stop_is_known = False
    while True:
        while events:
            for action in controller.handle(events.popleft(), clock()):
                match action:
                    case m.Tell():
                        on_event(action.event)
                    case m.Commit():
                        began = clock()
                        commit(action.report, action.arrays)
                        # Before whatever else has happened: the chunk is on disk, and may be all that is left.
                        events.appendleft(m.Committed(action.report.chunk, clock() - began))
                    case m.Finish():
                        if action.error is not None:
                            raise action.error
                        return
                    case _:
                        executor.perform(action)
        reason = stop_reason()
        if reason is not None and not stop_is_known:
            stop_is_known = True
            events.append(m.StopRequested(reason))
            continue
        events.extend(executor.poll(POLL_SECONDS) or (m.Tick(),))


def _executor(task: "WorkerTask", on: Placement, build_worker: BuildWorker) -> Executor:
    if isinstance(on, Ray):
        from distmc.orchestration.ray import RayExecutor

        return RayExecutor(task, on, build_worker)
    from distmc.orchestration.local import LocalExecutor

    return LocalExecutor(task, build_worker)


def _ignore(event: RunEvent) -> None:
    """Do nothing with `event`."""
