"""Chains that the shared step size has left behind are brought back, and nobody else notices."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import distmc
from distmc.adaptation import rescue
from distmc.adaptation.metric import MetricRule
from distmc.adaptation.pooling import Pooling
from distmc.adaptation.rescue import Rescue, RescueState
from distmc.adaptation.schedule import build_schedule
from distmc.adaptation.warmup import Warmup, step_size_from_gradients
from distmc.kernels.base import GradientState, Target
from distmc.types import Array
from distmc.zoo.reference.catalogue import PROBLEMS

TARGET = Target(lambda position: (-0.5 * jnp.sum(position**2, axis=1), -position), lambda a, b: jnp.sum(a * b, axis=-1))
NUM_CHAINS, NUM_WARMUP = 4, 400
RESCUE = Rescue(
    warmup=Warmup(
        schedule=build_schedule(NUM_WARMUP),
        target_acceptance_rate=0.8,
        guess_step_size=functools.partial(step_size_from_gradients, target=TARGET),
        whitened_step_size=0.76,
        trajectory=None,
        metric=MetricRule(num_dimensions=3, form="diagonal"),
        target=TARGET,
        pooling=Pooling(mean=functools.partial(jnp.mean, axis=0), median=functools.partial(jnp.median, axis=0)),
    ),
    num_chains=NUM_CHAINS,
)
START: Any = GradientState(np.zeros((NUM_CHAINS, 3)), np.zeros(NUM_CHAINS), np.ones((NUM_CHAINS, 3)))
# Far from the end of any window.
STEP = RESCUE.warmup.schedule.window_ends[-1] - 100


class Info(NamedTuple):
    acceptance_rate: Array


# Compiled as one program each: by itself, each operation would be compiled and called alone.
@jax.jit
def updated(state: RescueState, step: Array, rates: Array) -> RescueState:
    parameters = RESCUE.parameters(state, step)
    return RESCUE.update(state, step, parameters, START, START, Info(rates))


@jax.jit
def step_sizes(state: RescueState, step: Array) -> tuple[Array, Array]:
    """Return the step size of a state's steps, and what it is where nothing is shortened."""
    return RESCUE.parameters(state, step).step_size, RESCUE.warmup.parameters(state.warmup, step).step_size


def after(rates: list[float], state: RescueState, step: int) -> RescueState:
    """Return the state after a step with these acceptance rates."""
    result: RescueState = updated(state, jnp.asarray(step), jnp.asarray(rates))
    return result


def shrinkage(state: RescueState, step: int) -> float:
    own, shared = step_sizes(state, jnp.asarray(step))
    return float(own / shared)


def stuck(count: int) -> RescueState:
    """Return a state in which the third chain has stood still for `count` steps."""
    return RESCUE.init(START)._replace(rejections=jnp.asarray([0, 1, count, 0], jnp.int32))


def test_nothing_is_shortened_while_all_chains_move() -> None:
    state = RESCUE.init(START)
    for step in range(STEP, STEP + 40):
        state = after([0.9, 0.0 if step % 2 else 0.8, 0.7, 0.95], state, step)
        assert shrinkage(state, step + 1) == 1.0
    np.testing.assert_array_equal(state.rejections, 0)


@pytest.mark.parametrize("rate", [0.0, np.nan])
def test_chain_that_stands_still_gets_shorter_and_shorter_steps(rate: float) -> None:
    state, seen = RESCUE.init(START), []
    for step in range(STEP, STEP + 40):
        state = after([0.9, 0.9, rate, 0.9], state, step)
        seen.append(shrinkage(state, step + 1))
    once = [1.0] * 15 + [4.0**-power for power in range(1, 6)]
    # Unless one of them was accepted, all try in vain as long as before.
    assert seen == [*once, 1.0, *once][:40]


def test_short_steps_follow_soon_after_one_that_was_accepted() -> None:
    state = after([1.0, 1.0, 0.9, 1.0], stuck(17), STEP)
    assert shrinkage(state, STEP + 1) == 1.0
    for step in (STEP + 1, STEP + 2):
        state = after([0.9, 0.9, 0.0, 0.9], state, step)
    assert shrinkage(state, STEP + 3) == 0.25
    np.testing.assert_array_equal(after([0.9] * 4, state._replace(rejections=stuck(3).rejections), STEP).rejections, 0)


def test_tuning_takes_no_notice_of_short_steps() -> None:
    before = stuck(18)
    state = after([1.0] * 4, before, STEP)
    assert state.warmup.step_size == before.warmup.step_size
    # What positions say of scales is as good as ever.
    assert not np.array_equal(state.warmup.window[0], before.warmup.window[0])
    assert after([1.0] * 4, stuck(3), STEP).warmup.step_size != before.warmup.step_size


@pytest.mark.parametrize("step", [*RESCUE.warmup.schedule.window_ends, NUM_WARMUP, NUM_WARMUP + 50])
def test_steps_are_whole_where_a_search_begins_and_where_draws_count(step: int) -> None:
    assert shrinkage(stuck(18), step) == 1.0


def sampled() -> Any:
    problem = PROBLEMS["hierarchical"]()
    return distmc.sample(problem.model, problem.data, seed=1, progress=False)


def test_chain_that_starts_in_a_narrow_place_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "never accepted" not in str(distmc.verdict(sampled()))
    monkeypatch.setattr(rescue, "_SHRINKAGES", np.ones(21))
    assert "Chain 9 never accepted a proposal" in str(distmc.verdict(sampled()))
