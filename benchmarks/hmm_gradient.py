"""Value and gradient of a hidden Markov log-likelihood: distmc against three other ways, in one run.

Sequences of symbols, every chain with its own parameters. The ways are

log_space
    A plain forward recursion in logarithms for one sequence, `jax.vmap` over sequences and chains, differentiated by
    JAX. This is also the recursion of NumPyro's documentation example "Hidden Markov Model".
numpyro
    NumPyro's documentation example "Enumerate Hidden Markov Model": `numpyro.contrib.control_flow.scan` with the
    states enumerated in parallel (`numpyro.contrib.funsor`).
dynamax
    `dynamax.hidden_markov_model.hmm_filter`, `jax.vmap` over sequences and chains, differentiated by JAX.
distmc
    `distmc.likelihoods.hmm.categorical`.

All run in the same loop over blocks of sequences; `log_space_whole` takes all sequences at once. Their numbers are
compared before anything is timed, and they take turns while it is. For the figure of one core::

    PJRT_NPROC=1 taskset -c 1 python benchmarks/hmm_gradient.py
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from _measure import RESULTS, machine_facts, medians, time_interleaved, write_result

from distmc.likelihoods import hmm

jax.config.update("jax_enable_x64", True)

RowLikelihood = Callable[[Any, Any, Any, Any], Any]


def log_space(initial: Any, transition: Any, emission: Any, symbols: Any) -> Any:
    """Return the plain forward recursion in logarithms."""
    log_initial, log_transition, log_emission = jnp.log(initial), jnp.log(transition), jnp.log(emission)

    def sequence(symbols: Any) -> Any:
        def step(alpha: Any, symbol: Any) -> tuple[Any, None]:
            return jax.nn.logsumexp(alpha[:, None] + log_transition, axis=0) + log_emission[:, symbol], None

        alpha, _ = jax.lax.scan(step, log_initial + log_emission[:, symbols[0]], symbols[1:])
        return jax.nn.logsumexp(alpha)

    return jax.vmap(sequence)(symbols)


def dynamax_filter(initial: Any, transition: Any, emission: Any, symbols: Any) -> Any:
    """Return dynamax's filter, the log-normaliser of each row."""
    from dynamax.hidden_markov_model import hmm_filter

    log_emission = jnp.log(emission).T
    return jax.vmap(lambda row: hmm_filter(initial, transition, log_emission[row]).marginal_loglik)(symbols)


def numpyro_enumeration(initial: Any, transition: Any, emission: Any, symbols: Any) -> Any:
    """Return NumPyro's enumerated log-density, the sum over rows."""
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib.control_flow import scan
    from numpyro.contrib.funsor import config_enumerate, enum, log_density
    from numpyro.ops.indexing import Vindex

    def model(symbols: Any) -> None:
        def step(carry: Any, shown: Any) -> tuple[Any, None]:
            previous, time = carry
            with numpyro.plate("rows", symbols.shape[0], dim=-1):
                probabilities = jnp.where(time == 0, initial, Vindex(transition)[previous])
                state = numpyro.sample("state", dist.Categorical(probabilities))
                numpyro.sample("symbol", dist.Categorical(Vindex(emission)[state]), obs=shown)
            return (state, time + 1), None

        scan(step, (jnp.zeros(symbols.shape[0], jnp.int32), 0), symbols.T)

    return log_density(enum(config_enumerate(model), -2), (symbols,), {}, {})[0]


WAYS: dict[str, RowLikelihood] = {
    "distmc": hmm.categorical,
    "log_space": log_space,
    "dynamax": dynamax_filter,
    "numpyro": numpyro_enumeration,
}


