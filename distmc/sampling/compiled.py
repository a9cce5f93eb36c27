"""The program of a run compiled for a mesh: what a worker calls.

Everything is compiled ahead of the first call, so that no worker waits in a collective for another that still
compiles.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from distmc.kernels.base import Target
from distmc.model.brief import brief_options
from distmc.model.model import Model
from distmc.model.transforms import Unconstrainer
from distmc.parallel.canonical import canonical
from distmc.parallel.logdensity import Shard, ShardedLogDensity
from distmc.parallel.mesh import WORKER_AXIS
from distmc.parallel.reduction import FastSum, OrderedSum
from distmc.parallel.tree import ReductionPlan
from distmc.sampling.program import Program, Trace, build_program
from distmc.sampling.rng import THREEFRY, seed_key
from distmc.sampling.state import RunState
from distmc.spec import RunSpec
from distmc.types import Array, PyTree

# Asks for matrix products on one thread; docs/decisions/no-eigen-threads.md says what came of it.
_CPU_OPTIONS: dict[str, str | bool] = {"xla_cpu_multi_thread_eigen": False}
_REPLICATED, _SHARDED = PartitionSpec(), PartitionSpec(WORKER_AXIS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledProgram:
    """The functions of a run on its mesh.

    Attributes
    ----------
    start : callable
        ``(position, shard, constants) -> RunState``.
    advance : callable
        ``(key_data, state, num_steps, shard, constants) -> (RunState, Trace)``.
    state : RunState of jax.ShapeDtypeStruct
        Shapes of the run's state.
    trace : Trace of jax.ShapeDtypeStruct
        Shapes of what `advance` keeps; the first axis is the most steps in one call.
    calls_python : bool
        Whether it calls functions of this process, and so means nothing in another.
    """

    start: Callable[[Array, Shard, Mapping[str, Any]], RunState]
    advance: Callable[[Array, RunState, Array, Shard, Mapping[str, Any]], tuple[RunState, Trace]]
    state: RunState
    trace: Trace
    calls_python: bool = False


class LoweredProgram(NamedTuple):
    """The functions of a `CompiledProgram` before they are compiled."""

    start: jax.stages.Lowered
    advance: jax.stages.Lowered
    state: RunState
    trace: Trace


def compile_program(
    spec: RunSpec, model: Model, plan: ReductionPlan, mesh: Mesh, shard: Shard, constants: Mapping[str, Any]
) -> CompiledProgram:
    """Lower and compile the program; runs nothing.

    Parameters
    ----------
    spec, model : RunSpec, Model
        What is sampled, and how.
    plan : ReductionPlan
        Blocks and workers.
    mesh : Mesh
        One device per worker.
    shard, constants : pytree of array on the mesh
        Only their shapes and layouts are used.

    Notes
    -----
    Communication: none.
    """
    lowered = lower_program(spec, model, plan, mesh, shard, constants)
    options = compiler_options(mesh)
    return CompiledProgram(
        # It evaluates the target once; docs/decisions/brief-start.md.
        start=lowered.start.compile(options and options | brief_options()),
        advance=lowered.advance.compile(options),
        state=lowered.state,
        trace=lowered.trace,
        calls_python="callback" in lowered.start.as_text(),
    )


def compiler_options(mesh: Mesh) -> dict[str, str | bool] | None:
    """Return what XLA is told when it compiles for these devices."""
    return _CPU_OPTIONS if mesh.devices.flat[0].platform == "cpu" else None


def lower_program(
    spec: RunSpec, model: Model, plan: ReductionPlan, mesh: Mesh, shard: Shard, constants: Mapping[str, Any]
) -> LoweredProgram:
    """Return the program before it is compiled; see `compile_program`."""
    unconstrainer = Unconstrainer(model)
    block_sum = (OrderedSum if spec.reduction == "ordered" else FastSum)(plan, WORKER_AXIS)
    logdensity = ShardedLogDensity(
        model=model, unconstrainer=unconstrainer, block_sum=block_sum, precision=spec.precision_in_force
    )

    # As calls, so that the model is traced once for all places that evaluate it.
    value_and_grad = jax.jit(lambda *arguments: logdensity.logdensity_and_grad(*arguments))
    value = jax.jit(lambda *arguments: logdensity.logdensity(*arguments))

    def program_over(shard: Shard, constants: Mapping[str, Any]) -> Program:
        target = Target(
            logdensity_and_grad=lambda position: value_and_grad(position, shard, constants),
            dot=lambda a, b: jnp.sum(a * b, axis=-1),
            logdensity=lambda position: value(position, shard, constants),
        )
        return build_program(spec, target, unconstrainer.num_dimensions)

    def start(position: Array, shard: Shard, constants: Mapping[str, Any]) -> RunState:
        return program_over(shard, constants).start(position)

    def advance(
        key_data: Array, state: RunState, num_steps: Array, shard: Shard, constants: Mapping[str, Any]
    ) -> tuple[RunState, Trace]:
        key = jax.random.wrap_key_data(key_data, impl=THREEFRY)
        return program_over(shard, constants).advance(key, state, num_steps)

    start = canonical(start, lambda *arguments: arguments[1].never)
    advance = canonical(advance, lambda *arguments: arguments[3].never)
    start_mapped = jax.jit(_over_mesh(start, mesh, (_REPLICATED, _SHARDED, _REPLICATED)))
    advance_mapped = jax.jit(_over_mesh(advance, mesh, (_REPLICATED, _REPLICATED, _REPLICATED, _SHARDED, _REPLICATED)))
    position = _on_mesh(mesh, jax.ShapeDtypeStruct((spec.num_chains, unconstrainer.num_dimensions), np.float64))
    key_data = _on_mesh(mesh, jax.eval_shape(lambda: jax.random.key_data(seed_key(0))))
    num_steps = _on_mesh(mesh, jax.ShapeDtypeStruct((), np.int32))
    traced_start = start_mapped.trace(position, shard, constants)
    state = _on_mesh(mesh, shapes(traced_start.out_info))
    traced_advance = advance_mapped.trace(key_data, state, num_steps, shard, constants)
    return LoweredProgram(
        start=traced_start.lower(),
        advance=traced_advance.lower(),
        state=state,
        trace=shapes(traced_advance.out_info)[1],
    )


def shapes(tree: PyTree) -> PyTree:
    """Return the shapes and types of all leaves."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _over_mesh(
    function: Callable[..., PyTree], mesh: Mesh, in_specs: tuple[PartitionSpec, ...]
) -> Callable[..., PyTree]:
    mapped: Callable[..., PyTree] = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=_REPLICATED, check_vma=False
    )
    return mapped


def _on_mesh(mesh: Mesh, structs: PyTree) -> PyTree:
    sharding = NamedSharding(mesh, _REPLICATED)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), structs)
