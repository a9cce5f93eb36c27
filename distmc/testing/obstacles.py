"""Densities that are hard on a kernel: steep ones, constant ones, and ones that are broken in places."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from distmc.kernels.base import Target
from distmc.types import Array

LogDensityAndGrad: TypeAlias = Callable[[Array], tuple[Array, Array]]
"""From positions (num_chains, num_dimensions) to log-densities (num_chains,) and gradients."""

ISLAND = 100.0
"""The first point where proposals are broken, in every coordinate; its multiples are the others."""
DESERT = -1e6
"""Far out in the part where the density is constant, in the first coordinate."""
BREAKAGES = ((np.nan, np.nan), (-np.inf, 0.0), (np.inf, 0.0), (0.0, np.nan), (0.0, np.inf))
"""Log-density and gradient of what is proposed from each island."""
_EDGE = 50.0


def target_of(logdensity_and_grad: LogDensityAndGrad) -> Target:
    """Return the target of a density whose coordinates are all there is to its inner product."""
    return Target(
        logdensity_and_grad=logdensity_and_grad,
        dot=lambda a, b: jnp.sum(a * b, axis=-1),
        logdensity=lambda position: logdensity_and_grad(position)[0],
    )


# Traced once for each shape, however often a program evaluates it.
@jax.jit
def steep(position: Array) -> tuple[Array, Array]:
    """Return a density that no coordinate system straightens, with tails that fall as the fourth power."""

    def logdensity(one: Array) -> Array:
        return -0.5 * one[0] ** 2 - 0.5 * jnp.sum((one[1:] - one[0] ** 2) ** 2) - 0.1 * jnp.sum(one[1:] ** 4)

    value, grad = jax.vmap(jax.value_and_grad(logdensity))(position)
    return value, grad


def with_bystander(position: Array) -> tuple[Array, Array]:
    """Return `steep` of all coordinates but the last, on which a force acts that the density knows nothing of."""
    value, grad = steep(position[:, :-1])
    return value, jnp.concatenate([grad, position[:, -1:]], axis=1)


@jax.jit
def broken_far_out(position: Array) -> tuple[Array, Array]:
    """Return a density that is `steep` in the centre, constant on one side, and broken around islands on the other.

    An island is a single point: a chain there has a finite state, but whatever it proposes has not. There is one for
    each of `BREAKAGES`.
    """
    first = position[:, 0]
    kind = jnp.clip(jnp.round(first / ISLAND).astype(int) - 1, 0, len(BREAKAGES) - 1)
    is_island = jnp.all(position == (ISLAND * (kind + 1.0))[:, None], axis=1)
    is_bad = (first > _EDGE) & ~is_island
    is_constant = (first < -_EDGE) | is_island
    bad, bad_grad = jnp.asarray(BREAKAGES)[kind].T
    centre, centre_grad = steep(position)
    logdensity = jnp.where(is_bad, bad, jnp.where(is_constant, 0.0, centre))
    grad = jnp.where(is_bad[:, None], bad_grad[:, None], jnp.where(is_constant[:, None], 0.0, centre_grad))
    return logdensity, grad
