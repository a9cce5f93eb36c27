"""Effective draws a second of the default sampler beside BlackJAX's, from draws that take turns.

`efficiency.py` times each package once; on a machine whose speed drifts, single ratios of problems that take 50 ms
differ by a third. Here both are warmed up and compiled in one process, and then each takes all its draws again and
again, in turns. Effective draws are counted once: equal seeds give equal draws.

Run it on one core of a quiet machine as ``taskset -c 1 python benchmarks/in_turns.py --problem linear-regression``.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from _peers import PEERS
from efficiency import sample, task_of

from distmc.diagnostics.statistics import statistics
from distmc.samplers import ChEES
from distmc.spec import RunSpec
from distmc.testing.virtual import compile_run
from distmc.zoo.reference.catalogue import PROBLEMS
from distmc.zoo.reference.problem import Problem

PEER = "BlackJAX ChEES, diagonal metric"


def drawing(problem: Problem, settings: argparse.Namespace) -> Callable[[], Any]:
    """Return what takes all draws of the default sampler from the end of its warm-up."""
    spec = RunSpec(
        sampler=ChEES(),
        num_chains=settings.chains,
        num_warmup=settings.warmup,
        num_draws=settings.draws,
        num_blocks=settings.blocks,
        precision=settings.precision,
    )
    run = compile_run(spec, problem.model, problem.data, 1)
    with jax.enable_x64(True):
        start = np.asarray(task_of(problem, settings).start)
    state, _ = run.advance(problem.data, run.start(problem.data, start), settings.warmup)
    return lambda: run.advance(problem.data, state, settings.draws)


def seconds_of(function: Callable[[], Any]) -> float:
    """Return what one call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    """Print the ratio of effective draws a second, its median and quartiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=list(PROBLEMS), default="linear-regression")
    parser.add_argument("--pairs", type=int, default=80)
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["float64", "mixed"], default="float64")
    settings = parser.parse_args()
    problem = PROBLEMS[settings.problem]()
    with jax.enable_x64(True):
        peer = PEERS[PEER].run(task_of(problem, settings))
    assert peer.again is not None
    ours = drawing(problem, settings)
    ess = [
        float(np.min(statistics(draws).ess_bulk)) for draws in (sample(problem, "ChEES", settings).draws, peer.draws)
    ]
    times = []
    for pair in range(settings.pairs + 1):
        both = (ours, peer.again)
        taken = {place: seconds_of(both[place]) for place in ((0, 1) if pair % 2 else (1, 0))}
        times.append((taken[0], taken[1]))
    # The first of each has memory to find.
    our_seconds, peer_seconds = np.array(times[1:]).T
    ratios = ess[0] / our_seconds / (ess[1] / peer_seconds)
    print(f"{settings.problem}: ESS {ess[0]:.0f} and {ess[1]:.0f}", end=", ")
    print(f"{1e3 * np.median(our_seconds):.1f} ms and {1e3 * np.median(peer_seconds):.1f} ms", end=", ")
    lower, middle, upper = np.percentile(ratios, [25, 50, 75])
    print(f"ratio of ESS a second {middle:.2f} ({lower:.2f} to {upper:.2f})")


if __name__ == "__main__":
    main()
