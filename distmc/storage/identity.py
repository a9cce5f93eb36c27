"""Whether model, data and libraries are those that a run began with, and what differs."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from distmc.data.facts import differences
from distmc.errors import RunDirectoryError
from distmc.storage.advice import how_to_go_on
from distmc.storage.record import RunRecord
from distmc.versions import library_versions

_MOST_NAMED = 4
# Those whose code draws pass through; another version may round differently or trace another program.
_DECISIVE = ("distmc", "jax", "jaxlib", "numpyro", "numpy")


def other_versions(record: RunRecord) -> list[str]:
    """Name the libraries that decide draws and have another version now than when the run began."""
    now = library_versions()
    return [
        f"{name} {record.versions[name]} in the run, {now[name]} now"
        for name in _DECISIVE
        if name in record.versions and record.versions[name] != now[name]
    ]


def require_same(path: Path, old: RunRecord, new: RunRecord) -> None:
    """Refuse to go on with another model or other data; warn of other versions of libraries.

    Parameters
    ----------
    path : Path
        Of the run.
    old, new : RunRecord
        What the run says, and the same with the fingerprints and facts of model and data given now.

    Raises
    ------
    RunDirectoryError
        Names what differs.
    """
    differing = _differing(old, new)
    versions = other_versions(old)
    if versions:
        doubt = ""
        if "model" in differing and not differences(old.model_facts, new.model_facts)[0]:
            # The hashes of the programs follow from the libraries too.
            del differing["model"]
            doubt = " Whether the functions of the model are the same cannot be told either."
        warnings.warn(
            f"`{path}` was begun with other versions of libraries ({'; '.join(versions)}): what is computed now is "
            f"exact, but may not be the same to the last bit as an uninterrupted run.{doubt}",
            stacklevel=2,
        )
    if differing:
        raise RunDirectoryError(
            f"{_of_another(path, differing)} A run goes on with the model and data that it began with; give those, or "
            "sample into another directory."
        )


def taken(path: Path, old: RunRecord, new: RunRecord) -> str:
    """Return why a new run cannot have the directory of another, and what to do."""
    differing = _differing(old, new)
    if differing:
        return f"{_of_another(path, differing)} Draws of different posteriors must not be mixed; give another path."
    return (
        f"`{path}` already holds a run of this model and data, begun {old.created_at}, status {old.status!r}. "
        f"Nothing was changed. To go on with it: `{how_to_go_on(path, old)}`. Otherwise give another path, or delete "
        "that directory first."
    )


def _differing(old: RunRecord, new: RunRecord) -> dict[str, str]:
    """Return what differs, in words, by ``model`` and ``data``."""
    found = {}
    if old.model_fingerprint != new.model_fingerprint:
        found["model"] = _in_words("model", old.model_facts, new.model_facts)
    if old.data_fingerprint != new.data_fingerprint:
        found["data"] = _in_words("data", old.data_facts, new.data_facts)
    return found


def _in_words(kind: str, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    stated, hashed = differences(old, new)
    words = stated or hashed
    if not words:
        return f"its {kind} fingerprint differs from the one given now"
    more = f"; and {len(words) - _MOST_NAMED} more" if len(words) > _MOST_NAMED else ""
    return "; ".join(words[:_MOST_NAMED]) + more


def _of_another(path: Path, differing: Mapping[str, str]) -> str:
    kinds = " and ".join("other data" if kind == "data" else f"another {kind}" for kind in differing)
    return f"`{path}` holds a run of {kinds}: {'; '.join(differing.values())}."
