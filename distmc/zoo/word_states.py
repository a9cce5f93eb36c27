"""What the hidden states of the words turned out to be, and what a phonetician would say to that."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from distmc.types import NumpyArray
from distmc.zoo.words import PHONES, VOWELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenState:
    """One hidden state, as the posterior describes it.

    Attributes
    ----------
    number : int
        Its number in the model.
    share : float
        Share of all phones of the words that it speaks.
    phones : tuple of (str, float)
        The phones that it speaks more often than any other state does, each with the probability that it was this
        state when the phone is heard; the surest ones first.
    """

    number: int
    share: float
    phones: tuple[tuple[str, float], ...]


def hidden_states(draws: Mapping[str, NumpyArray], lengths: NumpyArray) -> tuple[HiddenState, ...]:
    """Describe each hidden state by the phones that are most probably its own.

    The probability of a state, given a phone at an unknown place in the words, is its emission probability times
    how often the chain is in that state over all places of all words, normalised over states; here averaged over
    draws.

    Parameters
    ----------
    draws : mapping of array
        `begins_in_0` (num_draws,), `transition` (num_draws, K, K) and `emission` (num_draws, K, M).
    lengths : int array (num_words,)
        Number of phones of each word.

    Returns
    -------
    states : tuple of HiddenState
        By number.
    """
    occupancy = _occupancy(draws["begins_in_0"], draws["transition"], lengths)
    joint = occupancy[:, :, None] * draws["emission"]
    probability = (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
    owner = probability.argmax(axis=0)
    return tuple(
        HiddenState(
            number=state,
            share=float(occupancy[:, state].mean()),
            phones=tuple(
                (PHONES[phone], float(probability[state, phone]))
                for phone in np.argsort(-probability[state], kind="stable")
                if owner[phone] == state
            ),
        )
        for state in range(len(probability))
    )


def _occupancy(begins_in_0: NumpyArray, transition: NumpyArray, lengths: NumpyArray) -> NumpyArray:
    """Return the share of phones that each state speaks by the draws' own account, (num_draws, K)."""
    now = np.stack([begins_in_0, 1.0 - begins_in_0], axis=-1)
    total = np.zeros_like(now)
    for step in range(int(lengths.max())):
        total += np.mean(lengths > step) * now
        now = np.einsum("dk,dkl->dl", now, transition)
    return np.asarray(total / total.sum(axis=-1, keepdims=True))


def compare_with_phonetics(states: tuple[HiddenState, ...]) -> str:
    """Say in a sentence how the states compare with vowels and consonants; the model knew of neither."""
    found = {state.number: frozenset(phone for phone, _ in state.phones) for state in states}
    vowel_state = max(found, key=lambda number: len(found[number] & VOWELS))
    consonants = frozenset(PHONES) - VOWELS
    consonant_state = max(
        (number for number in found if number != vowel_state), key=lambda number: len(found[number] & consonants)
    )
    num_vowels = len(found[vowel_state] & VOWELS)
    num_consonants = len(found[consonant_state] & consonants)
    misplaced = sorted((VOWELS - found[vowel_state]) | (consonants - found[consonant_state]))
    exceptions = f" Elsewhere: {', '.join(misplaced)}." if misplaced else ""
    return (
        f"By a phonetician's account, state {vowel_state} holds {num_vowels} of {len(VOWELS)} vowels and state "
        f"{consonant_state} {num_consonants} of {len(consonants)} consonants.{exceptions}"
    )
