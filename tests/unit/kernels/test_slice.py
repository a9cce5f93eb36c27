"""One step of slice sampling for all chains."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.kernels import slice as slice_kernel
from distmc.kernels.base import PlainState, StepParameters, Target, keys_at, split_keys, uniform_noise
from distmc.kernels.metrics import Metric
from distmc.kernels.slice import SliceInfo, build_kernel, orthonormal
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array, NumpyArray

NUM_CHAINS = 6
NUM_DIRECTIONS = 5
WIDTH = 0.75
FACTOR = np.array([[0.8, 0.0], [0.5, 0.6]])
METRIC: Any = Metric(FACTOR, np.linalg.inv(FACTOR))


def refuse_gradient(position: Array) -> tuple[Array, Array]:
    raise AssertionError("There is no gradient.")


def dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


def target_of(logdensity: Any) -> Target:
    return Target(refuse_gradient, dot, jax.vmap(logdensity))


def banana(position: Any) -> Any:
    return -0.5 * position[0] ** 2 - 0.5 * (position[1] - position[0] ** 2) ** 2


def starting_positions() -> NumpyArray:
    return np.random.default_rng(0).normal(size=(NUM_CHAINS, 2))


# Compiled as a whole, as is all that follows: by itself, each operation would be compiled, and called, alone.
@jax.jit
def keys(step: int = 0) -> Array:
    return chain_keys(seed_key(1), jnp.asarray(step), NUM_CHAINS)


@functools.cache
def compiled_step(logdensity: Any, max_expansions: int) -> Any:
    @jax.jit
    def step(rng_keys: Array, position: Array, values: tuple[Any, ...]) -> tuple[PlainState, SliceInfo]:
        kernel = build_kernel(target_of(lambda one: logdensity(one, *values)), NUM_DIRECTIONS, max_expansions)
        return kernel.step(rng_keys, kernel.init(position), StepParameters(jnp.asarray(WIDTH), METRIC))

    return step


def take_step(
    logdensity: Any, position: Any, *values: Any, rng_keys: Array | None = None, max_expansions: int = 3
) -> tuple[PlainState, SliceInfo]:
    """Return state and info after one step from these positions, as NumPy arrays; the density may have parameters."""
    rng_keys = keys() if rng_keys is None else rng_keys
    result: tuple[PlainState, SliceInfo] = jax.device_get(
        compiled_step(logdensity, max_expansions)(rng_keys, position, values)
    )
    return result


@functools.partial(jax.jit, static_argnums=0)
def random_numbers(max_expansions: int) -> tuple[Any, Array, Array]:
    """Return the numbers of a step, its directions, and the keys of its points within intervals."""
    noise_keys, try_keys = split_keys(keys(), 2)
    noise = slice_kernel._draw_noise(noise_keys, 2, NUM_DIRECTIONS, max_expansions)
    return noise, orthonormal(noise.direction, jnp.int32(NUM_DIRECTIONS), target_of(banana)), try_keys


@jax.jit
def places(try_keys: Array, num_evaluations: int) -> Array:
    """Return where within its interval each chain's next point lies, from 0 to 1."""
    return uniform_noise(keys_at(try_keys, jnp.asarray(num_evaluations)))


class Textbook:
    """Slice sampling as Neal's figures 3 and 5 have it, one chain at a time, with the kernel's random numbers."""

    def __init__(self, max_expansions: int) -> None:
        noise, frame, self.try_keys = random_numbers(max_expansions)
        self.noise, self.frame = jax.device_get((noise, frame))
        self.max_expansions = max_expansions

    def step(self, chain: int, position: NumpyArray) -> tuple[NumpyArray, int, float]:
        """Return the end, the number of evaluations, and the share of points within intervals that were accepted."""
        self.num_evaluations, num_tries = 0, 0
        for update in range(NUM_DIRECTIONS):
            direction = FACTOR @ self.frame[chain, update]
            height = float(banana(position)) - self.noise.depth[chain, update]

            def is_inside(offset: float, height: float = height, line: Any = (position, direction)) -> bool:
                self.num_evaluations += 1
                return bool(banana(line[0] + offset * line[1]) > height)

            left = -WIDTH * self.noise.place[chain, update]
            right = left + WIDTH
            left_budget = int(self.noise.left_budget[chain, update])
            right_budget = self.max_expansions - left_budget
            while left_budget > 0 and is_inside(left):
                left, left_budget = left - WIDTH, left_budget - 1
            while right_budget > 0 and is_inside(right):
                right, right_budget = right + WIDTH, right_budget - 1
            while True:
                # The numbers for points within intervals are told apart by the evaluations that went before.
                uniform = np.asarray(places(self.try_keys, self.num_evaluations))[chain]
                offset = left + float(uniform) * (right - left)
                num_tries += 1
                if is_inside(offset):
                    break
                left, right = (offset, right) if offset < 0.0 else (left, offset)
            position = position + offset * direction
        return position, self.num_evaluations, NUM_DIRECTIONS / num_tries


