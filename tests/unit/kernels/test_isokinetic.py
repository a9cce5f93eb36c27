"""Isokinetic trajectories beside an independent one in NumPy, and what makes Metropolis' test of them right."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.kernels.base import GradientState, Target, TrajectoryParameters
from distmc.kernels.isokinetic import Trajectory, integrate, turn, unit
from distmc.kernels.metrics import Metric
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array, NumpyArray

NUM_STEPS = 5


def dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


def logdensity(position: Any) -> Any:
    """Return a log-density that no coordinate system straightens, of one chain or of many."""
    first, second = position[..., 0], position[..., 1]
    rest = jnp.sum(position[..., 2:] ** 2 * (1.0 + position[..., :1] ** 2), axis=-1)
    return -0.5 * first**2 - 0.5 * (second - first**2) ** 2 - 0.1 * second**4 - 0.5 * rest


def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
    return jax.vmap(jax.value_and_grad(logdensity))(position)


TARGET = Target(logdensity_and_grad, dot)


def parameters(num_dimensions: int, step_size: float = 0.4, num_steps: int = NUM_STEPS) -> TrajectoryParameters:
    factor = np.tril(np.random.default_rng(7).normal(size=(num_dimensions,) * 2), -1) * 0.3
    factor += np.diag(np.linspace(0.7, 1.4, num_dimensions))
    metric = Metric(jnp.asarray(factor), jnp.asarray(np.linalg.inv(factor)))
    return TrajectoryParameters(jnp.asarray(step_size), jnp.asarray(num_steps, jnp.int32), metric)


@functools.cache
def compiled(target: Target) -> Any:
    def run(position: Array, direction: Array, settings: TrajectoryParameters) -> Trajectory:
        state = GradientState(position, *target.logdensity_and_grad(position))
        keys = chain_keys(seed_key(3), jnp.asarray(0), position.shape[0])
        return integrate(target, keys, state, direction, settings)

    return jax.jit(run)


def run(position: Any, direction: Any, settings: TrajectoryParameters, target: Target = TARGET) -> Trajectory:
    """Return the trajectories from these positions and directions, as NumPy arrays."""
    trajectory: Trajectory = jax.tree.map(
        np.asarray, compiled(target)(jnp.asarray(position), jnp.asarray(direction), settings)
    )
    return trajectory


def starts(num_dimensions: int, num_chains: int = 4, seed: int = 0) -> tuple[NumpyArray, NumpyArray]:
    """Return positions and directions."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(num_chains, num_dimensions))
    return rng.normal(size=direction.shape), direction / np.linalg.norm(direction, axis=1, keepdims=True)


@jax.jit
def gradient(position: Array) -> Array:
    return jax.grad(logdensity)(position)


def textbook(position: Any, direction: Any, settings: TrajectoryParameters) -> tuple[Any, Any, float]:
    """Integrate one chain with cosh and sinh as the paper has it, at speed 1; returns end, direction, energy error."""
    factor, num_dimensions = np.asarray(settings.metric.factor), len(position)
    step = float(settings.step_size) * np.sqrt(num_dimensions)

    def update(direction: Any, position: Any) -> tuple[Any, float]:
        force = factor.T @ np.asarray(gradient(position))
        size = np.linalg.norm(force)
        along, delta = force / size, 0.5 * step * size / (num_dimensions - 1)
        cosine = along @ direction
        stretch = np.cosh(delta) + cosine * np.sinh(delta)
        turned = (direction + along * (np.sinh(delta) + cosine * (np.cosh(delta) - 1.0))) / stretch
        return turned, (num_dimensions - 1) * np.log(stretch)

    kinetic, start = 0.0, position
    for _ in range(int(settings.num_integration_steps)):
        direction, gained = update(direction, position)
        position = position + step * factor @ direction
        direction, more = update(direction, position)
        kinetic += gained + more
    return position, direction, kinetic - float(logdensity(position) - logdensity(start))


