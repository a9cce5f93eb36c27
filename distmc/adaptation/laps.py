"""Tuning of the late-adjusted parallel sampler (LAPS): first to where the posterior is, then exactly.

Until the last window of the schedule ends, steps are not adjusted. Their step size is set anew after every one of
them, from the variance of the chains' energy errors and from how far the ensemble is from equipartition: far
out large errors do no harm, near the posterior they are its bias. Then steps are adjusted, and dual averaging looks
for the step size of their trajectories. When warm-up ends nothing changes any more, so that draws come from an
adjusted kernel with fixed parameters.

Nothing that is not finite is ever pooled, and chains that have fallen far behind have no say.

References
----------
Robnik, Seljak (2026), Faster parallel MCMC: Metropolis adjustment is best served warm. arXiv:2601.16696.
"""

import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from distmc.adaptation.metric import MetricRule
from distmc.adaptation.pooling import Pooling, chains_in_company, weighted_mean
from distmc.adaptation.schedule import Schedule
from distmc.adaptation.step_size import StepSizeState, harmonic_mean_rate, start_step_size, update_step_size
from distmc.adaptation.trajectory import TrajectoryRule
from distmc.adaptation.warmup import step_size_from_gradients
from distmc.kernels.base import Target
from distmc.kernels.isokinetic import inner_product
from distmc.kernels.laps import LAPSInfo, LAPSParameters, LAPSState
from distmc.kernels.metrics import Metric, to_whitened
from distmc.types import Array

# The variance of energy errors per dimension that is wanted for a bias b, C b**(3/8), and how the variance grows with
# the step size (section 3 of the paper).
_WANTED_VARIANCE = 0.1
_BIAS_EXPONENT = 3.0 / 8.0
_VARIANCE_EXPONENT = 6.0
_SMALLEST_CHANGE, _LARGEST_CHANGE = 0.3, 2.0
_CHANGE_WHEN_TOO_LONG = 0.5
_MOST_LOST = 0.1
# Time in which a direction is forgotten, in units of the ensemble's spread.
_MEMORY = 1.9
_OPTIMISM_WHEN_WHITENED = 2.0

State = TypeVar("State")


