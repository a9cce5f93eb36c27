"""The log-density over workers equals the serial one."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.sharding import PartitionSpec

from distmc.data.blocks import plan_blocks
from distmc.data.data import Data
from distmc.model.density import serial_logdensity
from distmc.model.model import Model
from distmc.model.transforms import Unconstrainer
from distmc.parallel.canonical import canonical
from distmc.parallel.logdensity import Shard, ShardedLogDensity, pack_shard
from distmc.parallel.mesh import WORKER_AXIS, build_mesh
from distmc.parallel.reduction import OrderedSum
from distmc.parallel.tree import ReductionPlan
from distmc.spec import Precision
from distmc.types import NumpyArray

pytestmark = pytest.mark.many_devices

NUM_BLOCKS = 8
NUM_CHAINS = 3


def evaluate(
    model: Model,
    data: Data,
    position: NumpyArray,
    num_workers: int,
    precision: Precision = "float64",
    what: str = "logdensity_and_grad",
) -> Any:
    """Return log-density and gradient as every worker sees them, (num_workers, num_chains, ...)."""
    function, *inputs = compiled(model, data, num_workers, precision, what)
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(position, *inputs))


@functools.cache
def compiled(model: Model, data: Data, num_workers: int, precision: Precision, what: str) -> tuple[Any, ...]:
    """Return the function of positions, shards and constants, and the last two; several tests ask for the same."""
    blocks = plan_blocks(data, NUM_BLOCKS)
    plan = ReductionPlan(num_blocks=NUM_BLOCKS, num_workers=num_workers)
    target = ShardedLogDensity(
        model=model,
        unconstrainer=Unconstrainer(model),
        block_sum=OrderedSum(plan, WORKER_AXIS),
        precision=precision,
    )
    dtype = np.float32 if precision == "mixed" else np.float64
    constants = {name: np.asarray(value, dtype) for name, value in (data.constants or {}).items()}
    shards = [pack_shard(data, blocks, plan, rank, precision) for rank in range(num_workers)]
    whole = jax.tree.map(lambda *pieces: np.concatenate(pieces), *shards)

    def on_worker(position: Any, shard: Shard, constants: Mapping[str, Any]) -> Any:
        return jax.tree.map(lambda leaf: leaf[None], getattr(target, what)(position, shard, constants))

    each, everywhere = PartitionSpec(WORKER_AXIS), PartitionSpec()
    mesh = build_mesh(jax.devices()[:num_workers])
    mapped = jax.shard_map(
        canonical(on_worker, lambda position, shard, constants: shard.never),
        mesh=mesh,
        in_specs=(everywhere, each, everywhere),
        out_specs=each,
        check_vma=False,
    )
    return jax.jit(mapped), whole, constants


def evaluate_serially(model: Model, data: Data, position: NumpyArray, precision: Precision = "float64") -> Any:
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, compiled_serially(model, data, precision)(position))


@functools.cache
def compiled_serially(model: Model, data: Data, precision: Precision) -> Any:
    serial = serial_logdensity(model, data, plan_blocks(data, NUM_BLOCKS), precision)
    return jax.jit(jax.vmap(jax.value_and_grad(serial)))


def positions(model: Model) -> NumpyArray:
    with jax.enable_x64(True):
        num_dimensions = Unconstrainer(model).num_dimensions
    return 0.7 * np.random.default_rng(1).standard_normal((NUM_CHAINS, num_dimensions))


def mixture_likelihood(params: dict[str, Any], data: dict[str, Any]) -> Any:
    """Ragged rows of independent steps, each from a mixture of three components; constants are their places."""
    offset = data["steps"][..., None] - data["places"] * params["scale"]
    of_step = jax.nn.logsumexp(jnp.log(params["weights"]) - 0.5 * offset**2, axis=-1)
    is_real = jnp.arange(of_step.shape[1]) < data["length"][:, None]
    return jnp.sum(jnp.where(is_real, of_step, 0.0), axis=1)


@pytest.fixture(scope="module")
def mixture() -> tuple[Model, Data]:
    """Return a model with a simplex, ragged rows and constants."""
    rng = np.random.default_rng(0)
    length = rng.integers(1, 9, 50)
    data = Data(
        rows={"steps": rng.normal(size=(50, 8)), "length": length},
        constants={"places": np.array([-2.0, 0.0, 2.0])},
        length="length",
    )
    priors = {"weights": dist.Dirichlet(np.full(3, 2.0)), "scale": dist.LogNormal(0.0, 1.0)}
    return Model(priors, mixture_likelihood, lambda params: -(params["scale"] ** 2)), data


@pytest.mark.parametrize("num_workers", [1, 3])
def test_equals_the_serial_sum_and_its_gradient(mixture: tuple[Model, Data], num_workers: int) -> None:
    model, data = mixture
    position = positions(model)
    value, grad = evaluate_serially(model, data, position)
    values, grads = evaluate(model, data, position, num_workers)
    np.testing.assert_allclose(values, np.broadcast_to(value, values.shape), rtol=1e-13)
    np.testing.assert_allclose(grads, np.broadcast_to(grad, grads.shape), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("precision", ["mixed", "float64"])
def test_bits_do_not_depend_on_the_number_of_workers(mixture: tuple[Model, Data], precision: Precision) -> None:
    model, data = mixture
    position = positions(model)
    alone = evaluate(model, data, position, 1, precision)
    for num_workers in (2, 3):
        for one, other in zip(alone, evaluate(model, data, position, num_workers, precision), strict=True):
            assert all(piece.tobytes() == one[0].tobytes() for piece in other)


def test_value_alone_equals_the_serial_sum_with_the_same_bits_for_any_number_of_workers(
    mixture: tuple[Model, Data],
) -> None:
    model, data = mixture
    position = positions(model)
    value, _ = evaluate_serially(model, data, position)
    alone = evaluate(model, data, position, 1, what="logdensity")
    np.testing.assert_allclose(alone[0], value, rtol=1e-13)
    for num_workers in (2, 3):
        together = evaluate(model, data, position, num_workers, what="logdensity")
        assert all(piece.tobytes() == alone[0].tobytes() for piece in together)


def test_constants_of_priors_have_the_same_bits_for_any_number_of_workers() -> None:
    # Left to itself, the compiler works out log-gamma functions of constants differently for one device and for two.
    data = Data(rows={"which": np.random.default_rng(3).integers(0, 3, 16)})
    priors = {"weights": dist.Dirichlet(np.ones((2, 3))).to_event(1), "rate": dist.Gamma(2.3, 1.7)}
    model = Model(priors, lambda params, data: params["rate"] * jnp.log(params["weights"][0])[data["which"]])
    alone, together = (evaluate(model, data, positions(model), num_workers) for num_workers in (1, 2))
    for one, other in zip(alone, together, strict=True):
        assert all(piece.tobytes() == one[0].tobytes() for piece in other)


@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit])
def test_arrays_that_a_likelihood_closes_over_do_not_change_the_bits(wrap: Any, precision: Precision) -> None:
    scales = np.linspace(0.3, 4.0, 7)

    def likelihood(params: dict[str, Any], data: dict[str, Any]) -> Any:
        tilt = jnp.sum(jnp.log(jnp.asarray(scales) / 3.0) * params["mean"])
        return -0.5 * (data["x"] - params["mean"]) ** 2 + 0.1 * tilt

    data = Data(rows={"x": np.random.default_rng(0).normal(size=40)})
    model = Model({"mean": dist.Normal(0.0, 1.0)}, wrap(likelihood))
    alone, together = (evaluate(model, data, positions(model), num_workers, precision) for num_workers in (1, 2))
    for one, other in zip(alone, together, strict=True):
        assert all(piece.tobytes() == one[0].tobytes() for piece in other)


def test_likelihood_that_returns_a_sum() -> None:
    rng = np.random.default_rng(2)
    data = Data(rows={"x": rng.normal(size=21)})

    def total(params: dict[str, Any], data: dict[str, Any]) -> Any:
        return jnp.sum(dist.Normal(params["mean"], 0.5).log_prob(data["x"]))

    model = Model({"mean": dist.Normal(0.0, 1.0)}, total)
    position = positions(model)
    value, grad = evaluate_serially(model, data, position)
    values, grads = evaluate(model, data, position, 2)
    np.testing.assert_allclose(values[1], value, rtol=1e-13)
    np.testing.assert_allclose(grads[1], grad, rtol=1e-11)
    # 21 rows in 8 blocks leave padding; the closed form knows nothing of it.
    mean = position[:, 0]
    closed = dist.Normal(mean[:, None], 0.5).log_prob(data.rows["x"]).sum(1) + dist.Normal(0.0, 1.0).log_prob(mean)
    np.testing.assert_allclose(values[0], closed, rtol=1e-5)


def test_mixed_precision_stays_close_to_double() -> None:
    num_rows = 40_000
    data = Data(rows={"which": np.random.default_rng(3).integers(0, 3, num_rows)})
    model = Model(
        {"weights": dist.Dirichlet(np.ones(3))}, lambda params, data: jnp.log(params["weights"])[data["which"]]
    )
    position = positions(model)
    exact, exact_grad = evaluate_serially(model, data, position)
    uncorrected, _ = evaluate_serially(model, data, position, "mixed")
    (value,), (grad,) = evaluate(model, data, position, 1, "mixed")
    # All rows of a category share one logarithm; each of its roundings counts for all of them.
    assert np.abs(uncorrected - exact).max() > 1e-5
    assert np.abs(value - exact).max() < 1e-9
    np.testing.assert_allclose(grad, exact_grad, rtol=1e-5, atol=1e-2)


def test_mixed_precision_makes_up_for_rounded_parameters() -> None:
    data = Data(rows={"which": np.random.default_rng(3).integers(0, 3, 4_000)})
    # Linear in its parameters: rounding them is the only error that single precision makes.
    model = Model({"weights": dist.Dirichlet(np.ones(3))}, lambda params, data: params["weights"][data["which"]])
    position = positions(model)
    exact, _ = evaluate_serially(model, data, position)
    uncorrected, _ = evaluate_serially(model, data, position, "mixed")
    (value,), _ = evaluate(model, data, position, 1, "mixed")
    assert np.abs(uncorrected - exact).max() > 1e-6
    assert np.abs(value - exact).max() < 1e-10


def test_chain_that_is_not_finite_leaves_others_alone(mixture: tuple[Model, Data]) -> None:
    model, data = mixture
    position = positions(model)
    good, good_grad = evaluate(model, data, position, 3)
    position[1] = np.nan
    value, grad = evaluate(model, data, position, 3)
    assert np.isnan(value[:, 1]).all()
    for chain in (0, 2):
        assert value[:, chain].tobytes() == good[:, chain].tobytes()
        assert grad[:, chain].tobytes() == good_grad[:, chain].tobytes()


def test_shards_of_all_workers_have_one_shape_and_hold_every_row(mixture: tuple[Model, Data]) -> None:
    _, data = mixture
    blocks = plan_blocks(data, NUM_BLOCKS)
    plan = ReductionPlan(num_blocks=NUM_BLOCKS, num_workers=3)
    shards = [pack_shard(data, blocks, plan, rank, "mixed") for rank in range(3)]
    shapes = [jax.tree.map(np.shape, shard) for shard in shards]
    assert shapes[0] == shapes[1] == shapes[2]
    assert sum(bucket["row_mask"].sum() for shard in shards for bucket in shard.buckets) == data.num_rows
    assert {bucket["steps"].dtype for shard in shards for bucket in shard.buckets} == {np.dtype(np.float32)}
    assert [tuple(shard.block_range[0]) for shard in shards] == [plan.block_range(rank) for rank in range(3)]