def gradient_in_blocks(way: RowLikelihood) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return a compiled function of (parameters of all chains, blocks): value and gradient of the sum, per chain."""

    def block_gradient(parameters: Any, symbols: Any) -> tuple[Any, Any]:
        def value(parameters: Any) -> Any:
            return jax.vmap(lambda *chain: jnp.sum(way(*chain, symbols)))(*parameters)

        values, pull = jax.vjp(value, parameters)
        return values, pull(jnp.ones_like(values))[0]

    def all_blocks(parameters: Any, blocks: Any) -> tuple[Any, Any]:
        def add_block(index: Any, total: Any) -> Any:
            return jax.tree.map(jnp.add, total, block_gradient(parameters, blocks[index]))

        zero = (jnp.zeros(parameters[0].shape[0]), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), parameters))
        return jax.lax.fori_loop(0, blocks.shape[0], add_block, zero)

    return jax.jit(all_blocks)


def make_problem(sizes: argparse.Namespace) -> tuple[Any, Any]:
    """Return parameters of all chains, float32, and symbols (blocks, rows, steps)."""
    rng = np.random.default_rng(0)

    def simplex(*shape: int) -> Any:
        draws = rng.dirichlet(np.ones(shape[-1]), size=(sizes.chains, *shape[:-1]))
        return jnp.asarray(draws, jnp.float32)

    parameters = (simplex(sizes.states), simplex(sizes.states, sizes.states), simplex(sizes.states, sizes.symbols))
    num_blocks = max(1, sizes.rows // sizes.block)
    shape = (num_blocks, min(sizes.block, sizes.rows), sizes.steps)
    return parameters, jnp.asarray(rng.integers(0, sizes.symbols, shape), jnp.int32)


def largest_difference(left: Any, right: Any) -> float:
    """Return the largest difference between trees, each array relative to its largest entry."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the sizes asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"rows": 50_000, "steps": 50, "states": 4, "symbols": 8, "chains": 8, "block": 1000, "repeats": 5}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, "log_space_whole"], default=[*WAYS, "log_space_whole"])
    parser.add_argument("--small", action="store_true", help="a problem of a second, to see that the script works")
    parser.add_argument("--name", default="hmm_gradient", help="name of the result file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of the result file")
    sizes = parser.parse_args(arguments)
    if sizes.small:
        sizes.rows, sizes.steps, sizes.block, sizes.repeats = 200, 10, 100, 2
    return sizes


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Compare, time, write and return the result."""
    sizes = parse(arguments)
    parameters, blocks = make_problem(sizes)
    cases, differences, expected = {}, {}, None
    for name in sizes.ways:
        whole = name == "log_space_whole"
        rows = blocks.reshape(1, -1, sizes.steps) if whole else blocks
        way = WAYS["log_space" if whole else name]
        function = gradient_in_blocks(way).lower(parameters, rows).compile()
        outcome = jax.block_until_ready(function(parameters, rows))
        expected = outcome if expected is None else expected
        differences[name] = largest_difference(outcome, expected)
        if differences[name] > 1e-3:
            raise SystemExit(f"`{name}` differs from `{sizes.ways[0]}` by {differences[name]:.1e}; nothing was timed.")
        cases[name] = lambda function=function, rows=rows: jax.block_until_ready(function(parameters, rows))
    seconds = time_interleaved(cases, sizes.repeats)
    middle = medians(seconds)
    result = {
        "benchmark": "hmm_gradient",
        "sizes": {name: getattr(sizes, name) for name in ("rows", "steps", "states", "symbols", "chains", "block")},
        "median_seconds": middle,
        "least_seconds": {name: min(times) for name, times in seconds.items()},
        "ratio_to_first": {name: value / middle[sizes.ways[0]] for name, value in middle.items()},
        "largest_relative_difference_to_first": differences,
        "machine": machine_facts(("jax", "jaxlib", "numpyro", "funsor", "dynamax", "numpy")),
    }
    for name, value in middle.items():
        print(f"{name:16s} {value * 1e3:9.1f} ms   {value / middle[sizes.ways[0]]:6.2f} x")
    print(write_result(sizes.name, result, sizes.results))
    return result


if __name__ == "__main__":
    main()
