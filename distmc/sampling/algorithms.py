"""From a sampler's settings to its kernel and to what tunes it: one short function a sampler."""

import dataclasses
import functools
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from distmc.adaptation.base import Adaptation
from distmc.adaptation.chees import ChEESCriterion
from distmc.adaptation.constant import Constant
from distmc.adaptation.laps import LateAdjustment
from distmc.adaptation.meads import MEADSWarmup
from distmc.adaptation.metric import MetricRule, choose_form
from distmc.adaptation.pooling import Pooling
from distmc.adaptation.rescue import Rescue
from distmc.adaptation.schedule import (
    build_schedule,
    build_schedule_after_arrival,
    build_schedule_of_short_steps,
)
from distmc.adaptation.snaper import SNAPERCriterion
from distmc.adaptation.step_size import mean_rate
from distmc.adaptation.trajectory import Criterion, EvenTrajectoryRule, TrajectoryRule
from distmc.adaptation.trees import TreeWarmup
from distmc.adaptation.warmup import Warmup, step_size_from_gradients
from distmc.climbs import LBFGS, Climb, Points
from distmc.kernels import ghmc, hmc, laps, lbfgs, mala, mams, nuts, points, rwmh
from distmc.kernels import slice as slice_kernel
from distmc.kernels.base import Kernel, Target
from distmc.samplers import (
    HMC,
    LAPS,
    MALA,
    MAMS,
    MEADS,
    NUTS,
    RWMH,
    SNAPER,
    WITHOUT_GRADIENT,
    ChEES,
    MetricKind,
    Sampler,
    Slice,
)
from distmc.spec import RunSpec, Schedule

POOLING = Pooling(mean=partial(jnp.mean, axis=0), median=partial(jnp.median, axis=0))
"""Every worker holds all chains, so that statistics over them need no message."""

# In whitened coordinates a good step is the dimension to this power: long trajectories (Neal 2011, section 4.4), and
# single steps (Roberts and Rosenthal 1998).
_HAMILTONIAN_EXPONENT, _LANGEVIN_EXPONENT = -1.0 / 4.0, -1.0 / 6.0
# In units of the target's standard deviation; a slice through a Gaussian is about 3.5 long.
_SLICE_WIDTH = 4.0


class Algorithm(NamedTuple):
    """A kernel and its tuning.

    Attributes
    ----------
    kernel : Kernel
    adaptation : Adaptation
    """

    kernel: Kernel
    adaptation: Adaptation


class Setting(NamedTuple):
    """What an algorithm is built for.

    Attributes
    ----------
    target : Target
        Log-density of all chains.
    num_dimensions : int
        Coordinates of a chain's position.
    num_chains : int
        Chains in lockstep.
    schedule : Schedule
        Of the warm-up.
    """

    target: Target
    num_dimensions: int
    num_chains: int
    schedule: Schedule


def schedule_of(spec: RunSpec) -> Schedule:
    """Return what the steps of warm-up are for: as the spec says, or else as suits the sampler."""
    if spec.schedule is not None:
        return spec.schedule
    if isinstance(spec.sampler, MALA):
        return build_schedule_of_short_steps(spec.num_warmup)
    build = build_schedule_after_arrival if isinstance(spec.sampler, WITHOUT_GRADIENT) else build_schedule
    return build(spec.num_warmup)


@functools.singledispatch
def build_algorithm(sampler: Sampler | Climb, setting: Setting) -> Algorithm:
    """Return the algorithm that a sampler's settings describe.

    Parameters
    ----------
    sampler : Sampler
        For instance `distmc.ChEES`.
    setting : Setting
    """
    raise TypeError(f"No algorithm is registered for {type(sampler).__name__}.")


@build_algorithm.register
def _(sampler: HMC, setting: Setting) -> Algorithm:
    rule = _fixed_length(sampler, EvenTrajectoryRule)
    return _with_trajectories(sampler, setting, rule)


@build_algorithm.register
def _(sampler: ChEES, setting: Setting) -> Algorithm:
    return _with_trajectories(sampler, setting, _learned_length(sampler, ChEESCriterion()))


@build_algorithm.register
def _(sampler: SNAPER, setting: Setting) -> Algorithm:
    return _with_trajectories(sampler, setting, _learned_length(sampler, SNAPERCriterion()))


@build_algorithm.register
def _(sampler: NUTS, setting: Setting) -> Algorithm:
    kernel = nuts.build_kernel(setting.target, sampler.max_tree_depth)
    warmup = _warmup(sampler, setting, exponent=_HAMILTONIAN_EXPONENT)
    return Algorithm(kernel, TreeWarmup(warmup=_with_rescue(warmup, setting), max_tree_depth=sampler.max_tree_depth))


@build_algorithm.register
def _(sampler: MALA, setting: Setting) -> Algorithm:
    warmup = _warmup(sampler, setting, exponent=_LANGEVIN_EXPONENT)
    return Algorithm(mala.build_kernel(setting.target), _with_rescue(warmup, setting))


@build_algorithm.register
def _(sampler: MEADS, setting: Setting) -> Algorithm:
    tuning = MEADSWarmup(
        warmup=_warmup(sampler, setting, exponent=_HAMILTONIAN_EXPONENT),
        spacing=sampler.spacing,
        max_integration_steps=sampler.max_integration_steps,
    )
    return Algorithm(ghmc.build_kernel(setting.target), tuning)


