"""Mixed precision at ten million and a hundred million nats: what a chain accepts by is right to a hundredth of a nat.

A leapfrog trajectory is exact for whatever force drives it, so what counts is the energy at its two ends: the kinetic
part is float64 in any case, and the log-density is evaluated again there with float64 rows. The rows are real ones,
as many as it takes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import distmc
from distmc.data.blocks import plan_blocks
from distmc.model.density import row_contributions
from distmc.model.transforms import Unconstrainer
from distmc.parallel.logdensity import ShardedLogDensity, pack_shard
from distmc.parallel.mesh import WORKER_AXIS, build_mesh, replicate, shard
from distmc.parallel.reduction import OrderedSum
from distmc.parallel.tree import ReductionPlan
from distmc.spec import Precision
from distmc.types import NumpyArray
from distmc.zoo import regression, sequences

ALLOWED = 1e-2
NUM_INTEGRATION_STEPS = 10

Density = Callable[[NumpyArray], tuple[NumpyArray, NumpyArray]]


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

    @property
    def position(self) -> NumpyArray:
        """The true parameters as unconstrained coordinates."""
        flat = Unconstrainer(self.model).unconstrain({name: jnp.asarray(v) for name, v in self.truth.items()})
        return np.asarray(flat)

    def scale(self, num_rows: int = 2000) -> NumpyArray:
        """Return a factor of the posterior's covariance, from the scores of some rows."""
        unconstrainer = Unconstrainer(self.model)

        def contribution(flat: Any, row: Any) -> Any:
            single = {name: value[None] for name, value in row.items()}
            return row_contributions(self.model, unconstrainer.constrain(flat)[0], single, {})[0]

        rows = {name: jnp.asarray(values[:num_rows]) for name, values in self.data.rows.items()}
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


def _density(case: Case, precision: Precision, unconstrainer: type = Unconstrainer) -> Density:
    """Compile the log-density and gradient of all rows as a worker that is alone has it."""
    blocks = plan_blocks(case.data)
    plan = ReductionPlan(num_blocks=blocks.num_blocks, num_workers=1)
    mesh = build_mesh(jax.devices()[:1])
    target = ShardedLogDensity(
        model=case.model,
        unconstrainer=unconstrainer(case.model),
        block_sum=OrderedSum(plan, WORKER_AXIS),
        precision=precision,
    )
    rows = jax.tree.map(lambda leaf: shard(mesh, leaf), pack_shard(case.data, blocks, plan, 0, precision))
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
    scale, rng = case.scale(), np.random.default_rng(1)
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


def _reference(density: Density, trajectory: Trajectory) -> NumpyArray:
    """Return the energy errors of the same trajectories by another log-density."""
    return trajectory.kinetic_change - (density(trajectory.end)[0] - density(trajectory.start)[0])


def _require_precise(case: Case, float64_density: Density, *, nats: float, num_chains: int) -> None:
    trajectory = _integrate(_density(case, "mixed"), case, num_chains)
    reference = _reference(float64_density, trajectory)
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
def float64_density(some_sequences: Case) -> Density:
    with jax.enable_x64(True):
        return _density(some_sequences, "float64")


def test_hidden_markov_model_at_1e8_nats(long_sequences: Case) -> None:
    _require_precise(long_sequences, _density(long_sequences, "float64"), nats=1e8, num_chains=1)


def test_hidden_markov_model_at_1e7_nats(some_sequences: Case, float64_density: Density) -> None:
    _require_precise(some_sequences, float64_density, nats=1e7, num_chains=2)


def test_the_rounding_of_parameters_has_to_be_corrected(some_sequences: Case, float64_density: Density) -> None:
    uncorrected = _density(some_sequences, "mixed", UncorrectedUnconstrainer)
    trajectory = _integrate(uncorrected, some_sequences, num_chains=2)
    off = trajectory.energy_error - _reference(float64_density, trajectory)
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
    _require_precise(case, _density(case, "float64"), nats=1e7, num_chains=1)


def test_check_warns_where_rows_share_a_rounding() -> None:
    # The logarithm and the reciprocal of a scale are rounded alike in every row, so errors add up instead of
    # cancelling. Incomes, say, in some currency: a residual of 20,000 makes eleven nats a row.
    data = regression.simulate(900_000, sd=20_000.0)
    report = distmc.check(regression.build_model(), data)
    (finding,) = [finding for finding in report.findings if finding.name == "precision"]
    assert finding.outcome == "warning"
    assert 'precision="float64"' in finding.message