@pytest.mark.parametrize("num_dimensions", [2, 3, 6])
def test_trajectory_and_energy_error_are_those_of_the_textbook(num_dimensions: int) -> None:
    position, direction = starts(num_dimensions)
    settings = parameters(num_dimensions)
    trajectory = run(position, direction, settings)
    for chain in range(len(position)):
        end, end_direction, energy_error = textbook(position[chain], direction[chain], settings)
        np.testing.assert_allclose(trajectory.end.position[chain], end, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(trajectory.direction[chain], end_direction, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(trajectory.energy_error[chain], energy_error, rtol=1e-8, atol=1e-12)
    assert np.abs(trajectory.energy_error).max() > 0.05
    np.testing.assert_allclose(trajectory.velocity, np.sqrt(num_dimensions) * trajectory.direction)


@pytest.mark.parametrize("num_dimensions", [2, 5])
def test_direction_keeps_its_length(num_dimensions: int) -> None:
    trajectory = run(*starts(num_dimensions), parameters(num_dimensions, 0.7, 200))
    np.testing.assert_allclose(np.linalg.norm(trajectory.direction, axis=1), 1.0, rtol=1e-14)


@pytest.mark.parametrize("num_dimensions", [2, 5])
def test_trajectory_is_reversible(num_dimensions: int) -> None:
    position, direction = starts(num_dimensions)
    forth = run(position, direction, parameters(num_dimensions))
    back = run(forth.end.position, -forth.direction, parameters(num_dimensions))
    np.testing.assert_allclose(back.end.position, position, atol=1e-12)
    np.testing.assert_allclose(-back.direction, direction, atol=1e-12)
    np.testing.assert_allclose(back.energy_error, -forth.energy_error, atol=1e-11)


def tangents(direction: Any) -> Any:
    """Return an orthonormal basis of the directions' tangent space, a column each."""
    return np.linalg.svd(direction[None])[2][1:].T


@pytest.mark.parametrize("num_dimensions", [2, 3])
def test_energy_error_is_the_metropolis_ratio(num_dimensions: int) -> None:
    """With the volume that the map of positions and directions stretches, by finite differences."""
    (position,), (direction,) = starts(num_dimensions, 1, seed=2)
    settings, basis, width = parameters(num_dimensions), tangents(direction), 1e-5
    num_coordinates = 2 * num_dimensions - 1
    steps = width * np.eye(num_coordinates)
    shifts = np.concatenate([np.zeros((1, num_coordinates)), steps, -steps])
    moved = direction + shifts[:, num_dimensions:] @ basis.T
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    trajectory = run(position + shifts[:, :num_dimensions], moved, settings)
    angles = trajectory.direction @ tangents(trajectory.direction[0])
    reached = np.concatenate([trajectory.end.position, angles], axis=1)
    jacobian = (reached[1 : 1 + num_coordinates] - reached[1 + num_coordinates :]) / (2.0 * width)
    log_volume = np.linalg.slogdet(jacobian)[1]
    gain = float(logdensity(trajectory.end.position[0]) - logdensity(position))
    np.testing.assert_allclose(trajectory.energy_error[0], -gain - log_volume, atol=1e-7)
    assert abs(log_volume) > 0.1


def test_energy_error_shrinks_with_the_square_of_the_step_size() -> None:
    errors = [run(*starts(4), parameters(4, 0.1 / 2**n, 8 * 2**n)).energy_error for n in range(4)]
    np.testing.assert_allclose(errors[-2] / errors[-1], 4.0, rtol=0.05)


def test_a_quarter_period_means_the_same_in_all_dimensions() -> None:
    """On a standard normal in many dimensions a trajectory as long as a quarter period forgets where it began."""
    normal = Target(lambda position: (-0.5 * dot(position, position), -position), dot)
    for num_dimensions in (20, 500):
        position, direction = starts(num_dimensions, 200)
        metric = Metric(jnp.ones(num_dimensions), jnp.ones(num_dimensions))
        settings = TrajectoryParameters(jnp.asarray(np.pi / 40.0), jnp.asarray(20, jnp.int32), metric)
        end = run(position, direction, settings, normal).end.position
        assert abs(np.mean(end * position)) < 0.1


def test_one_dimension_is_two_with_a_standard_normal_companion() -> None:
    quartic = Target(lambda x: (-jnp.sum(x**4, axis=1), -4.0 * x**3), dot)
    both = Target(
        lambda x: (-(x[:, 0] ** 4) - 0.5 * x[:, 1] ** 2, jnp.stack([-4.0 * x[:, 0] ** 3, -x[:, 1]], axis=1)), dot
    )
    position, direction = starts(2)
    factor = jnp.asarray([0.6])
    alone = TrajectoryParameters(jnp.asarray(0.4), jnp.asarray(4, jnp.int32), Metric(factor, 1.0 / factor))
    wide = jnp.asarray([0.6, 1.0])
    joint = alone._replace(metric=Metric(wide, 1.0 / wide))
    keys = chain_keys(seed_key(3), jnp.asarray(0), len(position))
    companion = jax.vmap(lambda key: jax.random.normal(key, (1,), jnp.float64))(keys)
    one = run(position[:, :1], direction, alone, quartic)
    two = run(np.concatenate([position[:, :1], companion], axis=1), direction, joint, both)
    np.testing.assert_allclose(one.end.position, two.end.position[:, :1], rtol=1e-10)
    np.testing.assert_allclose(one.direction, two.direction, rtol=1e-10)
    np.testing.assert_allclose(one.energy_error, two.energy_error, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(one.velocity, np.sqrt(2.0) * two.direction[:, :1], rtol=1e-10)


def test_turn_bears_any_force() -> None:
    direction = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8]])
    force = jnp.asarray([[0.0, 0.0], [1e-20, 0.0], [1e150, 0.0], [-1e5, 0.0], [0.6, 0.8]])
    turned, log_stretch = jax.jit(lambda *both: turn(*both, dot))(direction, force)
    expected = [[1.0, 0.0], [1e-20, 1.0], [1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]]
    np.testing.assert_allclose(turned, expected, atol=1e-15)
    np.testing.assert_allclose(log_stretch[:2], 0.0, atol=1e-16)
    np.testing.assert_allclose(log_stretch[3], -1e5 - np.log(0.2), rtol=1e-12)
    # Along the force nothing turns, but directions around it are drawn in.
    np.testing.assert_allclose(log_stretch[4], -1.0, rtol=1e-14)


def test_vectors_are_brought_to_length_one() -> None:
    vectors = jnp.asarray([[3.0, 4.0], [0.0, -2.0]])
    np.testing.assert_allclose(unit(vectors, dot), [[0.6, 0.8], [0.0, -1.0]])
