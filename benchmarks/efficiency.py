"""Effective draws a gradient and a second: every sampler on the reference set, beside those of other packages.

Each problem of `distmc.zoo.reference` is sampled by every sampler with its default settings and by NumPyro's NUTS,
BlackJAX's HMC with ChEES, and nutpie with theirs: the same log-density in the same precision and unconstrained
coordinates, the same starts, the same number of chains, warm-up steps and draws, in one run. Counted is the least bulk
ESS of all coordinates. Each row says whether the draws can be used: R-hat below 1.01, moments within five Monte Carlo
errors of the exact ones. Failures stay in the table, with their reason, and what distmc says of its own draws is beside
them.

A gradient is one evaluation for all chains; where chains in lockstep differ, the longest counts. nutpie runs its chains
one by one, through a Python function as its documentation shows for models of other libraries; its gradients are those
of the mean chain.

Run it on a quiet machine as ``python benchmarks/efficiency.py``. Rows of earlier runs are kept beside new ones, so each
row says when it was measured and at which commit, and the machine of each run is kept; ``--small`` tries it out.
"""

import argparse
import json
import time
import traceback
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr
from _measure import RESULTS, machine_facts, provenance, write_result
from _peers import PEERS, Outcome, Task

import distmc
from distmc.data.blocks import plan_blocks
from distmc.diagnostics.statistics import statistics
from distmc.model.density import serial_logdensity
from distmc.model.start import starting_positions
from distmc.model.transforms import Unconstrainer
from distmc.samplers import SAMPLERS
from distmc.testing.moments import MAX_RHAT, score_moments
from distmc.zoo.reference.catalogue import PROBLEMS
from distmc.zoo.reference.problem import Problem

NAME = "efficiency"
MAX_SCORE = 5.0
"""Of a thousand moments of correct runs, all are within five Monte Carlo errors but for one run in two thousand."""
HEAD = f"{'':34}{'ESS/grad':>10}{'+warm-up':>10}{'ESS/s':>10}{'+warm-up':>10}{'R-hat':>8}{'off':>6}  says"
PACKAGES = ("jax", "jaxlib", "numpy", "numpyro", "blackjax", "nutpie")


def sample(problem: Problem, sampler: str, settings: argparse.Namespace) -> Outcome:
    """Run one of our samplers with its defaults."""
    began = time.perf_counter()
    tree = distmc.sample(
        problem.model,
        problem.data,
        sampler=sampler,
        num_chains=settings.chains,
        num_warmup=settings.warmup,
        num_draws=settings.draws,
        seed=settings.seed,
        precision=settings.precision,
        num_blocks=settings.blocks,
        keep_unconstrained=True,
        progress=False,
    )
    elapsed = time.perf_counter() - began
    draws = [np.asarray(values) for values in tree["unconstrained_posterior"].data_vars.values()]
    seconds, warmup_seconds = (float(tree["posterior"].attrs[name]) for name in ("sampling_time", "warmup_time"))
    return Outcome(
        draws=np.concatenate([values.reshape(*values.shape[:2], -1) for values in draws], axis=2),
        gradients=in_lockstep(tree["sample_stats"]),
        warmup_gradients=in_lockstep(tree["warmup_sample_stats"]),
        seconds=seconds,
        warmup_seconds=warmup_seconds,
        compile_seconds=elapsed - seconds - warmup_seconds,
        num_divergent=int(np.asarray(tree["sample_stats"]["diverging"]).sum()),
        verdict=distmc.verdict(tree).level,
    )


def in_lockstep(stats: Any) -> float:
    """Return the evaluations that all chains take together."""
    return float(np.asarray(stats["n_steps"].transpose("chain", "draw")).max(axis=0).sum())


def task_of(problem: Problem, settings: argparse.Namespace) -> Task:
    """Return what the peers are given; call it where JAX's 64-bit mode is on."""
    return Task(
        logdensity=serial_logdensity(problem.model, problem.data, plan_blocks(problem.data, 1), settings.precision),
        start=starting_positions(problem.model, settings.chains, settings.seed),
        num_warmup=settings.warmup,
        num_draws=settings.draws,
        seed=settings.seed,
    )


def row_of(problem: Problem, outcome: Outcome) -> dict[str, Any]:
    """Return the figures of one run, and what is wrong with it."""
    found = statistics(outcome.draws)
    with jax.enable_x64(True):
        constrain = jax.jit(jax.vmap(jax.vmap(lambda flat: Unconstrainer(problem.model).constrain(flat)[0])))
        params = {name: np.asarray(values) for name, values in constrain(outcome.draws).items()}
    posterior = xr.Dataset(
        {
            name: (("chain", "draw", *(f"{name}_{axis}" for axis in range(values.ndim - 2))), values)
            for name, values in params.items()
        }
    )
    scores = score_moments({"posterior": posterior}, problem.answers)
    ess, rhat = float(np.min(found.ess_bulk)), float(np.max(found.rhat))
    # What is not a number is the worst.
    score = float(np.max([np.inf if np.isnan(score.z) else abs(score.z) for score in scores]))
    return {
        "ess": ess,
        "ess_per_gradient": ess / outcome.gradients,
        "ess_per_gradient_with_warmup": ess / (outcome.gradients + outcome.warmup_gradients),
        "ess_per_second": ess / outcome.seconds,
        "ess_per_second_with_warmup": ess / (outcome.seconds + outcome.warmup_seconds),
        "rhat": rhat,
        "score": score,
        "gradients": outcome.gradients,
        "warmup_gradients": outcome.warmup_gradients,
        "seconds": outcome.seconds,
        "warmup_seconds": outcome.warmup_seconds,
        "compile_seconds": outcome.compile_seconds,
        "num_divergent": outcome.num_divergent,
        "failure": failure_of(ess, rhat, score),
        "verdict": outcome.verdict,
    }


