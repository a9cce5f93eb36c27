"""Targets for tests of kernels: some that can be drawn from exactly, one that is broken in places.

Whether a kernel leaves a target as it is, shows in exact draws. Each exact target is a change of variables of
independent coordinates with known distributions. Chains that start from exact draws must still be exact draws after
any number of steps; mapped back, their coordinates must be independent and uniform.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from distmc.kernels.base import Kernel, Target
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array, NumpyArray

FACTOR = np.array([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [-1.2, 0.4, 2.0]])
SHAPE = 2.0


def target_of(logdensity: Callable[[Array], Array]) -> Target:
    """Return the target of a log-density of one chain's position."""
    return Target(
        logdensity_and_grad=jax.vmap(jax.value_and_grad(logdensity)), dot=lambda a, b: jnp.sum(a * b, axis=-1)
    )


BAD_VALUES = (np.nan, -np.inf, np.inf, 0.0, 0.0)
BAD_GRADIENTS = (np.nan, 0.0, 0.0, np.nan, np.inf)


def broken_beside_centers(position: Array) -> tuple[Array, Array]:
    """Return a standard normal log-density; far out it is 0 and, except at every hundred, broken in its own way."""
    distance = position[:, 0]
    kind = jnp.clip(jnp.round(distance / 100.0).astype(int) - 1, 0, len(BAD_VALUES) - 1)
    is_far = distance > 50.0
    is_bad = is_far & (distance % 100.0 != 0.0)
    logdensity = jnp.where(is_far, 0.0, -0.5 * jnp.sum(position**2, axis=1))
    grad = jnp.where(is_far[:, None], 0.0, -position)
    return (
        jnp.where(is_bad, jnp.asarray(BAD_VALUES)[kind], logdensity),
        jnp.where(is_bad[:, None], jnp.asarray(BAD_GRADIENTS)[kind, None], grad),
    )


BROKEN = Target(broken_beside_centers, lambda a, b: jnp.sum(a * b, axis=-1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactTarget:
    """A target, a way to draw from it, and the way from its draws to independent uniform numbers."""

    target: Target
    draw: Callable[[np.random.Generator, int], NumpyArray]
    to_uniform: Callable[[NumpyArray], NumpyArray]


def banana(position: Array) -> Array:
    """Return a log-density that no coordinate system straightens."""
    return -0.5 * position[0] ** 2 - 0.5 * (position[1] - position[0] ** 2) ** 2 - 0.1 * position[1] ** 4


def _correlated_logdensity(position: Array) -> Array:
    whitened = np.linalg.inv(FACTOR) @ position
    return -0.5 * jnp.sum(whitened**2)


def _twisted_logdensity(position: Array) -> Array:
    x, y, w = position
    # A parabola, and the log of a gamma variable.
    return -0.5 * x**2 - 0.5 * (y - x**2) ** 2 + SHAPE * w - jnp.exp(w)


def _draw_twisted(rng: np.random.Generator, count: int) -> NumpyArray:
    x, y, w = rng.normal(size=count), rng.normal(size=count), np.log(rng.gamma(SHAPE, size=count))
    return np.stack([x, y + x**2, w], axis=1)


def _untwist(position: NumpyArray) -> NumpyArray:
    x, y, w = position.T
    return np.stack([stats.norm.cdf(x), stats.norm.cdf(y - x**2), stats.gamma(SHAPE).cdf(np.exp(w))], axis=1)


EXACT_TARGETS = {
    "correlated": ExactTarget(
        target=target_of(_correlated_logdensity),
        draw=lambda rng, count: rng.normal(size=(count, 3)) @ FACTOR.T,
        to_uniform=lambda position: stats.norm.cdf(position @ np.linalg.inv(FACTOR).T),
    ),
    "twisted": ExactTarget(target=target_of(_twisted_logdensity), draw=_draw_twisted, to_uniform=_untwist),
}


def smallest_pvalue(kernel: Kernel, exact: ExactTarget, parameters: Any, num_chains: int, num_steps: int) -> float:
    """Return the smallest p-value, corrected for their number, of tests that draws are exact after some steps."""

    def walk(start: Array) -> Array:
        def step(number: Array, state: Any) -> Any:
            return kernel.step(chain_keys(seed_key(0), number, num_chains), state, parameters)[0]

        position: Array = jax.lax.fori_loop(0, num_steps, step, kernel.init(start)).position
        return position

    start = exact.draw(np.random.default_rng(0), num_chains)
    uniform = exact.to_uniform(np.asarray(jax.jit(walk)(jnp.asarray(start))))
    scores = stats.norm.ppf(np.clip(uniform, 1e-15, 1.0 - 1e-15))
    dimensions = range(uniform.shape[1])
    pvalues = [stats.kstest(uniform[:, i], "uniform").pvalue for i in dimensions]
    pvalues += [stats.pearsonr(scores[:, i], scores[:, j]).pvalue for i in dimensions for j in range(i)]
    pvalues += [stats.kstest(np.sum(scores**2, axis=1), stats.chi2(len(dimensions)).cdf).pvalue]
    return float(len(pvalues) * np.min(pvalues))
