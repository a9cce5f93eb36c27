"""The loop between controller, executor, disk and watcher; and whole runs in this process."""

import os
import signal
import threading
import types
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import pytest
from control_scripts import arrays, report

from distmc.errors import Interrupted, StartError, WorkerError
from distmc.orchestration import messages as m
from distmc.orchestration.controller import Controller
from distmc.orchestration.events import ChunkCommitted, RunEnded, RunEvent, StageBegan
from distmc.orchestration.membership import Candidate
from distmc.orchestration.session import drive, run
from distmc.orchestration.signals import StopSignals
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport
from distmc.spec import Local, RunSpec
from distmc.types import Checkpoint

NUM_WARMUP, NUM_DRAWS = 3, 5


class FakeWorker:
    """Makes steps of nothing, and fails in the method that `fails_in` names."""

    def __init__(self, fails_in: str = "", error: Exception | None = None) -> None:
        self.fails_in = fails_in
        self.error = error
        self.step = self.chunk = 0

    def load(self) -> None:
        self.do("load")

    def saved_program(self) -> None:
        return None

    def compile(self, saved: bytes | None = None) -> CompileReport:
        self.do("compile")
        return CompileReport(rank=0, seconds=0.0, device="cpu")

    def start(self, checkpoint: Any = None) -> ChunkReport:
        self.do("start")
        return report(0, 0, phase="start", num_steps=0)

    def advance(self, num_steps: int) -> ChunkReport:
        self.do("advance")
        self.chunk += 1
        end = NUM_WARMUP if self.step < NUM_WARMUP else NUM_WARMUP + NUM_DRAWS
        done = min(num_steps, end - self.step)
        self.step += done
        return report(self.chunk, self.step, num_steps=done)

    def collect(self, number: int) -> ChunkArrays:
        self.do("collect")
        return arrays(number)

    def release(self) -> None:
        """Hold nothing."""

    def do(self, what: str) -> None:
        if what == self.fails_in and self.error is not None:
            raise self.error


class Watcher:
    def __init__(self) -> None:
        self.committed: list[tuple[int, int]] = []
        self.events: list[RunEvent] = []

    def commit(self, report: ChunkReport, arrays: ChunkArrays) -> None:
        assert report.chunk == arrays.chunk
        self.committed.append((report.chunk, report.step))

    def on_event(self, event: RunEvent) -> None:
        self.events.append(event)


def sample(watcher: Watcher, worker: FakeWorker, commit: Any = None, on_event: Any = None) -> None:
    task: Any = types.SimpleNamespace(spec=RunSpec(num_warmup=NUM_WARMUP, num_draws=NUM_DRAWS))
    run(
        task,
        Local(),
        commit=commit or watcher.commit,
        on_event=on_event or watcher.on_event,
        build_worker=lambda task, rank, num_workers: worker,
    )


def test_local_run_commits_every_chunk_and_tells_every_stage() -> None:
    watcher = Watcher()
    sample(watcher, FakeWorker())
    assert watcher.committed == [(1, 1), (2, 3), (3, 7), (4, 8)]
    stages = [event.stage for event in watcher.events if isinstance(event, StageBegan)]
    assert stages == ["starting workers", "connecting", "loading", "compiling", "starting", "sampling", "saving"]
    assert [event.report.chunk for event in watcher.events if isinstance(event, ChunkCommitted)] == [1, 2, 3, 4]
    assert isinstance(watcher.events[-1], RunEnded)
    assert watcher.events[-1].error is None


@pytest.mark.parametrize("method", ["load", "compile", "start", "advance", "collect"])
def test_exception_in_this_process_keeps_its_cause(method: str) -> None:
    watcher = Watcher()
    origin = ZeroDivisionError("division by zero")
    with pytest.raises(WorkerError, match="division by zero") as caught:
        sample(watcher, FakeWorker(method, origin))
    assert caught.value.__cause__ is origin
    assert isinstance(watcher.events[-1], RunEnded)
    assert watcher.events[-1].error is caught.value


