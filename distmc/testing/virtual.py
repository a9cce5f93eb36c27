"""A run's program over several devices of this process, one in place of each worker.

One process can have several virtual devices on CPU; JAX has to be told before it starts::

    jax.config.update("jax_num_cpu_devices", 4)

The program is the one that workers run, collectives included. It is compiled once and then run on as many data sets
of one shape as a test needs: rows are values.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from distmc.data.blocks import plan_blocks
from distmc.data.data import Data
from distmc.model.density import cast_floats, likelihood_dtype
from distmc.model.model import Model
from distmc.parallel.logdensity import Shard, pack_shard
from distmc.parallel.mesh import WORKER_AXIS, build_mesh, first_to_host
from distmc.parallel.tree import ReductionPlan
from distmc.sampling.compiled import CompiledProgram, compile_program
from distmc.sampling.program import Trace
from distmc.sampling.rng import seed_key
from distmc.sampling.state import RunState
from distmc.spec import RunSpec
from distmc.types import NumpyArray, PyTree

_COLLECTIVES = (
    "collective-permute",
    "all-reduce",
    "all-gather",
    "all-to-all",
    "reduce-scatter",
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class VirtualRun:
    """The compiled program of a run, and the devices that stand for its workers; see `compile_run`.

    Attributes
    ----------
    spec, model : RunSpec, Model
        What is sampled, and how.
    plan : ReductionPlan
        Blocks and workers.
    mesh : Mesh
        The devices.
    program : CompiledProgram
        Takes the rows as values.
    layout : pytree of jax.ShapeDtypeStruct
        Shard and constants that the program is compiled for.
    """

    spec: RunSpec
    model: Model
    plan: ReductionPlan
    mesh: Mesh
    program: CompiledProgram
    layout: PyTree

    def start(self, data: Data, position: NumpyArray) -> RunState:
        """Return the state before the first step, on the devices.

        Parameters
        ----------
        data : Data
            Shaped as that which the program was compiled for.
        position : float64 array (num_chains, num_dimensions)
            Unconstrained.
        """
        with jax.enable_x64(True):
            return self.program.start(self._replicate(position), *self._load(data))

    def advance(self, data: Data, state: RunState, num_steps: int, seed: int | None = None) -> tuple[RunState, Trace]:
        """Take steps in as few calls as the program allows.

        Parameters
        ----------
        data : Data
            As in `start`.
        state : RunState
            What `start` or `advance` returned, on the devices or on the host.
        num_steps : int
            Any number.
        seed : int or None
            Seed of the run; None takes that of `spec`.

        Returns
        -------
        state : RunState
            On the devices.
        trace : Trace of NumPy array
            Of all steps.
        """
        capacity = self.program.trace.logdensity.shape[0]
        pieces = []
        with jax.enable_x64(True):
            shard_and_constants = self._load(data)
            key = self._replicate(jax.random.key_data(seed_key(self.spec.seed if seed is None else seed)))
            state = self._replicate(state)
            for first in range(0, num_steps, capacity):
                steps = min(capacity, num_steps - first)
                count = self._replicate(np.asarray(steps, np.int32))
                state, trace = self.program.advance(key, state, count, *shard_and_constants)
                pieces.append(first_to_host(trace, steps))
        return state, jax.tree.map(lambda *kept: np.concatenate(kept), *pieces)

    def texts(self) -> dict[str, str]:
        """Return the texts of the compiled functions, by the names of `CompiledProgram`."""
        functions: dict[str, Any] = {"start": self.program.start, "advance": self.program.advance}
        return {name: function.as_text() for name, function in functions.items()}

    def _replicate(self, tree: PyTree) -> PyTree:
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def _load(self, data: Data) -> tuple[Shard, Mapping[str, Any]]:
        loaded = _load(self.spec, self.plan, self.mesh, data)
        if _layout(loaded) != self.layout:
            raise ValueError(
                f"The program was compiled for rows and constants {self.layout}, but this data has {_layout(loaded)}; "
                "give data of the same number of rows, lengths and types, or compile another program."
            )
        return loaded


def compile_run(spec: RunSpec, model: Model, data: Data, num_workers: int = 1) -> VirtualRun:
    """Compile the program of a run for some devices of this process.

    Parameters
    ----------
    spec, model : RunSpec, Model
        What is sampled, and how.
    data : Data
        Only its shapes are used.
    num_workers : int
        Devices to use.
    """
    devices = jax.devices()[:num_workers]
    if len(devices) < num_workers:
        raise RuntimeError(
            f"{num_workers} workers need a device each, but this process has {len(devices)}; call "
            f'`jax.config.update("jax_num_cpu_devices", {num_workers})` before JAX computes anything.'
        )
    plan = ReductionPlan(num_blocks=plan_blocks(data, spec.num_blocks).num_blocks, num_workers=num_workers)
    mesh = build_mesh(devices)
    with jax.enable_x64(True):
        loaded = _load(spec, plan, mesh, data)
        program = compile_program(spec, model, plan, mesh, *loaded)
    return VirtualRun(spec=spec, model=model, plan=plan, mesh=mesh, program=program, layout=_layout(loaded))


def count_collectives(text: str) -> dict[str, int]:
    """Count the messages in the text of a compiled program, by name.

    Parameters
    ----------
    text : str
        What ``as_text()`` of a compiled function returns, or a part of it.
    """
    # Some collectives come in two halves, of which the first counts.
    counts = {name: len(re.findall(rf"\b{name}(?:-start)?\(", text)) for name in _COLLECTIVES}
    return {name: count for name, count in counts.items() if count}


def _load(spec: RunSpec, plan: ReductionPlan, mesh: Mesh, data: Data) -> tuple[Shard, Mapping[str, Any]]:
    """Lay all workers' rows and constants out over the devices."""
    blocks = plan_blocks(data, spec.num_blocks)
    shards = [pack_shard(data, blocks, plan, rank, spec.precision_in_force) for rank in range(plan.num_workers)]
    rows = jax.tree.map(lambda *pieces: np.concatenate(pieces), *shards)
    constants = cast_floats(data.constants or {}, likelihood_dtype(spec.precision_in_force))
    over_workers, everywhere = PartitionSpec(WORKER_AXIS), PartitionSpec()
    return (
        jax.device_put(rows, NamedSharding(mesh, over_workers)),
        jax.device_put(constants, NamedSharding(mesh, everywhere)),
    )


def _layout(loaded: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), loaded)
