"""What goes wrong in a run, and when: plans of faults, drawn from a seed, each of which strikes once.

To see that a run of yours outlives them::

    from distmc.testing import faults, injection, invariance

    plan = faults.random_faults(seed=0, number=10, num_warmup=100, num_draws=400)
    with injection.injected(plan, "faults-0"):
        tree = distmc.sample(model, data, num_warmup=100, num_draws=400, on=distmc.Ray(num_workers=(1, 3)))
    invariance.require_identical(oracle, tree)

where `oracle` is what the same call returns without faults. Faults that end the whole run, such as a full disk, are
gone through by `distmc.testing.endurance.endure`, which resumes it each time.
"""

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

Kind: TypeAlias = Literal["kill", "stop", "raise", "slow", "cut", "drift", "full disk", "corrupt", "truncate"]
"""What goes wrong.

- `kill`: the process is killed (SIGKILL).
- `stop`: the process is stopped (SIGSTOP), and neither answers nor ends.
- `raise`: a Python exception.
- `slow`: nothing happens for `Fault.seconds`.
- `cut`: the process's connections to the other workers are shut down; all processes live.
- `drift`: a bit flips in one worker's copy of the state, the eighth from the end of a number.
- `full disk`: the file is cut short and the system says that no space is left.
- `corrupt`: the last bytes of the file are changed after it was written.
- `truncate`: the file loses its second half after it was written.
"""

Phase: TypeAlias = Literal[
    "form", "load", "compile", "start", "warmup", "draws", "collect", "commit", "checkpoint", "record", "finalise"
]
"""When it goes wrong.

A worker is struck while it forms a generation with others, loads rows, compiles, starts, takes steps of warm-up or of
draws, and when it is asked for the arrays of a chunk. The process that drives the run is struck while it writes a
chunk (`commit`), the state after it (`checkpoint`), run.json (`record`), and posterior.nc (`finalise`).
"""

SETUP: tuple[Phase, ...] = ("form", "load", "compile", "start")
STEPPING: tuple[Phase, ...] = ("warmup", "draws")
WRITING: tuple[Phase, ...] = ("commit", "checkpoint", "record", "finalise")
_IN_WORKER: tuple[Phase, ...] = ("load", "compile", "start", *STEPPING, "collect")

PHASES: dict[Kind, tuple[Phase, ...]] = {
    "kill": ("form", *_IN_WORKER, *WRITING),
    "stop": ("form", *_IN_WORKER),
    "raise": _IN_WORKER,
    "slow": (*_IN_WORKER, "commit", "checkpoint"),
    "cut": STEPPING,
    "drift": STEPPING,
    "full disk": WRITING,
    "corrupt": ("commit", "checkpoint"),
    "truncate": ("commit", "checkpoint"),
}
"""In which phases each kind can strike."""

_ENDS_GENERATION: tuple[Kind, ...] = ("kill", "raise", "cut", "drift")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes
    ----------
    kind : Kind
        What.
    phase : Phase
        When. Where steps are taken, collected and written, it strikes first in a chunk that begins at or after
        `step`; in the other phases, once all faults before it in the plan have struck.
    rank : int or None
        The worker, modulo their number; None: whichever comes first. Has no meaning where the driver is struck.
    step : int
        Steps of the run, warm-up included, before which it does not strike.
    seconds : float
        How long after the phase has begun a process is killed or stopped, or its connections cut; for `slow`, how
        long it lasts.
    """

    kind: Kind
    phase: Phase
    rank: int | None = None
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot strike."""
        if self.kind not in get_args(Kind) or self.phase not in PHASES[self.kind]:
            raise ValueError(f"`{self.kind}` cannot strike in `{self.phase}`; it can in {PHASES.get(self.kind, ())}.")
        if self.kind == "slow" and self.seconds <= 0.0:
            raise ValueError("`slow` needs `seconds`, how long it lasts.")

    @property
    def waits_for_step(self) -> bool:
        """Whether `step` says when it strikes, rather than its place in the plan."""
        return self.phase not in (*SETUP, "finalise")

    def __str__(self) -> str:
        """Return kind and phase."""
        return f"{self.kind} in {self.phase}"


Plan: TypeAlias = tuple[Fault, ...]
"""Faults in the order in which they strike."""


