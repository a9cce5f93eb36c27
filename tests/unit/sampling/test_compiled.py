"""What the compiled program says to other workers, read off its text."""

import dataclasses
import math
import re
from typing import Any

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from distmc.data.blocks import plan_blocks
from distmc.parallel.logdensity import pack_shard
from distmc.parallel.mesh import WORKER_AXIS, build_mesh
from distmc.parallel.tree import ReductionPlan
from distmc.samplers import RWMH, Sampler, Slice
from distmc.sampling.compiled import LoweredProgram, lower_program
from distmc.sampling.worker import WorkerTask
from distmc.spec import Reduction

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
def test_each_evaluation_is_one_reduction_and_nothing_else_is_said(task: WorkerTask, num_workers: int) -> None:
    program = lowered(task, num_workers)
    hops = {"collective_permute": math.ceil(math.log2(num_workers))}
    # The target is evaluated in one place of each: at the start, and in the loop over integration steps.
    assert collectives(program.start) == hops
    assert collectives(program.advance) == hops


def test_worker_that_is_alone_says_nothing(task: WorkerTask) -> None:
    assert collectives(lowered(task, 1).advance) == {}


def test_fast_reduction_is_one_all_reduce(task: WorkerTask) -> None:
    assert collectives(lowered(task, 3, "fast").advance) == {"all_reduce": 1}


def test_everything_travels_in_one_flat_array(task: WorkerTask) -> None:
    text = lowered(task, 2).advance.as_text()
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
