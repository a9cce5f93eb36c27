"""Packing sequences of different lengths."""

import numpy as np
import pytest

from distmc.data.data import Data
from distmc.data.ragged import ragged
from distmc.errors import DataError


def test_sequences_are_padded_with_zero():
    rows = ragged([[1, 2, 3], [4], [5, 6]], name="word", length="n")
    assert rows["word"].tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert rows["n"].tolist() == [3, 1, 2]
    assert Data(rows=rows, length="n").ragged == ("word",)


def test_steps_may_have_axes_of_their_own():
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(n, 2)) for n in (4, 1, 3)]
    rows = ragged(sequences)
    assert rows["sequence"].shape == (3, 4, 2)
    for row, sequence in enumerate(sequences):
        assert np.array_equal(rows["sequence"][row, : len(sequence)], sequence)
        assert not rows["sequence"][row, len(sequence) :].any()


def test_integers_and_reals_become_reals():
    assert ragged([[1], [0.5, 2.0]])["sequence"].tolist() == [[1.0, 0.0], [0.5, 2.0]]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "`sequences` is empty"),
        ([[1], []], "Sequence 1 is empty"),
        ([[1], 2], "Sequence 1 is a single number"),
        ([[1], ["a"]], "Sequence 1 has type `<U1`"),
        ([[[1, 2]], [[1]]], r"Sequence 1 has steps of shape \(1,\), sequence 0 of shape \(2,\)"),
    ],
)
def test_bad_sequences_have_their_own_message(sequences, message):
    with pytest.raises(DataError, match=message):
        ragged(sequences)


def test_the_two_names_must_differ():
    with pytest.raises(DataError, match="different names"):
        ragged([[1]], name="n", length="n")
