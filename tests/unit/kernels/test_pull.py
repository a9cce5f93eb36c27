"""Swing and kick: exact for normal targets, and reversible and volume preserving for all others."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.kernels import hmc
from distmc.kernels.base import GradientState, Target, TrajectoryParameters
from distmc.kernels.hmc import HMCInfo, _integrate, build_kernel
from distmc.kernels.metrics import Metric, Stretch, to_position
from distmc.kernels.pull import Pull, kick_time, no_pull
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array, NumpyArray

NUM_CHAINS = 5
FACTOR = np.array([[0.8, 0.0], [0.5, 0.6]])
CENTER = np.array([3.0, -1.0])
METRIC: Any = Metric(FACTOR, np.linalg.inv(FACTOR))


def normal_logdensity(position: Array) -> Array:
    return -0.5 * jnp.sum((jnp.asarray(np.linalg.inv(FACTOR)) @ (position - CENTER)) ** 2)


def bent_logdensity(position: Array) -> Array:
    return normal_logdensity(position) - 0.1 * jnp.sum(position**4) + jnp.sin(position[0] * position[1])


def random(seed: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(NUM_CHAINS, 2)))


def target_of(logdensity: Any) -> Target:
    return Target(jax.vmap(jax.value_and_grad(logdensity)), lambda a, b: jnp.sum(a * b, axis=-1))


def parameters_of(pull: Pull | None, step_size: Any, num_steps: Any) -> TrajectoryParameters:
    return TrajectoryParameters(jnp.asarray(step_size), jnp.asarray(num_steps, jnp.int32), METRIC, pull)


# Programs of their own, used again by all cases: by itself, each operation would be compiled alone.
@functools.cache
def compiled_step(logdensity: Any) -> Any:
    kernel = build_kernel(target_of(logdensity))

    @jax.jit
    def take(position: Array, parameters: TrajectoryParameters) -> HMCInfo:
        keys = chain_keys(seed_key(0), jnp.asarray(0), NUM_CHAINS)
        info: HMCInfo = kernel.step(keys, kernel.init(position), parameters)[1]
        return info

    return take


def step(logdensity: Any, position: Array, pull: Pull | None, step_size: float, num_steps: int) -> HMCInfo:
    info: HMCInfo = compiled_step(logdensity)(position, parameters_of(pull, step_size, num_steps))
    return info


@pytest.mark.parametrize("angle", [0.3, np.pi / 2, 3.0, 40.0])
def test_a_normal_target_is_followed_exactly_in_one_step(angle: float) -> None:
    position = jnp.asarray(CENTER) + to_position(METRIC, random(0))
    info = step(normal_logdensity, position, Pull(jnp.asarray(CENTER), jnp.ones(())), angle, 1)
    np.testing.assert_allclose(info.energy_error, 0.0, atol=1e-10)
    # A full turn of the leapfrog trajectory, in tiny steps, ends at the same place.
    followed = step(normal_logdensity, position, None, angle / 20_000, 20_000)
    np.testing.assert_allclose(info.proposal, followed.proposal, atol=2e-4 * angle)
    np.testing.assert_allclose(info.proposal_momentum, followed.proposal_momentum, atol=2e-4 * angle)


def test_a_quarter_period_forgets_where_it_began() -> None:
    pull = Pull(jnp.asarray(CENTER), jnp.ones(()))
    here, there = (
        step(normal_logdensity, jnp.asarray(CENTER) + random(seed), pull, np.pi / 2, 1).proposal for seed in (0, 1)
    )
    np.testing.assert_allclose(here, there, atol=1e-12)


def test_without_a_pull_steps_are_leapfrog() -> None:
    position, size = random(0), 0.3
    info = step(bent_logdensity, position, no_pull(2), size, 1)
    np.testing.assert_allclose(info.proposal, step(bent_logdensity, position, None, size, 1).proposal, rtol=1e-14)
    grad = jax.jit(jax.vmap(jax.grad(bent_logdensity)))
    still = step(lambda position: 0.0 * jnp.sum(position), position, None, size, 1)
    half = still.proposal_momentum + 0.5 * size * grad(position) @ FACTOR
    end = position + size * half @ FACTOR.T
    np.testing.assert_allclose(info.proposal, end, rtol=1e-12)
    np.testing.assert_allclose(info.proposal_momentum, half + 0.5 * size * grad(end) @ FACTOR, rtol=1e-11)


@pytest.mark.parametrize("frequency", [0.0, 0.4, 1.0])
def test_the_error_is_of_second_order(frequency: float) -> None:
    position = 0.3 * random(0)
    pull = Pull(jnp.asarray([0.5, 0.2]), jnp.asarray(frequency))
    coarse, fine = (
        np.abs(step(bent_logdensity, position, pull, 0.2 / count, 4 * count).energy_error).max() for count in (8, 16)
    )
    assert 3.0 < coarse / fine < 5.0


SCALES = np.array([0.8, 0.6])
STRETCH: Any = Stretch(np.array([[0.6], [0.8]]), np.array([[2.0]]), np.array([[0.5]]), np.asarray(True))
METRICS: dict[str, Any] = {
    "dense": METRIC,
    "diagonal": Metric(SCALES, 1.0 / SCALES),
    "low rank": Metric(SCALES, 1.0 / SCALES, STRETCH),
}


@jax.jit
def integrate(position: Array, momentum: Array, parameters: TrajectoryParameters) -> tuple[Array, Array]:
    target = target_of(bent_logdensity)
    start = GradientState(position, *target.logdensity_and_grad(position))
    end, end_momentum = _integrate(target, start, momentum, parameters)
    return end.position, end_momentum


@jax.jit
def jacobian(position: Array, momentum: Array, parameters: TrajectoryParameters) -> Array:
    """Return how the end of one chain's trajectory changes with its start."""

    def flat(state: Array) -> Array:
        end, end_momentum = integrate(state[None, :2], state[None, 2:], parameters)
        return jnp.concatenate([end[0], end_momentum[0]])

    return jax.jacfwd(flat)(jnp.concatenate([position, momentum]))


