"""Warm-up for trajectories that end by themselves: trees stay small until the scales of the target are known.

Under a metric that knows no scales, a trajectory turns back only after it has crossed the widest direction in steps
made for the narrowest. A thousand evaluations for every step would go into positions that the metric
forgets anyway.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from distmc.adaptation.rescue import Rescue, RescueState
from distmc.kernels.base import TreeParameters
from distmc.types import Array

# As many integration steps as trajectories of a set length have at that time.
_DEPTH_BEFORE_METRIC = 4
# With each metric the directions that are still unknown have become shorter, and may be four times as long as known.
_DEPTH_FOR_EACH_METRIC = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeWarmup:
    """A `Rescue` that also says how large trees may become; an `Adaptation`.

    Attributes
    ----------
    warmup : Rescue
        Tunes step size and metric; its `Warmup` has no trajectory.
    max_tree_depth : int
        Most doublings once a metric is in force, and wherever none will be learned.
    """

    warmup: Rescue
    max_tree_depth: int

    def init(self, state: Any) -> RescueState:
        """Return the state before the first step."""
        return self.warmup.init(state)

    def parameters(self, state: RescueState, step: Array) -> TreeParameters:
        """Return the kernel's parameters for a step, counted from the start of the run."""
        tuned = self.warmup.parameters(state, step)
        ends = np.asarray(self.warmup.schedule.window_ends, np.int32)
        early = _DEPTH_BEFORE_METRIC + _DEPTH_FOR_EACH_METRIC * jnp.sum(step > ends)
        is_early = step <= max(ends, default=-1)
        # A step that is short to free a chain would let all others' trees grow to their limit.
        is_short = self.warmup.shrinkage(state, step) < 1.0
        limit = jnp.where(is_early, jnp.minimum(early, self.max_tree_depth), self.max_tree_depth)
        limit = jnp.where(is_short, jnp.minimum(limit, _DEPTH_BEFORE_METRIC), limit)
        return TreeParameters(tuned.step_size, limit.astype(jnp.int32), tuned.metric)

    def update(
        self, state: RescueState, step: Array, parameters: Any, before: Any, after: Any, info: Any
    ) -> RescueState:
        """Learn from a step of warm-up."""
        return self.warmup.update(state, step, parameters, before, after, info)
