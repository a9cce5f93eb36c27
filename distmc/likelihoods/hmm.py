"""Log-likelihoods of hidden Markov models, with hand-written gradients.

Each function returns one contribution per row, a row being one observed sequence, for *one* chain; callers use
`jax.vmap` over chains on the parameters alone and leave the observations shared. Value and gradient come from one
scaled forward and one backward pass (Rabiner 1989, "A tutorial on hidden Markov models and selected applications in
speech recognition", Proceedings of the IEEE 77(2), section V.A for the scaling). The gradient is Fisher's identity:
the expected counts of the Baum-Welch algorithm divided by the parameters, each row weighted by its cotangent. Asking
for the value alone runs the forward pass alone. Memory for a gradient is about ``T * n * (K + 1)`` numbers per chain,
and ``n * K**2`` more with few states.

Common to all functions:

- Arguments are free numbers. Nothing is normalised, and gradients are partial derivatives in each entry.
- Rows may be ragged: `length` gives each row's number of steps, and whatever stands beyond is never used, not in the
  value and not in the gradient. A row of length zero contributes zero.
- A missing observation (negative integer, NaN) has the weight one in every state: the state moves on, unobserved.
- An impossible row has the value ``-inf`` and the gradient zero; other rows and chains are not touched by it. An entry
  of `emission` that is exactly zero has the gradient zero, as under every parametrisation that multiplies it.
- Computation is in the floating type of the parameters, float32 or float64. Scale factors are powers of two and their
  exponents are added as integers, so that contributions carry the recursion's rounding only, however long or unlikely
  a row is. Contributions are float64 where JAX has it enabled, else float32.
- Observations, lengths and missing marks have no derivative.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammaln, xlogy

from distmc.errors import ModelError
from distmc.likelihoods.emissions import DensityEmission, LogDensity, SymbolEmission
from distmc.likelihoods.forward_backward import log_likelihood
from distmc.types import Array, PyTree

__all__ = ["categorical", "gaussian", "general", "poisson"]


def categorical(initial: Any, transition: Any, emission: Any, observations: Any, length: Any | None = None) -> Array:
    """Log-likelihood of symbols under a hidden Markov model.

    Parameters
    ----------
    initial : array, (K,)
        Probability of each state at the first step.
    transition : array, (K, K)
        Probability of the column's state after the row's state.
    emission : array, (K, M)
        Probability of each symbol in each state.
    observations : integer array, (n, T)
        Symbols 0 to M-1; a negative number is missing; M or more is impossible.
    length : integer array (n,), optional
        Number of steps of each row; T if not given.

    Returns
    -------
    Array, (n,)
        Log-likelihood of each row, in nats.

    Raises
    ------
    ModelError
        Shapes or types do not fit together.
    """
    initial, transition, emission = _floats(initial, transition, emission)
    observations = jnp.asarray(observations)
    if not jnp.issubdtype(observations.dtype, jnp.integer):
        raise ModelError(
            f"`observations` are {observations.dtype}; a categorical hidden Markov model needs integers, "
            "since they number the columns of `emission`; convert them with `.astype(int)`."
        )
    _check_shapes(initial, transition, {"emission": emission}, 2)
    num_symbols = emission.shape[1]
    observations = observations.astype(jnp.int32)
    symbols = jnp.where(observations < 0, num_symbols, observations)
    symbols = jnp.where(observations >= num_symbols, num_symbols + 1, symbols)
    length = _lengths(observations, length)
    if length is not None:
        symbols = jnp.where(_ended(symbols, length), num_symbols + 1, symbols)
    return log_likelihood(SymbolEmission(), initial, transition, emission, symbols.T, length)


def gaussian(
    initial: Any, transition: Any, loc: Any, scale: Any, observations: Any, length: Any | None = None
) -> Array:
    """Log-likelihood of real numbers, normal with a mean and standard deviation for each state.

    Parameters
    ----------
    initial, transition, length
        As for `categorical`.
    loc, scale : array, (K,)
        Mean and standard deviation in each state, in the units of the observations.
    observations : array, (n, T)
        NaN is missing.

    Returns
    -------
    Array, (n,)
        Log-likelihood of each row, in nats.

    Raises
    ------
    ModelError
        Shapes do not fit together.
    """
    initial, transition, loc, scale = _floats(initial, transition, loc, scale)
    _check_shapes(initial, transition, {"loc": loc, "scale": scale}, 1)
    observations = jnp.asarray(observations, initial.dtype)
    missing = jnp.isnan(observations)
    return _densities(_log_normal, initial, transition, (loc, scale), observations, missing, length)


def poisson(initial: Any, transition: Any, rate: Any, observations: Any, length: Any | None = None) -> Array:
    """Log-likelihood of counts, Poisson with a rate for each state.

    Parameters
    ----------
    initial, transition, length
        As for `categorical`.
    rate : array, (K,)
        Expected count in each state.
    observations : array, (n, T)
        Counts; a negative number or NaN is missing.

    Returns
    -------
    Array, (n,)
        Log-likelihood of each row, in nats.

    Raises
    ------
    ModelError
        Shapes do not fit together.
    """
    initial, transition, rate = _floats(initial, transition, rate)
    _check_shapes(initial, transition, {"rate": rate}, 1)
    observations = jnp.asarray(observations, initial.dtype)
    missing = jnp.isnan(observations) | (observations < 0)
    return _densities(_log_poisson, initial, transition, (rate,), observations, missing, length)


def general(
    initial: Any,
    transition: Any,
    log_density: LogDensity,
    parameters: PyTree,
    observations: PyTree,
    length: Any | None = None,
    missing: Any | None = None,
) -> Array:
    """Log-likelihood under any emission: a log-density per state given by the caller.

    Parameters
    ----------
    initial, transition, length
        As for `categorical`.
    log_density : callable
        ``log_density(parameters, observed) -> (K, n)`` log-densities of one step in each state. `observed` has the
        structure of `observations` with leaves ``(n, ...)``. It is differentiated in `parameters` by JAX.
    parameters : pytree of float arrays
        What the log-density depends on and gradients are wanted for.
    observations : pytree of arrays, (n, T, ...)
        Covariates may stand beside observations.
    missing : boolean array (n, T), optional
        Steps without an observation. If not given, a step is missing where any float leaf is NaN. A missing or ended
        step shows `log_density` a copy of some observation that is present, and its result is not used.

    Returns
    -------
    Array, (n,)
        Log-likelihood of each row, in nats.

    Raises
    ------
    ModelError
        Shapes do not fit together.
    """
    initial, transition = _floats(initial, transition)
    _check_shapes(initial, transition, {}, 1)
    parameters = jax.tree.map(jnp.asarray, parameters)
    observations = jax.tree.map(lambda leaf: _as_type_of(initial, leaf), observations)
    leaves = jax.tree.leaves(observations)
    if not leaves or any(leaf.ndim < 2 or leaf.shape[:2] != leaves[0].shape[:2] for leaf in leaves):
        raise ModelError(
            f"`observations` have shapes {[leaf.shape for leaf in leaves]}; every one needs the same rows and steps "
            "as its first two axes; give arrays of shape (n, T, ...)."
        )
    missing = _any_nan(leaves) if missing is None else jnp.asarray(missing, bool)
    example = jax.tree.map(lambda leaf: leaf[:, 0], observations)
    closed, constants = jax.closure_convert(log_density, parameters, example)
    wanted = (initial.shape[0], leaves[0].shape[0])
    shape = tuple(jax.eval_shape(closed, parameters, example, *constants).shape)
    if shape != wanted:
        raise ModelError(
            f"`log_density` returned shape {shape} for one step; it needs (states, rows) = {wanted}, since every row "
            "is weighed in every state; put the states first, for example `loc[:, None] - observed[None, :]`."
        )

    def with_constants(both: PyTree, observed: PyTree) -> Array:
        return _as_type_of(initial, closed(both[0], observed, *both[1]))

    return _densities(with_constants, initial, transition, (parameters, constants), observations, missing, length)


def _densities(
    log_density: LogDensity,
    initial: Array,
    transition: Array,
    parameters: PyTree,
    observations: PyTree,
    missing: Array,
    length: Any | None,
) -> Array:
    length = _lengths(missing, length)
    ended = jnp.zeros(missing.shape, bool) if length is None else _ended(missing, length)
    absent = missing | ended
    # A log-density must not see what stands at absent steps: NaN there would reach the gradient through 0 * NaN.
    donor = jnp.argmin(absent.ravel())
    filled = jax.tree.map(lambda leaf: _fill(leaf, absent, donor), observations)
    steps = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (filled, absent, ended))
    return log_likelihood(DensityEmission(log_density), initial, transition, parameters, steps, length)


def _fill(leaf: Array, absent: Array, donor: Array) -> Array:
    present = leaf.reshape(-1, *leaf.shape[2:])[donor]
    present = jnp.where(absent.ravel()[donor], jnp.zeros_like(present), present)
    return jnp.where(absent.reshape(absent.shape + (1,) * (leaf.ndim - 2)), present, leaf)


def _log_normal(parameters: tuple[Array, Array], observed: Array) -> Array:
    loc, scale = (_spread(leaf, observed) for leaf in parameters)
    standardised = (observed - loc) / scale
    return -0.5 * standardised**2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi).astype(scale.dtype)


def _log_poisson(parameters: tuple[Array], observed: Array) -> Array:
    rate = _spread(parameters[0], observed)
    log_density: Array = xlogy(observed, rate) - rate - gammaln(observed + 1)
    return log_density


def _spread(parameter: Array, observed: Array) -> Array:
    """Repeat (K,) to (K, n) as a product, so that its derivative sums over rows as a product too."""
    ones = jnp.ones((1, observed.shape[0]), parameter.dtype)
    return lax.dot_general(parameter[:, None], ones, (((1,), (0,)), ((), ())))


def _as_type_of(initial: Array, leaf: Any) -> Array:
    """Return floats in the type of `initial`, other types as they are."""
    array: Array = jnp.asarray(leaf)
    return array.astype(initial.dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _any_nan(leaves: list[Array]) -> Array:
    missing = jnp.zeros(leaves[0].shape[:2], bool)
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            missing = missing | jnp.any(jnp.isnan(leaf), axis=tuple(range(2, leaf.ndim)))
    return missing


def _floats(*arrays: Any) -> tuple[Array, ...]:
    """Return arrays of one floating type."""
    converted = [jnp.asarray(array) for array in arrays]
    dtype = jnp.result_type(*converted)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    return tuple(array.astype(dtype) for array in converted)


def _check_shapes(initial: Array, transition: Array, emission: dict[str, Array], ndim: int) -> None:
    num_states = initial.shape[0] if initial.ndim == 1 else None
    shapes = {"initial": initial.shape, "transition": transition.shape, **{k: v.shape for k, v in emission.items()}}
    fits = num_states is not None and transition.shape == (num_states, num_states)
    if not fits or any(leaf.ndim != ndim or leaf.shape[0] != num_states for leaf in emission.values()):
        given = ", ".join(f"`{name}` {shape}" for name, shape in shapes.items())
        raise ModelError(
            f"Shapes {given} do not fit together; with K states a hidden Markov model needs `initial` (K,), "
            "`transition` (K, K), and emission parameters whose first axis is K. These functions see one chain: "
            "use `jax.vmap` over the parameters for many."
        )


def _lengths(steps: Array, length: Any | None) -> Array | None:
    if steps.ndim != 2:
        raise ModelError(f"`observations` have shape {steps.shape}; rows by steps, (n, T), are needed.")
    if length is None:
        return None
    length = jnp.asarray(length)
    if length.shape != steps.shape[:1]:
        raise ModelError(
            f"`length` has shape {length.shape}; one number of steps for each of the {steps.shape[0]} rows is needed."
        )
    return length.astype(jnp.int32)


def _ended(steps: Array, length: Array) -> Array:
    """Return (n, T): whether a row has ended before this step."""
    return jnp.arange(steps.shape[1]) >= length[:, None]
