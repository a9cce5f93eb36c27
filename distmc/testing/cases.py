"""Kernels as the proof suite takes them: how each is built, and parameters to step with.

A kernel joins the suite with one line in `KERNEL_CASES`, or, outside distmc, with a `KernelCase` of its own::

    from distmc.testing import conformance, exactness

    @pytest.mark.parametrize("check", conformance.KERNEL_CHECKS)
    def test_kernel_conforms(check):
        check(MY_CASE)

    @pytest.mark.parametrize("target", exactness.TARGETS)
    def test_kernel_leaves_targets_invariant(target):
        exactness.require_invariant(MY_CASE, target)
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp

from distmc.kernels import ghmc, hmc, laps, mala, mams, nuts, rwmh
from distmc.kernels import slice as slice_kernel
from distmc.kernels.base import (
    Kernel,
    StepParameters,
    Target,
    TrajectoryParameters,
    TreeParameters,
    normal_noise,
)
from distmc.kernels.laps import LAPSParameters, LAPSState
from distmc.kernels.metrics import Metric
from distmc.kernels.pull import Pull
from distmc.types import Array


def start_at_position(kernel: Kernel, rng_keys: Array, position: Array) -> Any:
    """Return the state of a kernel that keeps nothing but what follows from the position."""
    return kernel.init(position)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KernelCase:
    """A kernel to be proved.

    Attributes
    ----------
    name : str
        What to call it.
    build_kernel : callable
        From a `Target` to the `Kernel`.
    parameters : callable
        From a metric and a number of chains to parameters for a target of two to five dimensions and unit scales
        under that metric. The step should be so large that an adjusted kernel rejects one proposal in five or more:
        a wrong acceptance ratio does not show where everything is accepted.
    start : callable
        ``start(kernel, rng_keys, position)`` returns the kernel's state for chains at `position`. A kernel whose
        state holds random numbers besides, a momentum that persists for one, has to draw them here from their
        stationary distribution, each chain's from its own key.
    is_reversible : bool
        Whether a step from A to B is as frequent as one from B to A. Not so for kernels whose momentum persists.
    has_gradient : bool
        Whether the kernel uses the gradient.
    knows_only_the_target : bool
        Whether the kernel is told of nothing but the target and its scales. Not so for one with a pull, which makes
        an error where there is nothing that pulls, and so refuses some proposals on a constant density.
    """

    name: str
    build_kernel: Callable[[Target], Kernel]
    parameters: Callable[[Metric, int], Any]
    start: Callable[[Kernel, Array, Array], Any] = start_at_position
    is_reversible: bool = True
    has_gradient: bool = True
    knows_only_the_target: bool = True

    def __str__(self) -> str:
        """Return the name."""
        return self.name


def trajectory_parameters(
    step_size: float, num_integration_steps: int
) -> Callable[[Metric, int], TrajectoryParameters]:
    """Return what makes parameters of a kernel whose trajectories have a set length."""

    def parameters(metric: Metric, num_chains: int) -> TrajectoryParameters:
        steps = jnp.asarray(num_integration_steps, jnp.int32)
        return TrajectoryParameters(jnp.asarray(step_size, jnp.float64), steps, metric)

    return parameters


def pulled_parameters(step_size: float, num_integration_steps: int) -> Callable[[Metric, int], TrajectoryParameters]:
    """Return what makes parameters of a kernel that swings around a center, which is not quite the target's."""

    def parameters(metric: Metric, num_chains: int) -> TrajectoryParameters:
        center = jnp.full(metric.factor.shape[0], 0.2, jnp.float64)
        pull = Pull(center, jnp.asarray(0.9, jnp.float64))
        return trajectory_parameters(step_size, num_integration_steps)(metric, num_chains)._replace(pull=pull)

    return parameters


def step_parameters(step_size: float) -> Callable[[Metric, int], StepParameters]:
    """Return what makes parameters of a kernel without a trajectory."""

    def parameters(metric: Metric, num_chains: int) -> StepParameters:
        return StepParameters(jnp.asarray(step_size, jnp.float64), metric)

    return parameters


def adjusted_parameters(step_size: float, num_integration_steps: int) -> Callable[[Metric, int], LAPSParameters]:
    """Return what makes parameters of the steps with which the late-adjusted sampler draws."""

    def parameters(metric: Metric, num_chains: int) -> LAPSParameters:
        return LAPSParameters(
            step_size=jnp.asarray(step_size, jnp.float64),
            num_integration_steps=jnp.asarray(num_integration_steps, jnp.int32),
            persistence=jnp.zeros((), jnp.float64),
            is_adjusted=jnp.ones((), bool),
            metric=metric,
        )

    return parameters


