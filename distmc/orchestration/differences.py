"""In what machines differ from each other, in words."""

from collections.abc import Mapping, Sequence

FEATURES = "processor features"
"""A fact that is a list of words; of all others the whole text counts."""

UNKNOWN = "unknown"
"""What stands for a fact that a machine does not tell."""

# What tells two kinds of processor from each other is seen from a few names.
_MOST_NAMES = 6


def differences(odd: Sequence[Mapping[str, str]], rest: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Say in which facts some machines differ from others, or among themselves.

    Parameters
    ----------
    odd : sequence of mapping of str to str
        Facts about each of these machines, by name.
    rest : sequence of mapping of str to str
        Facts about the others; the same machines where there are no others.

    Returns
    -------
    tuple of str
        One for each fact, by name; empty where nothing known differs.
    """
    found = []
    for name in sorted({name for facts in (*odd, *rest) for name in facts}):
        here, there = ({facts.get(name, UNKNOWN) for facts in group} for group in (odd, rest))
        if here != there or len(here) > 1:
            found.append(f"{name} {_features(here, there) if name == FEATURES else _values(here, there)}")
    return tuple(found)


def _values(here: set[str], there: set[str]) -> str:
    return f"{' and '.join(sorted(here))} against {' and '.join(sorted(there))}"


def _features(here: set[str], there: set[str]) -> str:
    """Name those that only one side has, else those that not all machines have."""
    if UNKNOWN in here | there:
        return "known of some machines only"
    every = [set(features.split()) for features in here | there]
    having, others = ({word for features in group for word in features.split()} for group in (here, there))
    if having == others:
        return f"some with {_names(having - every[0].intersection(*every))}"
    sides = [
        f"{how} {_names(words)}" for how, words in (("with", having - others), ("without", others - having)) if words
    ]
    return " and ".join(sides)


def _names(words: set[str]) -> str:
    shown = sorted(words)[:_MOST_NAMES]
    return ", ".join(shown) + (f" and {len(words) - len(shown)} more" if len(words) > len(shown) else "")