@pytest.mark.parametrize(
    ("form", "frequency", "center", "step_size"),
    [
        ("dense", 0.0, CENTER, 0.4),
        ("dense", 0.4, CENTER, 0.4),
        ("dense", 1.0, CENTER, 0.4),
        ("diagonal", 1.0, CENTER, 0.4),
        ("low rank", 1.0, CENTER, 0.4),
        ("low rank", 1.0, 20.0 * CENTER, 0.1),
        ("dense", 0.7, 0.0 * CENTER, 0.8),
    ],
)
def test_a_trajectory_can_be_taken_back(form: str, frequency: float, center: NumpyArray, step_size: float) -> None:
    pull = Pull(jnp.asarray(center), jnp.asarray(frequency))
    parameters = parameters_of(pull, step_size, 3)._replace(metric=METRICS[form])
    position, momentum = 0.3 * random(0), random(1)
    end, end_momentum = integrate(position, momentum, parameters)
    assert np.abs(end - position).min(axis=1).max() > 0.1
    back, back_momentum = integrate(end, -end_momentum, parameters)
    np.testing.assert_allclose(back, position, atol=1e-9)
    np.testing.assert_allclose(-back_momentum, momentum, atol=1e-9)
    volume = np.linalg.det(jacobian(position[0], momentum[0], parameters))
    np.testing.assert_allclose(volume, 1.0, rtol=1e-9)


def skewed_logdensity(position: Array) -> Array:
    # The middle of this density is the normal one's, to first order in its skewness.
    whitened = jnp.asarray(np.linalg.inv(FACTOR)) @ (position - CENTER)
    first, second = whitened
    rest = (first**3 - 3.0 * first) / 6.0 + (second**2 - 1.0) * first / 2.0
    return -0.5 * jnp.sum(whitened**2) - 0.01 * rest


@jax.jit
def squared_error(time: Any, normal: Array, momentum: Array, angle: Any, num_steps: Any) -> Array:
    """Return the mean squared energy error of trajectories that are kicked for some time."""
    target = target_of(skewed_logdensity)
    pull = Pull(jnp.asarray(CENTER), jnp.ones(()))
    position = jnp.asarray(CENTER) + to_position(METRIC, normal)
    start = GradientState(position, *target.logdensity_and_grad(position))
    # Here, not in the test: compiled once, with the time that is given.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hmc, "kick_time", lambda *_: time)
        end, end_momentum = _integrate(target, start, momentum, parameters_of(pull, angle, num_steps))
    gained = 0.5 * (target.dot(end_momentum, end_momentum) - target.dot(momentum, momentum))
    return jnp.mean((gained - end.logdensity + start.logdensity) ** 2)


@pytest.mark.parametrize(
    ("angle", "num_steps", "share"),
    [(1.0, 1, 0.98), (1.4, 1, 0.65), (1.8, 1, 0.32), (2.2, 1, 0.28), (0.9, 2, 0.87), (0.5, 4, 0.4)],
)
def test_kicks_suit_a_skewed_target(angle: float, num_steps: int, share: float) -> None:
    pull = Pull(jnp.asarray(CENTER), jnp.ones(()))
    normal, momentum = np.random.default_rng(3).normal(size=(2, 20_000, 2))

    def error_of(time: Any) -> float:
        return float(squared_error(np.asarray(time), normal, momentum, angle, num_steps))

    chosen = error_of(kick_time(pull, jnp.asarray(angle), jnp.asarray(num_steps)))
    assert chosen < share * error_of(0.5 * angle)
    # Some of the choice is for other targets.
    assert chosen < 1.3 * min(error_of(time) for time in angle * np.linspace(-0.5, 1.5, 41))


@pytest.mark.parametrize("frequency", [0.0, 0.7])
def test_short_steps_are_kicked_for_half_their_time(frequency: float) -> None:
    pull = Pull(jnp.asarray(CENTER), jnp.asarray(frequency))
    for size in (1e-3, 1e-6, 0.0):
        time = kick_time(pull, jnp.asarray(size), jnp.asarray(3, jnp.int32))
        np.testing.assert_allclose(time, 0.5 * size, rtol=1e-4)


def test_kicks_never_last_longer_than_their_step() -> None:
    # At multiples of a turn nothing is known of the error.
    times_of = jax.jit(jax.vmap(kick_time, in_axes=(None, 0, None)))
    sizes = np.concatenate([np.linspace(0.01, 12.0, 500), np.pi * np.arange(1.0, 13.0) / 3.0])
    for frequency in (0.5, 1.0, 2.0):
        pull = Pull(jnp.asarray(CENTER), jnp.asarray(frequency))
        for num_steps in (1, 2, 3, 10):
            times = times_of(pull, jnp.asarray(sizes), jnp.asarray(num_steps, jnp.int32))
            assert np.all(np.abs(times) < 0.65 * sizes)
