"""Posteriors with a closed form: means and standard deviations within Monte Carlo error, and a gate that can close."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import distmc
from distmc.adaptation import warmup
from distmc.data.data import Data
from distmc.model.density import log_prior_density
from distmc.model.transforms import Unconstrainer
from distmc.parallel.logdensity import ShardedLogDensity
from distmc.sampling import compiled
from distmc.testing.moments import require_moments, score_moments
from distmc.zoo import categorical, normal, regression
from distmc.zoo.answers import Answer

ROWS = {normal: 2_000, categorical: 80, regression: 500}


def _sample(module: Any, data: Data, sampler: Any) -> Any:
    return distmc.sample(
        module.build_model(),
        data,
        sampler=sampler,
        num_chains=32,
        num_warmup=250,
        num_draws=500,
        on=distmc.Local(),
        progress=False,
    )


@pytest.mark.parametrize("module", ROWS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_moments_are_the_exact_ones(module: Any) -> None:
    data = module.simulate(ROWS[module])
    require_moments(_sample(module, data, "ChEES"), module.solve(data))


@pytest.mark.parametrize("sampler", [distmc.SNAPER(), distmc.MEADS()], ids=lambda sampler: type(sampler).__name__)
def test_scales_may_be_far_apart_and_far_from_the_start(sampler: Any) -> None:
    # Chains start on [-2, 2] in all coordinates.
    scales, center = np.geomspace(0.01, 100.0, 10), 30.0
    model = distmc.Model(
        parameters={"x": distmc.Parameter(shape=(10,))},
        log_likelihood=lambda params, data: jnp.zeros_like(data["nothing"]),
        log_prior=lambda params: -0.5 * jnp.sum(((params["x"] - center) / scales) ** 2),
    )
    tree = distmc.sample(model, {"nothing": np.zeros(2)}, sampler=sampler, progress=False)
    require_moments(tree, {"x": Answer(np.full(10, center), scales)})


def test_starts_far_away_cost_little_after_a_climb() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 4))
    rows = {"x": x, "y": rng.random(100) < 1.0 / (1.0 + np.exp(-x @ [1.0, -1.0, 0.5, 0.0]))}
    model = distmc.Model(
        parameters={"slope": dist.Normal(jnp.zeros(4), 100.0).to_event(1)},
        log_likelihood=lambda p, d: dist.Bernoulli(logits=d["x"] @ p["slope"]).log_prob(d["y"]),
    )
    same: dict[str, Any] = {"num_blocks": 1, "progress": False}

    def gradients(initial: Any) -> int:
        """Return the evaluations that warm-up takes, for all chains at once."""
        tree = distmc.sample(model, rows, num_chains=16, num_warmup=100, num_draws=100, initial=initial, **same)
        assert float(score_moments(tree, {"slope": Answer(np.zeros(4), np.ones(4))})[0].rhat) < 1.03
        return int(tree["warmup_sample_stats"]["n_steps"].max("chain").sum())

    # Some thousand standard deviations of the posterior away.
    far = 300.0 + rng.normal(size=(16, 4))
    distant = gradients({"slope": far})
    optimum = distmc.optimize(model, rows, num_starts=4, initial={"slope": far[:4]}, hessian=True, **same)
    climbed = optimum.num_evaluations + gradients(optimum.draw(16, spread=2.0))
    usual = gradients(None)
    print(f"gradients in warm-up: {distant} from far away, {climbed} with a climb, {usual} from the usual starts")
    assert climbed < min(1.2 * usual, distant)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodTwice(ShardedLogDensity):
    """Counts every row twice, as a sum over workers that is also taken inside one of them would."""

    def _block_value(self, *arguments: Any) -> Any:
        return 2.0 * super()._block_value(*arguments)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorOncePerBlock(ShardedLogDensity):
    """Counts the prior in every block, as a log-density that is summed over blocks whole would."""

    def logdensity_and_grad(self, position: Any, *arguments: Any) -> Any:
        def extra(flat: Any) -> Any:
            return log_prior_density(self.model, self.unconstrainer.constrain(flat)[0])

        value, grad = super().logdensity_and_grad(position, *arguments)
        more, more_grad = jax.vmap(jax.value_and_grad(extra))(position)
        again = self.block_sum.plan.num_blocks - 1
        return value + again * more, grad + again * more_grad


class WithoutJacobian(Unconstrainer):
    """Forgets how much the map to the simplex stretches volume."""

    def constrain(self, flat: Any) -> Any:
        return super().constrain(flat)[0], jnp.zeros((), flat.dtype)


BUGS: dict[str, tuple[str, type]] = {
    "likelihood counted twice": ("ShardedLogDensity", LikelihoodTwice),
    "prior counted once per block": ("ShardedLogDensity", PriorOncePerBlock),
    "Jacobian missing": ("Unconstrainer", WithoutJacobian),
}


@pytest.fixture(params=BUGS)
def broken_run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Data], Any]]:
    name, double = BUGS[request.param]
    monkeypatch.setattr(compiled, name, double)
    return lambda data: _sample(categorical, data, distmc.HMC())


def test_the_gate_closes_before_a_wrong_posterior(broken_run: Callable[[Data], Any]) -> None:
    data = categorical.simulate(ROWS[categorical])
    tree, exact = broken_run(data), categorical.solve(data)
    with pytest.raises(AssertionError, match="Monte Carlo errors"):
        require_moments(tree, exact)
    # The chains agree with one another all the same: only the exact answer tells.
    assert all(score.rhat < 1.01 for score in score_moments(tree, exact))


def _distance_of_the_last_to_come() -> float:
    """Return how far a chain is from a posterior with long tails, once it is sampled, that began far from it."""
    model = distmc.Model(
        parameters={"x": distmc.Parameter(shape=(3,))},
        log_likelihood=lambda params, data: jnp.zeros_like(data["nothing"]),
        log_prior=lambda params: -2.0 * jnp.sum(jnp.logaddexp(0.5 * params["x"], -0.5 * params["x"])),
    )
    start = np.random.default_rng(0).normal(size=(16, 3))
    start[5] = 1000.0
    tree = distmc.sample(
        model,
        {"nothing": np.zeros(2)},
        initial={"x": start},
        num_chains=16,
        num_warmup=150,
        num_draws=20,
        # At the end of the first window it has not arrived.
        schedule=distmc.Schedule(initial_buffer=2, windows=(6, 92), final_buffer=50),
        progress=False,
    )
    return float(np.abs(tree["posterior"]["x"].sel(chain=5)).max())


def test_a_chain_that_comes_late_is_not_kept_away_by_the_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _distance_of_the_last_to_come() < 30.0
    monkeypatch.setattr(warmup, "unless_out_of_reach", lambda pull, *_: pull)
    assert _distance_of_the_last_to_come() > 60.0
