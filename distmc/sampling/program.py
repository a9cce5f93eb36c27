"""The sampling program: the loop that a paper would print, compiled in one piece.

``start`` evaluates the target at the starting positions. ``advance`` takes up to a fixed capacity of steps in
one compiled call; how many is a value, as are step size and trajectory length, so nothing is ever compiled twice.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from distmc.adaptation.metric import wants_dense
from distmc.adaptation.pooling import Pooling
from distmc.adaptation.schedule import build_schedule
from distmc.adaptation.warmup import Warmup
from distmc.kernels.base import Target
from distmc.kernels.hmc import HMCInfo, HMCKernel, HMCParameters, build_kernel
from distmc.sampling.rng import chain_keys
from distmc.sampling.state import RunState
from distmc.spec import ChEES, RunSpec
from distmc.types import Array

# Draws wait on the device until a chunk ends; this bounds their memory, and a chunk's length.
_MOST_STEPS = 512
_MOST_NUMBERS = 1 << 23


class Trace(NamedTuple):
    """What is kept of each step; the first axis is the step.

    Attributes
    ----------
    position : float64 array (steps, num_chains, num_dimensions)
    logdensity, acceptance_rate, energy, energy_error : float64 array (steps, num_chains)
    is_divergent, is_nonfinite : bool array (steps, num_chains)
    step_size : float64 array (steps,)
    num_integration_steps : int32 array (steps,)
    """

    position: Array
    logdensity: Array
    acceptance_rate: Array
    energy: Array
    energy_error: Array
    is_divergent: Array
    is_nonfinite: Array
    step_size: Array
    num_integration_steps: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Kernel and warm-up joined to a program over one target.

    Attributes
    ----------
    kernel : HMCKernel
    warmup : Warmup
    num_chains : int
    capacity : int
        Most steps in one call of `advance`.
    """

    kernel: HMCKernel
    warmup: Warmup
    num_chains: int
    capacity: int

    def start(self, position: Array) -> RunState:
        """Return the state before the first step.

        Notes
        -----
        Communication: one evaluation of the target.
        Invariance: that of the target.
        """
        kernel_state = self.kernel.init(position)
        return RunState(jnp.zeros((), jnp.int32), kernel_state, self.warmup.init(kernel_state))

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

        def one_step(place: Array, carry: tuple[RunState, Trace]) -> tuple[RunState, Trace]:
            state, trace = carry
            state, kept = self._step(key, state)
            return state, jax.tree.map(lambda buffer, value: buffer.at[place].set(value), trace, kept)

        end: tuple[RunState, Trace] = lax.fori_loop(0, num_steps, one_step, (state, self._empty_trace(state)))
        return end

    def _step(self, key: Array, state: RunState) -> tuple[RunState, Trace]:
        parameters = self.warmup.parameters(state.warmup, state.step)
        rng_keys = chain_keys(key, state.step, self.num_chains)
        kernel_state, info = self.kernel.step(rng_keys, state.kernel, parameters)
        warmup = self.warmup.update(state.warmup, state.step, parameters, state.kernel, kernel_state, info)
        moved = RunState(state.step + 1, kernel_state, warmup)
        return moved, _keep(moved, parameters, info)

    def _empty_trace(self, state: RunState) -> Trace:
        kept = jax.eval_shape(lambda state: self._step(jax.random.key(0), state)[1], state)
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
    sampler, schedule = spec.sampler, build_schedule(spec.num_warmup)
    shortest_window = min(schedule.windows, default=0)
    is_learned = isinstance(sampler, ChEES)
    length = sampler.initial_trajectory_length if isinstance(sampler, ChEES) else sampler.trajectory_length
    warmup = Warmup(
        schedule=schedule,
        target_acceptance_rate=sampler.target_acceptance_rate,
        trajectory_length=length,
        is_trajectory_learned=is_learned,
        jitter=sampler.jitter,
        max_integration_steps=sampler.max_integration_steps,
        is_dense=wants_dense(sampler.metric, num_dimensions, shortest_window * spec.num_chains),
        target=target,
        pooling=Pooling(mean=partial(jnp.mean, axis=0), median=partial(jnp.median, axis=0)),
    )
    capacity = max(1, min(_MOST_STEPS, _MOST_NUMBERS // (spec.num_chains * num_dimensions)))
    return Program(kernel=build_kernel(target), warmup=warmup, num_chains=spec.num_chains, capacity=capacity)


def _keep(state: RunState, parameters: HMCParameters, info: HMCInfo) -> Trace:
    return Trace(
        position=state.kernel.position,
        logdensity=state.kernel.logdensity,
        acceptance_rate=info.acceptance_rate,
        energy=info.energy,
        energy_error=info.energy_error,
        is_divergent=info.is_divergent,
        is_nonfinite=info.is_nonfinite,
        step_size=parameters.step_size,
        num_integration_steps=info.num_integration_steps,
    )
