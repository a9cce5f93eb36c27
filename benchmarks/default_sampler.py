"""Effective draws a gradient of the samplers that could be the default, on posteriors of several shapes.

A gradient is one evaluation of log-density and gradient for all chains, what a run on a cluster pays for. Counted are
the gradients of the draws, warm-up apart. The figures are counts, not timings: the same on a busy machine.

Run it as ``python benchmarks/default_sampler.py``; ``--targets`` and ``--samplers`` choose some of them, and results of
earlier runs are kept beside the new ones.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from _measure import RESULTS, machine_facts, write_result
from arviz_stats.base.array import array_stats

import distmc
from distmc.zoo import words

NAME = "default_sampler"
NUM_CHAINS, NUM_WARMUP, NUM_DRAWS = 64, 500, 500
SEEDS = (0, 1, 2)
SAMPLERS: dict[str, Callable[..., Any]] = {
    "ChEES": distmc.ChEES,
    "SNAPER": distmc.SNAPER,
    "HMC": distmc.HMC,
    "MEADS": distmc.MEADS,
}
NO_ROWS = {"nothing": np.zeros(2)}


class Problem(NamedTuple):
    """A posterior, and what a person would set for it."""

    model: distmc.Model
    data: Any
    settings: Mapping[str, Any] = {}
    initial: Mapping[str, Any] | None = None


def density(log_density: Callable[[Any], Any], num_dimensions: int, **settings: Any) -> Problem:
    """Return the problem of a log-density over all of space, with starts drawn uniformly from [-2, 2]."""
    model = distmc.Model(
        parameters={"x": distmc.Parameter(shape=(num_dimensions,))},
        log_likelihood=lambda params, data: jnp.zeros_like(data["nothing"]),
        log_prior=lambda params: log_density(params["x"]),
    )
    return Problem(model, NO_ROWS, settings)


def ill_conditioned() -> Problem:
    """Return a rotated normal distribution in 50 dimensions with standard deviations from 0.01 to 1."""
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 50)))
    precision = jnp.asarray(rotation * np.geomspace(1.0, 1e4, 50) @ rotation.T)
    return density(lambda x: -0.5 * x @ precision @ x, 50)


def correlated(metric: str) -> Problem:
    """Return a stationary autoregression in 20 dimensions, neighbours correlated by 0.95."""
    steps = np.arange(20)
    precision = jnp.asarray(np.linalg.inv(0.95 ** np.abs(steps[:, None] - steps)))
    return density(lambda x: -0.5 * x @ precision @ x, 20, metric=metric)


def logistic() -> Problem:
    """Return a logistic regression of 1,000 rows on 20 correlated covariates."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1000, 20)) + rng.normal(size=(1000, 1))
    y = rng.random(1000) < 1.0 / (1.0 + np.exp(-x @ rng.normal(0.0, 0.3, 20)))

    def log_likelihood(params: Any, data: Any) -> Any:
        logits = params["intercept"] + data["x"] @ params["slopes"]
        return jax.nn.log_sigmoid(jnp.where(data["y"], logits, -logits))

    priors = {"intercept": dist.Normal(0, 5), "slopes": dist.Normal(0, 5).expand([20]).to_event(1)}
    return Problem(distmc.Model(priors, log_likelihood), {"x": x, "y": y})


def hidden_markov() -> Problem:
    """Return the two-state hidden Markov model of 1,000 English words of six phones."""
    rows = words.load_words(10_000, seed=0).rows
    chosen = np.flatnonzero(rows["length"] == 6)[:1000]
    data = {"phones": rows["phones"][chosen, :6], "length": rows["length"][chosen]}
    return Problem(words.build_model(), data, initial=words.starting_values(NUM_CHAINS))


def hierarchical() -> Problem:
    """Return 30 groups' means around a common one, non-centred, with a few observations each."""
    rng = np.random.default_rng(2)
    sizes = rng.integers(2, 20, 30)
    group = np.repeat(np.arange(30), sizes)
    y = rng.normal(1.0 + 0.5 * rng.normal(size=30)[group], 2.0)
    priors = {
        "mean": dist.Normal(0, 5),
        "spread": dist.HalfNormal(2.0),
        "noise": dist.HalfNormal(5.0),
        "offset": dist.Normal(0, 1).expand([30]).to_event(1),
    }

    def log_likelihood(params: Any, data: Any) -> Any:
        expected = params["mean"] + params["spread"] * params["offset"][data["group"]]
        return dist.Normal(expected, params["noise"]).log_prob(data["y"])

    return Problem(distmc.Model(priors, log_likelihood), {"group": group, "y": y})


def heavy_tailed() -> Problem:
    """Return independent Student t distributions with 4 degrees of freedom in 20 dimensions."""
    return density(lambda x: -2.5 * jnp.sum(jnp.log1p(x**2 / 4.0)), 20)


TARGETS: dict[str, Callable[[], Problem]] = {
    "ill-conditioned": ill_conditioned,
    "correlated, dense metric": lambda: correlated("dense"),
    "correlated, diagonal metric": lambda: correlated("diagonal"),
    "logistic regression": logistic,
    "hidden Markov": hidden_markov,
    "hierarchical": hierarchical,
    "heavy-tailed": heavy_tailed,
}


def measure(problem: Problem, sampler: Callable[..., Any], seed: int) -> dict[str, float]:
    """Run once and return the least effective sample sizes a gradient, the worst R-hat, and what was spent."""
    tree = distmc.sample(
        problem.model,
        problem.data,
        sampler=sampler(**problem.settings),
        num_chains=NUM_CHAINS,
        num_warmup=NUM_WARMUP,
        num_draws=NUM_DRAWS,
        seed=seed,
        initial=problem.initial,
        progress=False,
    )
    draws = [np.asarray(values).reshape(*values.shape[:2], -1) for values in tree["posterior"].data_vars.values()]
    columns = np.moveaxis(np.concatenate(draws, axis=2), 2, 0)
    statistics: Any = array_stats
    axes = {"chain_axis": 0, "draw_axis": 1}
    steps = np.asarray(tree["sample_stats"]["n_steps"])[0]
    step_size = np.asarray(tree["sample_stats"]["step_size"])[0]
    gradients = float(steps.sum())
    bulk = min(float(statistics.ess(column, method="bulk", **axes)) for column in columns)
    tail = min(float(statistics.ess(column, method="tail", prob=(0.05, 0.95), **axes)) for column in columns)
    return {
        "bulk": bulk / gradients,
        "tail": tail / gradients,
        "rhat": max(float(statistics.rhat(column, **axes)) for column in columns),
        "steps": float(steps.mean()),
        "length": float((steps * step_size).mean()),
        "warmup": float(np.asarray(tree["warmup_sample_stats"]["n_steps"])[0].sum()),
    }


def main() -> None:
    """Measure what the command line asks for and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--samplers", nargs="*", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory for the result")
    arguments = parser.parse_args()
    path = arguments.out / f"{NAME}.json"
    figures: dict[str, Any] = json.loads(path.read_text())["figures"] if path.exists() else {}
    for target in arguments.targets:
        problem = TARGETS[target]()
        for name in arguments.samplers:
            runs = figures.setdefault(target, {}).setdefault(name, {})
            for seed in arguments.seeds:
                found = measure(problem, SAMPLERS[name], seed)
                runs[str(seed)] = {key: float(f"{value:.4g}") for key, value in found.items()}
                print(target, name, seed, runs[str(seed)], flush=True)
            facts = machine_facts(("jax", "jaxlib", "numpy"))
            write_result(NAME, {"machine": facts, "figures": figures}, arguments.out)


if __name__ == "__main__":
    main()
