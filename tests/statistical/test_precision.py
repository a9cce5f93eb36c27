"""Mixed precision at ten million and a hundred million nats: what a chain accepts by is right to a hundredth of a nat.

A leapfrog trajectory is exact for whatever force drives it, so what counts is the energy at its two ends: the kinetic
part is float64 in any case, and the log-density is evaluated again there in float64, with rows that NumPy adds up:
without a run's blocks, its sums, and its division into what rows share and what they do not. The rows are real ones, as
many as it takes.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.sharding import PartitionSpec

import distmc
from distmc.data.blocks import plan_blocks
from distmc.model.density import cast_floats, log_prior_density, row_contributions
from distmc.model.transforms import Unconstrainer
from distmc.parallel.logdensity import ShardedLogDensity, pack_shard
from distmc.parallel.mesh import WORKER_AXIS, build_mesh, replicate, shard
from distmc.parallel.reduction import OrderedSum
from distmc.parallel.tree import ReductionPlan
from distmc.types import NumpyArray
from distmc.zoo import regression, sequences

pytestmark = pytest.mark.usefixtures("optimised")

ALLOWED = 1e-2
NUM_INTEGRATION_STEPS = 10

# So many parts of the rows are evaluated one after the other; it divides the number of rows of all cases.
NUM_PARTS = 50

Density = Callable[[NumpyArray], tuple[NumpyArray, NumpyArray]]
Values = Callable[[NumpyArray], NumpyArray]


@pytest.fixture(autouse=True)
def _double_precision() -> Any:
    with jax.enable_x64(True):
        yield


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A model, its data, and parameters that the data came from: a typical point of the posterior."""

    model: distmc.Model
    data: distmc.Data
    truth: Mapping[str, Any]

    @functools.cached_property
    def position(self) -> NumpyArray:
        """The true parameters as unconstrained coordinates."""
        truth = {name: np.asarray(values) for name, values in self.truth.items()}
        return np.asarray(jax.jit(Unconstrainer(self.model).unconstrain)(truth))

    @functools.cached_property
    def scale(self) -> NumpyArray:
        """A factor of the posterior's covariance, from the scores of some rows."""
        num_rows = 2000
        unconstrainer = Unconstrainer(self.model)

        def contribution(flat: Any, row: Any) -> Any:
            single = {name: value[None] for name, value in row.items()}
            return row_contributions(self.model, unconstrainer.constrain(flat)[0], single, {})[0]

        rows = {name: np.asarray(values[:num_rows]) for name, values in self.data.rows.items()}
        scores = np.asarray(jax.jit(jax.vmap(jax.grad(contribution), in_axes=(None, 0)))(self.position, rows))
        information = scores.T @ scores / num_rows * self.data.num_rows + np.eye(scores.shape[1])
        return np.linalg.cholesky(np.linalg.inv(information))


class UncorrectedUnconstrainer(Unconstrainer):
    """Rounds parameters before anybody can know by how much, which leaves the correction nothing to correct."""

    def constrain(self, flat: Any) -> Any:
        params, log_abs_det = super().constrain(flat)
        rounded = {
            name: value + jax.lax.stop_gradient(value.astype(jnp.float32).astype(jnp.float64) - value)
            for name, value in params.items()
        }
        return rounded, log_abs_det