class LAPSLearned(NamedTuple):
    """All that the ensemble has learned.

    Attributes
    ----------
    step_size : float64 scalar
        Of unadjusted steps.
    memory : float64 scalar
        Time in which unadjusted steps forget their direction.
    adjusted : StepSizeState
        Search for the step size of adjusted steps.
    window : pytree
        What the current window has seen.
    metric : Metric
        In force.
    """

    step_size: Array
    memory: Array
    adjusted: StepSizeState
    window: Any
    metric: Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class LateAdjustment:
    """How the parameters of the LAPS kernel are tuned; an `Adaptation`.

    Attributes
    ----------
    schedule : Schedule
        When; the last buffer is that of adjusted steps.
    target_acceptance_rate : float
        Pooled rate that the step size of adjusted steps aims at.
    whitened_step_size : float
        First guess of the step size once a metric is in force.
    trajectory : TrajectoryRule
        How long trajectories of adjusted steps are.
    metric : MetricRule
        How scales are learned.
    target : Target
        Gives the inner product.
    pooling : Pooling
        Statistics over chains.
    """

    schedule: Schedule
    target_acceptance_rate: float
    whitened_step_size: float
    trajectory: TrajectoryRule
    metric: MetricRule
    target: Target
    pooling: Pooling

    @property
    def num_unadjusted(self) -> int:
        """Steps before the first that is adjusted."""
        return self.schedule.num_warmup - self.schedule.final_buffer

    def init(self, state: LAPSState) -> LAPSLearned:
        """Return what is known before the first step."""
        return self._begin(step_size_from_gradients(state, self.target), self.metric.first())

    def parameters(self, learned: LAPSLearned, step: Array) -> LAPSParameters:
        """Return the kernel's parameters for a step, counted from the start of the run."""
        is_adjusted = step >= self.num_unadjusted
        search = learned.adjusted
        is_adapting = step < self.schedule.num_warmup
        adjusted = jnp.exp(jnp.where(is_adapting, search.log_step_size, search.log_average))
        num_integration_steps = self.trajectory.num_integration_steps(
            step, jnp.asarray(self.trajectory.length, jnp.float64), adjusted
        )
        return LAPSParameters(
            step_size=jnp.where(is_adjusted, adjusted, learned.step_size),
            num_integration_steps=jnp.where(is_adjusted, num_integration_steps, 1),
            persistence=jnp.where(is_adjusted, 0.0, jnp.exp(-learned.step_size / learned.memory)),
            is_adjusted=is_adjusted,
            metric=learned.metric,
        )

    def update(
        self,
        learned: LAPSLearned,
        step: Array,
        parameters: LAPSParameters,
        before: LAPSState,
        after: LAPSState,
        info: LAPSInfo,
    ) -> LAPSLearned:
        """Learn from a step; changes nothing when warm-up has ended."""
        weight = chains_in_company(after.logdensity, self.pooling)
        renewed = self._learn_unadjusted(learned, step, before, after, info, weight)
        pooled_rate = harmonic_mean_rate(info.acceptance_rate, self.target_acceptance_rate, weight, self.pooling)
        search = update_step_size(learned.adjusted, pooled_rate, self.target_acceptance_rate)
        adjusted = learned._replace(adjusted=search)
        is_adapting = step < self.schedule.num_warmup
        renewed = _where(parameters.is_adjusted, adjusted, renewed)
        return _where(is_adapting, renewed, learned)

    def _learn_unadjusted(
        self, learned: LAPSLearned, step: Array, before: LAPSState, after: LAPSState, info: LAPSInfo, weight: Array
    ) -> LAPSLearned:
        seen = self.metric.add(learned.window, after, weight)
        is_counted = step >= self.schedule.initial_buffer
        renewed = learned._replace(
            step_size=learned.step_size * self._step_size_factor(before, after, info, weight),
            memory=self._memory(after, weight, learned.metric),
            window=_where(is_counted, seen, learned.window),
        )
        if not self.schedule.windows:
            return renewed
        is_end = jnp.isin(step, np.asarray(self.schedule.window_ends))
        ended: LAPSLearned = jax.lax.cond(is_end, self._renew_metric, lambda same: same, renewed)
        return ended

    def _step_size_factor(self, before: LAPSState, after: LAPSState, info: LAPSInfo, weight: Array) -> Array:
        """Return the factor by which unadjusted steps should be longer, a float64 scalar."""
        counts = jnp.where(info.is_nonfinite, 0.0, weight)
        error = jnp.where(info.is_nonfinite, 0.0, info.energy_error)
        num_dimensions = self._over_coordinates(jnp.ones_like(after.position[0]))
        variance = weighted_mean((error - weighted_mean(error, counts, self.pooling)) ** 2, counts, self.pooling)
        wanted = _WANTED_VARIANCE * self._bias(after, counts) ** _BIAS_EXPONENT
        ratio = wanted * num_dimensions / jnp.maximum(variance, jnp.finfo(jnp.float64).tiny)
        factor = jnp.clip(ratio ** (1.0 / _VARIANCE_EXPONENT), _SMALLEST_CHANGE, _LARGEST_CHANGE)
        lost = weighted_mean(jnp.where(info.is_nonfinite, 1.0, 0.0), weight, self.pooling)
        cosine = inner_product(self.target, after.position)(before.direction, after.direction)
        turned_back = weighted_mean(cosine, counts, self.pooling) < 0.0
        is_too_long = turned_back | (lost > _MOST_LOST) | ~jnp.isfinite(factor)
        return jnp.where(is_too_long, _CHANGE_WHEN_TOO_LONG, factor)

    def _bias(self, after: LAPSState, weight: Array) -> Array:
        """Return how far the ensemble is from equipartition, on average over coordinates, a float64 scalar.

        In equilibrium ``E[grad] = 0`` and ``E[(x - E x) grad] = -1`` in every coordinate, whatever its scale.
        """
        offset = after.position - weighted_mean(after.position, weight, self.pooling)
        variance = weighted_mean(offset**2, weight, self.pooling)
        force = weighted_mean(after.logdensity_grad, weight, self.pooling)
        gap = 1.0 + weighted_mean(offset * after.logdensity_grad, weight, self.pooling)
        return self._over_coordinates(gap**2 + variance * force**2) / self._over_coordinates(jnp.ones_like(gap))

    def _memory(self, after: LAPSState, weight: Array, metric: Metric) -> Array:
        offset = to_whitened(metric, after.position - weighted_mean(after.position, weight, self.pooling))
        variance = weighted_mean(offset**2, weight, self.pooling)
        mean = self._over_coordinates(variance) / self._over_coordinates(jnp.ones_like(variance))
        return _MEMORY * jnp.sqrt(mean)

    def _over_coordinates(self, values: Array) -> Array:
        """Sum (num_dimensions,) over coordinates, wherever they live."""
        return self.target.dot(values[None], jnp.ones_like(values)[None])[0]

    def _renew_metric(self, learned: LAPSLearned) -> LAPSLearned:
        guess = jnp.asarray(self.whitened_step_size, jnp.float64)
        return self._begin(guess, self.metric.estimate(learned.window, learned.metric))

    def _begin(self, step_size: Array, metric: Metric) -> LAPSLearned:
        return LAPSLearned(
            step_size=step_size,
            memory=jnp.asarray(_MEMORY, jnp.float64),
            adjusted=start_step_size(step_size, _OPTIMISM_WHEN_WHITENED),
            window=self.metric.nothing(),
            metric=metric,
        )


def _where(condition: Array, new: State, old: State) -> State:
    chosen: State = jax.tree.map(lambda new, old: jnp.where(condition, new, old), new, old)
    return chosen
