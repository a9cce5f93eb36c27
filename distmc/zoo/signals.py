"""Noisy signals that switch between levels: a hidden Markov model with normal emissions and known parameters.

Levels are in ascending order, which tells the states apart. There is no closed form; the parameters that the data
came from are known instead.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from distmc.data.data import Data
from distmc.likelihoods import hmm
from distmc.model.model import Model, Parameter
from distmc.types import Array, ConstrainedParameters, NumpyArray
from distmc.zoo.sequences import simulate_states

INITIAL = (0.5, 0.25, 0.25)
TRUTH: Mapping[str, NumpyArray] = {
    "transition": np.array([[0.8, 0.15, 0.05], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]]),
    "level": np.array([-2.0, 0.5, 3.0]),
    "noise": np.array([0.7, 1.0, 0.5]),
}
"""The parameters that `simulate` uses."""


def build_model() -> Model:
    """Return the model with three states; its data has the row variable `signal`, (rows, steps), and `length`."""
    num_states = len(INITIAL)
    return Model(
        parameters={
            "transition": dist.Dirichlet(np.ones((num_states, num_states))).to_event(1),
            "level": Parameter(shape=(num_states,), support=dist.constraints.ordered_vector),
            "noise": dist.LogNormal(np.zeros(num_states), 1.0).to_event(1),
        },
        log_likelihood=log_likelihood,
        log_prior=log_prior,
    )


def log_likelihood(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-density of each signal, (rows,)."""
    transition = params["transition"]
    initial = jnp.asarray(INITIAL, transition.dtype)
    return hmm.gaussian(initial, transition, params["level"], params["noise"], data["signal"], data["length"])


def log_prior(params: ConstrainedParameters) -> Array:
    """Return the log-density of the levels: normal, in ascending order."""
    return jnp.sum(dist.Normal(0.0, 5.0).log_prob(params["level"]))


def simulate(num_rows: int, longest: int = 12, seed: int = 0) -> Data:
    """Return signals of 3 to `longest` steps from the parameters in `TRUTH`."""
    rng = np.random.default_rng(seed)
    states = simulate_states(INITIAL, TRUTH["transition"], num_rows, longest, rng)
    signal = rng.normal(TRUTH["level"][states], TRUTH["noise"][states])
    length = rng.integers(3, longest, num_rows, endpoint=True)
    signal[np.arange(longest) >= length[:, None]] = 0.0
    return Data(rows={"signal": signal, "length": length}, length="length")
