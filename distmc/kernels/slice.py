"""Slice sampling along random directions for all chains in lockstep, without gradients.

An update draws a height below the log-density, places an interval of some width at random around the position along
a direction in whitened coordinates, steps out until its ends lie below the height, and draws points in it, shrinking
it towards the position, until one lies above. A step is a number of such updates along directions that are
orthogonal to one another, which explores all dimensions sooner than independent directions do.

Chains need different numbers of evaluations. Each is a small machine that is either stepping out to the left, to the
right, or shrinking; every evaluation of the target moves all machines by one transition. A chain that is done with
one update begins its next at once, so chains wait for one another at the end of a step only.

References
----------
Neal (2003), Slice sampling, section 4: figures 3 (stepping out) and 5 (shrinkage). doi:10.1214/aos/1056562461.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from distmc.kernels.base import (
    Kernel,
    PlainState,
    StepParameters,
    Target,
    is_finite,
    keys_at,
    loop_count,
    select_chains,
    split_keys,
    uniform_noise,
)
from distmc.kernels.metrics import to_position
from distmc.types import Array

# An interval that has been shrunk so often is some 1e11 times smaller than it was, soon as small as rounding errors.
# Giving up leaves the target invariant: the way back would shrink as often.
_MOST_TRIES = 40


class SliceInfo(NamedTuple):
    """What happened in one step.

    Attributes
    ----------
    acceptance_rate : float64 array (num_chains,)
        Share of the points drawn within intervals that were in the slice.
    is_divergent : bool array (num_chains,)
        Never: there is no trajectory that could diverge.
    is_nonfinite : bool array (num_chains,)
        Whether a point that was tried had no finite log-density; outside of a support that is as it should be.
    num_integration_steps : int32 array (num_chains,)
        Evaluations of the target that the chain had use for. As many as the largest have been made.
    """

    acceptance_rate: Array
    is_divergent: Array
    is_nonfinite: Array
    num_integration_steps: Array


class _Noise(NamedTuple):
    """Random numbers of all updates of a step, or of one; the first axes are chain and update.

    The height lies below the log-density by `depth`; `place` is the share of the interval on the left of the
    position, and `left_budget` the steps out that may be made on that side.
    """

    direction: Array
    depth: Array
    place: Array
    left_budget: Array


class _Interval(NamedTuple):
    """Where the present update of each chain stands, (num_chains,).

    While there is a budget to the left, or else to the right, the machine steps out there; then it shrinks. `height`
    is a log-density, `tries` counts points drawn in the interval.
    """

    left: Array
    right: Array
    left_budget: Array
    right_budget: Array
    height: Array
    tries: Array


class _Machine(NamedTuple):
    """The chains in the middle of a step; counts are (num_chains,)."""

    state: PlainState
    interval: _Interval
    num_updates: Array
    num_evaluations: Array
    num_tries: Array
    num_moves: Array
    is_nonfinite: Array


def build_kernel(target: Target, num_directions: int, max_expansions: int) -> Kernel:
    """Return the kernel that leaves `target` invariant.

    Parameters
    ----------
    target : Target
        Its log-density is evaluated once in `init`, and in a step as often as the slowest chain needs.
    num_directions : int
        Updates in one step, at least 1.
    max_expansions : int
        Most steps out of one interval, both sides together; 0 leaves the interval as wide as it was placed.

    Returns
    -------
    kernel : Kernel
        ``step`` takes one random key for each chain and `StepParameters`, whose step size is the width of an interval
        in whitened coordinates.
    """

    def init(position: Array) -> PlainState:
        return PlainState(position, target.logdensity(position))

    def step(rng_keys: Array, state: PlainState, parameters: StepParameters) -> tuple[PlainState, SliceInfo]:
        noise_keys, try_keys = split_keys(rng_keys, 2)
        noise = _draw_noise(noise_keys, state.position.shape[1], num_directions, max_expansions)
        frame = orthonormal(noise.direction, loop_count(num_directions, parameters.step_size), target)
        noise = noise._replace(direction=jax.vmap(partial(to_position, parameters.metric), 1, 1)(frame))

        def begin(num_updates: Array, logdensity: Array) -> _Interval:
            return place_interval(_at(noise, num_updates), logdensity, parameters.step_size, max_expansions)

        def is_under_way(carry: tuple[Array, _Machine]) -> Array:
            return jnp.any(carry[1].num_updates < num_directions)

        def evaluate(carry: tuple[Array, _Machine]) -> tuple[Array, _Machine]:
            place, machine = carry
            is_active = machine.num_updates < num_directions
            offset = next_offset(machine.interval, uniform_noise(keys_at(try_keys, place)))
            direction = _at(noise, machine.num_updates).direction
            position = machine.state.position + jnp.where(is_active, offset, 0.0)[:, None] * direction
            tried = PlainState(position, target.logdensity(position))
            moved = _transition(machine, tried, offset, parameters.step_size, begin)
            return place + 1, select_chains(is_active, moved, machine)

        zero = jnp.zeros(state.logdensity.shape, jnp.int32)
        first = _Machine(state, begin(zero, state.logdensity), zero, zero, zero, zero, zero > 0)
        _, end = lax.while_loop(is_under_way, evaluate, (jnp.int32(0), first))
        info = SliceInfo(
            acceptance_rate=end.num_moves.astype(jnp.float64) / end.num_tries,
            is_divergent=zero > 0,
            is_nonfinite=end.is_nonfinite,
            num_integration_steps=end.num_evaluations,
        )
        return end.state, info

    return Kernel(init, step)


def place_interval(noise: _Noise, logdensity: Array, width: Array, max_expansions: int) -> _Interval:
    """Draw a height below the log-density (num_chains,), and place an interval and its steps out at random."""
    left = -width * noise.place
    return _Interval(
        left=left,
        right=left + width,
        left_budget=noise.left_budget,
        right_budget=max_expansions - noise.left_budget,
        height=logdensity - noise.depth,
        tries=jnp.zeros_like(noise.left_budget),
    )


def next_offset(interval: _Interval, uniform: Array) -> Array:
    """Return where along its direction each chain (num_chains,) has to look next."""
    within = interval.left + uniform * (interval.right - interval.left)
    return jnp.where(
        interval.left_budget > 0, interval.left, jnp.where(interval.right_budget > 0, interval.right, within)
    )


def is_in_slice(tried: PlainState, height: Array) -> Array:
    """Tell the chains (num_chains,) for which a point lies above the height; one that is not finite does not."""
    return is_finite(tried) & (tried.logdensity > height)


def step_out(interval: _Interval, is_inside: Array, width: Array) -> _Interval:
    """Move the end that was looked at outwards if it is in the slice, or else leave it where it is for good."""
    is_left = interval.left_budget > 0
    is_right = ~is_left & (interval.right_budget > 0)
    return interval._replace(
        left=jnp.where(is_left & is_inside, interval.left - width, interval.left),
        right=jnp.where(is_right & is_inside, interval.right + width, interval.right),
        left_budget=jnp.where(is_left, _spend(interval.left_budget, is_inside), interval.left_budget),
        right_budget=jnp.where(is_right, _spend(interval.right_budget, is_inside), interval.right_budget),
    )


def shrink(interval: _Interval, offset: Array) -> _Interval:
    """Cut the interval at a point that is not in the slice."""
    return interval._replace(
        left=jnp.where(offset < 0.0, offset, interval.left),
        right=jnp.where(offset < 0.0, interval.right, offset),
        tries=interval.tries + 1,
    )


def orthonormal(vectors: Array, count: Array, target: Target) -> Array:
    """Orthonormalise each chain's `count` vectors, (num_chains, count, num_dimensions), one after the other.

    Where there are more vectors than dimensions, each group of as many as there are dimensions by itself.
    """
    num_vectors, num_dimensions = vectors.shape[1:]
    numbers = jnp.arange(num_vectors)

    def project(place: Array, frame: Array) -> Array:
        vector = frame[:, place]
        is_before = (numbers < place) & (numbers >= place - place % num_dimensions)
        shares = jax.vmap(target.dot, (1, None), 1)(frame, vector) * is_before
        vector = vector - jnp.sum(shares[:, :, None] * frame, axis=1)
        length = jnp.sqrt(target.dot(vector, vector))
        return frame.at[:, place].set(vector / length[:, None])

    frame: Array = lax.fori_loop(0, count, project, vectors)
    return frame


def _transition(
    machine: _Machine, tried: PlainState, offset: Array, width: Array, begin: Callable[[Array, Array], _Interval]
) -> _Machine:
    """Move all chains on by the point that they have tried."""
    interval = machine.interval
    is_inside = is_in_slice(tried, interval.height)
    is_shrinking = (interval.left_budget == 0) & (interval.right_budget == 0)
    has_moved = is_shrinking & is_inside
    interval = select_chains(is_shrinking, shrink(interval, offset), step_out(interval, is_inside, width))
    state = select_chains(has_moved, tried, machine.state)
    is_over = has_moved | (interval.tries >= _MOST_TRIES)
    num_updates = machine.num_updates + is_over
    return _Machine(
        state=state,
        interval=select_chains(is_over, begin(num_updates, state.logdensity), interval),
        num_updates=num_updates,
        num_evaluations=machine.num_evaluations + 1,
        num_tries=machine.num_tries + is_shrinking,
        num_moves=machine.num_moves + has_moved,
        is_nonfinite=machine.is_nonfinite | ~is_finite(tried),
    )


def _spend(budget: Array, is_inside: Array) -> Array:
    return jnp.where(is_inside, budget - 1, 0)


def _draw_noise(rng_keys: Array, num_dimensions: int, num_directions: int, max_expansions: int) -> _Noise:
    def draw(key: Array) -> _Noise:
        direction_key, depth_key, place_key, budget_key = jax.random.split(key, 4)
        return _Noise(
            direction=jax.random.normal(direction_key, (num_directions, num_dimensions), jnp.float64),
            depth=jax.random.exponential(depth_key, (num_directions,), jnp.float64),
            place=jax.random.uniform(place_key, (num_directions,), jnp.float64),
            left_budget=jax.random.randint(budget_key, (num_directions,), 0, max_expansions + 1, jnp.int32),
        )

    return _Noise(*jax.vmap(draw)(rng_keys))


def _at(noise: _Noise, num_updates: Array) -> _Noise:
    """Take the numbers of each chain's present update; of the last one where there is none."""
    place = jnp.minimum(num_updates, noise.depth.shape[1] - 1)

    def take(of_chain: _Noise, place: Array) -> _Noise:
        return _Noise(*(of_all[place] for of_all in of_chain))

    return _Noise(*jax.vmap(take)(noise, place))
