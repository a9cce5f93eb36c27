"""Workers that compute together for real and fail on demand."""

import dataclasses
import functools
import hashlib
import os
import pathlib
import signal
import time
import types
from typing import Any, Literal

import numpy as np

from distmc.errors import StartError
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport
from distmc.spec import RunSpec
from distmc.types import Phase

Kind = Literal[
    "raise",
    "exit",
    "drift",
    "start error",
    "hang in load",
    "stop in load",
    "stop in compile",
    "exit in compile",
    "exit after compile",
    "deaf",
]

# What the first worker of all hands on.
PROGRAM = b"compiled"


@dataclasses.dataclass(frozen=True)
class Fault:
    """What goes wrong, in which worker, once that many steps are done; again and again, or once if a file says so."""

    kind: Kind
    rank: int
    step: int = 0
    once: pathlib.Path | None = None

    def strikes(self) -> bool:
        """Say whether it goes wrong this time."""
        if self.once is None:
            return True
        try:
            self.once.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def task(num_warmup: int = 20, num_draws: int = 40, **model: Any) -> Any:
    """Return what looks like a WorkerTask to the orchestration."""
    functions = {"log_likelihood": None, "log_prior": None, **model}
    return types.SimpleNamespace(
        spec=RunSpec(num_warmup=num_warmup, num_draws=num_draws), model=types.SimpleNamespace(**functions)
    )


def build(fault: Fault | None = None, step_seconds: float = 0.005) -> Any:
    """Return a `build_worker` whose workers have this fault."""
    return functools.partial(_build, fault, step_seconds)


def _build(fault: Fault | None, step_seconds: float, task: Any, rank: int, num_workers: int) -> "FaultyWorker":
    return FaultyWorker(task, rank, num_workers, fault, step_seconds)


class FaultyWorker:
    """Adds one number over all workers in every step; the running sum is the state that they all hold."""

    def __init__(self, task: Any, rank: int, num_workers: int, fault: Fault | None, step_seconds: float) -> None:
        self.task = task
        self.rank = rank
        self.num_workers = num_workers
        self.fault = fault if fault is not None and fault.rank == rank else None
        self.step_seconds = step_seconds
        self.step = 0
        self.chunk = 0
        self.total = 0.0
        self.steps: list[float] = []
        self.kept: dict[int, ChunkArrays] = {}

    def load(self) -> None:
        if self.has("hang in load"):
            time.sleep(1000.0)
        if self.has("stop in load"):
            os.kill(os.getpid(), signal.SIGSTOP)

    def saved_program(self) -> bytes:
        if self.has("exit after compile"):
            os._exit(3)
        assert hasattr(self, "add")
        return PROGRAM

    def compile(self, saved: bytes | None = None) -> CompileReport:
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        if self.has("exit in compile"):
            os._exit(3)
        if self.has("stop in compile"):
            os.kill(os.getpid(), signal.SIGSTOP)
        # Nobody but the first compiles.
        assert saved == PROGRAM or (saved is None and self.rank == 0)
        self.has_compiled = saved is None
        assert jax.process_count() == self.num_workers
        mesh = jax.make_mesh((self.num_workers,), ("rows",))
        rows, everywhere = PartitionSpec("rows"), PartitionSpec()
        add = jax.shard_map(lambda x: jax.lax.psum(x, "rows"), mesh=mesh, in_specs=rows, out_specs=everywhere)
        local = np.full((1,), self.rank + 1, np.float32)
        self.local = jax.make_array_from_process_local_data(NamedSharding(mesh, rows), local)
        self.add = jax.jit(add).lower(self.local).compile()
        return CompileReport(rank=self.rank, seconds=0.1, device=jax.local_devices()[0].device_kind)

    def start(self, checkpoint: Any = None) -> ChunkReport:
        if self.has("start error"):
            raise StartError("no finite start in chain 3")
        self.one_step()
        self.total = 0.0
        if checkpoint is not None:
            self.chunk, self.step = checkpoint.chunk, checkpoint.step
            self.total = float(checkpoint.arrays["total"])
        return self.report("start", [], 0.0)

    def advance(self, num_steps: int) -> ChunkReport:
        spec = self.task.spec
        phase: Phase = "warmup" if self.step < spec.num_warmup else "draws"
        end = spec.num_warmup if phase == "warmup" else spec.num_warmup + spec.num_draws
        began = time.monotonic()
        self.chunk += 1
        self.first_step, self.phase, self.steps = self.step, phase, []
        while self.step < end and len(self.steps) < num_steps:
            self.one_step()
            self.step += 1
            self.steps.append(self.total)
        draws = np.array(self.steps)[None]
        self.kept[self.chunk] = ChunkArrays(
            chunk=self.chunk,
            phase=self.phase,
            first_step=self.first_step,
            draws={"total": draws},
            unconstrained=draws[..., None],
            stats={"logdensity": draws},
            state={"has_compiled": np.array(self.has_compiled), "total": np.array(self.total)},
        )
        return self.report(phase, self.steps, time.monotonic() - began)

    def collect(self, number: int) -> ChunkArrays:
        return self.kept[number]

    def release(self) -> None:
        self.__dict__.pop("local", None)
        self.__dict__.pop("add", None)

    def one_step(self) -> None:
        if self.has("raise"):
            raise KeyError("the words of the user's own exception")
        if self.has("exit"):
            os._exit(3)
        time.sleep(self.step_seconds)
        self.exchange()
        if self.has("drift"):
            self.total += 1e-9

    def exchange(self) -> None:
        try:
            self.total += float(np.asarray(self.add(self.local).addressable_data(0))[0])
        except Exception:
            if self.has("deaf"):
                # As gloo does when a connection ends in the middle of a message.
                time.sleep(1000.0)
            raise

    def has(self, kind: Kind) -> bool:
        fault = self.fault
        return fault is not None and fault.kind == kind and self.step >= fault.step and fault.strikes()

    def report(self, phase: Phase, steps: list[float], seconds: float) -> ChunkReport:
        return ChunkReport(
            rank=self.rank,
            chunk=self.chunk,
            phase=phase,
            step=self.step,
            num_steps=len(steps),
            digest=hashlib.sha256(repr((self.total, steps)).encode()).hexdigest(),
            seconds=seconds,
            step_size=0.5,
            num_integration_steps=1.0,
            acceptance_rate=0.8,
            num_divergent=0,
            num_nonfinite=0,
        )
