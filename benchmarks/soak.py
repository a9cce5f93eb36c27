"""One long run on a small cluster, with a random fault every few seconds; its draws must be those of a run without.

Workers are killed and raise exceptions, connections are cut, replicas drift, disks are full; see
`distmc.testing.faults`. A fault takes three to six seconds on two cores, so that a hundred of them are five to ten
minutes.

Run it as ``make soak``, or as ``python benchmarks/soak.py --faults 100 --seed 0``. Another seed, other faults. With
``--hang-limit 5`` processes are stopped as well, at the price of that limit each.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import ray

import distmc
from distmc.orchestration.events import ChunkCommitted, RunEvent, SamplingResumed, WorkersLost
from distmc.samplers import RWMH
from distmc.testing import invariance
from distmc.testing.endurance import Endured, endure
from distmc.testing.faults import Kind, Ledger, Plan, random_faults
from distmc.zoo import regression

CHUNK_STEPS, CHUNKS_PER_FAULT = 5, 3
KINDS: tuple[Kind, ...] = ("kill", "raise", "slow", "cut", "drift", "full disk")


def settings_for(num_faults: int) -> dict[str, Any]:
    """Return the settings of a run with room for so many faults."""
    num_steps = num_faults * CHUNKS_PER_FAULT * CHUNK_STEPS
    num_warmup = num_steps // 5
    return {
        "sampler": RWMH(),
        "num_chains": 4,
        "num_warmup": num_warmup,
        "num_draws": num_steps - num_warmup,
        "num_blocks": 8,
    }


def show(event: RunEvent) -> None:
    match event:
        case WorkersLost():
            print(f"{event.seconds:7.1f} s  {event.cause[:150]}", flush=True)
        case SamplingResumed():
            print(f"           goes on after {event.standstill_seconds:.1f} s", flush=True)
        case ChunkCommitted() if event.report.chunk % 100 == 0:
            print(f"{event.seconds:7.1f} s  step {event.report.step} of {event.num_steps}", flush=True)


def report(plan: Plan, ledger: Ledger, endured: Endured, seconds: float) -> None:
    """Print what has struck, and how long the run stood still for each cause."""
    struck = Counter(str(plan[index]) for index in ledger.read())
    print(f"\n{'fault':<24} {'struck':>6}")
    for fault, count in sorted(struck.items()):
        print(f"{fault:<24} {count:>6}")
    standstills: dict[str, list[float]] = defaultdict(list)
    first = "?"
    is_standing = False
    for _, event in endured.events:
        if isinstance(event, WorkersLost) and not is_standing:
            first, is_standing = kind_of(event.cause), True
        elif isinstance(event, SamplingResumed):
            standstills[first].append(event.standstill_seconds)
            is_standing = False
    print(f"\n{'the run went on after a worker':<32} {'times':>6} {'median s':>9} {'longest s':>9}")
    for cause, times in sorted(standstills.items()):
        print(f"{cause:<32} {len(times):>6} {sorted(times)[len(times) // 2]:>9.2f} {max(times):>9.2f}")
    print(f"\n{sum(struck.values())} of {len(plan)} faults in {seconds:.0f} s; resumed {len(endured.stops)} times.")


def kind_of(cause: str) -> str:
    for words in ("raised an exception", "died", "fell silent", "lost contact", "differs", "do not agree"):
        if words in cause:
            return words
    return "other"


def main() -> int:
    """Run with the sizes of the command line; 0 if all bits are those of the run without faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=3, help="most workers; the run needs one")
    parser.add_argument("--hang-limit", type=float, default=None, help="seconds; not given: no process is stopped")
    given = parser.parse_args()
    settings = settings_for(given.faults)
    sizes = {name: settings[name] for name in ("num_warmup", "num_draws")}
    kinds: tuple[Kind, ...] = KINDS if given.hang_limit is None else (*KINDS, "stop")
    plan = random_faults(given.seed, given.faults, kinds=kinds, num_ranks=given.workers, **sizes)
    model, data = regression.build_model(), regression.simulate(40)
    folder = Path(tempfile.mkdtemp(prefix="distmc-soak-"))
    reference = distmc.sample(model, data, path=folder / "reference", progress=False, **settings)
    ray.init(num_cpus=given.workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        began = time.monotonic()
        on = distmc.Ray(num_workers=(1, given.workers), hang_timeout_seconds=given.hang_limit or 60.0)
        places = {"path": folder / "run", "ledger": folder / "ledger"}
        endured = endure(model, data, plan, on=on, chunk_steps=CHUNK_STEPS, on_event=show, **places, **settings)
        report(plan, Ledger(folder / "ledger"), endured, time.monotonic() - began)
    finally:
        ray.shutdown()
    difference = invariance.first_difference(reference, endured.tree, ("the run without faults", "the run with faults"))
    if difference is not None:
        print(f"NOT THE SAME BITS: {difference}\nBoth runs are in {folder}.", file=sys.stderr)
        return 1
    print("The draws are those of the run without faults, to the bit.")
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
