"""Short steps for chains that the step size of all others has left behind.

A chain that starts where the target is far narrower than where the others are rejects every proposal made with their
step size. The pooled rate cannot help it: it would have to slow down all chains for the sake of one, for as long as
that one needs. A few steps that are short enough do. They are taken by all chains, in lockstep, and only while some
chain has rejected everything for long; tuning takes no notice of them.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from distmc.adaptation.warmup import Warmup, WarmupState, where
from distmc.kernels.base import StepParameters, TrajectoryParameters
from distmc.spec import Schedule
from distmc.types import Array

_REJECTED = 1e-2
# A healthy chain rejects this often in a row less than once in 10^11 steps.
_PATIENCE = 16
_SHRINKAGES = np.array([1.0] * _PATIENCE + [4.0**-power for power in range(1, 6)])
# After a short step was accepted, the next comes this soon: leaving a narrow place takes several.
_TRIES_BETWEEN = 2


class RescueState(NamedTuple):
    """What warm-up has learned, and who needs help.

    Attributes
    ----------
    warmup : WarmupState
    rejections : int32 array (num_chains,)
        Steps for which a chain has stood still.
    """

    warmup: WarmupState
    rejections: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rescue:
    """A `Warmup` with short steps for chains that are stuck; an `Adaptation`.

    Attributes
    ----------
    warmup : Warmup
        Tunes all parameters.
    num_chains : int
        Chains in lockstep.
    """

    warmup: Warmup
    num_chains: int

    @property
    def schedule(self) -> Schedule:
        """What the steps of warm-up are for."""
        return self.warmup.schedule

    def init(self, state: Any) -> RescueState:
        """Return the state before the first step."""
        return RescueState(self.warmup.init(state), jnp.zeros(self.num_chains, jnp.int32))

    def parameters(self, state: RescueState, step: Array) -> StepParameters | TrajectoryParameters:
        """Return the kernel's parameters for a step, counted from the start of the run."""
        tuned = self.warmup.parameters(state.warmup, step)
        return tuned._replace(step_size=tuned.step_size * self.shrinkage(state, step))

    def update(
        self, state: RescueState, step: Array, parameters: Any, before: Any, after: Any, info: Any
    ) -> RescueState:
        """Learn from a step of warm-up."""
        is_short = self.shrinkage(state, step) < 1.0
        learned = self.warmup.update(state.warmup, step, parameters, before, after, info)
        unmoved = learned._replace(step_size=state.warmup.step_size, trajectory=state.warmup.trajectory)
        is_rejected = ~(info.acceptance_rate >= _REJECTED)
        soon = jnp.where(is_short & (state.rejections >= _PATIENCE), _PATIENCE - _TRIES_BETWEEN, 0)
        rejections = jnp.where(is_rejected, state.rejections + 1, soon).astype(jnp.int32)
        return RescueState(where(is_short, unmoved, learned), rejections)

    def shrinkage(self, state: RescueState, step: Array) -> Array:
        """Return what to multiply the step size by, a float64 scalar: 1 unless a chain has stood still for long."""
        longest = jnp.max(state.rejections) % len(_SHRINKAGES)
        # When a metric comes into force the step size starts afresh, which must not be taken back.
        is_possible = (step < self.warmup.schedule.num_warmup) & ~jnp.isin(
            step, np.asarray(self.warmup.schedule.window_ends, np.int32)
        )
        return jnp.where(is_possible, jnp.asarray(_SHRINKAGES)[longest], 1.0)
