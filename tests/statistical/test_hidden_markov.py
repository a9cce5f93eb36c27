"""Hidden Markov models give back the parameters that their data came from, within the spread of the posterior.

If the posterior is right, the true parameters lie in it like one of its draws. For many rows it is normal in
unconstrained coordinates, so the truth's squared Mahalanobis distance from the mean is a chi-square number with as many
degrees of freedom as there are coordinates. Both tails count: a distance that is too small tells of a posterior that is
too wide.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import distmc
from distmc.model.transforms import Unconstrainer
from distmc.types import NumpyArray
from distmc.zoo import sequences, signals

pytestmark = pytest.mark.usefixtures("optimised")

TAIL = 0.001
NUM_SYMBOLS = 6


def _squared_distance(model: distmc.Model, draws: Mapping[str, Any], truth: Mapping[str, Any]) -> tuple[float, int]:
    """Return the truth's squared Mahalanobis distance in unconstrained coordinates, and their number."""
    with jax.enable_x64(True):
        unconstrain = Unconstrainer(model).unconstrain
        flat = np.asarray(jax.jit(jax.vmap(jax.vmap(unconstrain)))({name: jnp.asarray(draws[name]) for name in truth}))
        target = np.asarray(unconstrain(dict(truth)))
    flat = flat.reshape(-1, target.size)
    offset = target - flat.mean(axis=0)
    return float(offset @ np.linalg.solve(np.cov(flat.T), offset)), target.size


def _draws(tree: Any) -> dict[str, NumpyArray]:
    return {name: np.asarray(values) for name, values in tree["posterior"].data_vars.items()}


@pytest.fixture(scope="module")
def categorical_run() -> tuple[distmc.Model, dict[str, NumpyArray], Mapping[str, NumpyArray], float]:
    truth = sequences.draw_parameters(NUM_SYMBOLS, seed=4)
    model, data = sequences.build_model(NUM_SYMBOLS), sequences.simulate(truth, num_rows=2000, num_steps=10, seed=5)
    # Enough rows that the long tail of a rare symbol's emission does not decide.
    return model, *_sampled(model, data, truth, num_chains=32, num_draws=500)


@pytest.fixture(scope="module")
def gaussian_run() -> tuple[distmc.Model, dict[str, NumpyArray], Mapping[str, NumpyArray], float]:
    model, data = signals.build_model(), signals.simulate(num_rows=500, longest=9, seed=6)
    return model, *_sampled(model, data, signals.TRUTH, num_chains=16, num_draws=300)


def _sampled(
    model: distmc.Model, data: distmc.Data, truth: Mapping[str, NumpyArray], *, num_chains: int, num_draws: int
) -> Any:
    # Starting near the truth saves warm-up; where the chains end is for the posterior to say.
    tree = distmc.sample(
        model,
        data,
        num_chains=num_chains,
        num_warmup=250,
        num_draws=num_draws,
        initial=dict(truth),
        num_blocks=8,
        progress=False,
    )
    worst = distmc.summarise(tree).worst_rhat
    assert worst is not None
    return _draws(tree), truth, worst.rhat


@pytest.mark.parametrize("run", ["categorical_run", "gaussian_run"])
def test_the_true_parameters_lie_in_the_posterior(run: str, request: pytest.FixtureRequest) -> None:
    model, draws, truth, rhat = request.getfixturevalue(run)
    squared, num_dimensions = _squared_distance(model, draws, truth)
    low, high = stats.chi2.ppf([TAIL, 1.0 - TAIL], num_dimensions)
    assert rhat < 1.02
    assert low < squared < high


def test_other_parameters_do_not(categorical_run: Any) -> None:
    model, draws, truth, _ = categorical_run
    # A change of one probability by 0.08, which a plot of both would hardly show.
    transition = np.array(truth["transition"])
    transition[0] += [-0.08, 0.08]
    squared, num_dimensions = _squared_distance(model, draws, {**truth, "transition": transition})
    assert squared > stats.chi2.ppf(1.0 - TAIL, num_dimensions)
