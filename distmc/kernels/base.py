"""What a kernel is, and what it is given to explore.

A kernel moves all chains at once by one step. It is two pure functions over arrays whose first axis is the
chain: ``init(position) -> state`` and ``step(rng_keys, state, parameters) -> (state, info)``. The state is what
the next step needs, the info what a person or an adaptation wants to see, the parameters what adaptation makes.
Where the chains' log-density comes from, over how many devices, is not visible here.

Every state has `position` and `logdensity`, every info `acceptance_rate`, `is_divergent`, `is_nonfinite` and
`num_integration_steps`, and all parameters have `step_size`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from distmc.kernels.metrics import Metric
from distmc.kernels.pull import Pull
from distmc.types import Array

# An energy error of a thousand means that the integrator has left the trajectory (Betancourt 2017, Stan).
DIVERGENCE_THRESHOLD = 1000.0

STATISTICS = (
    "acceptance_rate",
    "energy",
    "energy_error",
    "is_divergent",
    "is_nonfinite",
    "num_integration_steps",
    "reached_max_tree_depth",
    "tree_depth",
)
"""Fields of an info that are kept with each draw, by the names that all kernels share."""


def _no_logdensity(position: Array) -> Array:
    raise NotImplementedError("This target was built for kernels with gradients; give it a `logdensity` too.")


class Target(NamedTuple):
    """The distribution that a kernel explores.

    Attributes
    ----------
    logdensity_and_grad : callable
        From positions (num_chains, num_dimensions) to log-densities (num_chains,) and gradients
        (num_chains, num_dimensions).
    dot : callable
        Inner product over all of a chain's coordinates: two arrays (num_chains, num_dimensions) to (num_chains,).
    logdensity : callable
        From positions (num_chains, num_dimensions) to log-densities (num_chains,), without taking a gradient. What
        only kernels with gradients explore may leave it out.
    """

    logdensity_and_grad: Callable[[Array], tuple[Array, Array]]
    dot: Callable[[Array, Array], Array]
    logdensity: Callable[[Array], Array] = _no_logdensity


class PlainState(NamedTuple):
    """Where the chains of a kernel are that needs no gradient.

    Attributes
    ----------
    position : float64 array (num_chains, num_dimensions)
    logdensity : float64 array (num_chains,)
    """

    position: Array
    logdensity: Array


class GradientState(NamedTuple):
    """Where the chains of a kernel are that follows gradients.

    Attributes
    ----------
    position : float64 array (num_chains, num_dimensions)
    logdensity : float64 array (num_chains,)
    logdensity_grad : float64 array (num_chains, num_dimensions)
    """

    position: Array
    logdensity: Array
    logdensity_grad: Array


class StepParameters(NamedTuple):
    """What adaptation decides for kernels without a trajectory, the same for all chains.

    Attributes
    ----------
    step_size : float64 scalar
        In whitened coordinates.
    metric : Metric
        Scales of the target.
    """

    step_size: Array
    metric: Metric


class TrajectoryParameters(NamedTuple):
    """What adaptation decides for kernels whose trajectories have a set length, the same for all chains.

    Attributes
    ----------
    step_size : float64 scalar
        In whitened coordinates.
    num_integration_steps : int32 scalar
        At least 1.
    metric : Metric
        Scales of the target.
    pull : Pull or None
        What is known of its force; MAMS makes no use of it.
    """

    step_size: Array
    num_integration_steps: Array
    metric: Metric
    pull: Pull | None = None


class TreeParameters(NamedTuple):
    """What adaptation decides for kernels whose trajectories end by themselves, the same for all chains.

    Attributes
    ----------
    step_size : float64 scalar
        In whitened coordinates.
    max_tree_depth : int32 scalar
        Most doublings of a trajectory, at least 1.
    metric : Metric
        Scales of the target.
    """

    step_size: Array
    max_tree_depth: Array
    metric: Metric


class Kernel(NamedTuple):
    """The two functions of a kernel.

    Attributes
    ----------
    init : callable
        From positions (num_chains, num_dimensions) to the kernel's state.
    step : callable
        From one random key for each chain, state and parameters to the new state and the step's info.
    """

    init: Callable[[Array], Any]
    step: Callable[[Array, Any, Any], tuple[Any, Any]]


def is_finite(state: GradientState | PlainState) -> Array:
    """Tell the chains (num_chains,) whose position, log-density and, where there is one, gradient are all finite."""
    finite = jnp.isfinite(state.logdensity) & jnp.all(jnp.isfinite(state.position), axis=-1)
    if isinstance(state, GradientState):
        finite &= jnp.all(jnp.isfinite(state.logdensity_grad), axis=-1)
    return finite


def select_chains(condition: Array, chosen: Any, other: Any) -> Any:
    """Take `chosen` for the chains where `condition` (num_chains,) holds, leaf by leaf, and `other` elsewhere."""

    def select(new: Array, old: Array) -> Array:
        return jnp.where(condition.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(select, chosen, other)


def split_keys(rng_keys: Array, count: int) -> tuple[Array, ...]:
    """Return `count` independent arrays of keys (num_chains,), each chain's from its own key alone."""
    split = jax.vmap(lambda key: jax.random.split(key, count))(rng_keys)
    return tuple(split[:, place] for place in range(count))


def loop_count(count: int, step_size: Array) -> Array:
    """Return `count`, at least 0, as a number that no compiler knows, int32.

    A loop whose length is known can come out differently in programs for other numbers of workers. What is known at
    run time alone is that the step size, any scalar, is positive.
    """
    return jnp.where(step_size > 0.0, jnp.int32(count), jnp.int32(0))


def keys_at(rng_keys: Array, place: Array) -> Array:
    """Return the keys (num_chains,) for one of many places, say in a loop, each chain's from its own key alone."""
    return jax.vmap(lambda key: jax.random.fold_in(key, place))(rng_keys)


def drawn_once(draw: Callable[..., Any], step_size: Array, *arguments: Any) -> Any:
    """Return ``draw(*arguments)``, arrays, from a branch of its own; zeros unless the step size, a scalar, is positive.

    A compiler takes random bits for cheap and draws them again wherever they are used. That the step size is positive
    is what it cannot know.
    """

    def nothing(*arguments: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(draw, *arguments))

    return lax.cond(step_size > 0.0, draw, nothing, *arguments)


def normal_noise(rng_keys: Array, num_dimensions: int) -> Array:
    """Return standard normal numbers, float64 (num_chains, num_dimensions)."""
    return jax.vmap(lambda key: jax.random.normal(key, (num_dimensions,), jnp.float64))(rng_keys)


def uniform_noise(rng_keys: Array) -> Array:
    """Return numbers uniform on [0, 1), float64 (num_chains,)."""
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float64))(rng_keys)
