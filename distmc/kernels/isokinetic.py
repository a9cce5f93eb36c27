"""Isokinetic motion for all chains in lockstep: the speed stays, the gradient turns the direction.

A particle of constant speed that the gradient of the log-density turns visits positions as often as the target has
them, with all directions alike. Its motion is integrated by leapfrog steps in whitened coordinates. The step that
turns the direction is exact; it stretches volume, and the logarithm of that, with the sign turned, is what the kinetic
energy gains.

The speed is the root of the number of dimensions, that of a standard normal momentum. So times mean the same as in
Hamiltonian Monte Carlo and in every dimension: a quarter period of a Gaussian is near pi / 2.

In one dimension a direction is a sign, and a particle could only run to and fro over evenly spaced points. There a
companion coordinate with a standard normal density joins the motion. It is drawn afresh for each trajectory and
forgotten after it, so that the position keeps its target.

References
----------
Steeg, Galstyan (2021), Hamiltonian dynamics with non-Newtonian momentum for rapid sampling. arXiv:2111.02434.
Robnik, Cohn-Gordon, Seljak (2025), Metropolis adjusted microcanonical Hamiltonian Monte Carlo. arXiv:2503.01707.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import lax

from distmc.kernels.base import GradientState, Target, TrajectoryParameters, normal_noise
from distmc.kernels.metrics import to_position, whiten_grad
from distmc.types import Array

_FEWEST_DIMENSIONS = 2

Dot: TypeAlias = Callable[[Array, Array], Array]
"""Inner product of two arrays (num_chains, n), (num_chains,)."""


class Motion(NamedTuple):
    """Where the chains are, and where they are going.

    Attributes
    ----------
    state : GradientState
    companion : float64 array (num_chains, 1 or 0)
        The companion coordinate of chains in one dimension; none otherwise.
    direction : float64 array (num_chains, num_dimensions or 2)
        Of length 1, in whitened coordinates; its last entry is the companion's where there is one.
    kinetic_energy : float64 array (num_chains,)
        What has been gained so far.
    """

    state: GradientState
    companion: Array
    direction: Array
    kinetic_energy: Array


class Trajectory(NamedTuple):
    """A trajectory from its end.

    Attributes
    ----------
    end : GradientState
    direction : float64 array (num_chains, num_dimensions or 2)
        At the end.
    velocity : float64 array (num_chains, num_dimensions)
        At the end, in whitened coordinates, without the companion.
    energy_error : float64 array (num_chains,)
        Energy at the end minus that at the start; minus the logarithm of the Metropolis ratio.
    """

    end: GradientState
    direction: Array
    velocity: Array
    energy_error: Array


def num_companions(position: Array) -> int:
    """Return how many companion coordinates these positions (num_chains, num_dimensions) need, 1 or 0."""
    return max(0, _FEWEST_DIMENSIONS - position.shape[1])


def inner_product(target: Target, position: Array) -> Dot:
    """Return the inner product over coordinates and companion, for positions like these."""
    num_own = position.shape[1]

    def dot(a: Array, b: Array) -> Array:
        return target.dot(a[:, :num_own], b[:, :num_own]) + jnp.sum(a[:, num_own:] * b[:, num_own:], axis=1)

    return dot if num_companions(position) else target.dot


def unit(vectors: Array, dot: Dot) -> Array:
    """Return vectors (num_chains, n) with length 1."""
    return vectors / jnp.sqrt(dot(vectors, vectors))[:, None]


def integrate(
    target: Target, rng_keys: Array, state: GradientState, direction: Array, parameters: TrajectoryParameters
) -> Trajectory:
    """Run `num_integration_steps` leapfrog steps, one evaluation of the target each.

    Parameters
    ----------
    target : Target
        Evaluated at one place of the program.
    rng_keys : key array (num_chains,)
        Of the companions.
    state : GradientState
        Where the trajectories begin.
    direction : float64 array (num_chains, num_dimensions or 2)
        Of length 1.
    parameters : TrajectoryParameters
        Step size and number of steps; the metric whitens.
    """
    step_size, metric = parameters.step_size, parameters.metric
    num_own, dot = state.position.shape[1], inner_product(target, state.position)
    companion = normal_noise(rng_keys, num_companions(state.position))
    num_dimensions = dot(jnp.ones_like(direction), jnp.ones_like(direction))
    speed, num_angles = jnp.sqrt(num_dimensions), num_dimensions - 1.0

    def half_turn(motion: Motion) -> Motion:
        grad = jnp.concatenate([whiten_grad(metric, motion.state.logdensity_grad), -motion.companion], axis=1)
        direction, log_stretch = turn(motion.direction, (0.5 * step_size * speed / num_angles)[:, None] * grad, dot)
        return motion._replace(direction=direction, kinetic_energy=motion.kinetic_energy - num_angles * log_stretch)

    def integration_step(_: Array, motion: Motion) -> Motion:
        motion = half_turn(motion)
        shift = (step_size * speed)[:, None] * motion.direction
        position = motion.state.position + to_position(metric, shift[:, :num_own])
        moved = GradientState(position, *target.logdensity_and_grad(position))
        return half_turn(motion._replace(state=moved, companion=motion.companion + shift[:, num_own:]))

    start = Motion(state, companion, direction, jnp.zeros_like(state.logdensity))
    end: Motion = lax.fori_loop(0, parameters.num_integration_steps, integration_step, start)
    return Trajectory(
        end=end.state,
        direction=end.direction,
        velocity=speed[:, None] * end.direction[:, :num_own],
        energy_error=end.kinetic_energy + _potential_energy(end) - _potential_energy(start),
    )


def turn(direction: Array, force: Array, dot: Dot) -> tuple[Array, Array]:
    """Turn directions as a constant force does in one unit of time.

    Parameters
    ----------
    direction : float64 array (num_chains, n)
        Of length 1.
    force : float64 array (num_chains, n)
        In units in which the direction changes at the rate of the part of the force that is perpendicular to it.
    dot : callable
        Inner product of two arrays (num_chains, n).

    Returns
    -------
    direction : float64 array (num_chains, n)
        Of length 1.
    log_stretch : float64 array (num_chains,)
        Logarithm of the factor by which lengths on the sphere grow around the direction: with the length of the force
        `f`, and `c` the cosine of its angle to the direction, that of ``1 / (cosh f + c sinh f)``.
    """
    strength = jnp.sqrt(dot(force, force))
    towards = force / jnp.where(strength > 0.0, strength, 1.0)[:, None]
    cosine = jnp.clip(dot(towards, direction), -1.0, 1.0)
    # All of it divided by exp(f) / 2, so that nothing overflows.
    decay, closer = jnp.exp(-strength), -jnp.expm1(-strength)
    along = closer * (1.0 + decay + cosine * closer)
    turned = unit(along[:, None] * towards + (2.0 * decay)[:, None] * direction, dot)
    log_stretch = -strength - jnp.log1p(0.5 * (1.0 - cosine) * jnp.expm1(-2.0 * strength))
    return turned, log_stretch


def _potential_energy(motion: Motion) -> Array:
    return 0.5 * jnp.sum(motion.companion**2, axis=1) - motion.state.logdensity
