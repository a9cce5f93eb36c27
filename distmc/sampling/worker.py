"""One process's share of a run: the waist between the data plane and the control plane.

A worker is driven by chunk calls. It knows its rank, its rows and the run's state, which is the same in all
workers; it knows neither Ray nor files.
"""

import collections
import dataclasses
import time
import warnings

import jax
import numpy as np
from jax.sharding import Mesh

from distmc.data.blocks import USUAL_BLOCKS, plan_blocks
from distmc.data.data import Data
from distmc.errors import SpecError
from distmc.model.density import cast_floats, likelihood_dtype
from distmc.model.double import double_precision
from distmc.model.model import Model
from distmc.model.start import require_finite_starts
from distmc.model.transforms import Unconstrainer
from distmc.parallel.logdensity import pack_shard
from distmc.parallel.mesh import build_mesh, first_to_host, replicate, shard, to_host
from distmc.parallel.tree import ReductionPlan
from distmc.sampling.compiled import CompiledProgram, compile_program, compiler_options
from distmc.sampling.program import Trace
from distmc.sampling.reports import ChunkArrays, ChunkReport, CompileReport
from distmc.sampling.rng import seed_key
from distmc.sampling.saved_program import load_program, save_program
from distmc.sampling.state import RunState, digest, from_arrays, to_arrays
from distmc.spec import RunSpec
from distmc.types import Array, Checkpoint, NumpyArray, Phase, PyTree

_FEW_ROWS = (
    "Unless you gave `num_blocks`, there are so few because the rows are few: less than 128 for each worker gain "
    "nothing from more workers, unless a row is very costly. "
)

