import numpy as np
import pytest

from distmc.zoo.word_states import HiddenState, compare_with_phonetics, hidden_states
from distmc.zoo.words import PHONES, VOWELS

IS_VOWEL = np.array([phone in VOWELS for phone in PHONES])


def draws(emission: np.ndarray, num_draws: int = 3) -> dict[str, np.ndarray]:
    """Return equal draws of states that take strict turns, beginning with state 0."""
    repeat = {"begins_in_0": np.array(1.0), "transition": np.array([[0.0, 1.0], [1.0, 0.0]]), "emission": emission}
    return {name: np.repeat(value[None], num_draws, axis=0) for name, value in repeat.items()}


@pytest.mark.parametrize(("lengths", "share"), [([2, 4], 0.5), ([1, 1], 1.0), ([3, 1, 2], 4 / 6)])
def test_share_of_a_state_counts_the_places_of_all_words(lengths: list[int], share: float) -> None:
    uniform = np.full((2, len(PHONES)), 1.0 / len(PHONES))
    states = hidden_states(draws(uniform), np.array(lengths))
    assert states[0].share == pytest.approx(share)
    assert states[1].share == pytest.approx(1.0 - share)


def test_probability_of_a_state_given_a_phone_is_bayes_rule() -> None:
    emission = np.array([[0.6, 0.1, 0.3], [0.1, 0.8, 0.1]])
    # Words of three phones: state 0 speaks two of them.
    states = hidden_states(draws(emission), np.array([3]))
    assert [phone for phone, _ in states[0].phones] == [PHONES[0], PHONES[2]]
    expected = [0.6 * 2 / (0.6 * 2 + 0.1), 0.3 * 2 / (0.3 * 2 + 0.1)]
    np.testing.assert_allclose([probability for _, probability in states[0].phones], expected)
    assert states[1].phones == ((PHONES[1], pytest.approx(0.8 / (0.8 + 0.1 * 2))),)


def test_probability_is_averaged_over_draws_and_not_computed_from_average_draws() -> None:
    unequal = draws(np.array([[0.5, 0.5], [0.5, 0.5]]), num_draws=2)
    unequal["emission"][1] = [[0.9, 0.1], [0.01, 0.99]]
    states = hidden_states(unequal, np.array([2]))
    assert dict(states[0].phones)[PHONES[0]] == pytest.approx((0.5 + 0.9 / 0.91) / 2)


def test_comparison_finds_the_state_of_the_vowels_whichever_it_is() -> None:
    emission = np.stack([IS_VOWEL / IS_VOWEL.sum(), ~IS_VOWEL / (~IS_VOWEL).sum()])
    for order in ([0, 1], [1, 0]):
        said = compare_with_phonetics(hidden_states(draws(emission[order]), np.array([2])))
        vowels, consonants = np.argsort(order)
        assert f"state {vowels} holds 15 of 15 vowels and state {consonants} 24 of 24 consonants." in said
        assert "Elsewhere" not in said


def test_comparison_names_what_is_elsewhere() -> None:
    in_0 = tuple((phone, 0.9) for phone in PHONES if phone in VOWELS - {"ER"} or phone == "Y")
    in_1 = tuple((phone, 0.9) for phone in PHONES if phone not in dict(in_0))
    said = compare_with_phonetics(tuple(HiddenState(number=i, share=0.5, phones=p) for i, p in enumerate((in_0, in_1))))
    assert "state 0 holds 14 of 15 vowels and state 1 23 of 24 consonants. Elsewhere: ER, Y." in said
