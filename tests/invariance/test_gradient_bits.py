"""Log-density and gradient have the same bits on 1, 2, 3, 4 and more devices, for models written in many ways.

What a compiler knows of a model, numbers in its text and arrays that it closes over, must not enter the arithmetic:
programs for other numbers of workers are simplified in other places. The points lie close to the mode, where the terms
of a gradient cancel and a last bit of one of them shows; they are many, because where products and sums are rounded
otherwise, hardly one result in thousands may tell. Nor must it enter how many blocks a worker holds, one or many.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import optimize

import distmc
from distmc.climbs import Points
from distmc.data.blocks import BlockPlan, plan_blocks
from distmc.likelihoods import hmm
from distmc.model.density import serial_logdensity
from distmc.model.transforms import Unconstrainer
from distmc.parallel.logdensity import pack_shard
from distmc.parallel.mesh import WORKER_AXIS, build_mesh, replicate
from distmc.parallel.tree import ReductionPlan
from distmc.sampling.compiled import compiler_options, lower_program
from distmc.spec import Precision, RunSpec
from distmc.types import NumpyArray

pytestmark = [pytest.mark.many_devices, pytest.mark.usefixtures("compiled_for_users")]

NUM_ROWS, NUM_BLOCKS, NUM_BATCHES, NUM_POINTS = 90, 8, 40, 48
RNG = np.random.default_rng(0)
X = RNG.normal(size=(NUM_ROWS, 4)) * [0.01, 1.0, 10.0, 300.0]
Y = X @ [50.0, 1.0, -0.1, 0.01] + RNG.normal(size=NUM_ROWS)
COUNTS = RNG.poisson(3.0, size=NUM_ROWS)
TABLE = RNG.gamma(2.0, size=7)


def slopes(scale: float) -> dist.Distribution:
    return dist.Normal(jnp.zeros(4), scale).to_event(1)


def robust(params: Any, data: Any) -> Any:
    return dist.StudentT(4.0, data["x"] @ params["slope"], params["scale"]).log_prob(data["y"]) / 1.7


def offsets(params: Any, data: Any) -> Any:
    # Closes over an array, divides by numbers, and takes their logarithms.
    rate = jnp.exp(params["level"] / 3.0) * jnp.asarray(TABLE)[data["count"] % 7] / jnp.log(5.0)
    return dist.Poisson(rate).log_prob(data["count"])


def looped(params: Any, data: Any) -> Any:
    def body(total: Any, number: Any) -> tuple[Any, None]:
        spread = 0.7 + params["weight"]
        return total + dist.Normal(params["level"] / 3.0, spread).log_prob(data["y"] / 30.0) * number / 3.0, None

    return jax.lax.scan(body, jnp.zeros_like(data["y"]), jnp.linspace(0.1, 1.3, 5, dtype=data["y"].dtype))[0]


ROWS = {"x": X, "y": Y, "count": COUNTS}
MODELS: dict[str, tuple[dict[str, Any], Callable[..., Any]]] = {
    "linear": ({"slope": slopes(100.0)}, lambda p, d: dist.Normal(d["x"] @ p["slope"], 1.3).log_prob(d["y"])),
    "robust": ({"slope": slopes(70.0), "scale": dist.HalfNormal(3.0)}, robust),
    "offsets": ({"level": dist.Cauchy(0.3, 2.5)}, offsets),
    "interval": (
        {"mean": dist.Uniform(-7.7, 11.3), "scale": dist.LogNormal(0.3, 0.7)},
        lambda p, d: dist.Laplace(p["mean"], p["scale"]).log_prob(d["y"]),
    ),
    "hierarchical": (
        {"level": dist.Normal(0.1, 3.0), "spread": dist.Gamma(2.5, 1.3), "site": dist.Normal(0.0, 1.0).expand([7])},
        lambda p, d: dist.Normal(p["level"] + p["spread"] * p["site"][d["count"] % 7], 11.0).log_prob(d["y"]),
    ),
    "loop": ({"level": dist.StudentT(1.0, 0.0, 1.0), "weight": dist.Gamma(1.0, 1.0)}, looped),
    "hidden Markov": (
        {"stay": dist.Beta(2.5, 1.3), "emission": dist.Dirichlet(np.full((2, 7), 1.7)).to_event(1)},
        lambda p, d: hmm.categorical(
            jnp.full(2, 0.5), jnp.array([[0.0, 1.0], [1.0, 0.0]]) + p["stay"] * jnp.array([[1.0, -1.0], [-1.0, 1.0]]),
            p["emission"], (d["count"][:, None] + jnp.arange(5)) % 7,
        ),
    ),
}  # fmt: skip


@functools.cache
def near_the_mode(name: str) -> NumpyArray:
    """Return points (batches, points, dimensions), the same for either precision."""
    model, data = distmc.Model(*MODELS[name]), distmc.Data(rows=ROWS)
    blocks = plan_blocks(data, NUM_BLOCKS)
    with jax.enable_x64(True):
        evaluate = jax.jit(jax.value_and_grad(lambda flat: -serial_logdensity(model, data, blocks)(flat)))
        start = np.zeros(Unconstrainer(model).num_dimensions)
        mode = optimize.minimize(lambda flat: jax.tree.map(np.asarray, evaluate(flat)), start, jac=True).x
    offsets = np.random.default_rng(1).normal(size=(NUM_BATCHES, NUM_POINTS, len(mode)))
    return np.asarray(mode + 10.0 ** -np.arange(2, 2 + NUM_POINTS)[:, None].clip(max=9) * offsets)


def evaluated(
    model: distmc.Model,
    data: distmc.Data,
    blocks: BlockPlan,
    points: NumpyArray,
    precision: Precision,
    num_workers: int,
) -> tuple[NumpyArray, NumpyArray]:
    """Evaluate the program of a run on so many devices, at points (batches, points, dimensions)."""
    spec = RunSpec(sampler=Points(), num_chains=NUM_POINTS, num_warmup=0, num_draws=1, precision=precision)
    plan = ReductionPlan(num_blocks=blocks.num_blocks, num_workers=num_workers)
    with jax.enable_x64(True):
        mesh = build_mesh(jax.devices()[:num_workers])
        packed = [pack_shard(data, blocks, plan, rank, precision) for rank in range(num_workers)]
        over_workers = NamedSharding(mesh, PartitionSpec(WORKER_AXIS))
        shards = jax.tree.map(lambda *parts: jax.device_put(np.concatenate(parts), over_workers), *packed)
        start = lower_program(spec, model, plan, mesh, shards, {}).start.compile(compiler_options(mesh))
        # One batch at a time: of many that are under way, each waits in its sums for devices that the others keep busy.
        kernels = [jax.device_get(start(replicate(mesh, batch), shards, {}).kernel) for batch in points]
        return np.stack([kernel.logdensity for kernel in kernels]), np.stack([k.logdensity_grad for k in kernels])


@pytest.mark.parametrize("precision", ["mixed", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_bits_do_not_depend_on_the_number_of_devices(name: str, precision: Precision) -> None:
    model, data = distmc.Model(*MODELS[name]), distmc.Data(rows=ROWS)
    require_same_bits(model, data, plan_blocks(data, NUM_BLOCKS), near_the_mode(name), precision, (2, 3, 4))


def require_same_bits(
    model: distmc.Model,
    data: distmc.Data,
    blocks: BlockPlan,
    points: NumpyArray,
    precision: Precision,
    numbers_of_workers: tuple[int, ...],
) -> None:
    """Require the bits that one device has on others, too."""
    alone = evaluated(model, data, blocks, points, precision, 1)
    assert all(np.all(np.isfinite(values)) for values in alone)
    for num_workers in numbers_of_workers:
        together = evaluated(model, data, blocks, points, precision, num_workers)
        for what, mine, theirs in zip(("log-density", "gradient"), alone, together, strict=True):
            assert mine.tobytes() == theirs.tobytes(), (
                f"{what} on {num_workers} devices: {np.sum(mine != theirs)} differ"
            )


def crooked(params: Any, data: Any) -> Any:
    level, spread = params["level"], params["spread"]
    bent = jnp.power(jnp.abs(jnp.exp(jnp.tanh(data["y"])) + jnp.sqrt(jnp.abs(spread) + 0.1)) + 0.2, 1.7) * level
    total = jnp.power(5.852, 1.7) * jnp.power(jnp.abs(level) + 0.2, 1.7) + bent
    return jnp.tanh(total / 3.3) * data["y"] + 0.1 * total


@pytest.mark.parametrize(
    ("name", "num_rows", "num_blocks", "numbers_of_workers", "precision"),
    [
        ("linear", 64, 2, (2,), "mixed"),
        ("linear", 90, 4, (2, 4), "float64"),
        ("hidden Markov", 90, 8, (8,), "mixed"),
        ("crooked", 64, 8, (4, 8), "float64"),
    ],
)
def test_bits_do_not_depend_on_how_many_blocks_a_worker_holds(
    name: str, num_rows: int, num_blocks: int, numbers_of_workers: tuple[int, ...], precision: Precision
) -> None:
    crooked_priors = {"level": dist.Normal(0.3, 1.7), "spread": dist.LogNormal(0.2, 0.9)}
    parameters, log_likelihood = {**MODELS, "crooked": (crooked_priors, crooked)}[name]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(num_rows, 4)), 3.0 * rng.normal(size=num_rows)
    data = distmc.Data(rows={"x": x, "y": y, "count": rng.integers(0, 7, size=num_rows)})
    model = distmc.Model(parameters, log_likelihood)
    num_dimensions = Unconstrainer(model).num_dimensions
    points = 0.5 * np.random.default_rng(3).normal(size=(NUM_BATCHES, NUM_POINTS, num_dimensions))
    require_same_bits(model, data, plan_blocks(data, num_blocks), points, precision, numbers_of_workers)