@build_algorithm.register
def _(sampler: MAMS, setting: Setting) -> Algorithm:
    rule = _fixed_length(sampler, TrajectoryRule)
    warmup = _warmup(sampler, setting, exponent=_HAMILTONIAN_EXPONENT, trajectory=rule)
    return Algorithm(mams.build_kernel(setting.target), _with_rescue(warmup, setting))


@build_algorithm.register
def _(sampler: LAPS, setting: Setting) -> Algorithm:
    adaptation = LateAdjustment(
        schedule=setting.schedule,
        target_acceptance_rate=sampler.target_acceptance_rate,
        whitened_step_size=setting.num_dimensions**_HAMILTONIAN_EXPONENT,
        trajectory=_fixed_length(sampler, TrajectoryRule),
        metric=metric_rule(sampler.metric, setting),
        target=setting.target,
        pooling=POOLING,
    )
    return Algorithm(laps.build_kernel(setting.target), adaptation)


@build_algorithm.register
def _(sampler: RWMH, setting: Setting) -> Algorithm:
    # The best step on a Gaussian in whitened coordinates (Roberts, Gelman, Gilks 1997).
    best = 2.38 * setting.num_dimensions**-0.5
    warmup = dataclasses.replace(_warmup_without_gradient(sampler, setting, step_size=best), pool_rates=mean_rate)
    return Algorithm(rwmh.build_kernel(setting.target, num_proposals(sampler, setting.num_dimensions)), warmup)


@build_algorithm.register
def _(sampler: Slice, setting: Setting) -> Algorithm:
    count = num_directions(sampler, setting.num_dimensions)
    kernel = slice_kernel.build_kernel(setting.target, count, sampler.max_expansions)
    return Algorithm(kernel, _warmup_without_gradient(sampler, setting, step_size=_SLICE_WIDTH))


@build_algorithm.register
def _(sampler: LBFGS, setting: Setting) -> Algorithm:
    parameters = lbfgs.ClimbParameters(jnp.asarray(sampler.tolerance, jnp.float64), jnp.ones((), jnp.float64))
    return Algorithm(lbfgs.build_kernel(setting.target), Constant(values=parameters))


@build_algorithm.register
def _(sampler: Points, setting: Setting) -> Algorithm:
    parameters = points.PointsParameters(jnp.zeros((), jnp.float64))
    return Algorithm(points.build_kernel(setting.target), Constant(values=parameters))


def num_proposals(sampler: RWMH, num_dimensions: int) -> int:
    """Return how many proposals a step makes."""
    return sampler.num_proposals or min(max(4 * num_dimensions, 16), 256)


def num_directions(sampler: Slice, num_dimensions: int) -> int:
    """Return along how many directions a step moves."""
    return sampler.num_directions or min(max(num_dimensions, 4), 64)


def _with_trajectories(sampler: HMC | ChEES | SNAPER, setting: Setting, rule: TrajectoryRule) -> Algorithm:
    warmup = _warmup(sampler, setting, exponent=_HAMILTONIAN_EXPONENT, trajectory=rule)
    return Algorithm(hmc.build_kernel(setting.target), _with_rescue(warmup, setting))


def _learned_length(sampler: ChEES | SNAPER, criterion: Criterion) -> EvenTrajectoryRule:
    return EvenTrajectoryRule(
        length=sampler.min_trajectory_length,
        criterion=criterion,
        jitter=sampler.jitter,
        max_integration_steps=sampler.max_integration_steps,
        min_length=sampler.min_trajectory_length,
    )


def _fixed_length(sampler: HMC | MAMS | LAPS, kind: type[TrajectoryRule]) -> TrajectoryRule:
    return kind(
        length=sampler.trajectory_length,
        criterion=None,
        jitter=sampler.jitter,
        max_integration_steps=sampler.max_integration_steps,
    )


def _warmup(
    sampler: HMC | ChEES | SNAPER | NUTS | MALA | MEADS | MAMS,
    setting: Setting,
    *,
    exponent: float,
    trajectory: TrajectoryRule | None = None,
) -> Warmup:
    return Warmup(
        schedule=setting.schedule,
        target_acceptance_rate=sampler.target_acceptance_rate,
        guess_step_size=partial(step_size_from_gradients, target=setting.target),
        whitened_step_size=setting.num_dimensions**exponent,
        trajectory=trajectory,
        metric=metric_rule(sampler.metric, setting),
        target=setting.target,
        pooling=POOLING,
    )


def _with_rescue(warmup: Warmup, setting: Setting) -> Rescue:
    return Rescue(warmup=warmup, num_chains=setting.num_chains)


def _warmup_without_gradient(sampler: RWMH | Slice, setting: Setting, *, step_size: float) -> Warmup:
    return Warmup(
        schedule=setting.schedule,
        target_acceptance_rate=sampler.target_acceptance_rate,
        guess_step_size=lambda _: jnp.asarray(step_size, jnp.float64),
        whitened_step_size=step_size,
        trajectory=None,
        metric=metric_rule(sampler.metric, setting),
        target=setting.target,
        pooling=POOLING,
    )


def metric_rule(kind: MetricKind, setting: Setting) -> MetricRule:
    """Return how the metric is learned, given what was asked for and how many draws a window holds."""
    num_draws = max(setting.schedule.windows, default=0) * setting.num_chains
    form = choose_form(kind, setting.num_dimensions, num_draws)
    return MetricRule(num_dimensions=setting.num_dimensions, form=form)