def test_input_error_in_this_process_comes_out_as_itself() -> None:
    with pytest.raises(StartError, match="no start"):
        sample(Watcher(), FakeWorker("start", StartError("no start")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_keeps_the_chunk_that_was_done_and_restores_handlers(number: signal.Signals) -> None:
    watcher = Watcher()
    before = signal.getsignal(number)

    def on_event(event: RunEvent) -> None:
        if isinstance(event, ChunkCommitted) and event.report.chunk == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="of 8 steps are committed"):
        sample(watcher, FakeWorker(), on_event=on_event)
    assert watcher.committed[:2] == [(1, 1), (2, 3)]
    assert len(watcher.committed) < 4
    assert signal.getsignal(number) is before


def test_second_ctrl_c_interrupts_at_once() -> None:
    def commit(report: ChunkReport, arrays: ChunkArrays) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal did not interrupt")

    with pytest.raises(Interrupted, match="at once"):
        sample(Watcher(), FakeWorker(), commit=commit)


def test_runs_outside_the_main_thread_leave_signals_alone() -> None:
    watcher = Watcher()
    before = signal.getsignal(signal.SIGINT)
    inside: list[Any] = []

    def commit(report: ChunkReport, arrays: ChunkArrays) -> None:
        inside.append(signal.getsignal(signal.SIGINT))
        watcher.commit(report, arrays)

    thread = threading.Thread(target=sample, args=(watcher, FakeWorker(), commit))
    thread.start()
    thread.join(timeout=30)
    assert len(watcher.committed) == 4
    assert set(inside) == {before}


def test_signal_that_was_ignored_is_ignored_again() -> None:
    original = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.reason == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, original)


class SilentExecutor:
    """Takes orders and never answers; its clock goes on by one second with every look."""

    num_workers = (1, 1)
    hang_timeout_seconds = 5.0
    keeps_processes = True

    def __init__(self) -> None:
        self.orders: list[m.Order] = []
        self.time = 0.0
        self.answers: list[m.Event] = []

    def perform(self, order: m.Order) -> None:
        self.orders.append(order)
        if isinstance(order, m.Acquire):
            self.answers.append(m.WorkerUp(Candidate(worker=len(self.orders), node="here", pid=1)))

    def poll(self, timeout: float) -> Sequence[m.Event]:
        self.time += 1.0
        answers, self.answers = self.answers, []
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class LosingExecutor(SilentExecutor):
    """Carries out orders at once, but loses its worker in the second chunk, as the arrays of the first come."""

    def __init__(self) -> None:
        super().__init__()
        self.checkpoints: list[Checkpoint | None] = []
        self.num_chunks = 0

    def perform(self, order: m.Order) -> None:
        super().perform(order)
        match order:
            case m.Start():
                self.checkpoints.append(order.checkpoint)
                self.answer(order, report(0, 0, phase="start", num_steps=0))
            case m.Advance():
                self.num_chunks += 1
                if self.num_chunks == 2:
                    failure = m.Failure(rank=0, kind=m.FailureKind.DEAD, summary="killed")
                    self.answers.append(m.WorkerFailed(generation=order.generation, failure=failure))
                else:
                    chunk = min(self.num_chunks, 2)
                    self.answer(order, report(chunk, chunk))
            case m.Collect():
                self.answers.append(m.ArraysReady(generation=order.generation, arrays=arrays(order.chunk)))
            case m.Meet() | m.Form() | m.Load() | m.Compile():
                self.answer(order)

    def answer(self, order: m.ToGeneration, value: ChunkReport | None = None) -> None:
        self.answers.append(m.Replied(generation=order.generation, rank=0, value=value))


def test_chunk_on_disk_counts_whatever_else_has_happened_meanwhile() -> None:
    executor = LosingExecutor()
    controller = Controller(num_workers=(1, 1), num_steps=2, hang_timeout_seconds=executor.hang_timeout_seconds)
    watcher = Watcher()
    drive(controller, executor, commit=watcher.commit, on_event=watcher.on_event, clock=lambda: executor.time)
    assert watcher.committed == [(1, 1), (2, 2)]
    assert [checkpoint and checkpoint.step for checkpoint in executor.checkpoints] == [None, 1]


def test_time_passes_for_the_controller_while_nothing_happens() -> None:
    executor = SilentExecutor()
    controller = Controller(num_workers=(1, 1), num_steps=1, hang_timeout_seconds=executor.hang_timeout_seconds)
    watcher = Watcher()
    with pytest.raises(WorkerError, match="fell silent while the run was calling the workers together"):
        drive(
            controller,
            executor,
            commit=watcher.commit,
            on_event=watcher.on_event,
            clock=lambda: executor.time,
        )
    # Each time the silent worker is let go and another one asked for; there are three tries more than the first.
    assert [type(order) for order in executor.orders] == [m.Acquire, m.Meet, *[m.Release, m.Acquire, m.Meet] * 3]
    assert executor.time == pytest.approx(4 * (1.0 + 5.0))