def _mixed(case: Case, unconstrainer: type = Unconstrainer) -> Density:
    """Compile the log-density and gradient of all rows as a worker that is alone has it under `mixed` precision."""
    blocks = plan_blocks(case.data)
    plan = ReductionPlan(num_blocks=blocks.num_blocks, num_workers=1)
    mesh = build_mesh(jax.devices()[:1])
    target = ShardedLogDensity(
        model=case.model,
        unconstrainer=unconstrainer(case.model),
        block_sum=OrderedSum(plan, WORKER_AXIS),
        precision="mixed",
    )
    rows = jax.tree.map(lambda leaf: shard(mesh, leaf), pack_shard(case.data, blocks, plan, 0, "mixed"))
    replicated, sharded = PartitionSpec(), PartitionSpec(WORKER_AXIS)
    compiled = jax.jit(
        jax.shard_map(
            lambda position, rows: target.logdensity_and_grad(position, rows, {}),
            mesh=mesh,
            in_specs=(replicated, sharded),
            out_specs=replicated,
            check_vma=False,
        )
    )

    def evaluate(position: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
        value, grad = compiled(replicate(mesh, position), rows)
        return np.asarray(value), np.asarray(grad)

    return evaluate


def _float64(case: Case) -> Values:
    """Return what evaluates the log-density in float64, part of the rows by part, and leaves the sum to NumPy."""
    unconstrainer = Unconstrainer(case.model)
    parts = {name: np.split(values, NUM_PARTS) for name, values in case.data.rows.items()}

    def prior(flat: Any) -> Any:
        params, log_abs_det = unconstrainer.constrain(flat)
        return log_prior_density(case.model, params) + log_abs_det

    def contributions(flat: Any, rows: Any) -> Any:
        return row_contributions(case.model, unconstrainer.constrain(flat)[0], rows, {})

    of_prior, of_rows = jax.jit(jax.vmap(prior)), jax.jit(jax.vmap(contributions, in_axes=(0, None)))

    def evaluate(position: NumpyArray) -> NumpyArray:
        total = np.asarray(of_prior(position))
        for part in range(NUM_PARTS):
            rows = cast_floats({name: values[part] for name, values in parts.items()}, np.float64)
            total = total + np.asarray(of_rows(position, rows)).sum(axis=1)
        return total

    return evaluate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Both ends of the trajectories of some chains, and their energy errors."""

    start: NumpyArray
    end: NumpyArray
    kinetic_change: NumpyArray
    logdensity: NumpyArray
    energy_error: NumpyArray


def _integrate(density: Density, case: Case, num_chains: int) -> Trajectory:
    """Run leapfrog trajectories from draws of the posterior's normal approximation, in whitened coordinates."""
    scale, rng = case.scale, np.random.default_rng(1)
    num_dimensions = len(scale)
    step_size = 0.5 * num_dimensions**-0.25
    start = case.position + rng.normal(size=(num_chains, num_dimensions)) @ scale.T
    momentum = first_momentum = rng.normal(size=start.shape)
    position, (logdensity, grad) = start, density(start)
    before = logdensity
    for _ in range(NUM_INTEGRATION_STEPS):
        momentum = momentum + 0.5 * step_size * grad @ scale
        position = position + step_size * momentum @ scale.T
        logdensity, grad = density(position)
        momentum = momentum + 0.5 * step_size * grad @ scale
    kinetic_change = 0.5 * (np.sum(momentum**2, axis=1) - np.sum(first_momentum**2, axis=1))
    return Trajectory(
        start=start,
        end=position,
        kinetic_change=kinetic_change,
        logdensity=before,
        energy_error=kinetic_change - (logdensity - before),
    )


def _reference(values: Values, trajectory: Trajectory) -> NumpyArray:
    """Return the energy errors of the same trajectories by another log-density."""
    return trajectory.kinetic_change - (values(trajectory.end) - values(trajectory.start))


def _require_precise(case: Case, float64: Values, *, nats: float, num_chains: int) -> None:
    trajectory = _integrate(_mixed(case), case, num_chains)
    reference = _reference(float64, trajectory)
    difference = trajectory.energy_error - reference
    print(f"{trajectory.logdensity.min():.4g} nats, energy errors {reference}, off by {difference}")
    assert np.all(np.abs(trajectory.logdensity) > nats)
    assert np.all(np.abs(reference) < 1.0), "the trajectory is not a realistic one"
    np.testing.assert_array_less(np.abs(difference), ALLOWED)


@pytest.fixture(scope="module")
def long_sequences() -> Case:
    """Sequences that come to 1e8 nats."""
    truth = sequences.draw_parameters(num_symbols=39, seed=0)
    data = sequences.simulate(truth, num_rows=470_000, num_steps=70, seed=1)
    return Case(model=sequences.build_model(39), data=data, truth=truth)


@pytest.fixture(scope="module")
def some_sequences(long_sequences: Case) -> Case:
    """A tenth of them."""
    rows = {name: values[:47_000] for name, values in long_sequences.data.rows.items()}
    return dataclasses.replace(long_sequences, data=distmc.Data(rows=rows))


@pytest.fixture(scope="module")
def float64_of_some(some_sequences: Case) -> Values:
    return _float64(some_sequences)


def test_hidden_markov_model_at_1e8_nats(long_sequences: Case) -> None:
    _require_precise(long_sequences, _float64(long_sequences), nats=1e8, num_chains=1)


def test_hidden_markov_model_at_1e7_nats(some_sequences: Case, float64_of_some: Values) -> None:
    _require_precise(some_sequences, float64_of_some, nats=1e7, num_chains=2)


def test_the_rounding_of_parameters_has_to_be_corrected(some_sequences: Case, float64_of_some: Values) -> None:
    uncorrected = _mixed(some_sequences, UncorrectedUnconstrainer)
    trajectory = _integrate(uncorrected, some_sequences, num_chains=2)
    off = trajectory.energy_error - _reference(float64_of_some, trajectory)
    assert np.max(np.abs(off)) > 2 * ALLOWED


def _logistic(params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
    logit = params["intercept"] + data["x"] @ params["slope"]
    return jax.nn.log_sigmoid(jnp.where(data["y"] > 0, logit, -logit))


def test_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16_500_000, 2), np.float32)
    truth = {"intercept": 0.3, "slope": np.array([0.5, -0.3])}
    is_one = rng.random(len(x), np.float32) < 1.0 / (1.0 + np.exp(-(0.3 + x @ truth["slope"].astype(np.float32))))
    model = distmc.Model(
        parameters={"intercept": distmc.Parameter(), "slope": distmc.Parameter(shape=(2,))}, log_likelihood=_logistic
    )
    data = distmc.Data(rows={"x": x, "y": is_one.astype(np.int8)})
    case = Case(model=model, data=data, truth=truth)
    _require_precise(case, _float64(case), nats=1e7, num_chains=1)


