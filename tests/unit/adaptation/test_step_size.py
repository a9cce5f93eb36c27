"""Dual averaging finds the step size that all chains can share."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.pooling import Pooling
from distmc.adaptation.step_size import harmonic_mean_rate, mean_rate, start_step_size, update_step_size
from distmc.types import Array

POOLING = Pooling(mean=functools.partial(jnp.mean, axis=0), median=functools.partial(jnp.median, axis=0))
TARGET = 0.8


def tuned_step_size(rates_at: Callable[[Array], Array], first: float, num_steps: int = 500) -> float:
    """Tune against chains whose acceptance rates are a function of the step size, (num_chains,)."""

    def update(_: Any, state: Any) -> Any:
        rates = rates_at(jnp.exp(state.log_step_size))
        pooled = harmonic_mean_rate(rates, TARGET, jnp.ones_like(rates), POOLING)
        return update_step_size(state, pooled, TARGET)

    end = jax.lax.fori_loop(0, num_steps, update, start_step_size(jnp.asarray(first), 10.0))
    return float(jnp.exp(end.log_average))


@pytest.mark.parametrize("first", [1e-6, 0.3, 1e4])
def test_reaches_the_target_rate_from_anywhere(first: float) -> None:
    best = tuned_step_size(lambda step_size: jnp.exp(-(step_size**2)) * jnp.ones(8), first)
    # Where the search began leaves a trace that fades with the root of the number of steps.
    np.testing.assert_allclose(np.exp(-(best**2)), TARGET, atol=0.05)


def test_follows_a_noisy_response() -> None:
    noise = jnp.asarray(np.random.default_rng(0).uniform(-0.2, 0.2, 64))

    def rates(step_size: Array) -> Array:
        shift = jnp.roll(noise, (1e7 * step_size).astype(int))[0]
        return jnp.clip(jnp.exp(-(step_size**2)) + shift, 0.0, 1.0) * jnp.ones(4)

    best = tuned_step_size(rates, 1.0, 2000)
    np.testing.assert_allclose(np.exp(-(best**2)), TARGET, atol=0.05)


@pytest.mark.parametrize("num_chains", [8, 64, 512])
def test_chain_that_never_accepts_cannot_stop_the_others(num_chains: int) -> None:
    def rates(step_size: Array) -> Array:
        return jnp.exp(-(step_size**2)) * jnp.ones(num_chains).at[0].set(0.0)

    rate_of_others = np.exp(-(tuned_step_size(rates, 1.0) ** 2))
    assert TARGET < rate_of_others < 0.95


def test_chain_that_accepts_nothing_counts_for_more_than_in_a_plain_mean() -> None:
    rates = jnp.array([0.86] * 15 + [0.0])
    pooled = harmonic_mean_rate(rates, TARGET, jnp.ones(16), POOLING)
    assert pooled < TARGET < jnp.mean(rates)


def test_harmonic_mean_of_many_chains() -> None:
    rates = np.random.default_rng(0).uniform(0.3, 1.0, 64)
    pooled = harmonic_mean_rate(jnp.asarray(rates), TARGET, jnp.ones(64), POOLING)
    np.testing.assert_allclose(pooled, 1.0 / np.mean(1.0 / rates), rtol=1e-12)


def test_plain_mean_for_rates_that_are_nearly_all_or_nothing() -> None:
    rates, weight = jnp.array([1.0, 0.0, 0.0, np.nan, 1.0]), jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(mean_rate(rates, 0.234, weight, POOLING), 0.25)


def test_rates_that_are_nothing_count_as_the_floor() -> None:
    odd = jnp.array([0.9, np.nan, -np.inf, 0.9])
    zero = jnp.array([0.9, 0.0, 0.0, 0.9])
    weight = jnp.ones(4)
    pooled = harmonic_mean_rate(odd, TARGET, weight, POOLING)
    assert pooled == harmonic_mean_rate(zero, TARGET, weight, POOLING)
    assert 0.0 < pooled < TARGET


def test_chains_without_weight_have_no_say() -> None:
    pooled = harmonic_mean_rate(jnp.array([0.9, 0.0, 0.7]), TARGET, jnp.array([1.0, 0.0, 1.0]), POOLING)
    np.testing.assert_allclose(pooled, 2.0 / (1.0 / 0.9 + 1.0 / 0.7), rtol=1e-12)


@pytest.mark.parametrize("optimism", [1.0, 10.0])
def test_the_search_ends_at_the_longest_step_and_turns_back_at_once(optimism: float) -> None:
    longest = 1.5

    def after(state: Any, rate: float, num_steps: int) -> list[Any]:
        states = [state]
        for _ in range(num_steps):
            states.append(update_step_size(states[-1], jnp.asarray(rate), TARGET, longest))
        return states[1:]

    waiting = after(start_step_size(jnp.asarray(1.0), optimism), 1.0, 100)
    sizes = np.exp([float(state.log_step_size) for state in waiting])
    assert sizes.max() < longest * (1.0 + 1e-12)
    np.testing.assert_allclose(sizes[20:], longest, rtol=1e-12)
    np.testing.assert_allclose(np.exp(waiting[-1].log_average), longest, rtol=0.1)
    (turned,) = after(waiting[-1], TARGET - 0.1, 1)
    assert np.exp(turned.log_step_size) < 0.95 * longest
    # Without the limit a hundred rates of 1 would have to be made up for first.
    free = start_step_size(jnp.asarray(1.0), optimism)
    for rate in [1.0] * 100 + [TARGET - 0.1] * 50:
        free = update_step_size(free, jnp.asarray(rate), TARGET)
    assert np.exp(free.log_step_size) > 2.0 * longest
