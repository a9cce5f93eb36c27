"""Scaled forward-backward recursion with its gradient, for one chain and a block of rows.

The forward recursion (Rabiner 1989, equations 19 to 21, scaled as in section V.A) gives the log-likelihood of each row.
The gradient is written out rather than left to automatic differentiation: by Fisher's identity it is the expected
complete-data score, that is the expected counts of the Baum-Welch algorithm divided by the parameters. One forward and
one backward pass give value and gradient; the rows' cotangents enter with the last step's backward variable and so
weight every count. Arguments are free numbers here: nothing is normalised, and gradients are those of free numbers.

Arrays are (state, row) for one chain. Under `jax.vmap` over chains they are (chain, state, row), or (state, row, chain)
where the chains are many; see `distmc.likelihoods.chains_last`. What is written here holds for both, a trailing axis of
chains being optional.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from distmc.likelihoods.chains_last import chains_last
from distmc.likelihoods.emissions import Emission
from distmc.likelihoods.scaling import log_of_scaled, power_of_two, widest_float
from distmc.types import Array, PyTree

_OfChains = Callable[[PyTree, PyTree], PyTree]

_MOST_STATES_WRITTEN_OUT, _MOST_STATES_BY_ROW = 8, 3


def log_likelihood(
    emission: Emission, initial: Array, transition: Array, parameters: PyTree, steps: PyTree, length: Array | None
) -> Array:
    """Return the log-likelihood of each row.

    Parameters
    ----------
    emission : Emission
        Kind of emission.
    initial : Array, (K,)
        Weights of the first state.
    transition : Array, (K, K)
        Weights from the row's to the column's state.
    parameters : PyTree
        Parameters of the emission.
    steps : PyTree
        Observations as `emission` wants them; leaves (T, n, ...), time first.
    length : Array or None, (n,)
        Number of steps of each row; None means T for all.

    Returns
    -------
    Array, (n,)
        Log-likelihoods, float64 where JAX has it enabled.
    """
    value: Array = _compiled(emission, initial, transition, parameters, steps, length)
    return value


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_likelihood(
    emission: Emission, initial: Array, transition: Array, parameters: PyTree, steps: PyTree, length: Array | None
) -> Array:
    forward = _over_chains(_forward, emission, transition, keep=False)
    value: Array = forward((initial, transition, parameters), (steps, length))[0]
    return value


# Compiled also for a caller who is not: one operation at a time is slow.
_compiled = jax.jit(_log_likelihood, static_argnums=0)


def _forward_rule(
    emission: Emission, initial: Array, transition: Array, parameters: PyTree, steps: PyTree, length: Array | None
) -> tuple[Array, PyTree]:
    forward = _over_chains(_forward, emission, transition, keep=True)
    value, kept = forward((initial, transition, parameters), (steps, length))
    return value, (transition, parameters, kept, steps, length)


def _backward_rule(emission: Emission, residuals: PyTree, cotangent: Array) -> tuple[Array, Array, PyTree, None, None]:
    transition, parameters, kept, steps, length = residuals
    backward = _over_chains(_backward, emission, transition)
    grads = backward((transition, parameters, kept, cotangent), (steps, length))
    return *grads, None, None


_log_likelihood.defvjp(_forward_rule, _backward_rule)


def _over_chains(function: Callable[..., PyTree], emission: Emission, transition: Array, **options: bool) -> _OfChains:
    """Return `function` with the order of axes that suits the emission and the number of states."""
    function = partial(function, emission, **options)
    return chains_last(function) if emission.suits_chains_last(transition.shape[0]) else function


def _forward(
    emission: Emission,
    of_chain: tuple[Array, Array, PyTree],
    shared: tuple[PyTree, Array | None],
    *,
    keep: bool,
) -> tuple[Array, tuple[Array, Array, PyTree]]:
    """Return log-likelihoods, and the last forward variable, its sum, and those of all earlier steps if kept."""
    (initial, transition, parameters), (steps, length) = of_chain, shared
    prepared = emission.prepare(parameters)
    first, offset = emission.weights(prepared, _at(steps, 0))
    alpha = initial[:, None] * first
    total = _while_active(length, 0, _sum_over_states(alpha), jnp.ones((), alpha.dtype))
    exponent = jnp.zeros(total.shape, jnp.int32)
    offsets = None if offset is None else offset.astype(widest_float())

    def step(carry: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        alpha, total, exponent, offsets = carry
        time, observed = inputs
        factor, taken = power_of_two(total)
        kept = (alpha, factor) if keep else None
        weights, offset = emission.weights(prepared, observed)
        alpha = _advance(transition, alpha) * factor * weights
        total = _while_active(length, time, _sum_over_states(alpha), total)
        exponent = _while_active(length, time, exponent + taken, exponent)
        if offset is not None:
            offsets = offsets + offset.astype(offsets.dtype)
        return (alpha, total, exponent, offsets), kept

    num_steps = jax.tree.leaves(steps)[0].shape[0]
    later = jnp.arange(1, num_steps), jax.tree.map(lambda leaf: leaf[1:], steps)
    carry, kept = lax.scan(step, (alpha, total, exponent, offsets), later)
    alpha, total, exponent, offsets = carry
    value = log_of_scaled(total, exponent)
    return value if offsets is None else value + offsets, (alpha, total, kept)


def _backward(
    emission: Emission, of_chain: tuple[Array, PyTree, PyTree, Array], shared: tuple[PyTree, Array | None]
) -> tuple[Array, Array, PyTree]:
    """Return expected counts, weighted by the rows' cotangents and divided by the parameters."""
    (transition, parameters, (alpha, total, kept), cotangent), (steps, length) = of_chain, shared
    prepared = emission.prepare(parameters)
    last = jax.tree.leaves(steps)[0].shape[0] - 1
    # An impossible row has no posterior to count: its gradient is zero.
    last_beta = jnp.where(total == 0, 0, cotangent.astype(total.dtype) / jnp.where(total == 0, 1, total))

    def emit(beta: Array, alpha: Array, counts: PyTree, observed: PyTree) -> tuple[Array, PyTree]:
        weights, _ = emission.weights(prepared, observed)
        return weights * beta, emission.add_counts(counts, prepared, observed, alpha * beta)

    def step(carry: PyTree, inputs: PyTree) -> tuple[PyTree, None]:
        emitted, transitions, counts = carry
        time, observed, (alpha, factor) = inputs
        transitions = _add_transitions(transitions, alpha, _bounded(emitted * factor))
        beta = _go_back(transition, emitted, factor)
        if length is not None:
            beta = beta + jnp.where(_rows(time == length - 1, last_beta), last_beta, 0)
        emitted, counts = emit(beta, alpha, counts, observed)
        return (emitted, transitions, counts), None

    beta = jnp.broadcast_to(_while_active(length, last, last_beta, jnp.zeros_like(last_beta)), alpha.shape)
    emitted, counts = emit(beta, alpha, emission.start_counts(prepared), _at(steps, last))
    earlier = jnp.arange(last), jax.tree.map(lambda leaf: leaf[:-1], steps), kept
    carry = (emitted, _start_transitions(transition, alpha), counts)
    carry, _ = lax.scan(step, carry, earlier, reverse=True)
    emitted, transitions, counts = carry
    return _sum_over_rows(emitted, 1), _total_transitions(transitions), emission.gradient(parameters, counts)