def unadjusted_parameters(step_size: float, persistence: float) -> Callable[[Metric, int], LAPSParameters]:
    """Return what makes parameters of the steps with which the late-adjusted sampler warms up."""

    def parameters(metric: Metric, num_chains: int) -> LAPSParameters:
        return adjusted_parameters(step_size, 1)(metric, num_chains)._replace(
            persistence=jnp.asarray(persistence, jnp.float64), is_adjusted=jnp.zeros((), bool)
        )

    return parameters


def start_in_directions(kernel: Kernel, rng_keys: Array, position: Array) -> LAPSState:
    """Return the state of the kernel with lasting directions, directions drawn."""
    state: LAPSState = kernel.init(position)
    noise = normal_noise(rng_keys, state.direction.shape[1])
    return state._replace(direction=noise / jnp.linalg.norm(noise, axis=1, keepdims=True))


def damped_parameters(
    step_size: float, refreshment: float, num_integration_steps: int
) -> Callable[[Metric, int], ghmc.GHMCParameters]:
    """Return what makes parameters of a kernel whose momenta last."""

    def parameters(metric: Metric, num_chains: int) -> ghmc.GHMCParameters:
        return ghmc.GHMCParameters(
            step_size=jnp.asarray(step_size, jnp.float64),
            refreshment=jnp.asarray(refreshment, jnp.float64),
            drift=jnp.asarray(0.5 * refreshment, jnp.float64),
            num_integration_steps=jnp.asarray(num_integration_steps, jnp.int32),
            metric=metric,
        )

    return parameters


def start_under_way(kernel: Kernel, rng_keys: Array, position: Array) -> ghmc.GHMCState:
    """Return the state of the kernel with lasting momenta, momenta and slices drawn."""
    return ghmc.draw_if_missing(rng_keys, kernel.init(position))


def tree_parameters(step_size: float, max_tree_depth: int) -> Callable[[Metric, int], TreeParameters]:
    """Return what makes parameters of a kernel whose trajectories end by themselves."""

    def parameters(metric: Metric, num_chains: int) -> TreeParameters:
        depth = jnp.asarray(max_tree_depth, jnp.int32)
        return TreeParameters(jnp.asarray(step_size, jnp.float64), depth, metric)

    return parameters


KERNEL_CASES = (
    KernelCase(name="HMC", build_kernel=hmc.build_kernel, parameters=trajectory_parameters(0.9, 3)),
    KernelCase(
        name="NUTS", build_kernel=partial(nuts.build_kernel, deepest_tree=3), parameters=tree_parameters(0.8, 3)
    ),
    KernelCase(name="MALA", build_kernel=mala.build_kernel, parameters=step_parameters(1.0)),
    KernelCase(
        name="GHMC",
        build_kernel=ghmc.build_kernel,
        parameters=damped_parameters(0.9, 0.4, 3),
        start=start_under_way,
        is_reversible=False,
    ),
    KernelCase(name="MAMS", build_kernel=mams.build_kernel, parameters=trajectory_parameters(0.8, 3)),
    KernelCase(name="LAPS", build_kernel=laps.build_kernel, parameters=adjusted_parameters(0.8, 3)),
    KernelCase(
        name="RWMH",
        build_kernel=partial(rwmh.build_kernel, num_proposals=3),
        parameters=step_parameters(1.0),
        has_gradient=False,
    ),
    KernelCase(
        name="Slice",
        # More directions than dimensions come in groups, whose order is not that of the way back.
        build_kernel=partial(slice_kernel.build_kernel, num_directions=2, max_expansions=2),
        parameters=step_parameters(1.5),
        has_gradient=False,
    ),
)
"""The kernels of distmc."""

SPLIT_CASES = (
    KernelCase(
        name="HMC with a pull",
        build_kernel=hmc.build_kernel,
        parameters=pulled_parameters(0.9, 3),
        knows_only_the_target=False,
    ),
    KernelCase(
        name="HMC with a pull, one step",
        build_kernel=hmc.build_kernel,
        parameters=pulled_parameters(1.2, 1),
        knows_only_the_target=False,
    ),
)
"""Kernels with a pull towards some place, which may be anywhere for draws to be exact."""

UNADJUSTED_CASES = (
    KernelCase(
        name="LAPS, unadjusted",
        build_kernel=laps.build_kernel,
        parameters=unadjusted_parameters(0.8, 0.6),
        start=start_in_directions,
        is_reversible=False,
    ),
)
"""Kernels that are to have the form of the others, but leave their target invariant only nearly."""