def failure_of(ess: float, rhat: float, score: float) -> str | None:
    """Say why draws cannot be used, or None."""
    if not np.isfinite(ess):
        return "draws are not finite or do not move"
    reasons = []
    if not rhat < MAX_RHAT:
        reasons.append(f"R-hat {rhat:.3f}")
    if not score < MAX_SCORE:
        reasons.append(f"moments off by {score:.1f} errors")
    return ", ".join(reasons) or None


def measure(name: str, problem: Problem, settings: argparse.Namespace) -> dict[str, Any]:
    """Return the row of one sampler, ours or a peer; whatever it raises becomes the reason why it failed."""
    try:
        if name in SAMPLERS:
            return row_of(problem, sample(problem, name, settings))
        if not PEERS[name].is_installed:
            return {"failure": "not installed"}
        with jax.enable_x64(True):
            return row_of(problem, PEERS[name].run(task_of(problem, settings)))
    except Exception as error:
        traceback.print_exc()
        return {"failure": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with four digits of each figure, and None for what is not finite, which JSON does not know."""

    def short(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return float(f"{value:.4g}") if np.isfinite(value) else None

    return {key: short(value) for key, value in row.items()}


def machines_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the machines that the rows of a result were measured on, each with date and commit, the latest last."""
    return [*result.get("earlier_machines", []), *([result["machine"]] if result else [])]


def table(figures: dict[str, Any]) -> str:
    """Return all rows as text, the best of each problem by effective draws a second first."""
    lines = []
    for problem, rows in figures.items():
        lines += [f"\n{problem}", HEAD]
        for name, row in sorted(rows.items(), key=_rank):
            figures_of_row = [
                _cell(row.get("ess_per_gradient"), 10, ".3g"),
                _cell(row.get("ess_per_gradient_with_warmup"), 10, ".3g"),
                _cell(row.get("ess_per_second"), 10, ",.0f"),
                _cell(row.get("ess_per_second_with_warmup"), 10, ",.0f"),
                _cell(row.get("rhat"), 8, ".3f"),
                _cell(row.get("score"), 6, ".1f"),
            ]
            verdict = row.get("verdict") or ""
            lines.append(f"  {name:32}{''.join(figures_of_row)}  {verdict:9} {row['failure'] or ''}".rstrip())
    return "\n".join(lines)


def _rank(item: tuple[str, dict[str, Any]]) -> tuple[bool, float]:
    return item[1]["failure"] is not None, -(item[1].get("ess_per_second") or 0.0)


def _cell(value: float | None, width: int, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"


def read_arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--samplers", nargs="*", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("float64", "mixed"), default="float64", help="of rows, for all")
    parser.add_argument("--blocks", type=int, default=1, help="logical blocks of our rows; the peers have one")
    parser.add_argument("--small", action="store_true", help="16 chains, 200 steps of each kind: for trying it out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory for the result")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.chains, arguments.warmup, arguments.draws = 16, 200, 200
    return arguments


def main() -> None:
    """Measure what the command line asks for, write the result and print all rows."""
    arguments = read_arguments()
    path = arguments.out / f"{NAME}.json"
    used = {name: getattr(arguments, name) for name in ("chains", "warmup", "draws", "seed", "precision", "blocks")}
    earlier = json.loads(path.read_text()) if path.exists() else {}
    # Rows of other sizes cannot stand in one table.
    if earlier.get("settings") != used:
        earlier = {}
    figures: dict[str, Any] = earlier.get("figures", {})
    this_run = provenance()
    machine = {**this_run, **machine_facts(PACKAGES)}
    machines = [known for known in machines_of(earlier) if known != machine]
    for problem_name in arguments.problems:
        problem = PROBLEMS[problem_name]()
        rows = figures.setdefault(problem_name, {})
        for name in [*arguments.samplers, *arguments.peers]:
            rows[name] = {**rounded(measure(name, problem, arguments)), **this_run}
            print(problem_name, name, rows[name], flush=True)
            result = {"machine": machine, "earlier_machines": machines, "settings": used, "figures": figures}
            write_result(NAME, result, arguments.out)
    print(table(figures))


if __name__ == "__main__":
    main()