def _linear(num_rows: int) -> Case:
    """Incomes, say, in some currency: a residual of 20,000 makes eleven nats a row."""
    sd = 20_000.0
    truth = {"weights": sd * np.array(regression.WEIGHTS), "variance": np.asarray(sd**2)}
    return Case(model=regression.build_model(), data=regression.simulate(num_rows, sd=sd), truth=truth)


def _student(num_rows: int) -> Case:
    """The same with outliers, whose degrees of freedom are a parameter too."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(num_rows, np.float32)
    y = (20_000.0 * (0.5 * x + rng.standard_t(4.0, num_rows))).astype(np.float32)

    def likelihood(params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        return dist.StudentT(params["df"], params["slope"] * data["x"], params["scale"]).log_prob(data["y"])

    priors = {"df": dist.Gamma(2.0, 0.1), "slope": distmc.Parameter(), "scale": dist.HalfNormal(1e5)}
    truth = {"df": 4.0, "slope": 10_000.0, "scale": 20_000.0}
    return Case(model=distmc.Model(priors, likelihood), data=distmc.Data(rows={"x": x, "y": y}), truth=truth)


def _poisson(num_rows: int) -> Case:
    """Counts of a few, with a covariate."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(num_rows, np.float32)
    y = rng.poisson(np.exp(1.4 + 0.3 * x)).astype(np.int16)

    def likelihood(params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        log_rate = params["intercept"] + params["slope"] * data["x"]
        count = data["y"].astype(log_rate.dtype)
        return count * log_rate - jnp.exp(log_rate) - jax.scipy.special.gammaln(count + 1)

    priors = {"intercept": dist.Normal(0.0, 5.0), "slope": dist.Normal(0.0, 5.0)}
    truth = {"intercept": 1.4, "slope": 0.3}
    return Case(model=distmc.Model(priors, likelihood), data=distmc.Data(rows={"x": x, "y": y}), truth=truth)


def _hierarchical(num_rows: int, num_groups: int = 50) -> Case:
    """Groups around a common mean, written without their correlation with the spread between them."""
    rng = np.random.default_rng(0)
    offset = rng.normal(size=num_groups)
    group = rng.integers(0, num_groups, num_rows).astype(np.int16)
    y = (30_000.0 + 5_000.0 * offset[group] + 20_000.0 * rng.standard_normal(num_rows)).astype(np.float32)

    def likelihood(params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        mean = params["mean"] + params["spread"] * params["offset"]
        return dist.Normal(mean[data["group"]], params["scale"]).log_prob(data["y"])

    priors = {
        "mean": dist.Normal(0.0, 1e5),
        "spread": dist.HalfNormal(1e5),
        "offset": dist.Normal(0.0, 1.0).expand([num_groups]),
        "scale": dist.HalfNormal(1e5),
    }
    truth = {"mean": 30_000.0, "spread": 5_000.0, "offset": offset, "scale": 20_000.0}
    return Case(model=distmc.Model(priors, likelihood), data=distmc.Data(rows={"group": group, "y": y}), truth=truth)


@pytest.mark.parametrize(
    ("build", "num_rows", "nats"),
    [
        (_linear, 900_000, 1e7),
        (_linear, 9_000_000, 1e8),
        (_student, 870_000, 1e7),
        (_poisson, 5_000_000, 1e7),
        (_hierarchical, 900_000, 1e7),
    ],
)
def test_regressions(build: Callable[[int], Case], num_rows: int, nats: float) -> None:
    case = build(num_rows)
    _require_precise(case, _float64(case), nats=nats, num_chains=1)


def _growth(num_rows: int) -> Case:
    """Growth over calendar years: the exponent is large, and float32 leaves it few digits after the point."""
    rng = np.random.default_rng(0)
    year = rng.uniform(1900.0, 2020.0, num_rows).astype(np.float32)
    size = np.exp(0.02 * year.astype(np.float64) - 39.2)

    def likelihood(params: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        expected = jnp.exp(params["rate"] * data["year"] - params["offset"])
        return dist.Normal(expected, params["scale"]).log_prob(data["size"])

    priors = {"rate": dist.HalfNormal(1.0), "offset": dist.Normal(0.0, 100.0), "scale": dist.HalfNormal(1.0)}
    truth = {"rate": 0.02, "offset": 39.2, "scale": 0.002}
    rows = {"year": year, "size": (size + 0.002 * rng.normal(size=num_rows)).astype(np.float32)}
    return Case(model=distmc.Model(priors, likelihood), data=distmc.Data(rows=rows), truth=truth)


def _finding(case: Case) -> Any:
    initial = {name: np.asarray(value) for name, value in case.truth.items()}
    report = distmc.check(case.model, case.data, initial=initial)
    (finding,) = [finding for finding in report.findings if finding.name == "precision"]
    return finding


def test_check_warns_where_rows_themselves_need_more_digits() -> None:
    case = _growth(1_000_000)
    trajectory = _integrate(_mixed(case), case, num_chains=2)
    off = trajectory.energy_error - _reference(_float64(case), trajectory)
    assert np.max(np.abs(off)) > 2 * ALLOWED
    finding = _finding(case)
    assert finding.outcome == "warning"
    assert 'precision="float64"' in finding.message


def test_check_does_not_warn_where_only_shared_numbers_would() -> None:
    assert _finding(_linear(900_000)).outcome == "ok"
