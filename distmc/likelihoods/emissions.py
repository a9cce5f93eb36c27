"""What a state emits: the part of a hidden Markov likelihood that differs between kinds of observations.

An emission turns the observations of one step into a weight for every state and row, and turns the posterior
probabilities of the states, the expected counts, back into the gradient with respect to its parameters. Weights are
probabilities up to a factor per row, whose logarithm is the offset. Three cases are common to all kinds: a missing
observation has weight one in every state; a step beyond a row's end has weight zero; both add nothing to a gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

from distmc.likelihoods.symbols import count, look_up
from distmc.types import Array, PyTree

LogDensity = Callable[[PyTree, PyTree], Array]
"""Parameters and the observations of one step, leaves (n, ...), to log-densities (K, n)."""

_MOST_STATES_FOR_CHAINS_LAST = 6


class Emission(Protocol):
    """One kind of emission; hashable, since the likelihood is compiled for it."""

    def suits_chains_last(self, num_states: int) -> bool:
        """Return whether parameters, weights and counts may have chains as one more, last, axis, and should."""

    def prepare(self, parameters: PyTree) -> PyTree:
        """Return `parameters` in the form that `weights` wants; done once, not at every step."""

    def weights(self, prepared: PyTree, step: PyTree) -> tuple[Array, Array | None]:
        """Return weights (K, n) and their log-offsets (n,), or None where there are none."""

    def start_counts(self, prepared: PyTree) -> PyTree:
        """Return counts of zero."""

    def add_counts(self, counts: PyTree, prepared: PyTree, step: PyTree, posterior: Array) -> PyTree:
        """Add one step's state probabilities (K, n), times the rows' cotangents, to `counts`."""

    def gradient(self, parameters: PyTree, counts: PyTree) -> PyTree:
        """Return the cotangent of `parameters`."""


@dataclass(frozen=True)
class SymbolEmission:
    """Symbols 0 to M-1 from an emission table (K, M); a step is (n,) integers from 0 to M+1.

    Symbol M is a missing observation, with a column of ones; symbol M+1 is no step or an impossible one, with a
    column of zeros.
    """

    def suits_chains_last(self, num_states: int) -> bool:
        """Yes, for few states: what takes the time is looking symbols up and counting them."""
        return num_states <= _MOST_STATES_FOR_CHAINS_LAST

    def prepare(self, parameters: Array) -> Array:
        """Return the table with the columns of the missing and the impossible symbol."""
        ones = jnp.ones_like(parameters[:, :1])
        return jnp.concatenate([parameters, ones, jnp.zeros_like(ones)], axis=1)

    def weights(self, prepared: Array, step: Array) -> tuple[Array, None]:
        """Look the symbols up."""
        return look_up(prepared, step), None

    def start_counts(self, prepared: Array) -> Array:
        """Return counts of zero."""
        return jnp.zeros_like(prepared)

    def add_counts(self, counts: Array, prepared: Array, step: Array, posterior: Array) -> Array:
        """Count the symbols."""
        return counts + count(posterior, step, prepared.shape[1])

    def gradient(self, parameters: Array, counts: Array) -> Array:
        """Divide expected counts by probabilities; an entry that is exactly zero gets the gradient zero."""
        counts = counts[:, : parameters.shape[1]]
        return jnp.where(parameters == 0, 0, counts / jnp.where(parameters == 0, 1, parameters))


@dataclass(frozen=True)
class DensityEmission:
    """Any log-density per state; a step is (observations, missing (n,), ended (n,))."""

    log_density: LogDensity

    def suits_chains_last(self, num_states: int) -> bool:
        """No: the caller's log-density is one chain's."""
        return False

    def prepare(self, parameters: PyTree) -> PyTree:
        """Return `parameters` as they are."""
        return parameters

    def weights(self, prepared: PyTree, step: PyTree) -> tuple[Array, Array]:
        """Return densities divided by the largest of each row."""
        observations, missing, ended = step
        log_weights = self.log_density(prepared, observations)
        log_weights = jnp.where(missing, 0, log_weights)
        top = jnp.max(log_weights, axis=0)
        top = jnp.where(ended | jnp.isneginf(top), 0, top)
        return jnp.where(ended, 0, jnp.exp(log_weights - top)), top

    def start_counts(self, prepared: PyTree) -> PyTree:
        """Return cotangents of zero."""
        return jax.tree.map(jnp.zeros_like, prepared)

    def add_counts(self, counts: PyTree, prepared: PyTree, step: PyTree, posterior: Array) -> PyTree:
        """Pull the state probabilities back through the log-density."""
        observations, missing, _ = step
        log_weights, pull = jax.vjp(lambda parameters: self.log_density(parameters, observations), prepared)
        (cotangent,) = pull(jnp.where(missing, 0, posterior).astype(log_weights.dtype))
        return jax.tree.map(jnp.add, counts, cotangent)

    def gradient(self, parameters: PyTree, counts: PyTree) -> PyTree:
        """Return the cotangents as they are."""
        return counts