def random_faults(
    seed: int,
    number: int,
    *,
    num_warmup: int,
    num_draws: int,
    kinds: Sequence[Kind] = ("kill", "raise", "slow", "cut", "drift", "full disk"),
    num_ranks: int = 3,
    seconds: float = 0.3,
) -> Plan:
    """Draw a plan whose faults are spread evenly over the steps of a run.

    A fault of a setup phase follows another that makes a setup necessary. So faults that follow each other before
    anything new is committed are of different kinds, or a run would rightly take them for its own.

    Parameters
    ----------
    seed : int
        Another seed, another plan.
    number : int
        Faults in the plan.
    num_warmup, num_draws : int
        Steps of the run, thinning left aside.
    kinds : sequence of Kind
        Those to choose from. A process that is stopped costs the hang limit, so `stop` has to be asked for.
    num_ranks : int
        Most workers of the run.
    seconds : float
        Longest delay before a process is killed, and longest slowness.

    Returns
    -------
    plan : tuple of Fault
    """
    rng = np.random.default_rng(seed)
    num_steps = num_warmup + num_draws
    plan: list[Fault] = []
    while len(plan) < number:
        step = int((len(plan) + rng.uniform(0.1, 0.6)) * num_steps / number)
        kind = kinds[int(rng.integers(len(kinds)))]
        before = plan[-1] if plan else None
        phases = [phase for phase in PHASES[kind] if _can_follow(before, kind, phase, step, num_warmup)]
        if not phases:
            continue
        phase = phases[int(rng.integers(len(phases)))]
        delay = float(rng.uniform(0.2, 1.0)) * seconds if kind == "slow" or rng.random() < 0.5 else 0.0
        plan.append(
            Fault(
                kind=kind,
                phase=phase,
                rank=None if phase == "collect" or phase in WRITING else int(rng.integers(num_ranks)),
                step=step if phase not in (*SETUP, "finalise") else 0,
                seconds=round(delay, 3),
            )
        )
    return tuple(plan)


def _can_follow(before: Fault | None, kind: Kind, phase: Phase, step: int, num_warmup: int) -> bool:
    """Say whether a fault can be the next of a plan.

    The driver is killed only by those who watch it from outside. The files that are not written for every chunk are
    struck only where a plan says so, as nothing would tell when.
    """
    if phase in SETUP:
        is_needed = before is not None and before.phase in STEPPING and before.kind in _ENDS_GENERATION
        return is_needed and before is not None and before.kind != kind
    if phase in WRITING:
        return phase in ("commit", "checkpoint") and kind != "kill"
    is_warmup = step < num_warmup
    return phase == "collect" or phase == ("warmup" if is_warmup else "draws")


class Ledger:
    """Which faults of a plan have struck, in a directory that all processes of a run can write to.

    A fault is noted in the moment before it strikes. Of several processes only one can note it, so that each strikes
    once, whatever becomes of the processes.

    Parameters
    ----------
    path : path
        Directory; made if need be.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.path.mkdir(parents=True, exist_ok=True)

    def claim(self, index: int, **facts: Any) -> bool:
        """Note that fault `index` strikes now; False if it has struck before."""
        noted = {"time": time.time(), "host": socket.gethostname(), "pid": os.getpid(), **facts}
        # Written aside, so that whoever reads it finds it whole; linked, as only one can link to the same name.
        aside = self.path / f"{index}-{os.getpid()}-{threading.get_ident()}"
        aside.write_text(json.dumps(noted), encoding="utf-8")
        try:
            os.link(aside, self._file(index))
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        return True

    def has_struck(self, index: int) -> bool:
        """Say whether fault `index` has struck."""
        return self._file(index).exists()

    def read(self) -> dict[int, dict[str, Any]]:
        """Return what is known of the faults that have struck, by their place in the plan.

        Returns
        -------
        dict of int to dict
            `time` (seconds since 1970), `host`, `pid`; of workers also `rank`, `num_workers` and `step`.
        """
        return {int(file.stem): json.loads(file.read_text("utf-8")) for file in sorted(self.path.glob("*.json"))}

    def _file(self, index: int) -> Path:
        return self.path / f"{index:04d}.json"
