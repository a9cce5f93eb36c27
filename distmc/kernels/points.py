"""Evaluating the target at given points: a kernel that stays where it is."""

from typing import NamedTuple

import jax.numpy as jnp

from distmc.kernels.base import GradientState, Kernel, Target
from distmc.types import Array


class PointsParameters(NamedTuple):
    """Nothing to decide.

    Attributes
    ----------
    step_size : float64 scalar
        0.
    """

    step_size: Array


class PointsInfo(NamedTuple):
    """Nothing happens in a step; see `distmc.kernels.base`."""

    acceptance_rate: Array
    is_divergent: Array
    is_nonfinite: Array
    num_integration_steps: Array


def build_kernel(target: Target) -> Kernel:
    """Return the kernel whose `init` evaluates `target` once, and whose `step` does nothing."""

    def init(position: Array) -> GradientState:
        return GradientState(position, *target.logdensity_and_grad(position))

    def step(rng_keys: Array, state: GradientState, parameters: PointsParameters) -> tuple[GradientState, PointsInfo]:
        no = jnp.zeros(state.logdensity.shape, bool)
        return state, PointsInfo(jnp.ones_like(state.logdensity), no, no, jnp.zeros((), jnp.int32))

    return Kernel(init, step)
