"""Cases of the hidden Markov likelihood, and the plain recursion that it is compared with."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm, poisson

from distmc.likelihoods import hmm
from distmc.types import NumpyArray

KINDS = ("categorical", "gaussian", "poisson", "general")
NUM_SYMBOLS = 5


# Parameters are NumPy's: JAX would compile a program for each shape of which it makes an array.
def dirichlet(rng: np.random.Generator, *shape: int) -> NumpyArray:
    return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])


def problem(kind: str, seed: int = 0, num_states: int = 3, num_rows: int = 12, num_steps: int = 5) -> dict[str, Any]:
    """Return parameters, observations with missing ones, and ragged lengths."""
    rng = np.random.default_rng(seed)
    shape = (num_rows, num_steps)
    length = rng.integers(1, num_steps + 1, num_rows)
    length[:2] = 1, num_steps
    missing = rng.random(shape) < 0.2
    chain = (dirichlet(rng, num_states), dirichlet(rng, num_states, num_states))
    if kind == "categorical":
        emission = (dirichlet(rng, num_states, NUM_SYMBOLS),)
        observations = np.where(missing, -1, rng.integers(0, NUM_SYMBOLS, shape))
    elif kind == "poisson":
        emission = (rng.uniform(1, 6, num_states),)
        observations = np.where(missing, -1, rng.poisson(3, shape))
    else:
        emission = (rng.normal(size=num_states), rng.uniform(0.5, 2, num_states))
        observations = np.where(missing, np.nan, rng.normal(size=shape))
    return {"parameters": chain + emission, "observations": observations, "length": length, "missing": missing}


def contributions(kind: str, parameters: Any, observations: Any, length: Any) -> jax.Array:
    if kind != "general":
        return getattr(hmm, kind)(*parameters, observations, length)
    initial, transition, loc, scale = parameters

    def log_density(emission: Any, observed: jax.Array) -> jax.Array:
        return norm.logpdf(observed[None], emission["loc"][:, None], emission["scale"][:, None])

    return hmm.general(initial, transition, log_density, {"loc": loc, "scale": scale}, observations, length)


def log_weights(kind: str, emission: Any, observations: Any, missing: Any) -> jax.Array:
    """Return (n, T, K)."""
    shown = jnp.where(missing, 0, observations)[..., None]
    if kind == "categorical":
        values = jnp.log(emission[0].T)[shown[..., 0].astype(int)]
    elif kind == "poisson":
        values = poisson.logpmf(shown, emission[0])
    else:
        values = norm.logpdf(shown, *emission)
    return jnp.where(jnp.asarray(missing)[..., None], 0, values)


def log_space(initial: jax.Array, transition: jax.Array, weights: jax.Array, length: Any) -> jax.Array:
    """Return the plain forward recursion in logarithms, for automatic differentiation."""

    def row(weights: jax.Array, length: jax.Array) -> jax.Array:
        def step(alpha: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
            time, weight = inputs
            new = jax.nn.logsumexp(alpha[:, None] + jnp.log(transition), axis=0) + weight
            return jnp.where(time < length, new, alpha), None

        times = jnp.arange(1, weights.shape[0])
        alpha, _ = jax.lax.scan(step, jnp.log(initial) + weights[0], (times, weights[1:]))
        return jax.nn.logsumexp(alpha)

    return jax.vmap(row)(weights, jnp.asarray(length))


def reference(kind: str, parameters: Any, given_problem: dict[str, Any]) -> jax.Array:
    weights = log_weights(kind, parameters[2:], given_problem["observations"], given_problem["missing"])
    return log_space(parameters[0], parameters[1], weights, given_problem["length"])


def value_and_gradient(function: Callable[[Any], jax.Array], parameters: Any, cotangent: Any) -> tuple[Any, Any]:
    @jax.jit
    def compiled(parameters: Any) -> tuple[Any, Any]:
        value, pull = jax.vjp(function, parameters)
        return value, pull(jnp.asarray(cotangent, value.dtype))[0]

    return compiled(parameters)


@functools.partial(jax.jit, static_argnums=0)
def reference_and_gradient(kind: str, parameters: Any, given_problem: dict[str, Any], cotangent: Any) -> Any:
    value, pull = jax.vjp(lambda p: reference(kind, p, given_problem), parameters)
    return value, pull(cotangent)[0]


def assert_close(actual: Any, expected: Any, rtol: float) -> None:
    """Compare trees of arrays, each array on its own scale."""
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=rtol * float(np.max(np.abs(right))))
