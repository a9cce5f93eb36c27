"""What makes up a fingerprint, part by part, and where two of them differ, in words."""

import hashlib
import json
from collections.abc import Mapping

HASH = "sha256:"
"""Begins a fact that only a hash can state."""


def combine(facts: Mapping[str, str]) -> str:
    """Return one SHA-256 of all facts as hexadecimal text; their order does not matter."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Say where facts differ.

    Parameters
    ----------
    old, new : mapping of str to str
        Facts of a run, and those given now.

    Returns
    -------
    stated : list of str
        Differences between facts in words.
    hashed : list of str
        Parts that only a hash can tell apart. Where something is stated, these may just follow from it.
    """
    stated, hashed = [], []
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if (before or after or "").startswith(HASH):
            hashed.append(f"{name} differs")
        elif after is None:
            stated.append(f"{name} ({before}) is missing")
        elif before is None:
            stated.append(f"{name} ({after}) is new")
        else:
            stated.append(f"{name}: {before} in the run, {after} now")
    return stated, hashed