@pytest.mark.parametrize("max_expansions", [0, 3])
def test_step_is_that_of_the_textbook(max_expansions: int) -> None:
    state, info = take_step(banana, starting_positions(), max_expansions=max_expansions)
    textbook = Textbook(max_expansions)
    for chain, start in enumerate(starting_positions()):
        position, num_evaluations, rate = textbook.step(chain, start)
        np.testing.assert_allclose(state.position[chain], position, rtol=1e-9)
        np.testing.assert_allclose(state.logdensity[chain], banana(position), rtol=1e-9)
        assert info.num_integration_steps[chain] == num_evaluations
        np.testing.assert_allclose(info.acceptance_rate[chain], rate)
    assert len(np.unique(info.num_integration_steps)) > 1
    assert not info.is_divergent.any()
    assert not info.is_nonfinite.any()


def test_budget_of_steps_out_is_split_evenly() -> None:
    @jax.jit
    def draw() -> Any:
        return slice_kernel._draw_noise(chain_keys(seed_key(2), jnp.asarray(0), 4000), 1, 1, 3)

    noise = draw()
    counts = np.bincount(np.asarray(noise.left_budget)[:, 0], minlength=4)
    np.testing.assert_allclose(counts / 4000, 0.25, atol=4.0 * np.sqrt(0.25 * 0.75 / 4000))


def test_as_many_evaluations_as_the_slowest_chain_needs_in_one_place_of_the_program() -> None:
    calls, traces = [], []

    def logdensity(position: Array) -> Array:
        traces.append(position)
        jax.debug.callback(lambda: calls.append(1))
        return -0.5 * jnp.sum(position**2, axis=1)

    kernel = build_kernel(Target(refuse_gradient, dot, logdensity), NUM_DIRECTIONS, 3)
    state = kernel.init(jnp.asarray(starting_positions()))
    traces.clear()
    _, info = jax.jit(kernel.step)(keys(), state, StepParameters(jnp.asarray(WIDTH), METRIC))
    jax.effects_barrier()
    assert len(calls) == 1 + int(jnp.max(info.num_integration_steps))
    assert len(traces) == 1


def test_chain_does_not_depend_on_others_that_take_longer() -> None:
    def narrow_beyond(position: Any) -> Any:
        beyond = position - jnp.array([100.0, 0.0])
        return jnp.where(position[0] > 50.0, -1e8 * jnp.sum(beyond**2), -0.5 * jnp.sum(position**2))

    alone, alone_info = take_step(narrow_beyond, starting_positions())
    order = np.array([3, 0, 5, 1, 4, 2])
    mixed = starting_positions()
    mixed[2] = [100.0, 0.0]
    state, info = take_step(narrow_beyond, mixed[order], rng_keys=keys()[order])
    is_slow = order == 2
    assert info.num_integration_steps[is_slow].item() > np.max(alone_info.num_integration_steps)
    for new, old in zip((*state, *info), (*alone, *alone_info), strict=True):
        assert new[~is_slow].tobytes() == old[order][~is_slow].tobytes()


def broken_beyond(position: Any, bad: Any) -> Any:
    return jnp.where(position[0] > 0.1, bad, -0.5 * jnp.sum(position**2))


@pytest.mark.parametrize("bad", [-np.inf, np.inf, np.nan])
def test_points_that_are_not_finite_are_outside_of_every_slice(bad: float) -> None:
    start = starting_positions() - np.array([2.0, 0.0])
    state, info = take_step(broken_beyond, start, bad)
    assert 0 < np.sum(info.is_nonfinite)
    assert np.all(state.position[:, 0] <= 0.1)
    assert np.all(np.isfinite(state.logdensity))
    assert np.all(np.any(state.position != start, axis=1))


def test_directions_are_orthonormal_as_far_as_there_are_dimensions() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 7, 4))
    frame = np.asarray(orthonormal(jnp.asarray(vectors), jnp.int32(7), target_of(banana)))
    np.testing.assert_allclose(
        frame[:, :4] @ np.swapaxes(frame[:, :4], 1, 2), np.broadcast_to(np.eye(4), (3, 4, 4)), atol=1e-12
    )
    np.testing.assert_allclose(
        frame[:, 4:] @ np.swapaxes(frame[:, 4:], 1, 2), np.broadcast_to(np.eye(3), (3, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(frame[:, 4], vectors[:, 4] / np.linalg.norm(vectors[:, 4], axis=1, keepdims=True))
