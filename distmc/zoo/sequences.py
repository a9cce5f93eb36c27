"""Sequences of symbols from a hidden Markov model, simulated from known parameters.

Where a sequence begins is known and differs between the states (`INITIAL`), which tells their numbers apart: a
relabelling of the states that changes which of them is the usual beginning has a lower likelihood by many nats.
There is no closed form; the parameters that the data came from are known instead.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from distmc.data.data import Data
from distmc.likelihoods import hmm
from distmc.model.model import Model
from distmc.types import Array, ConstrainedParameters, NumpyArray

INITIAL = (0.7, 0.3)


def build_model(num_symbols: int) -> Model:
    """Return the model with two states; its data has the integer row variable `symbols`, (rows, steps)."""
    num_states = len(INITIAL)
    return Model(
        parameters={
            "transition": dist.Dirichlet(np.ones((num_states, num_states))).to_event(1),
            "emission": dist.Dirichlet(np.ones((num_states, num_symbols))).to_event(1),
        },
        log_likelihood=log_likelihood,
    )


def log_likelihood(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-probability of each sequence, (rows,)."""
    transition = params["transition"]
    initial = jnp.asarray(INITIAL, transition.dtype)
    return hmm.categorical(initial, transition, params["emission"], data["symbols"], data.get("length"))


def draw_parameters(num_symbols: int, seed: int = 0) -> dict[str, NumpyArray]:
    """Return parameters in which the states last for a while and differ in what they emit."""
    rng = np.random.default_rng(seed)
    num_states = len(INITIAL)
    return {
        "transition": rng.dirichlet(np.ones(num_states), num_states) / 2.0 + np.eye(num_states) / 2.0,
        "emission": rng.dirichlet(np.ones(num_symbols), num_states),
    }


def simulate(parameters: Mapping[str, NumpyArray], num_rows: int, num_steps: int, seed: int = 0) -> Data:
    """Return sequences of `num_steps` symbols each, int8, from the given parameters."""
    rng = np.random.default_rng(seed)
    states = simulate_states(INITIAL, parameters["transition"], num_rows, num_steps, rng)
    emission = np.asarray(parameters["emission"])
    symbols = np.empty(states.shape, np.int8)
    for state in range(len(INITIAL)):
        shows = states == state
        symbols[shows] = rng.choice(emission.shape[1], np.count_nonzero(shows), p=emission[state])
    return Data(rows={"symbols": symbols})


def simulate_states(
    initial: Any, transition: Any, num_rows: int, num_steps: int, rng: np.random.Generator
) -> NumpyArray:
    """Return the hidden states, int8 (num_rows, num_steps), of a Markov chain for each row."""
    bounds = np.cumsum(transition, axis=1)[:, :-1]
    states = np.empty((num_rows, num_steps), np.int8)
    states[:, 0] = np.searchsorted(np.cumsum(initial)[:-1], rng.random(num_rows), side="right")
    for step in range(1, num_steps):
        passed = rng.random((num_rows, 1)) >= bounds[states[:, step - 1]]
        states[:, step] = np.count_nonzero(passed, axis=1)
    return states