def _at(steps: PyTree, time: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[time], steps)


def _while_active(length: Array | None, time: Array | int, now: Array, before: Array) -> Array:
    """Return `now` (n, ...) in rows that still run at `time`, `before` in rows that have ended."""
    return now if length is None else jnp.where(_rows(time < length, now), now, before)


def _rows(flags: Array, like: Array) -> Array:
    """Return `flags` (n,) such that they go with `like`, (n,) or (n, C)."""
    return flags.reshape(flags.shape + (1,) * (like.ndim - 1))


def _advance(transition: Array, alpha: Array) -> Array:
    """Return ``transition.T @ alpha``; for few states written out, which XLA fuses with what follows."""
    num_states = transition.shape[0]
    if num_states > _MOST_STATES_WRITTEN_OUT:
        return lax.dot_general(transition, alpha, (((0,), (0,)), ((), ())))
    terms = [transition[i, :, None] * alpha[i] for i in range(num_states)]
    return sum(terms[1:], start=terms[0])


def _go_back(transition: Array, emitted: Array, factor: Array) -> Array:
    """Return ``transition @ emitted``, of `emitted` times `factor`; for chains last written out."""
    if transition.ndim == 2:
        return transition @ _bounded(emitted * factor)
    # State by state from the start: XLA computes all states again in each term that takes one of them later.
    terms = [transition[:, j, None] * _bounded(emitted[j] * factor) for j in range(transition.shape[0])]
    return sum(terms[1:], start=terms[0])


def _sum_over_states(alpha: Array) -> Array:
    """Return each row's sum over states; for few states written out, which XLA fuses with what comes before."""
    return jnp.sum(alpha, axis=0) if alpha.shape[0] > _MOST_STATES_WRITTEN_OUT else sum(alpha[1:], start=alpha[0])


def _sum_over_rows(values: Array, axis: int) -> Array:
    """Return sums along `axis`; as a product where it is the last, along which XLA on CPUs adds one at a time."""
    is_last = axis == values.ndim - 1
    return values @ jnp.ones(values.shape[-1], values.dtype) if is_last else jnp.sum(values, axis=axis)


def _start_transitions(transition: Array, alpha: Array) -> Array:
    """Return zeros to add expected transitions to: (K, K, n, ...), kept by row, for few states, else (K, K).

    With few states a matrix product takes longer than adding in place.
    """
    num_states = transition.shape[0]
    is_by_row = num_states <= _MOST_STATES_BY_ROW or transition.ndim == 3
    return jnp.zeros((num_states, *alpha.shape) if is_by_row else transition.shape, transition.dtype)


def _add_transitions(transitions: Array, alpha: Array, emitted: Array) -> Array:
    """Add what one step expects of them, short of the transition's own weight."""
    if transitions.ndim > 2:
        return transitions + alpha[:, None] * emitted
    return transitions + lax.dot_general(alpha, emitted, (((1,), (1,)), ((), ())))


def _total_transitions(transitions: Array) -> Array:
    """Return the sum over rows, (K, K, ...)."""
    return transitions if transitions.ndim == 2 else _sum_over_rows(transitions, 2)


def _bounded(emitted: Array) -> Array:
    """Keep the backward recursion finite for states whose forward variable has underflowed to zero."""
    bound = float(np.finfo(emitted.dtype).max) ** 0.75
    return jnp.clip(emitted, -bound, bound)
