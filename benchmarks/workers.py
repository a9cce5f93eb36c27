"""One worker against two, and the ordered sum against the library's, on the hidden Markov likelihood.

Whole runs on a local Ray cluster are timed: seconds of a compiled chunk divided by its integration steps, that is
one value and gradient of all chains over all rows, with the exact sum between workers and the kernel's own arithmetic.
Every worker has one core. The configurations take turns; medians and their ratios are reported. A control tells what
the machine itself allows: two processes that exchange nothing, each with half of the rows, at the same time.

Run it as ``python benchmarks/workers.py`` on an otherwise idle machine with at least two cores.
"""

import argparse
import multiprocessing
import os
import statistics
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import ray
from _measure import machine_facts, write_result

import distmc
from distmc.likelihoods import hmm
from distmc.orchestration import session
from distmc.orchestration.events import ChunkCommitted, RunEvent
from distmc.run import Run
from distmc.samplers import HMC
from distmc.spec import Local, Placement, Ray, Reduction, RunSpec

CONFIGURATIONS: dict[str, tuple[int, Reduction]] = {
    "one worker": (1, "ordered"),
    "two workers": (2, "ordered"),
    "two workers, library's sum": (2, "fast"),
}
NUM_BLOCKS = 64


def build_model(num_states: int, num_symbols: int) -> distmc.Model:
    """Return a hidden Markov model of symbols with flat priors."""
    return distmc.Model(
        parameters={
            "initial": dist.Dirichlet(np.ones(num_states)),
            "transition": dist.Dirichlet(np.ones((num_states, num_states))).to_event(1),
            "emission": dist.Dirichlet(np.ones((num_states, num_symbols))).to_event(1),
        },
        log_likelihood=lambda params, data: hmm.categorical(
            params["initial"], params["transition"], params["emission"], jnp.asarray(data["symbols"])
        ),
    )


def seconds_per_gradient(
    model: distmc.Model,
    data: distmc.Data,
    on: Placement,
    *,
    reduction: Reduction = "ordered",
    num_chains: int,
    num_steps: int,
    num_blocks: int = NUM_BLOCKS,
) -> list[float]:
    """Run a few steps and return the seconds of one gradient in each chunk, the first two left out."""
    spec = RunSpec(
        sampler=HMC(trajectory_length=1.0),
        num_chains=num_chains,
        num_warmup=0,
        num_draws=num_steps,
        num_blocks=num_blocks,
        reduction=reduction,
    )
    run = Run.prepare(model, data, spec, on)
    seconds: list[float] = []

    def on_event(event: RunEvent) -> None:
        if isinstance(event, ChunkCommitted) and event.report.chunk > 2:
            report = event.report
            seconds.append(report.seconds / (report.num_steps * report.num_integration_steps))

    session.run(run.task, run.on, commit=lambda report, arrays: None, on_event=on_event)
    return seconds


def make_data(rows: int, steps: int, symbols: int) -> distmc.Data:
    """Return sequences of symbols drawn at random; their values do not matter for time."""
    rng = np.random.default_rng(0)
    return distmc.Data(rows={"symbols": rng.integers(0, symbols, size=(rows, steps)).astype(np.int8)})


def alone_with_half(core: int, problem: dict[str, int], draws: int) -> list[float]:
    """Time one process on one core with half of the rows; run twice at once it shows what the machine allows."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    data = make_data(problem["rows"] // 2, problem["steps"], problem["symbols"])
    model = build_model(problem["states"], problem["symbols"])
    # Half of the blocks, too, so that they are as large as those of the workers.
    return seconds_per_gradient(
        model, data, Local(), num_chains=problem["chains"], num_steps=draws, num_blocks=NUM_BLOCKS // 2
    )


def halves_at_once(problem: dict[str, int], draws: int) -> list[float]:
    """Return the seconds of one gradient of two processes that exchange nothing."""
    os.environ["PJRT_NPROC"] = "1"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        both = pool.starmap(alone_with_half, [(core, problem, draws) for core in (0, 1)])
    del os.environ["PJRT_NPROC"]
    return [seconds for one in both for seconds in one]


def measure(problem: dict[str, int], draws: int, repeats: int) -> dict[str, object]:
    """Time all configurations in turn and return the figures."""
    data = make_data(problem["rows"], problem["steps"], problem["symbols"])
    model = build_model(problem["states"], problem["symbols"])
    control = "two processes apart, half the rows each"
    seconds: dict[str, list[float]] = {name: [] for name in (*CONFIGURATIONS, control)}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for turn in range(repeats):
            for name, (num_workers, reduction) in CONFIGURATIONS.items():
                print(f"turn {turn + 1} of {repeats}: {name}", flush=True)
                on = Ray(num_workers=num_workers)
                seconds[name] += seconds_per_gradient(
                    model, data, on, reduction=reduction, num_chains=problem["chains"], num_steps=draws
                )
            print(f"turn {turn + 1} of {repeats}: {control}", flush=True)
            seconds[control] += halves_at_once(problem, draws)
    finally:
        ray.shutdown()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "problem": problem,
        "machine": machine_facts(("jax", "jaxlib", "ray")),
        "median_milliseconds_per_gradient": {name: round(1e3 * value, 2) for name, value in medians.items()},
        "chunks": {name: len(values) for name, values in seconds.items()},
        "speedup_of_two_workers": round(medians["one worker"] / medians["two workers"], 3),
        "speedup_of_two_processes_apart": round(medians["one worker"] / medians[control], 3),
        "library_sum_over_ordered_sum": round(medians["two workers, library's sum"] / medians["two workers"], 3),
    }


def main() -> None:
    """Measure with the sizes of the command line and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 50_000), ("steps", 50), ("states", 4), ("symbols", 8), ("chains", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--draws", type=int, default=15, help="steps of each run")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each configuration")
    parser.add_argument("--out", type=Path, default=None, help="directory for the result")
    arguments = vars(parser.parse_args())
    out, draws, repeats = (arguments.pop(name) for name in ("out", "draws", "repeats"))
    result = measure(arguments, draws, repeats)
    for name, value in result.items():
        print(f"{name}: {value}")
    write_result("workers", result, *([out] if out else []))


if __name__ == "__main__":
    main()
