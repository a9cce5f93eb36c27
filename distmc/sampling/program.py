"""The sampling program: the loop that a paper would print, compiled in one piece.

``start`` evaluates the target at the starting positions. ``advance`` takes up to a fixed capacity of steps in
one compiled call; how many is a value, as are step size and trajectory length, so nothing is ever compiled twice.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from distmc.kernels.base import STATISTICS, Target
from distmc.sampling.algorithms import Algorithm, Setting, build_algorithm, schedule_of
from distmc.sampling.rng import chain_keys
from distmc.sampling.state import RunState
from distmc.spec import RunSpec
from distmc.types import Array

# Draws wait on the device until a chunk ends; this bounds their memory, and a chunk's length.
_MOST_STEPS = 512
_MOST_NUMBERS = 1 << 23


class Trace(NamedTuple):
    """What is kept of each step; the first axis is the step.

    Attributes
    ----------
    position : float64 array (steps, num_chains, num_dimensions)
    logdensity : float64 array (steps, num_chains)
    statistics : dict of array (steps,) or (steps, num_chains)
        `step_size` and those of `distmc.kernels.base.STATISTICS` that the kernel has.
    """

    position: Array
    logdensity: Array
    statistics: dict[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A kernel and its tuning joined to a program over one target.

    Attributes
    ----------
    algorithm : Algorithm
    num_chains : int
    num_warmup : int
        Steps from which the adaptation learns.
    capacity : int
        Most steps in one call of `advance`.
    """

    algorithm: Algorithm
    num_chains: int
    num_warmup: int
    capacity: int

    def start(self, position: Array) -> RunState:
        """Return the state before the first step.

        Notes
        -----
        Communication: one evaluation of the target.
        Invariance: that of the target.
        """
        kernel_state = self.algorithm.kernel.init(position)
        return RunState(jnp.zeros((), jnp.int32), kernel_state, self.algorithm.adaptation.init(kernel_state))

    def advance(self, key: Array, state: RunState, num_steps: Array) -> tuple[RunState, Trace]:
        """Take `num_steps` steps, at most `capacity`.

        Parameters
        ----------
        key : key scalar
            Of the run.
        state : RunState
        num_steps : int32 scalar
            The same on every worker.

        Returns
        -------
        state : RunState
        trace : Trace
            Of `capacity` steps; only the first `num_steps` have been written.

        Notes
        -----
        Communication: one evaluation of the target for each integration step, nothing else.
        Invariance: that of the target; where calls begin and end does not matter.
        """
        # A call, so that it is traced once.
        step = jax.jit(self._step)

        def one_step(place: Array, carry: tuple[RunState, Trace]) -> tuple[RunState, Trace]:
            state, trace = carry
            state, kept = step(key, state)
            return state, jax.tree.map(functools.partial(_write, place=place), trace, kept)

        kept = jax.eval_shape(step, key, state)[1]
        end: tuple[RunState, Trace] = lax.fori_loop(0, num_steps, one_step, (state, self._empty(kept)))
        return end

    def _step(self, key: Array, state: RunState) -> tuple[RunState, Trace]:
        kernel, adaptation = self.algorithm
        parameters = adaptation.parameters(state.warmup, state.step)
        rng_keys = chain_keys(key, state.step, self.num_chains)
        kernel_state, info = kernel.step(rng_keys, state.kernel, parameters)
        # A branch, not a choice between results: on small data learning costs as much as a gradient.
        warmup = lax.cond(
            state.step < self.num_warmup,
            adaptation.update,
            lambda learned, *_: learned,
            *(state.warmup, state.step, parameters, state.kernel, kernel_state, info),
        )
        moved = RunState(state.step + 1, kernel_state, warmup)
        return moved, _keep(moved, parameters, info)

    def _empty(self, kept: Trace) -> Trace:
        empty: Trace = jax.tree.map(lambda leaf: jnp.zeros((self.capacity, *leaf.shape), leaf.dtype), kept)
        return empty


def build_program(spec: RunSpec, target: Target, num_dimensions: int) -> Program:
    """Return the program of a specification over a target.

    Parameters
    ----------
    spec : RunSpec
        Sampler, chains and warm-up.
    target : Target
        Log-density of all chains.
    num_dimensions : int
        Coordinates of a chain's position.
    """
    setting = Setting(target, num_dimensions, spec.num_chains, schedule_of(spec))
    capacity = max(1, min(_MOST_STEPS, _MOST_NUMBERS // (spec.num_chains * num_dimensions)))
    return Program(
        algorithm=build_algorithm(spec.sampler, setting),
        num_chains=spec.num_chains,
        num_warmup=spec.num_warmup,
        capacity=capacity,
    )


def _write(buffer: Array, value: Array, *, place: Array) -> Array:
    """Return the buffer with a value at a place, which must lie in it: looking would take kernels of its own."""
    return jnp.asarray(lax.dynamic_update_index_in_dim(buffer, value, place, 0, allow_negative_indices=False))


def _keep(state: RunState, parameters: Any, info: Any) -> Trace:
    statistics = {name: getattr(info, name) for name in STATISTICS if hasattr(info, name)}
    statistics["step_size"] = parameters.step_size
    return Trace(state.kernel.position, state.kernel.logdensity, statistics)
