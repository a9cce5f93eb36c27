"""Lets the faults of a plan strike: workers that fail, files that are not written, processes that are gone.

Nothing in a run knows of it. Workers are wrapped where a session is told how to make them, and writing where a file is
flushed to the disk. See `distmc.testing.faults` for what can go wrong, and an example.
"""

import contextlib
import dataclasses
import errno
import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distmc.orchestration import policies, session
from distmc.orchestration.events import Member, OnEvent, RunEvent, WorkersStarted
from distmc.orchestration.executor import BuildWorker, HostedWorker, build_worker
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport
from distmc.storage import files
from distmc.testing.faults import Fault, Ledger, Phase, Plan
from distmc.types import Checkpoint

if TYPE_CHECKING:
    from distmc.sampling.worker import WorkerTask

_DAMAGED_BYTES = 64
# The very last bit is rounded away again where a step adds a number to another and the sum is larger, one time in six.
_DRIFTING_BIT = np.uint64(1 << 7)
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_FOLDERS: dict[str, Phase] = {"chunks": "commit", "state": "checkpoint"}
_FILES: dict[str, Phase] = {"run.json": "record", "posterior.nc": "finalise"}


class InjectedError(RuntimeError):
    """What a worker raises when it is struck by `raise`."""


@contextlib.contextmanager
def injected(
    plan: Plan,
    ledger: str | os.PathLike[str],
    *,
    chunk_steps: int | None = None,
    chunk_seconds: float = 0.0,
    on_event: OnEvent | None = None,
) -> Iterator[Ledger]:
    """Let faults strike the runs that this process drives meanwhile, begun or resumed through any door.

    Parameters
    ----------
    plan : tuple of Fault
        What is to go wrong.
    ledger : path
        Directory in which it is noted what has struck; the same for a run and for what resumes it. All processes of
        the run have to see it.
    chunk_steps : int, optional
        Most steps of a chunk: a short run has many chunks then, and room for many faults.
    chunk_seconds : float
        Added to the time of each chunk.
    on_event : callable (RunEvent) -> None, optional
        Told of all that the run tells.

    Yields
    ------
    Ledger
        What has struck.
    """
    strikes = _Strikes(plan, Ledger(ledger))
    driver = _Driver(strikes, on_event)
    original = session.run

    def run(
        task: "WorkerTask",
        on: Any,
        *,
        commit: session.CommitChunk,
        on_event: OnEvent | None = None,
        build_worker: BuildWorker = build_worker,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        original(
            task,
            on,
            commit=driver.committing(commit),
            on_event=driver.telling(on_event),
            build_worker=FaultyBuild(strikes=strikes, build=build_worker, chunk_seconds=chunk_seconds),
            checkpoint=checkpoint,
        )

    with contextlib.ExitStack() as replaced:
        replaced.enter_context(_replaced(session, "run", run))
        replaced.enter_context(_replaced(files, "_flush_to_disk", driver.flush))
        if chunk_steps is not None:
            replaced.enter_context(_replaced(policies, "MAX_CHUNK_STEPS", chunk_steps))
        yield strikes.ledger


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@dataclasses.dataclass(frozen=True)
class _Strikes:
    """A plan and what has become of it."""

    plan: Plan
    ledger: Ledger

    def due(
        self, phase: Phase, *, step: int | None = None, rank: int | None = None, num_workers: int = 1
    ) -> Iterator[tuple[int, Fault]]:
        """Yield the faults that can strike now, with their places in the plan."""
        for index, fault in enumerate(self.plan):
            if fault.phase != phase or self.ledger.has_struck(index):
                continue
            if rank is not None and fault.rank is not None and fault.rank % num_workers != rank:
                continue
            # A worker alone has nobody to be cut off or to differ from.
            if fault.kind in ("cut", "drift") and num_workers == 1:
                continue
            if fault.waits_for_step:
                is_due = step is not None and step >= fault.step
            else:
                is_due = all(self.ledger.has_struck(before) for before in range(index))
            if is_due:
                yield index, fault


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaultyBuild:
    """Makes workers that are struck by faults; pickles.

    Attributes
    ----------
    strikes : _Strikes
        The faults.
    build : BuildWorker
        Makes the worker inside.
    chunk_seconds : float
        Added to the time of each chunk.
    """

    strikes: _Strikes
    build: BuildWorker = build_worker
    chunk_seconds: float = 0.0

    def __call__(self, task: "WorkerTask", rank: int, num_workers: int) -> HostedWorker:
        """Return the worker with place `rank` among `num_workers`."""
        return _FaultyWorker(self, self.build(task, rank, num_workers), task.spec.num_warmup, rank, num_workers)


class _FaultyWorker:
    """A worker to whom things happen before it does what it is told."""

    def __init__(self, build: FaultyBuild, worker: HostedWorker, num_warmup: int, rank: int, num_workers: int) -> None:
        self._build = build
        self._worker = worker
        self._num_warmup = num_warmup
        self._rank = rank
        self._num_workers = num_workers
        self._step = 0
        self._peers: frozenset[int] = frozenset()

    def load(self) -> None:
        self._strike("load")
        self._worker.load()

    def compile(self, saved: bytes | None = None) -> CompileReport:
        self._strike("compile")
        return self._worker.compile(saved)

    def saved_program(self) -> bytes | None:
        return self._worker.saved_program()

    def start(self, checkpoint: Checkpoint | None = None) -> ChunkReport:
        self._strike("start")
        before = frozenset(_connections())
        report = self._worker.start(checkpoint)
        self._peers = frozenset(_connections()) - before
        self._step = report.step
        return report

    def advance(self, num_steps: int) -> ChunkReport:
        began = time.monotonic()
        time.sleep(self._build.chunk_seconds)
        self._strike("warmup" if self._step < self._num_warmup else "draws")
        report = self._worker.advance(num_steps)
        self._step = report.step
        return dataclasses.replace(report, seconds=time.monotonic() - began)

    def collect(self, number: int) -> ChunkArrays:
        self._strike("collect")
        return self._worker.collect(number)

    def release(self) -> None:
        self._worker.release()

    def _strike(self, phase: Phase) -> None:
        due = self._build.strikes.due(phase, step=self._step, rank=self._rank, num_workers=self._num_workers)
        for index, fault in list(due):
            if fault.kind in ("kill", "stop", "cut") and fault.seconds:
                _later(fault.seconds, functools.partial(self._suffer, index, fault))
            else:
                self._suffer(index, fault)

    def _suffer(self, index: int, fault: Fault) -> None:
        if fault.kind == "cut" and not self._peers & _connections().keys():
            # The generation has ended before the time came; another will do.
            return
        facts = {"rank": self._rank, "num_workers": self._num_workers, "step": self._step}
        if not self._build.strikes.ledger.claim(index, **facts):
            return
        match fault.kind:
            case "kill" | "stop":
                os.kill(os.getpid(), _SIGNALS[fault.kind])
            case "raise":
                raise InjectedError(f"fault {index} of the plan: {fault}")
            case "slow":
                time.sleep(fault.seconds)
            case "cut":
                _cut(self._peers)
            case "drift":
                _nudge(self._worker)


class _Driver:
    """What happens to the process that drives a run, and what it does to others."""

    def __init__(self, strikes: _Strikes, on_event: OnEvent | None) -> None:
        self._strikes = strikes
        self._on_event = on_event
        self._flush = files._flush_to_disk
        self._step: int | None = None
        self._written: dict[Phase, Path] = {}

    def committing(self, commit: session.CommitChunk) -> session.CommitChunk:
        """Return what writes a chunk, so that it knows of which steps."""

        def struck(report: ChunkReport, arrays: ChunkArrays) -> None:
            self._step = report.step - report.num_steps
            commit(report, arrays)
            for phase, path in self._written.items():
                for index, fault in self._strikes.due(phase, step=self._step):
                    if fault.kind in ("corrupt", "truncate") and self._claim(index, path):
                        _damage(path, fault.kind == "truncate")

        return struck

    def flush(self, path: Path) -> None:
        """Flush a file, unless the disk is full."""
        final = path.with_name(path.name.removeprefix(".").removesuffix(".partial"))
        phase = _FILES.get(final.name) or _FOLDERS.get(path.parent.name)
        if phase is not None:
            self._written[phase] = final
            for index, fault in self._strikes.due(phase, step=self._step):
                self._strike(index, fault, path)
        self._flush(path)

    def telling(self, tell: OnEvent | None) -> OnEvent:
        """Return what is to be told of all events."""

        def on_event(event: RunEvent) -> None:
            for told in (self._on_event, tell):
                if told is not None:
                    told(event)
            if isinstance(event, WorkersStarted):
                self._strike_forming(event)

        return on_event

    def _strike(self, index: int, fault: Fault, path: Path) -> None:
        if fault.kind not in ("kill", "slow", "full disk") or not self._claim(index, path):
            return
        match fault.kind:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "slow":
                time.sleep(fault.seconds)
            case "full disk":
                _halve(path)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _strike_forming(self, event: WorkersStarted) -> None:
        """Signal a worker of a new generation, which is told to connect to the others at this moment."""
        for index, fault in list(self._strikes.due("form")):
            member = event.members[(fault.rank or 0) % len(event.members)]
            if _is_here(member.node):
                _later(fault.seconds, functools.partial(self._signal, index, fault, member, len(event.members)))

    def _signal(self, index: int, fault: Fault, member: Member, num_workers: int) -> None:
        if self._strikes.ledger.claim(index, rank=member.rank, num_workers=num_workers, pid=member.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, _SIGNALS[fault.kind])

    def _claim(self, index: int, path: Path) -> bool:
        return self._strikes.ledger.claim(index, file=str(path), step=self._step)


def _later(seconds: float, do: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()


def _is_here(node: str) -> bool:
    """Say whether an address is one of this machine, which is what the numbers of its processes are known on."""
    with socket.socket(socket.AF_INET6 if ":" in node else socket.AF_INET, socket.SOCK_DGRAM) as tried:
        try:
            tried.bind((node, 0))
        except OSError:
            return False
    return True


def _connections() -> dict[int, int]:
    """Return this process's TCP connections: file descriptors by inode. None where the system does not list them."""
    found = {}
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        with contextlib.suppress(OSError), _opened(int(name)) as connection:
            if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
                connection.getpeername()
                found[os.fstat(connection.fileno()).st_ino] = int(name)
    return found


def _cut(inodes: frozenset[int]) -> None:
    for inode, descriptor in _connections().items():
        if inode in inodes:
            with contextlib.suppress(OSError), _opened(descriptor) as connection:
                connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[socket.socket]:
    """Give a second handle of a socket; OSError if the descriptor is not one."""
    again = os.dup(descriptor)
    try:
        opened = socket.socket(fileno=again)
    except OSError:
        os.close(again)
        raise
    with opened:
        yield opened


def _nudge(worker: Any) -> None:
    """Flip a bit of one number of a worker's state, as faulty memory would."""
    import jax

    from distmc.parallel.mesh import replicate, to_host

    state = worker._state
    with jax.enable_x64(True):
        position = np.array(to_host(state.kernel.position))
        largest = np.argmax(np.abs(position))
        position.view(np.uint64).flat[largest] ^= _DRIFTING_BIT
        nudged = replicate(worker._mesh, position)
    worker._state = state._replace(kernel=state.kernel._replace(position=nudged))


def _damage(path: Path, truncates: bool) -> None:
    if truncates:
        _halve(path)
        return
    content = path.read_bytes()
    kept, last = content[:-_DAMAGED_BYTES], content[-_DAMAGED_BYTES:]
    path.write_bytes(kept + bytes(255 - byte for byte in last))


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)
