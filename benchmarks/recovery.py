"""What a fault costs, and what it costs to be prepared for one.

**Faults.** On a local Ray cluster the demonstration's model runs in turn through faults of all kinds that a run
outlives by itself; what is wrong with a file or a disk ends it, or shows when it is resumed. Reported are, as medians
over the faults of a kind and as the longest, the seconds of standstill (from the first that the driver hears of the
failure, or for a process that hangs from the moment it was stopped, to the moment at which all workers take steps
again) and the most steps that may have been made again: those of the chunk under way are counted whole.

**Checkpoints.** Every chunk is written as draws and state before it counts. The driver does this while the workers
compute the next chunk, and they wait only where that is done earlier. Reported are, of runs without faults that begin
with the first step and end with the last:

- the seconds in commits over the seconds of the run: the whole time of writing, which is what checkpoints would cost
  if nothing were computed meanwhile (as on `Local`), and so the most that they can cost;
- by how much a run is longer: median seconds of runs that write over those of runs that do not, less one. The runs
  take turns. On a machine that is busy with other things this says little; the first figure is safe.

The first of the two is also reported of one run of the size of the demonstration, which takes minutes.

Run it as ``python benchmarks/recovery.py`` on an otherwise idle machine; ``--words 500 --repeats 2`` is quick.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import ray
from _measure import machine_facts, write_result

import distmc
from distmc import demo
from distmc.orchestration import session
from distmc.orchestration.events import ChunkCommitted, RunEvent, SamplingResumed, StageBegan, WorkersLost
from distmc.run import Run
from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.spec import Local, Placement, RunSpec
from distmc.storage import RunDirectory
from distmc.testing.endurance import Endured, endure
from distmc.testing.faults import Fault, Kind, Ledger, Plan
from distmc.zoo import words

# Compiling may take four times as long.
HANG_SECONDS = 20.0
# Some seconds, in which another process gets ready for the next loss; a chunk takes about one.
STEPS_APART, CHUNK_STEPS = 200, 25
KINDS: tuple[Kind, ...] = ("raise", "cut", "drift", "kill", "stop")


def plan_of(repeats: int, num_warmup: int) -> Plan:
    """Return faults of all kinds in turn, spread over the draws; ranks take turns, too."""
    kinds = [kind for _ in range(repeats) for kind in KINDS]
    return tuple(
        Fault(kind=kind, phase="draws", rank=turn // len(KINDS), step=num_warmup + (turn + 1) * STEPS_APART)
        for turn, kind in enumerate(kinds)
    )


def costs(plan: Plan, endured: Endured, ledger: Ledger) -> dict[Kind, list[tuple[float, int]]]:
    """Return, by the kind of the last fault before, seconds of standstill and steps made again."""
    struck = sorted((facts["time"], index) for index, facts in ledger.read().items())
    found: dict[Kind, list[tuple[float, int]]] = {kind: [] for kind in KINDS}
    for at, event in endured.events:
        if isinstance(event, SamplingResumed):
            moment, index = max(strike for strike in struck if strike[0] <= at)
            kind = plan[index].kind
            # Nobody hears of a process that is stopped.
            seconds = at - moment if kind == "stop" else event.standstill_seconds
            found[kind].append((seconds, event.steps_repeated))
    return found


def measure_faults(problem: dict[str, int], repeats: int) -> dict[str, dict[str, Any]]:
    """Go through faults of all kinds in one run."""
    plan = plan_of(repeats, problem["warmup"])
    sizes = {"num_warmup": problem["warmup"], "num_draws": (len(plan) + 1) * STEPS_APART}
    folder = Path(tempfile.mkdtemp(prefix="distmc-recovery-"))
    places = {"path": folder / "run", "ledger": folder / "ledger"}
    on = distmc.Ray(num_workers=problem["workers"], hang_timeout_seconds=HANG_SECONDS)
    pace = {"chunk_steps": CHUNK_STEPS, "on_event": show_event}
    data = words.load_words(problem["words"])
    endured = endure(words.build_model(), data, plan, on=on, **places, **pace, **settings(problem), **sizes)
    found = costs(plan, endured, Ledger(folder / "ledger"))
    shutil.rmtree(folder)
    return {
        kind: {
            "faults": len(of_kind),
            "median_seconds": round(statistics.median(seconds for seconds, _ in of_kind), 2),
            "longest_seconds": round(max(seconds for seconds, _ in of_kind), 2),
            "most_steps_again": max(steps for _, steps in of_kind),
        }
        for kind, of_kind in found.items()
        if of_kind
    }


def show_event(event: RunEvent) -> None:
    if isinstance(event, WorkersLost):
        print(event.cause[:150], flush=True)
    elif isinstance(event, SamplingResumed):
        print(f"  goes on after {event.standstill_seconds:.1f} s", flush=True)


def settings(problem: dict[str, int]) -> dict[str, Any]:
    return {"num_chains": problem["chains"], "initial": words.starting_values(problem["chains"])}


def time_run(problem: dict[str, int], on: Placement, writes: bool) -> tuple[float, float]:
    """Run without faults; return the seconds from the first step to the last commit, and those in commits."""
    spec = RunSpec(num_chains=problem["chains"], num_warmup=problem["warmup"], num_draws=problem["draws"])
    data, initial = words.load_words(problem["words"]), words.starting_values(problem["chains"])
    run = Run.prepare(words.build_model(), data, spec, on, initial=initial)
    folder = Path(tempfile.mkdtemp(prefix="distmc-recovery-"))
    directory = RunDirectory.create(folder / "run", run.record, run.task.start)
    times = {"began": 0.0, "ended": 0.0, "in commits": 0.0}

    def on_event(event: RunEvent) -> None:
        if isinstance(event, StageBegan) and event.stage == "sampling":
            times["began"] = time.perf_counter()
        elif isinstance(event, ChunkCommitted):
            times["ended"] = time.perf_counter()

    session.run(run.task, on, commit=timed(directory, times) if writes else nothing, on_event=on_event)
    shutil.rmtree(folder)
    return times["ended"] - times["began"], times["in commits"]


def timed(directory: RunDirectory, times: dict[str, float]) -> Callable[[ChunkReport, ChunkArrays], None]:
    """Return what writes a chunk as a run does, and adds up its seconds."""

    def commit(report: ChunkReport, arrays: ChunkArrays) -> None:
        began = time.perf_counter()
        directory.write_chunk(
            chunk=arrays.chunk,
            phase=arrays.phase,
            first_step=arrays.first_step,
            num_steps=report.num_steps,
            draws=arrays.draws,
            stats=arrays.stats,
            seconds=report.seconds,
        )
        directory.write_state(chunk=arrays.chunk, step=report.step, state=arrays.state)
        times["in commits"] += time.perf_counter() - began

    return commit


def nothing(report: ChunkReport, arrays: ChunkArrays) -> None:
    """Write nothing."""


def measure_checkpoints(problem: dict[str, int], repeats: int) -> dict[str, dict[str, Any]]:
    """Time runs that write and runs that do not, in turn."""
    table = {}
    places: dict[str, Placement] = {"Local": Local(), "Ray": distmc.Ray(num_workers=problem["workers"])}
    for name, on in places.items():
        writing, silent = [], []
        for turn in range(repeats):
            print(f"turn {turn + 1} of {repeats}: {name}", flush=True)
            writing.append(time_run(problem, on, writes=True))
            silent.append(time_run(problem, on, writes=False))
        seconds = statistics.median(whole for whole, _ in writing)
        table[name] = {
            "runs": repeats,
            "seconds": round(seconds, 2),
            "percent_in_commits": round(100 * statistics.median(within / whole for whole, within in writing), 2),
            "longer_by_percent": round(100 * (seconds / statistics.median(whole for whole, _ in silent) - 1), 2),
        }
    return table


def measure_demonstration() -> dict[str, Any]:
    """Time one run of the size of the demonstration, which is long enough to need no repeats."""
    problem = {
        "words": demo.NUM_WORDS,
        "chains": demo.NUM_CHAINS,
        "warmup": demo.NUM_WARMUP,
        "draws": demo.NUM_DRAWS,
        "workers": demo.NUM_WORKERS,
    }
    print("the demonstration", flush=True)
    whole, within = time_run(problem, distmc.Ray(num_workers=problem["workers"]), writes=True)
    return {**problem, "seconds": round(whole, 2), "percent_in_commits": round(100 * within / whole, 2)}


@contextlib.contextmanager
def cluster(num_workers: int) -> Iterator[None]:
    """Start a Ray cluster with room for so many workers."""
    ray.init(num_cpus=num_workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Let processes that start meanwhile keep compiled programs on disk, so that each run need not wait for them."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "jax_compilation_cache_dir": folder,
            "jax_persistent_cache_min_compile_time_secs": 0.0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }
        for name, value in options.items():
            jax.config.update(name, value)
            os.environ[name.upper()] = str(value)
        yield


def show(title: str, table: dict[str, dict[str, Any]]) -> None:
    """Print a table of results by name."""
    columns = list(next(iter(table.values()), {}))
    print(f"\n{title:<12}", *(f"{column.replace('_', ' '):>22}" for column in columns))
    for name, row in table.items():
        print(f"{name:<12}", *(f"{row[column]:>22}" for column in columns))


def main() -> None:
    """Measure with the sizes of the command line and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("words", 5_000), ("chains", 8), ("warmup", 100), ("draws", 300), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=5, help="faults of each kind, and runs of each sort")
    parser.add_argument("--out", type=Path, default=None, help="directory for the result")
    problem = vars(parser.parse_args())
    out, repeats = problem.pop("out"), problem.pop("repeats")
    with cluster(problem["workers"]):
        faults = measure_faults(problem, repeats)
    with compiled_once(), cluster(problem["workers"]):
        checkpoints = measure_checkpoints(problem, repeats)
        demonstration = measure_demonstration()
    show("fault", faults)
    show("checkpoints", checkpoints)
    show("demonstration", {"Ray": demonstration})
    machine = machine_facts(("jax", "jaxlib", "ray"))
    result = {"problem": problem, "machine": machine, "hang_limit_seconds": HANG_SECONDS}
    write_result(
        "recovery",
        {**result, "faults": faults, "checkpoints": checkpoints, "demonstration": demonstration},
        *([out] if out else []),
    )


if __name__ == "__main__":
    main()