# Draws are constrained in slabs of one static size, so that chunks of any length compile once.
_SLAB = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What all workers of a run are given.

    Attributes
    ----------
    spec : RunSpec
        With `num_blocks` decided.
    model : Model
    data : Data
    start : float64 array (num_chains, num_dimensions)
        Unconstrained positions where the chains start; see `starting_positions`.
    """

    spec: RunSpec
    model: Model
    data: Data
    start: NumpyArray


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """The last chunk on the host."""

    number: int
    phase: Phase
    first_step: int
    state: RunState
    trace: Trace


class Worker:
    """One process of a run.

    Parameters
    ----------
    task : WorkerTask
        The run.
    rank : int
        Of this worker.
    num_workers : int
        Of the run's present generation.

    Notes
    -----
    Communication: only `start` and `advance` exchange anything with other workers.
    Invariance: chunks are the same on every rank and for every number of workers, to the bit.
    """

    _mesh: Mesh
    _packed: PyTree
    _shard: PyTree
    _constants: PyTree
    _program: CompiledProgram
    _state: RunState

    def __init__(self, task: WorkerTask, rank: int, num_workers: int) -> None:
        self._task = task
        self._rank = rank
        self._num_workers = num_workers
        # The latest two: one may be asked for when the next is done already.
        self._chunks: collections.deque[_Chunk] = collections.deque(maxlen=2)

    def load(self) -> None:
        """Pack this worker's rows on the host; uses no device.

        Raises
        ------
        SpecError
            If there are more workers than blocks.
        """
        spec, data = self._task.spec, self._task.data
        blocks = plan_blocks(data, spec.num_blocks)
        require_enough_blocks(self._num_workers, blocks.num_blocks)
        self._plan = ReductionPlan(num_blocks=blocks.num_blocks, num_workers=self._num_workers)
        self._packed = pack_shard(data, blocks, self._plan, self._rank, spec.precision_in_force)

    def compile(self, saved: bytes | None = None) -> CompileReport:
        """Put the rows on the device and compile the program; every worker of the run must be connected.

        Parameters
        ----------
        saved : bytes, optional
            What `saved_program` returned in a run of as many workers; compiling is left out then.
        """
        began = time.monotonic()
        task = self._task
        with jax.enable_x64(True):
            devices = _one_device_per_worker(self._num_workers)
            self._mesh = build_mesh(devices)
            self._shard = jax.tree.map(lambda rows: shard(self._mesh, rows), self._packed)
            constants = cast_floats(task.data.constants or {}, likelihood_dtype(task.spec.precision_in_force))
            self._constants = replicate(self._mesh, constants)
            self._program = self._loaded(saved) or compile_program(
                task.spec, task.model, self._plan, self._mesh, self._shard, self._constants
            )
            self._key_data = replicate(self._mesh, jax.random.key_data(seed_key(task.spec.seed)))
            self._unconstrainer = Unconstrainer(task.model)
            self._constrain = jax.jit(
                jax.vmap(jax.vmap(lambda flat: self._unconstrainer.constrain(flat)[0])),
                compiler_options=compiler_options(self._mesh),
            )
        del self._packed
        own = next(device for device in devices if device.process_index == jax.process_index())
        return CompileReport(rank=self._rank, seconds=time.monotonic() - began, device=own.device_kind)

    def saved_program(self) -> bytes | None:
        """Return the compiled program for `compile` in another process; None if it cannot leave this one."""
        program = self._program
        try:
            return save_program(program)
        except Exception as error:
            warnings.warn(f"The compiled program cannot be saved, so every worker compiles it: {error}", stacklevel=2)
            return None

    def _loaded(self, saved: bytes | None) -> CompiledProgram | None:
        try:
            return None if saved is None else load_program(saved)
        except Exception as error:
            # A processor that lacks an instruction, for one; what it compiles for itself gives the same bits or is
            # found out by the digests.
            warnings.warn(f"A compiled program could not be taken over, so it is compiled again: {error}", stacklevel=2)
            return None

    def start(self, checkpoint: Checkpoint | None = None) -> ChunkReport:
        """Evaluate the starting positions, or take up a state; reports a chunk without draws.

        Parameters
        ----------
        checkpoint : Checkpoint, optional
            Where to go on, the same on every rank; not given: at the starting positions, which is chunk 0.

        Raises
        ------
        StartError
            If log-density or gradient of a chain is not finite.
        RunDirectoryError
            If the checkpoint is of another program.

        Notes
        -----
        Communication: one reduction, also from a checkpoint, so that the workers are connected before they step.
        """
        began = time.monotonic()
        task = self._task
        with double_precision(task.model):
            self._state = self._program.start(replicate(self._mesh, task.start), self._shard, self._constants)
            if checkpoint is not None:
                jax.block_until_ready(self._state)
                self._state = replicate(self._mesh, from_arrays(checkpoint.arrays, self._program.state))
            state = to_host(self._state)
        gradient, is_rounded = getattr(state.kernel, "logdensity_grad", None), task.spec.precision_in_force == "mixed"
        require_finite_starts(state.kernel.logdensity, gradient, is_rounded=is_rounded)
        nothing = jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), self._program.trace)
        number = 0 if checkpoint is None else checkpoint.chunk
        self._chunks.append(_Chunk(number, "start", int(state.step), state, nothing))
        return self._report(began)

    def advance(self, num_steps: int) -> ChunkReport:
        """Take steps together with the other workers.

        Parameters
        ----------
        num_steps : int
            At least 1 and the same on every rank. Fewer are taken where warm-up or the run would end, or where the
            device has no room for more draws.
        """
        began = time.monotonic()
        last = self._chunks[-1]
        spec, first_step = self._task.spec, int(last.state.step)
        phase: Phase = "warmup" if first_step < spec.num_warmup else "draws"
        end = spec.num_warmup if phase == "warmup" else spec.num_steps
        capacity = self._program.trace.logdensity.shape[0]
        num_steps = max(0, min(num_steps, end - first_step, capacity))
        with double_precision(self._task.model):
            self._state, trace = self._program.advance(
                self._key_data,
                self._state,
                replicate(self._mesh, np.asarray(num_steps, np.int32)),
                self._shard,
                self._constants,
            )
            state, trace = to_host(self._state), first_to_host(trace, num_steps)
        self._chunks.append(_Chunk(last.number + 1, phase, first_step, state, trace))
        return self._report(began)

    def collect(self, number: int) -> ChunkArrays:
        """Return a chunk's draws and the state after it; any rank gives the same.

        Parameters
        ----------
        number : int
            Of the last chunk, or of the one before it.

        Raises
        ------
        LookupError
            If it is another chunk.
        """
        last = next((chunk for chunk in self._chunks if chunk.number == number), None)
        if last is None:
            raise LookupError(f"Chunk {number} was asked for; kept are {[chunk.number for chunk in self._chunks]}.")
        trace = jax.tree.map(lambda kept: kept[self._is_kept(last)], last.trace)
        shape = trace.logdensity.shape
        kept = trace.statistics | {"logdensity": trace.logdensity}
        stats = {name: _chains_first(np.broadcast_to(_by_chain(values), shape)) for name, values in kept.items()}
        return ChunkArrays(
            chunk=last.number,
            phase=last.phase,
            first_step=last.first_step,
            draws=self._constrained_draws(np.asarray(trace.position)),
            unconstrained=_chains_first(np.asarray(trace.position)),
            stats=stats,
            state=to_arrays(last.state),
        )

    def release(self) -> None:
        """Drop the devices and all that lies on them; chunks on the host can still be collected."""
        for name in ("_mesh", "_shard", "_constants", "_program", "_key_data", "_state"):
            self.__dict__.pop(name, None)

    def _is_kept(self, chunk: _Chunk) -> NumpyArray:
        """Tell the chunk's steps whose positions are kept as draws, bool (num_steps,)."""
        spec = self._task.spec
        steps_done = chunk.first_step + 1 + np.arange(chunk.trace.logdensity.shape[0])
        if chunk.phase != "draws":
            return np.ones(steps_done.shape, bool)
        is_kept: NumpyArray = (steps_done - spec.num_warmup) % spec.thin == 0
        return is_kept

    def _constrained_draws(self, position: NumpyArray) -> dict[str, NumpyArray]:
        num_steps = position.shape[0]
        slabs = []
        with jax.enable_x64(True):
            for first in range(0, max(num_steps, 1), _SLAB):
                slab = position[first : first + _SLAB]
                padding = [(0, _SLAB - slab.shape[0]), (0, 0), (0, 0)]
                slabs.append(jax.tree.map(np.asarray, self._constrain(np.pad(slab, padding))))
        return {
            name: _chains_first(np.concatenate([slab[name] for slab in slabs])[:num_steps])
            for name in self._unconstrainer.shapes
        }

    def _report(self, began: float) -> ChunkReport:
        last = self._chunks[-1]
        trace = last.trace
        kept = trace.statistics
        num_steps = trace.logdensity.shape[0]
        evaluations = np.max(_by_chain(kept["num_integration_steps"]), axis=1)
        return ChunkReport(
            rank=self._rank,
            chunk=last.number,
            phase=last.phase,
            step=int(last.state.step),
            num_steps=num_steps,
            # One that is alone agrees with itself, and hashing takes its part of a small model's time.
            digest=digest((last.state, trace)) if self._num_workers > 1 else "",
            seconds=time.monotonic() - began,
            step_size=float(np.mean(kept["step_size"])) if num_steps else 0.0,
            num_integration_steps=float(np.mean(evaluations)) if num_steps else 0.0,
            acceptance_rate=float(np.mean(kept["acceptance_rate"])) if num_steps else 0.0,
            num_divergent=int(np.sum(kept["is_divergent"])),
            num_nonfinite=int(np.sum(kept["is_nonfinite"])),
        )


