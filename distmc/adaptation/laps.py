"""Tuning of the late-adjusted parallel sampler (LAPS): first to where the posterior is, then exactly.

Until the last window of the schedule ends, steps are not adjusted. Their size is set anew after every one of them,
from the variance of the chains' energy errors and from how far the ensemble is from equilibrium: far out large
errors do no harm, near the posterior they are its bias. Then steps are adjusted, and dual averaging looks for the
step size of their trajectories. When warm-up ends nothing changes any more, so that draws come from an adjusted kernel
with fixed parameters.

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
from distmc.adaptation.step_size import StepSizeState, harmonic_mean_rate, start_step_size, update_step_size
from distmc.adaptation.trajectory import TrajectoryRule
from distmc.adaptation.warmup import step_size_from_gradients, where
from distmc.adaptation.window import Window
from distmc.kernels.base import GradientState, Target
from distmc.kernels.isokinetic import inner_product
from distmc.kernels.laps import LAPSInfo, LAPSParameters, LAPSState
from distmc.kernels.metrics import Metric, to_whitened, whiten_grad
from distmc.spec import Schedule
from distmc.types import Array

# The paper's: with a bias b the variance of energy errors per dimension should be C b**(3/8), and it grows with the
# sixth power of the step size.
_VARIANCE_OF_UNIT_BIAS = 0.1
_BIAS_EXPONENT = 3.0 / 8.0
_STEP_SIZE_EXPONENT = 1.0 / 6.0
_MOST_SHRINKING = 0.3
# Chains that fall together from far out have alike energy errors, however large, and only turn back when they have
# overshot. With these two factors each swing is shorter than the last; with 2 and 1/2 swings may go on for ever.
_MOST_GROWTH = 1.5
_SHRINKING_WHEN_TOO_LONG = 0.4
_MOST_NONFINITE = 0.5
# The paper's time in which directions are forgotten, in units of the ensemble's spread.
_MEMORY = 1.9
_OPTIMISM = 2.0

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
        When; steps are adjusted from its final buffer on.
    target_acceptance_rate : float
        Pooled rate that the step size of adjusted steps aims at.
    whitened_step_size : float
        First guess of both step sizes once a metric is in force.
    trajectory : TrajectoryRule
        How long trajectories of adjusted steps are; its criterion is not used.
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

    def init(self, state: LAPSState) -> LAPSLearned:
        """Return what is known before the first step."""
        step_size = step_size_from_gradients(state.place, self.target)
        return self._begin(step_size, self.metric.first(), self.metric.nothing(state.place))

    def parameters(self, learned: LAPSLearned, step: Array) -> LAPSParameters:
        """Return the kernel's parameters for a step, counted from the start of the run."""
        is_adjusted = step >= self.schedule.num_warmup - self.schedule.final_buffer
        search, is_adapting = learned.adjusted, step < self.schedule.num_warmup
        adjusted = jnp.exp(jnp.where(is_adapting, search.log_step_size, search.log_average))
        length = jnp.asarray(self.trajectory.length, jnp.float64)
        num_integration_steps, _ = self.trajectory.divide(step, length, adjusted)
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
        """Learn from a step of warm-up."""
        weight = chains_in_company(after.logdensity, self.pooling)
        # Speed is the same for all: chains that are left behind only arrive if the others wait for them.
        unadjusted = self._learn_unadjusted(learned, step, before, after, info, jnp.ones_like(weight))
        pooled_rate = harmonic_mean_rate(info.acceptance_rate, self.target_acceptance_rate, weight, self.pooling)
        search = update_step_size(learned.adjusted, pooled_rate, self.target_acceptance_rate)
        return where(parameters.is_adjusted, learned._replace(adjusted=search), unadjusted)

    def _learn_unadjusted(
        self, learned: LAPSLearned, step: Array, before: LAPSState, after: LAPSState, info: LAPSInfo, weight: Array
    ) -> LAPSLearned:
        finite = jnp.where(info.is_nonfinite, 0.0, weight)
        weight = jnp.where(self.pooling.mean(finite) > 0.0, finite, weight)
        window = self.metric.add(learned.window, self._spread_out(after.place, weight), weight)
        renewed = learned._replace(
            step_size=learned.step_size * self._change_of_step_size(before, after, info, weight),
            memory=self._memory(after, weight, learned.metric),
            window=where(step >= self.schedule.initial_buffer, window, learned.window),
        )
        if not self.schedule.windows:
            return renewed
        is_end = jnp.isin(step, np.asarray(self.schedule.window_ends))
        ended: LAPSLearned = jax.lax.cond(is_end, self._renew_metric, lambda same: same, renewed)
        return ended

    def _change_of_step_size(self, before: LAPSState, after: LAPSState, info: LAPSInfo, weight: Array) -> Array:
        """Return the factor by which the next unadjusted step is longer than the last, a float64 scalar."""
        error = self._variance(jnp.where(info.is_nonfinite, 0.0, info.energy_error), weight) / after.position.shape[1]
        wanted = _VARIANCE_OF_UNIT_BIAS * self._bias(after, weight) ** _BIAS_EXPONENT
        ratio = _divide(wanted, error)
        change = jnp.clip(ratio**_STEP_SIZE_EXPONENT, _MOST_SHRINKING, _MOST_GROWTH)

        cosine = inner_product(self.target, after.position)(before.direction, after.direction)
        turn_back = weighted_mean(cosine, weight, self.pooling) < 0.0
        leave = self.pooling.mean(info.is_nonfinite.astype(jnp.float64)) > _MOST_NONFINITE
        return jnp.where(turn_back | leave, _SHRINKING_WHEN_TOO_LONG, change)

    def _bias(self, after: LAPSState, weight: Array) -> Array:
        """Return how far the ensemble is from equilibrium, on average over coordinates, a float64 scalar.

        In equilibrium ``E[grad] = 0`` and ``E[(x - E x) grad] = -1`` in every coordinate, whatever its scale.
        """
        grad = after.logdensity_grad
        offset = after.position - weighted_mean(after.position, weight, self.pooling)
        gap = 1.0 + weighted_mean(offset * grad, weight, self.pooling)
        drift = _divide(weighted_mean(grad, weight, self.pooling) ** 2, self._variance(grad, weight))
        return self._mean_over_coordinates(gap**2 + drift)

    def _memory(self, after: LAPSState, weight: Array, metric: Metric) -> Array:
        """Return the time in which directions should be forgotten, a float64 scalar."""
        position, grad = to_whitened(metric, after.position), whiten_grad(metric, after.logdensity_grad)
        squared = self._squared_scale(position, grad, weight)
        return _MEMORY * jnp.sqrt(self._mean_over_coordinates(squared))

    def _spread_out(self, place: GradientState, weight: Array) -> GradientState:
        """Return the ensemble with the spread that its gradients tell, where its own is smaller.

        In equilibrium the variances of a coordinate and of its gradient have a product of at least 1 (Cramér and Rao),
        and this changes nothing. Chains that come from one point, or fall together, seem to know only tiny scales.
        Where gradients are linear they grow with the offsets.
        """
        mean = weighted_mean(place.position, weight, self.pooling)
        mean_grad = weighted_mean(place.logdensity_grad, weight, self.pooling)
        squared = self._squared_scale(place.position, place.logdensity_grad, weight)
        factor = jnp.sqrt(jnp.maximum(_divide(squared, self._variance(place.position, weight)), 1.0))
        return place._replace(
            position=mean + factor * (place.position - mean),
            logdensity_grad=mean_grad + factor * (place.logdensity_grad - mean_grad),
        )

    def _squared_scale(self, position: Array, grad: Array, weight: Array) -> Array:
        """Return the target's variances (num_dimensions,) from how fast gradients change with positions."""
        return jnp.sqrt(_divide(self._variance(position, weight), self._variance(grad, weight)))

    def _variance(self, values: Array, weight: Array) -> Array:
        return weighted_mean((values - weighted_mean(values, weight, self.pooling)) ** 2, weight, self.pooling)

    def _mean_over_coordinates(self, values: Array) -> Array:
        """Return the mean of (num_dimensions,), wherever coordinates live."""
        values, ones = values[None], jnp.ones_like(values)[None]
        return self.target.dot(values, ones)[0] / self.target.dot(ones, ones)[0]

    def _renew_metric(self, learned: LAPSLearned) -> LAPSLearned:
        """Put the window's metric in force and start all searches afresh.

        Unadjusted chains may be under way in the last window, too; gradients are to be believed throughout.
        """
        guess = jnp.asarray(self.whitened_step_size, jnp.float64)
        nothing = jax.tree.map(jnp.zeros_like, learned.window)
        return self._begin(guess, self.metric.estimate(learned.window, learned.metric, has_arrived=False), nothing)

    def _begin(self, step_size: Array, metric: Metric, window: Window) -> LAPSLearned:
        return LAPSLearned(
            step_size=step_size,
            memory=jnp.asarray(_MEMORY, jnp.float64),
            adjusted=start_step_size(step_size, _OPTIMISM),
            window=window,
            metric=metric,
        )


def _divide(numerator: Array, denominator: Array) -> Array:
    """Return quotients of numbers that are not negative, finite whatever is divided; 1 where both vanish."""
    least = jnp.finfo(jnp.float64).tiny
    return jnp.minimum((numerator + least) / (denominator + least), 1.0 / jnp.finfo(jnp.float64).eps ** 2)
