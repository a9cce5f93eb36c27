"""Climbing to a mode of the target, all chains in lockstep: limited-memory BFGS with a backtracking line search.

It has the shape of a kernel, so that everything which runs kernels runs it, but its steps are no draws. Every step
evaluates the target once, for all chains: a chain either accepts its trial point and turns to a new direction, or
shortens its step. Directions come from Optax.

References
----------
Liu, Nocedal (1989), On the limited memory BFGS method for large scale optimization. doi:10.1007/BF01589116.
Nocedal, Wright (2006), Numerical Optimization, algorithms 3.1 and 7.4.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from distmc.kernels.base import Kernel, Target, select_chains
from distmc.types import Array

_SUFFICIENT_INCREASE = 1e-4
_SHORTENING = 0.3
_SHORTEST = 1e-10
# The approximation may not yet know of a direction in which much is left to gain; a few more points tell.
_SMALL_GAINS_IN_A_ROW = 4
_DIRECTIONS = optax.scale_by_lbfgs(memory_size=10)


class ClimbState(NamedTuple):
    """Where the chains are, and where they try next.

    Attributes
    ----------
    position : float64 array (num_chains, num_dimensions)
    logdensity : float64 array (num_chains,)
    logdensity_grad : float64 array (num_chains, num_dimensions)
    direction : float64 array (num_chains, num_dimensions)
        Uphill.
    step_size : float64 array (num_chains,)
        Multiple of the direction that is tried next.
    memory : pytree
        What the directions are made from.
    is_over : bool array (num_chains,)
        Whether the chain stays where it is.
    expected_gain : float64 array (num_chains,)
        Rise of the log-density to the top of the quadratic approximation, in nats.
    num_small_gains : int32 array (num_chains,)
        Latest points in a row with an expected gain below the tolerance.
    num_evaluations : int32 array (num_chains,)
        Of the target, before the chain was over.
    """

    position: Array
    logdensity: Array
    logdensity_grad: Array
    direction: Array
    step_size: Array
    memory: Any
    is_over: Array
    expected_gain: Array
    num_small_gains: Array
    num_evaluations: Array


class ClimbParameters(NamedTuple):
    """What every step is given.

    Attributes
    ----------
    tolerance : float64 scalar
        Expected gain in nats below which a chain is over.
    step_size : float64 scalar
        Nothing to a climb; the length of a full step.
    """

    tolerance: Array
    step_size: Array


class ClimbInfo(NamedTuple):
    """What happened in one step, in the words of other kernels.

    Attributes
    ----------
    acceptance_rate : float64 array (num_chains,)
        1 where the trial point was accepted, 0 elsewhere.
    is_divergent, is_nonfinite : bool array (num_chains,)
        Never; whether log-density or gradient at the trial point was not finite.
    num_integration_steps : int32 scalar
        Evaluations of the target: 1, or 0 when all chains are over.
    """

    acceptance_rate: Array
    is_divergent: Array
    is_nonfinite: Array
    num_integration_steps: Array


def build_kernel(target: Target) -> Kernel:
    """Return the climb of `target`; its log-density is evaluated once in `init` and once in each step."""

    def init(position: Array) -> ClimbState:
        logdensity, grad = target.logdensity_and_grad(position)
        memory = jax.vmap(_DIRECTIONS.init)(position)
        nowhere = jnp.zeros(logdensity.shape, bool)
        none = jnp.zeros(logdensity.shape, jnp.int32)
        state = ClimbState(
            position, logdensity, grad, grad, jnp.ones_like(logdensity), memory, nowhere,
            jnp.full_like(logdensity, jnp.inf), none, none + 1,
        )  # fmt: skip
        return _turn(state, target)

    def step(rng_keys: Array, state: ClimbState, parameters: ClimbParameters) -> tuple[ClimbState, ClimbInfo]:
        everyone = jnp.all(state.is_over)

        def attempt(state: ClimbState) -> tuple[ClimbState, Array, Array]:
            position = state.position + state.step_size[:, None] * state.direction
            logdensity, grad = target.logdensity_and_grad(position)
            is_finite = jnp.isfinite(logdensity) & jnp.all(jnp.isfinite(grad), axis=-1)
            slope = target.dot(state.logdensity_grad, state.direction)
            is_enough = logdensity >= state.logdensity + _SUFFICIENT_INCREASE * state.step_size * slope
            accepted = _turn(state._replace(position=position, logdensity=logdensity, logdensity_grad=grad), target)
            moved = select_chains(is_finite & is_enough, accepted, _shorten(state))
            is_accepted = is_finite & is_enough
            row = jnp.where(moved.expected_gain < parameters.tolerance, state.num_small_gains + 1, 0)
            row = jnp.where(is_accepted, row, state.num_small_gains)
            moved = moved._replace(
                num_evaluations=state.num_evaluations + 1,
                num_small_gains=row,
                is_over=moved.is_over | (row >= _SMALL_GAINS_IN_A_ROW),
            )
            return select_chains(state.is_over, state, moved), is_accepted, ~is_finite

        def rest(state: ClimbState) -> tuple[ClimbState, Array, Array]:
            return state, jnp.ones_like(state.is_over), jnp.zeros_like(state.is_over)

        moved, is_accepted, is_nonfinite = lax.cond(everyone, rest, attempt, state)
        info = ClimbInfo(
            acceptance_rate=jnp.where(is_accepted | state.is_over, 1.0, 0.0),
            is_divergent=jnp.zeros_like(is_accepted),
            is_nonfinite=is_nonfinite & ~state.is_over,
            num_integration_steps=jnp.where(everyone, 0, 1).astype(jnp.int32),
        )
        return moved, info

    return Kernel(init, step)


def _turn(state: ClimbState, target: Target) -> ClimbState:
    """Choose the direction at a new point; where the approximation points downhill, follow the gradient afresh."""

    def direction_of(grad: Array, memory: Any, position: Array) -> tuple[Array, Any]:
        downhill, memory = _DIRECTIONS.update(-grad, memory, position)
        return -jnp.asarray(downhill), memory

    follow = jax.vmap(direction_of)
    direction, memory = follow(state.logdensity_grad, state.memory, state.position)
    slope = target.dot(state.logdensity_grad, direction)
    fresh = follow(state.logdensity_grad, jax.vmap(_DIRECTIONS.init)(state.position), state.position)
    is_uphill = (slope > 0.0) & jnp.isfinite(slope)
    direction, memory = select_chains(is_uphill, (direction, memory), fresh)
    gain = 0.5 * target.dot(state.logdensity_grad, direction)
    # The first direction of a memory knows no scales, and what it expects means nothing.
    is_known = (memory.count > 1) | (gain == 0.0)
    return state._replace(
        direction=direction,
        step_size=jnp.ones_like(state.step_size),
        memory=memory,
        expected_gain=jnp.where(is_known, gain, jnp.inf),
    )


def _shorten(state: ClimbState) -> ClimbState:
    """Try a shorter step; a chain that finds no rise, however short its step, is over."""
    shorter = _SHORTENING * state.step_size
    return state._replace(step_size=shorter, is_over=state.is_over | (shorter < _SHORTEST))
