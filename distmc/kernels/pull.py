"""The part of a target's force that is known beforehand: a pull towards the middle of a normal distribution.

Once a metric is learned, a target with many rows is close to a normal distribution in whitened coordinates. There the
motion is known: every coordinate swings around the middle. An integrator that swings, and kicks only by what is left of
the force, makes an error where the target differs from the normal distribution, and none where it does not. It may take
a quarter period in one step, where the leapfrog integrator needs more the more dimensions there are. Kicks at the ends
of such a step are weighed for what is mostly left of the force: skewness. Without a pull swinging is moving straight
ahead, and the integrator is leapfrog.

Whatever the pull, swing and kick keep volumes and can be reversed, so that draws are exact; a bad pull costs steps.

References
----------
Shahbaba, Lan, Johnson, Neal (2014), Split Hamiltonian Monte Carlo, section 3.1. arXiv:1106.5941.
Casas, Sanz-Serna, Shaw (2022), Split Hamiltonian Monte Carlo revisited. arXiv:2207.07516.
"""

from typing import NamedTuple

import jax.numpy as jnp

from distmc.types import Array


class Pull(NamedTuple):
    """Towards where, and how strongly.

    Attributes
    ----------
    center : float64 array (num_dimensions,)
        The position where it vanishes.
    frequency : float64 scalar
        Of the swinging, in whitened coordinates: 1 where the metric holds the target's scales, 0 for no pull at all.
    """

    center: Array
    frequency: Array


def no_pull(num_dimensions: int) -> Pull:
    """Return what is known of a target at first: nothing."""
    return Pull(jnp.zeros(num_dimensions, jnp.float64), jnp.zeros((), jnp.float64))


def kick_time(pull: Pull, step_size: Array, num_steps: Array) -> Array:
    """Return for how long the rest of the force acts at each end of a step; nearly half the step where it is short.

    To first order in the rest of the potential, the energy error of a trajectory is that of a quadrature: of the power
    of the rest, momentum times its gradient, along the swing, by the values at the ends of steps. Along a swing the
    power is a sum of waves. Once middle and scales are learned, most of the rest is skewness where rows are many. Over
    normal positions and momenta, three quarters of the variance of its power are at three times the frequency and one
    quarter is at the frequency itself. The returned time has the least squared error over these two waves, with a term
    of weight 1, beside their 1 and 3, for half the step, since other rests have other waves.

    Parameters
    ----------
    pull : Pull
    step_size : float64 scalar
    num_steps : int32 scalar
        Steps of this size in the trajectory.

    Returns
    -------
    time : float64 scalar
        The same for all kicks of a trajectory, so that it can be taken back.
    """
    half_angle = 0.5 * pull.frequency * step_size
    is_swinging = half_angle > 0.0
    half_angle, frequency = (jnp.where(is_swinging, known, 1.0) for known in (half_angle, pull.frequency))
    products, squares = half_angle, jnp.ones(())
    for harmonic, weight in ((1.0, 1.0), (3.0, 3.0)):
        angle = harmonic * half_angle
        whole = jnp.sin(num_steps * angle)
        # Of a wave with its crest halfway: half its integral over the trajectory, and half its sum at ends of steps.
        integral, total = whole / harmonic, whole * jnp.cos(angle) / jnp.sin(angle)
        products += weight * integral * total
        squares += weight * total**2
    return jnp.where(is_swinging, products / (squares * frequency), 0.5 * step_size)


def kick(pull: Pull, time: Array, offset: Array, momentum: Array, force: Array) -> Array:
    """Return momenta (num_chains, num_dimensions) after what the pull leaves of the force has acted for some time.

    Parameters
    ----------
    pull : Pull
    time : float64 scalar
    offset, momentum, force : float64 array (num_chains, num_dimensions)
        Offsets from the center, momenta and the target's whole force, all in whitened coordinates.
    """
    return momentum + time * (force + pull.frequency**2 * offset)


def swing(pull: Pull, time: Array, offset: Array, momentum: Array) -> tuple[Array, Array]:
    """Return offsets and momenta after the pull alone has acted for some time; takes what `kick` takes."""
    angle = pull.frequency * time
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    # The sine divided by the frequency, which may be 0.
    reach = time * jnp.sinc(angle / jnp.pi)
    return cosine * offset + reach * momentum, cosine * momentum - pull.frequency * sine * offset