def require_enough_blocks(num_workers: int, num_blocks: int) -> None:
    """Refuse more workers than blocks.

    Raises
    ------
    SpecError
        Says how many there are of each.
    """
    if num_workers > num_blocks:
        raise SpecError(
            f"{num_workers} workers were asked for, but the rows are cut into {num_blocks} "
            f"block{'s' * (num_blocks != 1)} and a worker needs at least one; use at most {num_blocks}. "
            f"{_FEW_ROWS if num_blocks < USUAL_BLOCKS else ''}"
            "More workers need a larger `num_blocks`, which changes the last bits."
        )


def _one_device_per_worker(num_workers: int) -> list[jax.Device]:
    """Return the devices by rank; a process that is alone uses its first."""
    devices = jax.devices()[:1] if num_workers == 1 else jax.devices()
    processes = [device.process_index for device in devices]
    if len(devices) != num_workers or len(set(processes)) != num_workers:
        raise RuntimeError(
            f"{num_workers} workers need one device each, but their processes {processes} show {len(devices)} devices."
        )
    return sorted(devices, key=lambda device: device.process_index)


def _by_chain(kept: Array | NumpyArray) -> NumpyArray:
    """Return a statistic (step,) as (step, 1), one that differs between chains (step, chain) as it is."""
    values = np.asarray(kept)
    return values[:, None] if values.ndim == 1 else values


def _chains_first(kept: NumpyArray) -> NumpyArray:
    """Swap (step, chain, ...) to (chain, step, ...)."""
    return np.ascontiguousarray(np.swapaxes(kept, 0, 1))
