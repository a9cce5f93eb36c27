"""The same draws, bit for bit, wherever they are computed; and a check that notices when they are not."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

from distmc.data.data import Data
from distmc.likelihoods import hmm
from distmc.model.model import Model
from distmc.orchestration import session
from distmc.parallel.reduction import OrderedSum
from distmc.run import Run
from distmc.samplers import RWMH, ChEES
from distmc.sampling import compiled
from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.sampling.state import digest
from distmc.sampling.worker import WorkerTask
from distmc.spec import Local, Placement, Ray, RunSpec
from distmc.testing.invariance import first_difference, require_identical

pytestmark = [pytest.mark.many_devices, pytest.mark.usefixtures("compiled_for_users")]

NUM_STATES, NUM_SYMBOLS = 2, 3
SPEC = RunSpec(num_chains=4, num_warmup=40, num_draws=20, num_blocks=8)
# Numbers that were single precision are few enough here to be added in double precision without any rounding, in
# whatever order. The order shows in rows that are evaluated in double precision.
# A diagonal metric compiles in less time than the default's, which the regression has.
SPECS = {
    "hidden Markov model": dataclasses.replace(SPEC, sampler=ChEES(metric="diagonal")),
    "logistic regression": dataclasses.replace(SPEC, precision="float64"),
    "counts out of JAX": dataclasses.replace(SPEC, sampler=RWMH(num_proposals=4, metric="diagonal")),
}


class Record:
    """What a run commits: draws and statistics by name, and the state after the last step."""

    def __init__(self, problem: str, on: Placement) -> None:
        self.chunks: list[ChunkArrays] = []
        session.run(task_of(problem), on, commit=self._commit)
        self.digest = digest(self.chunks[-1].state)

    def _commit(self, report: ChunkReport, arrays: ChunkArrays) -> None:
        self.chunks.append(arrays)

    @property
    def draws(self) -> dict[str, Any]:
        pieces: dict[str, list[Any]] = {}
        for chunk in self.chunks:
            group = "warmup" if chunk.phase == "warmup" else "draws"
            kept: Mapping[str, Any] = {**chunk.draws, **chunk.stats, "unconstrained": chunk.unconstrained}
            for name, values in kept.items():
                pieces.setdefault(f"{group}/{name}", []).append(values)
        return {name: np.concatenate(chunks, axis=1) for name, chunks in pieces.items()}


def hmm_likelihood(params: dict[str, Any], data: dict[str, Any]) -> Any:
    return hmm.categorical(
        initial=jnp.full(NUM_STATES, 1.0 / NUM_STATES),
        transition=params["transition"],
        emission=params["emission"],
        observations=data["symbols"],
        length=data["length"],
    )


def hidden_markov() -> tuple[Model, Data]:
    """Return a hidden Markov model of ragged sequences."""
    rng = np.random.default_rng(0)
    rows = {"symbols": rng.integers(0, NUM_SYMBOLS, (60, 4)), "length": rng.integers(3, 5, 60)}
    priors = {
        "transition": dist.Dirichlet(np.ones((NUM_STATES, NUM_STATES))).to_event(1),
        "emission": dist.Dirichlet(np.ones((NUM_STATES, NUM_SYMBOLS))).to_event(1),
    }
    return Model(priors, hmm_likelihood), Data(rows=rows, length="length")


def logistic_likelihood(params: dict[str, Any], data: dict[str, Any]) -> Any:
    return dist.Bernoulli(logits=params["intercept"] + data["x"] @ params["slope"]).log_prob(data["y"])


def logistic() -> tuple[Model, Data]:
    """Return a logistic regression."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = rng.random(60) < 1.0 / (1.0 + np.exp(-x @ [1.0, -1.0]))
    priors = {"intercept": dist.Normal(0.0, 2.0), "slope": dist.Normal(0.0, 1.0).expand([2]).to_event(1)}
    return Model(priors, logistic_likelihood), Data(rows={"x": x, "y": y})


def log_probability(log_rate: Any, count: Any) -> Any:
    return np.asarray(count * log_rate - np.exp(log_rate))


def counts_likelihood(params: dict[str, Any], data: dict[str, Any]) -> Any:
    log_rate = params["level"] + params["trend"] * data["x"]
    result = jax.ShapeDtypeStruct(log_rate.shape, log_rate.dtype)
    return jax.pure_callback(log_probability, result, log_rate, data["count"], vmap_method="broadcast_all")


def counts() -> tuple[Model, Data]:
    """Return a Poisson regression whose likelihood is worked out by NumPy."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    priors = {"level": dist.Normal(0.0, 1.0), "trend": dist.Normal(0.0, 1.0)}
    rows = {"x": x, "count": rng.poisson(np.exp(0.5 + 0.5 * x))}
    return Model(priors, counts_likelihood, is_differentiable=False), Data(rows=rows)


PROBLEMS = {"hidden Markov model": hidden_markov, "logistic regression": logistic, "counts out of JAX": counts}


@functools.cache
def task_of(problem: str) -> WorkerTask:
    """Return what all workers of a run are given; it knows nothing of where they are."""
    return Run.prepare(*PROBLEMS[problem](), SPECS[problem], Local()).task


@pytest.fixture(scope="module")
def local_runs() -> dict[str, Record]:
    return {problem: Record(problem, Local()) for problem in PROBLEMS}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("problem", "num_workers"),
    [
        *itertools.product(("hidden Markov model", "logistic regression"), (1, 2, 3, 4)),
        ("counts out of JAX", 2),
    ],
)
def test_draws_do_not_depend_on_where_they_are_computed(
    problem: str, num_workers: int, local_runs: dict[str, Record]
) -> None:
    local = local_runs[problem]
    spread = Record(problem, Ray(num_workers=num_workers))
    require_identical(local.draws, spread.draws, names=("Local()", f"Ray(num_workers={num_workers})"))
    assert spread.digest == local.digest


def test_runs_that_are_compared_move(local_runs: dict[str, Record]) -> None:
    for record in local_runs.values():
        draws = record.draws
        assert draws["warmup/unconstrained"].shape[:2] == (4, 40)
        assert draws["draws/unconstrained"].shape[:2] == (4, 20)
        # Equal draws of chains that stand still, or of a step size that is not tuned, would show little.
        assert np.mean(np.diff(draws["draws/unconstrained"], axis=1) != 0.0) > 0.5
        assert len(np.unique(draws["warmup/step_size"])) > 20


class LeftToRight(OrderedSum):
    """A sum that is just as exact, and starts with the first block instead of walking the tree."""

    def __call__(self, block_value: Any, shape: tuple[int, ...], block_range: Any) -> Any:
        def add_block(place: Any, total: Any) -> Any:
            return total + block_value(place)

        return lax.fori_loop(0, block_range[1] - block_range[0], add_block, jnp.zeros(shape, jnp.float64))


def test_check_notices_when_blocks_are_added_in_another_order(
    local_runs: dict[str, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "OrderedSum", LeftToRight)
    reordered = Record("logistic regression", Local())
    local = local_runs["logistic regression"]
    difference = first_difference(local.draws, reordered.draws, ("the tree", "left to right"))
    assert difference is not None
    # Rounding shows within the first few steps of warm-up, and only there: the sums are otherwise the same.
    assert difference.variable.startswith("warmup/")
    assert difference.draw is not None
    assert difference.draw < 5
    assert " in the tree but " in str(difference)
    at = (slice(None), difference.draw)
    np.testing.assert_allclose(
        reordered.draws["warmup/unconstrained"][at], local.draws["warmup/unconstrained"][at], rtol=1e-9
    )
    assert reordered.digest != local.digest
