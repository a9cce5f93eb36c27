"""What tells one machine from another, in words that fit into a line."""

import pytest

from distmc.orchestration.differences import FEATURES, differences

PLAIN = {"processor": "kind 0", FEATURES: "avx fma", "jax": "1.0"}


def other(**facts: str) -> dict[str, str]:
    return {**PLAIN, **facts}


def test_machines_alike_differ_in_nothing() -> None:
    assert differences([PLAIN], [PLAIN, PLAIN]) == ()
    assert differences([{}], [{}]) == ()


def test_facts_that_differ_are_named_with_both_sides() -> None:
    odd = other(processor="kind 1", jax="1.1")
    assert differences([odd], [PLAIN, PLAIN]) == ("jax 1.1 against 1.0", "processor kind 1 against kind 0")


def test_what_is_not_known_of_a_machine_is_a_difference() -> None:
    assert differences([{}], [{"jax": "1.0"}]) == ("jax unknown against 1.0",)


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        (["avx fma"], ["avx", "avx"], "with fma"),
        (["avx"], ["avx fma sse"], "without fma, sse"),
        (["avx amx"], ["avx sse"], "with amx and without sse"),
        # Only one of the odd ones lacks it, and so does one of the others.
        (["avx fma", "avx"], ["avx fma"], "some with fma"),
        ([" ".join("abcdefgh")], ["a"], "with b, c, d, e, f, g and 1 more"),
    ],
)
def test_features_are_named_that_one_side_alone_has(here: list[str], there: list[str], words: str) -> None:
    machines = [[{FEATURES: features} for features in side] for side in (here, there)]
    assert differences(*machines) == (f"processor features {words}",)


@pytest.mark.parametrize("odd", [{}, {FEATURES: "unknown"}])
def test_unknown_is_no_feature(odd: dict[str, str]) -> None:
    for machines in (([odd], [PLAIN]), ([PLAIN], [odd, PLAIN])):
        assert "processor features known of some machines only" in differences(*machines)


def test_without_a_majority_all_are_compared_with_each_other() -> None:
    both = [PLAIN, other(**{"processor": "kind 1", FEATURES: "avx"})]
    assert differences(both, both) == (
        "processor kind 0 and kind 1 against kind 0 and kind 1",
        "processor features some with fma",
    )
