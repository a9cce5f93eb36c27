"""Warm-up as a whole: step size, metric and trajectory, tuned by what all chains know together.

`WarmupState` is a function of replicated values, so tuning costs no message between workers. When warm-up ends
nothing that was learned changes any more, and draws come from a kernel whose parameters depend on nothing but the
number of the step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from distmc.adaptation.metric import MetricRule
from distmc.adaptation.pooling import Pooling, chains_in_company
from distmc.adaptation.pull import estimate_pull, unless_out_of_reach
from distmc.adaptation.step_size import (
    StepSizeState,
    harmonic_mean_rate,
    start_step_size,
    update_step_size,
)
from distmc.adaptation.trajectory import Trajectories, TrajectoryRule, TrajectoryState
from distmc.kernels.base import GradientState, StepParameters, Target, TrajectoryParameters
from distmc.kernels.metrics import Metric
from distmc.kernels.pull import Pull, no_pull
from distmc.spec import Schedule
from distmc.types import Array

# Before any scale is known a trajectory length means nothing; a few integration steps do.
STEPS_BEFORE_METRIC = 16.0
# The first guess of the step size is far too small where chains start far out; that for whitened coordinates is good.
_OPTIMISM_AT_START = 10.0
_OPTIMISM_WHEN_WHITENED = 2.0

State = TypeVar("State")


class WarmupState(NamedTuple):
    """All that warm-up has learned.

    Attributes
    ----------
    step_size : StepSizeState
    trajectory : TrajectoryState or ()
        Nothing for kernels without trajectories.
    window : pytree
        What the current window has seen.
    metric : Metric
        In force.
    pull : Pull or ()
        In force; nothing for kernels without trajectories.
    """

    step_size: StepSizeState
    trajectory: TrajectoryState | tuple[()]
    window: Any
    metric: Metric
    pull: Pull | tuple[()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warmup:
    """How the parameters of a kernel are tuned; an `Adaptation`.

    Attributes
    ----------
    schedule : Schedule
        When.
    target_acceptance_rate : float
        Pooled rate that the step size aims at.
    guess_step_size : callable
        From the kernel's state before the first step to a step size, a float64 scalar.
    whitened_step_size : float
        First guess of the step size once a metric is in force.
    trajectory : TrajectoryRule or None
        How long trajectories are; None for kernels that have none.
    metric : MetricRule
        How scales are learned.
    target : Target
        Gives the inner product.
    pooling : Pooling
        Statistics over chains.
    pool_rates : callable
        Makes one acceptance rate of those of all chains; see `harmonic_mean_rate`.
    """

    schedule: Schedule
    target_acceptance_rate: float
    guess_step_size: Callable[[Any], Array]
    whitened_step_size: float
    trajectory: TrajectoryRule | None
    metric: MetricRule
    target: Target
    pooling: Pooling
    pool_rates: Callable[[Array, float, Array, Pooling], Array] = harmonic_mean_rate

    def init(self, state: Any) -> WarmupState:
        """Return the state before the first step."""
        step_size = start_step_size(self.guess_step_size(state), _OPTIMISM_AT_START)
        pull = () if self.trajectory is None else no_pull(self.metric.num_dimensions)
        return self._begin(step_size, self.metric.first(), pull, self.metric.nothing(state))

    def parameters(self, state: WarmupState, step: Array) -> StepParameters | TrajectoryParameters:
        """Return the kernel's parameters for a step, counted from the start of the run."""
        is_adapting = step < self.schedule.num_warmup
        step_size = jnp.exp(jnp.where(is_adapting, state.step_size.log_step_size, state.step_size.log_average))
        if self.trajectory is None or not isinstance(state.trajectory, TrajectoryState):
            return StepParameters(step_size, state.metric)
        assert isinstance(state.pull, Pull)
        learned = jnp.where(is_adapting, state.trajectory.log_length, state.trajectory.log_average)
        length = jnp.where(self.is_metric_known(step), jnp.exp(learned), STEPS_BEFORE_METRIC * step_size)
        num_integration_steps, step_size = self.trajectory.divide(step, length, step_size)
        return TrajectoryParameters(step_size, num_integration_steps, state.metric, state.pull)

    def update(
        self, state: WarmupState, step: Array, parameters: Any, before: Any, after: Any, info: Any
    ) -> WarmupState:
        """Learn from a step of warm-up."""
        learned = self._learn(state, step, parameters, before, after, info)
        if self.schedule.windows:
            ends = np.asarray(self.schedule.window_ends)
            is_last = step == ends[-1]
            learned = jax.lax.cond(
                jnp.isin(step, ends), self._renew_metric, lambda same, *_: same, learned, is_last, after.position
            )
        return learned

    def _learn(
        self, state: WarmupState, step: Array, parameters: Any, before: Any, after: Any, info: Any
    ) -> WarmupState:
        weight = chains_in_company(after.logdensity, self.pooling)
        pooled_rate = self.pool_rates(info.acceptance_rate, self.target_acceptance_rate, weight, self.pooling)
        trajectory, longest = state.trajectory, jnp.asarray(jnp.inf, jnp.float64)
        if self.trajectory is not None and isinstance(trajectory, TrajectoryState):
            longest = jnp.where(self.is_metric_known(step), self.trajectory.longest_step(trajectory), longest)
            time = parameters.step_size * parameters.num_integration_steps
            trajectories = Trajectories(before.position, info, state.metric, time, weight)
            learned = self.trajectory.update(trajectory, trajectories, self.target, self.pooling)
            trajectory = where(self.is_metric_known(step), learned, trajectory)
        is_counted = step >= self.schedule.initial_buffer
        return WarmupState(
            step_size=update_step_size(state.step_size, pooled_rate, self.target_acceptance_rate, longest),
            trajectory=trajectory,
            window=where(is_counted, self.metric.add(state.window, after, weight), state.window),
            metric=state.metric,
            pull=state.pull,
        )

    def _renew_metric(self, state: WarmupState, has_arrived: Array, position: Array) -> WarmupState:
        """Put the window's metric and pull in force and start step size, trajectory and the next window afresh."""
        step_size = start_step_size(jnp.asarray(self.whitened_step_size, jnp.float64), _OPTIMISM_WHEN_WHITENED)
        metric = self.metric.estimate(state.window, state.metric, has_arrived)
        pull: Pull | tuple[()] = ()
        if self.trajectory is not None:
            learned = estimate_pull(state.window, metric, has_arrived)
            pull = unless_out_of_reach(learned, metric, position, self.target, self.pooling)
        return self._begin(step_size, metric, pull, jax.tree.map(jnp.zeros_like, state.window))

    def _begin(self, step_size: StepSizeState, metric: Metric, pull: Pull | tuple[()], window: Any) -> WarmupState:
        trajectory = () if self.trajectory is None else self.trajectory.init(self.metric.num_dimensions)
        return WarmupState(step_size, trajectory, window, metric, pull)

    def is_metric_known(self, step: Array) -> Array:
        """Tell whether a metric has been learned before a step, a bool scalar."""
        never = np.iinfo(np.int32).max
        return step > min(self.schedule.window_ends, default=never)


def step_size_from_gradients(state: GradientState, target: Target) -> Array:
    """Return a first step size that moves a chain so far that its energy changes by about one.

    That is the inverse of the largest gradient's norm.
    """
    squared = target.dot(state.logdensity_grad, state.logdensity_grad)
    largest = jnp.max(jnp.where(jnp.isfinite(squared), squared, 0.0))
    return 1.0 / jnp.sqrt(jnp.maximum(largest, 1.0))


def where(condition: Array, new: State, old: State) -> State:
    """Choose between two pytrees of the same structure; a branch, since on CPUs choices cost a piece of code a leaf."""
    chosen: State = jax.lax.cond(condition, lambda: new, lambda: old)
    return chosen
