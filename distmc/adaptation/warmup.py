"""Warm-up as a whole: step size, metric and trajectory, tuned by what all chains know together.

`WarmupState` is a function of replicated values, so tuning costs no message between workers. When warm-up ends
nothing changes any more, and draws come from a kernel with fixed parameters.
"""

import dataclasses
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from distmc.adaptation.metric import estimate_metric, identity_metric
from distmc.adaptation.moments import Moments, add_positions, no_moments
from distmc.adaptation.pooling import Pooling, chains_in_company
from distmc.adaptation.schedule import Schedule
from distmc.adaptation.step_size import (
    StepSizeState,
    harmonic_mean_rate,
    start_step_size,
    update_step_size,
)
from distmc.adaptation.trajectory import (
    TrajectoryState,
    criterion_grad,
    jittered_steps,
    start_trajectory,
    update_trajectory,
)
from distmc.kernels.base import Target
from distmc.kernels.hmc import HMCInfo, HMCParameters, HMCState
from distmc.kernels.metrics import Metric
from distmc.types import Array

# Before any scale is known a trajectory length means nothing; a few integration steps do.
_STEPS_BEFORE_METRIC = 16.0
# The first guess of the step size is far too small where chains start far out; that for whitened coordinates is good.
_OPTIMISM_AT_START = 10.0
_OPTIMISM_WHEN_WHITENED = 2.0

State = TypeVar("State")


class WarmupState(NamedTuple):
    """All that warm-up has learned.

    Attributes
    ----------
    step_size : StepSizeState
    trajectory : TrajectoryState
    moments : Moments
        Of the current window.
    metric : Metric
        In force.
    """

    step_size: StepSizeState
    trajectory: TrajectoryState
    moments: Moments
    metric: Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warmup:
    """How the parameters of the kernel are tuned.

    Attributes
    ----------
    schedule : Schedule
        When.
    target_acceptance_rate : float
        Pooled rate that the step size aims at.
    trajectory_length : float
        First guess in whitened coordinates, or the fixed length.
    is_trajectory_learned : bool
        Whether ChEES changes it.
    jitter : float
        Relative spread of trajectory lengths.
    max_integration_steps : int
        Upper limit in one trajectory.
    is_dense : bool
        Form of the metric.
    target : Target
        Gives the inner product.
    pooling : Pooling
        Statistics over chains.
    """

    schedule: Schedule
    target_acceptance_rate: float
    trajectory_length: float
    is_trajectory_learned: bool
    jitter: float
    max_integration_steps: int
    is_dense: bool
    target: Target
    pooling: Pooling

    def init(self, state: HMCState) -> WarmupState:
        """Return the state before the first step.

        The first step size moves a chain so far that its energy changes by about one: the inverse of the
        largest gradient's norm.
        """
        num_dimensions = state.position.shape[1]
        squared = self.target.dot(state.logdensity_grad, state.logdensity_grad)
        largest = jnp.max(jnp.where(jnp.isfinite(squared), squared, 0.0))
        return WarmupState(
            step_size=start_step_size(1.0 / jnp.sqrt(jnp.maximum(largest, 1.0)), _OPTIMISM_AT_START),
            trajectory=start_trajectory(self.trajectory_length),
            moments=no_moments(num_dimensions, is_dense=self.is_dense),
            metric=identity_metric(num_dimensions, is_dense=self.is_dense),
        )

    def parameters(self, state: WarmupState, step: Array) -> HMCParameters:
        """Return the kernel's parameters for a step, counted from the start of the run."""
        is_adapting = step < self.schedule.num_warmup
        step_size = jnp.exp(jnp.where(is_adapting, state.step_size.log_step_size, state.step_size.log_average))
        learned = jnp.where(is_adapting, state.trajectory.log_length, state.trajectory.log_average)
        length = jnp.where(self._is_metric_known(step), jnp.exp(learned), _STEPS_BEFORE_METRIC * step_size)
        return HMCParameters(
            step_size=step_size,
            num_integration_steps=jittered_steps(step, length, step_size, self.jitter, self.max_integration_steps),
            metric=state.metric,
        )

    def update(
        self,
        state: WarmupState,
        step: Array,
        parameters: HMCParameters,
        before: HMCState,
        after: HMCState,
        info: HMCInfo,
    ) -> WarmupState:
        """Learn from a step; leaves the state alone when warm-up has ended."""
        learned = self._learn(state, step, parameters, before, after, info)
        if self.schedule.windows:
            is_end = jnp.isin(step, np.asarray(self.schedule.window_ends))
            learned = jax.lax.cond(is_end, self._renew_metric, lambda same: same, learned)
        is_adapting = step < self.schedule.num_warmup
        return WarmupState(*jax.tree.map(lambda new, old: jnp.where(is_adapting, new, old), learned, state))

    def _learn(
        self,
        state: WarmupState,
        step: Array,
        parameters: HMCParameters,
        before: HMCState,
        after: HMCState,
        info: HMCInfo,
    ) -> WarmupState:
        weight = chains_in_company(after.logdensity, self.pooling)
        pooled_rate = harmonic_mean_rate(info.acceptance_rate, self.target_acceptance_rate, weight, self.pooling)
        trajectory = state.trajectory
        if self.is_trajectory_learned:
            time = parameters.step_size * parameters.num_integration_steps
            grad = criterion_grad(before.position, info, state.metric, time, self.target, weight, self.pooling)
            trajectory = _where(self._is_metric_known(step), update_trajectory(trajectory, grad), trajectory)
        return WarmupState(
            step_size=update_step_size(state.step_size, pooled_rate, self.target_acceptance_rate),
            trajectory=trajectory,
            moments=_where(
                step >= self.schedule.initial_buffer,
                add_positions(state.moments, after.position, weight),
                state.moments,
            ),
            metric=state.metric,
        )

    def _renew_metric(self, state: WarmupState) -> WarmupState:
        """Put the window's metric in force and start step size, trajectory and the next window afresh.

        In whitened coordinates a good step size scales as the fourth root of the dimension (Neal 2011, section 4.4).
        """
        num_dimensions = state.moments.mean.shape[0]
        return WarmupState(
            step_size=start_step_size(jnp.asarray(num_dimensions**-0.25, jnp.float64), _OPTIMISM_WHEN_WHITENED),
            trajectory=start_trajectory(self.trajectory_length),
            moments=no_moments(num_dimensions, is_dense=self.is_dense),
            metric=estimate_metric(state.moments, state.metric),
        )

    def _is_metric_known(self, step: Array) -> Array:
        never = np.iinfo(np.int32).max
        return step > min(self.schedule.window_ends, default=never)


def _where(condition: Array, new: State, old: State) -> State:
    chosen: State = jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)
    return chosen
