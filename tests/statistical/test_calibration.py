"""Simulation-based calibration: ranks of the truth among posterior draws are uniform, for the program as a whole.

Truths and data are simulated with NumPy alone, apart from the models. One compiled program for each model serves all
replicates.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import distmc
from distmc.likelihoods import hmm
from distmc.samplers import Sampler
from distmc.spec import RunSpec
from distmc.testing.calibration import calibrate, require_calibrated
from distmc.testing.virtual import VirtualRun, compile_run
from distmc.zoo.sequences import simulate_states

pytestmark = pytest.mark.usefixtures("optimised")

NUM_REPLICATES = 200
NUM_REPLICATES_OF_BUGS = 120
NUM_CHAINS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A model, and what draws truths and data for it."""

    model: distmc.Model
    simulate: Callable[..., tuple[dict[str, Any], distmc.Data]]


# A hidden Markov model ------------------------------------------------------------------------------------------------

CONCENTRATION = np.array([[4.0, 2.0], [2.0, 4.0]])
LEVELS, LEVEL_SCALE = np.array([-1.0, 1.0]), 0.3
NOISE_LOC, NOISE_SCALE = 0.0, 0.2
LENGTHS = np.array([4, 5, 5, 6, 6, 6])


def hmm_likelihood(params: dict[str, Any], data: dict[str, Any]) -> Any:
    return hmm.gaussian(
        initial=jnp.asarray([0.5, 0.5], params["transition"].dtype),
        transition=params["transition"],
        loc=params["level"],
        scale=jnp.stack([params["noise"]] * 2),
        observations=data["signal"],
        length=data["length"],
    )


def simulate_hmm(rng: np.random.Generator) -> tuple[dict[str, Any], distmc.Data]:
    transition = np.stack([rng.dirichlet(row) for row in CONCENTRATION])
    level = rng.normal(LEVELS, LEVEL_SCALE)
    noise = np.exp(rng.normal(NOISE_LOC, NOISE_SCALE))
    longest = max(LENGTHS)
    states = simulate_states([0.5, 0.5], transition, len(LENGTHS), longest, rng)
    signal = np.where(np.arange(longest) < LENGTHS[:, None], rng.normal(level[states], noise), 0.0)
    rows = {"signal": signal, "length": LENGTHS}
    return {"transition": transition, "level": level, "noise": noise}, distmc.Data(rows=rows, length="length")


HMM = Problem(
    model=distmc.Model(
        {
            "transition": dist.Dirichlet(CONCENTRATION).to_event(1),
            "level": dist.Normal(LEVELS, LEVEL_SCALE),
            "noise": dist.LogNormal(NOISE_LOC, NOISE_SCALE),
        },
        hmm_likelihood,
    ),
    simulate=simulate_hmm,
)


# A hierarchical normal model ------------------------------------------------------------------------------------------

NUM_GROUPS, GROUP_SIZE = 5, 4


def groups_likelihood(params: dict[str, Any], data: dict[str, Any]) -> Any:
    mean = params["centre"] + params["spread"] * params["offset"][data["group"]]
    return dist.Normal(mean, data["noise"]).log_prob(data["y"])


def simulate_groups(
    rng: np.random.Generator, *, centre_scale: float = 1.0, noise: float = 1.5
) -> tuple[dict[str, Any], distmc.Data]:
    centre = rng.normal(0.0, centre_scale)
    spread = np.exp(rng.normal(0.0, 0.3))
    offset = rng.normal(size=NUM_GROUPS)
    group = np.repeat(np.arange(NUM_GROUPS), GROUP_SIZE)
    y = rng.normal(centre + spread * offset[group], noise)
    params = {"centre": centre, "spread": spread, "offset": offset}
    return params, distmc.Data(rows={"group": group, "y": y}, constants={"noise": 1.5})


GROUPS = Problem(
    model=distmc.Model(
        {
            "centre": dist.Normal(0.0, 1.0),
            "spread": dist.LogNormal(0.0, 0.3),
            "offset": dist.Normal(0.0, 1.0).expand([NUM_GROUPS]),
        },
        groups_likelihood,
    ),
    simulate=simulate_groups,
)


# A logistic regression ------------------------------------------------------------------------------------------------


def logistic_likelihood(params: dict[str, Any], data: dict[str, Any]) -> Any:
    return dist.Bernoulli(logits=params["intercept"] + data["x"] @ params["slope"]).log_prob(data["y"])


def simulate_logistic(rng: np.random.Generator) -> tuple[dict[str, Any], distmc.Data]:
    intercept, slope = rng.normal(0.0, 2.0), rng.normal(0.0, [1.0, 0.3])
    x = rng.normal(size=(40, 2))
    y = rng.random(40) < 1.0 / (1.0 + np.exp(-intercept - x @ slope))
    return {"intercept": intercept, "slope": slope}, distmc.Data(rows={"x": x, "y": y})


LOGISTIC = Problem(
    model=distmc.Model(
        {"intercept": dist.Normal(0.0, 2.0), "slope": dist.Normal(0.0, np.array([1.0, 0.3]))}, logistic_likelihood
    ),
    simulate=simulate_logistic,
)


# The tests ------------------------------------------------------------------------------------------------------------

PROBLEMS = {"hidden Markov model": HMM, "hierarchical normal": GROUPS, "logistic regression": LOGISTIC}


@functools.lru_cache(maxsize=2)
def compiled(problem: str, sampler: Sampler, num_draws: int) -> VirtualRun:
    spec = RunSpec(sampler=sampler, num_chains=NUM_CHAINS, num_warmup=120, num_draws=num_draws, num_blocks=2)
    return compile_run(spec, PROBLEMS[problem].model, PROBLEMS[problem].simulate(np.random.default_rng(0))[1])


# Kernels whose draws depend on each other for longer need more draws, and more of them left out.
@pytest.mark.parametrize(
    ("problem", "sampler", "num_draws", "thinning"),
    [
        ("hidden Markov model", distmc.ChEES(), 60, 15),
        ("logistic regression", distmc.HMC(), 60, 15),
        ("hierarchical normal", distmc.ChEES(), 60, 15),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_truth_ranks_evenly_among_posterior_draws(
    problem: str, sampler: Sampler, num_draws: int, thinning: int
) -> None:
    run = compiled(problem, sampler, num_draws)
    ranks = calibrate(run, PROBLEMS[problem].simulate, num_replicates=NUM_REPLICATES, thinning=thinning)
    require_calibrated(ranks)


BUGS: dict[str, dict[str, float]] = {
    "prior of a third of the scale": {"centre_scale": 3.0},
    "noise of half the scale": {"noise": 3.0},
}


@pytest.mark.parametrize("bug", BUGS)
def test_ranks_are_uneven_where_the_model_is_not_that_of_the_data(bug: str) -> None:
    run = compiled("hierarchical normal", distmc.ChEES(), 60)
    simulate = functools.partial(simulate_groups, **BUGS[bug])
    ranks = calibrate(run, simulate, num_replicates=NUM_REPLICATES_OF_BUGS, thinning=15)
    with pytest.raises(AssertionError, match="not uniform"):
        require_calibrated(ranks)
    # The same number of replicates of what is right passes.
    require_calibrated(calibrate(run, simulate_groups, num_replicates=NUM_REPLICATES_OF_BUGS, thinning=15, seed=1))
