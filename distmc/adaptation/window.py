"""What a window of warm-up has seen: positions of all chains, and gradients where the kernel follows them.

Low-rank metrics look at single draws a second time, when the window has ended. A bounded number of ensembles is kept
for them; the longer the window, the wider they are spaced.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from distmc.adaptation.moments import Moments, add_vectors, no_moments
from distmc.types import Array

_KEPT_DRAWS = 512


class Ensembles(NamedTuple):
    """Positions and gradients of all chains at some of a window's steps.

    Attributes
    ----------
    num_steps : int32 scalar
        Steps seen, kept or not.
    position : float64 array (num_kept, num_chains, num_dimensions)
    grad : float64 array (num_kept, num_chains, num_dimensions) or None
        None where the kernel follows no gradients.
    weight : float64 array (num_kept, num_chains)
        1 for draws that count, 0 for others.
    """

    num_steps: Array
    position: Array
    grad: Array | None
    weight: Array


class Window(NamedTuple):
    """What is known about the target from the steps of a window.

    Attributes
    ----------
    position : Moments
    grad : Moments or None
        None where the kernel follows no gradients.
    ensembles : Ensembles or None
        None where nobody looks at single draws.
    """

    position: Moments
    grad: Moments | None
    ensembles: Ensembles | None


def open_window(state: Any, *, is_dense: bool, keeps_ensembles: bool) -> Window:
    """Return what is known at the start of a window.

    Parameters
    ----------
    state : pytree
        Of a kernel; has `position` (num_chains, num_dimensions), and `logdensity_grad` if it follows gradients.
    is_dense : bool
        Whether covariances are needed, or variances alone.
    keeps_ensembles : bool
        Whether some draws are kept.
    """
    num_dimensions = state.position.shape[1]
    has_grad = hasattr(state, "logdensity_grad")
    nothing = no_moments(num_dimensions, is_dense=is_dense)
    return Window(
        position=nothing,
        grad=nothing if has_grad else None,
        ensembles=_no_ensembles(*state.position.shape, has_grad=has_grad) if keeps_ensembles else None,
    )


def add_state(window: Window, state: Any, weight: Array) -> Window:
    """Take in the chains of one step.

    Parameters
    ----------
    window : Window
        So far.
    state : pytree
        Of the kernel.
    weight : float64 array (num_chains,)
        1 for chains that count, 0 for others. Chains that are not finite never count.
    """
    position, grad = state.position, None if window.grad is None else state.logdensity_grad
    is_finite = jnp.all(jnp.isfinite(position), axis=1)
    if grad is not None:
        is_finite &= jnp.all(jnp.isfinite(grad), axis=1)
    weight = jnp.where(is_finite, weight, 0.0)
    position = jnp.where(is_finite[:, None], position, 0.0)
    if grad is not None:
        grad = jnp.where(is_finite[:, None], grad, 0.0)
    return Window(
        position=add_vectors(window.position, position, weight),
        grad=None if grad is None or window.grad is None else add_vectors(window.grad, grad, weight),
        ensembles=None if window.ensembles is None else _keep(window.ensembles, position, grad, weight),
    )


def _no_ensembles(num_chains: int, num_dimensions: int, *, has_grad: bool) -> Ensembles:
    num_kept = max(2, math.ceil(_KEPT_DRAWS / num_chains))
    nothing = jnp.zeros((num_kept, num_chains, num_dimensions), jnp.float64)
    weight = jnp.zeros((num_kept, num_chains), jnp.float64)
    return Ensembles(jnp.zeros((), jnp.int32), nothing, nothing if has_grad else None, weight)


def _keep(ensembles: Ensembles, position: Array, grad: Array | None, weight: Array) -> Ensembles:
    """Put an ensemble in its place, if it has one.

    With K places, every step has one at first, every second from step 2 K on, every fourth from step 4 K on, and so
    on: at any time the places hold draws from all over the later half of the steps.
    """
    num_steps, num_kept = ensembles.num_steps, ensembles.weight.shape[0]
    doublings = 31 - lax.clz(jnp.maximum(num_steps // num_kept, 1))
    spacing = lax.shift_left(jnp.int32(1), doublings)
    place, is_kept = num_steps // spacing % num_kept, num_steps % spacing == 0

    def put(kept: Array, new: Array) -> Array:
        return kept.at[place].set(jnp.where(is_kept, new, kept[place]))

    return Ensembles(
        num_steps=num_steps + 1,
        position=put(ensembles.position, position),
        grad=None if grad is None or ensembles.grad is None else put(ensembles.grad, grad),
        weight=put(ensembles.weight, weight),
    )
