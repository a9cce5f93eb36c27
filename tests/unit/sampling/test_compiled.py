"""What the compiled program says to other workers, read off its text, and how much memory it needs."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from distmc.data.blocks import plan_blocks
from distmc.data.data import Data
from distmc.likelihoods import hmm
from distmc.model.brief import brief_options
from distmc.model.model import Model
from distmc.parallel.logdensity import pack_shard
from distmc.parallel.mesh import WORKER_AXIS, build_mesh
from distmc.parallel.tree import ReductionPlan
from distmc.samplers import MALA, RWMH, Sampler, Slice
from distmc.sampling import compiled
from distmc.sampling.compiled import LoweredProgram, compile_program, lower_program
from distmc.sampling.worker import WorkerTask
from distmc.spec import Reduction

pytestmark = pytest.mark.many_devices

COLLECTIVES = ("collective_permute", "all_reduce", "all_gather", "all_to_all", "reduce_scatter", "collective_broadcast")


def lowered(task: WorkerTask, num_workers: int, reduction: Reduction = "ordered") -> LoweredProgram:
    spec, data = dataclasses.replace(task.spec, reduction=reduction), task.data
    blocks = plan_blocks(data, spec.num_blocks)
    plan = ReductionPlan(num_blocks=blocks.num_blocks, num_workers=num_workers)
    mesh = build_mesh(jax.devices()[:num_workers])
    sharding = NamedSharding(mesh, PartitionSpec(WORKER_AXIS))

    def struct(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((num_workers * leaf.shape[0], *leaf.shape[1:]), leaf.dtype, sharding=sharding)

    with jax.enable_x64(True):
        shard = jax.tree.map(struct, pack_shard(data, blocks, plan, 0, spec.precision_in_force))
        return lower_program(spec, task.model, plan, mesh, shard, {})


@pytest.fixture(scope="module")
def lowered_for(task: WorkerTask) -> Callable[[int], LoweredProgram]:
    """Return the program for a number of workers, of which several tests read the same."""
    return functools.cache(functools.partial(lowered, task))


def collectives(stage: Any) -> dict[str, int]:
    """Count the collectives in the text of a lowered or compiled program, by name."""
    text = stage.as_text()
    counts = {}
    for name in COLLECTIVES:
        # Lowered programs write stablehlo.all_reduce, compiled ones all-reduce( or, in two halves, all-reduce-start(.
        pattern = rf"stablehlo\.{name}\b|\b{name.replace('_', '-')}(?:-start)?\("
        if found := len(re.findall(pattern, text)):
            counts[name] = found
    return counts


@pytest.mark.parametrize("num_workers", [2, 3, 4, 6])
def test_each_evaluation_is_one_reduction_and_nothing_else_is_said(
    lowered_for: Callable[[int], LoweredProgram], num_workers: int
) -> None:
    program = lowered_for(num_workers)
    hops = {"collective_permute": math.ceil(math.log2(num_workers))}
    # The target is evaluated in one place of each: at the start, and in the loop over integration steps.
    assert collectives(program.start) == hops
    assert collectives(program.advance) == hops


def test_worker_that_is_alone_says_nothing(task: WorkerTask) -> None:
    assert collectives(lowered(task, 1).advance) == {}


def test_fast_reduction_is_one_all_reduce(task: WorkerTask) -> None:
    assert collectives(lowered(task, 3, "fast").advance) == {"all_reduce": 1}


def test_everything_travels_in_one_flat_array(task: WorkerTask, lowered_for: Callable[[int], LoweredProgram]) -> None:
    text = lowered_for(2).advance.as_text()
    (sent,) = re.findall(r"stablehlo\.collective_permute.*?: \(tensor<([^>]*)>\)", text)
    # Log-density and three derivatives of four chains.
    assert sent == f"{task.spec.num_chains}x{1 + 3}xf64"


@pytest.mark.parametrize("sampler", [RWMH(), Slice()], ids=["RWMH", "Slice"])
def test_values_alone_travel_where_there_is_no_gradient(task: WorkerTask, sampler: Sampler) -> None:
    task = dataclasses.replace(task, spec=dataclasses.replace(task.spec, sampler=sampler))
    program = lowered(task, 2)
    assert collectives(program.start) == collectives(program.advance) == {"collective_permute": 1}
    (sent,) = re.findall(r"stablehlo\.collective_permute.*?: \(tensor<([^>]*)>\)", program.advance.as_text())
    assert sent == f"{task.spec.num_chains}xf64"


def test_what_is_called_once_is_compiled_briefly(task: WorkerTask, monkeypatch: pytest.MonkeyPatch) -> None:
    briefly, asked = brief_options(), []
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self, options: asked.append(options))
    monkeypatch.setattr(compiled, "_CPU_OPTIONS", {"xla_cpu_multi_thread_eigen": False})
    mesh, plan = build_mesh(jax.devices()[:1]), ReductionPlan(num_blocks=8, num_workers=1)
    with jax.enable_x64(True):
        shard = pack_shard(task.data, plan_blocks(task.data, 8), plan, 0, task.spec.precision)
        compile_program(task.spec, task.model, plan, mesh, shard, {})
    start, advance = asked
    assert advance == {"xla_cpu_multi_thread_eigen": False}
    assert start == advance | briefly


# Memory ---------------------------------------------------------------------------------------------------------------

ROWS_PER_BLOCK = 64


def of_many_rows(task: WorkerTask, num_blocks: int) -> WorkerTask:
    """Return the task with its rows again and again."""
    places = np.arange(num_blocks * ROWS_PER_BLOCK) % task.data.num_rows
    data = dataclasses.replace(task.data, rows={name: array[places] for name, array in task.data.rows.items()})
    spec = dataclasses.replace(task.spec, sampler=MALA(), num_blocks=num_blocks)
    return dataclasses.replace(task, data=data, spec=spec)


def hidden_markov(task: WorkerTask) -> WorkerTask:
    """Return the task with a hidden Markov model of two states and three symbols."""

    def log_likelihood(params: Any, data: Any) -> Any:
        initial = jnp.full(2, 0.5)
        return hmm.categorical(initial, params["transition"], params["emission"], data["symbols"], data["length"])

    sizes = {"transition": 2, "emission": 3}
    priors = {name: dist.Dirichlet(np.ones((2, size))).to_event(1) for name, size in sizes.items()}
    symbols = np.random.default_rng(0).integers(0, 3, (50, 12))
    data = Data(rows={"symbols": symbols, "length": np.full(50, 12)}, length="length")
    return dataclasses.replace(task, model=Model(priors, log_likelihood), data=data)


@pytest.mark.parametrize("is_markov", [False, True], ids=["steps of a regression", "gradient of a Markov model"])
def test_memory_is_that_of_one_block_however_many_there_are(task: WorkerTask, is_markov: bool) -> None:
    task = hidden_markov(task) if is_markov else task
    # Where a sum has fewer levels, how well small arrays fill each other's places hides what one level takes.
    few, many = (lowered(of_many_rows(task, num_blocks), 1) for num_blocks in (16, 256))
    # What starts a run is one evaluation, which is all that depends on the likelihood.
    stages = [program.start if is_markov else program.advance for program in (few, many)]
    memory = [stage.compile({"xla_backend_optimization_level": 0}).memory_analysis() for stage in stages]
    needed = [amounts.temp_size_in_bytes for amounts in memory]
    # Rows are there whole, and lie in the arguments.
    assert memory[1].argument_size_in_bytes > 8 * memory[0].argument_size_in_bytes
    # The sum keeps partial sums of log-density and gradient, two for each level of its tree, and copies of them; the
    # sums of all blocks would be hundreds more.
    of_one_sum = 8 * task.spec.num_chains * (1 + few.state.kernel.position.shape[1])
    assert needed[1] - needed[0] <= 4 * math.log2(256 / 16) * of_one_sum
