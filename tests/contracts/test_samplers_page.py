"""The page that lists samplers says what the samplers say of themselves.

Run it as ``python tests/contracts/test_samplers_page.py`` to write the page anew.
"""

import dataclasses
import inspect
import math
import re
import textwrap
from pathlib import Path

from distmc.samplers import SAMPLERS, WITHOUT_GRADIENT, Sampler

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "samplers.md"
WIDTH = 120
HEAD = """# Samplers

`distmc.sample(..., sampler=distmc.NUTS(max_tree_depth=8))` takes a sampler with its settings, and
`sampler="nuts"` one with its defaults; on the command line that is `--sampler NUTS --setting max_tree_depth=8`.
[Which one to take, and when](../how-to/choose-a-sampler.md) has a page of its own.

Lengths and times are in whitened coordinates, in which the posterior's standard deviations are near 1. Acceptance rates
are probabilities. Steps are counted per chain.
"""


def page() -> str:
    """Return the text of the page."""
    return "\n".join([HEAD, *(section(sampler) for sampler in SAMPLERS.values())])


def section(sampler: type[Sampler]) -> str:
    """Return what the page says of one sampler."""
    text, _, attributes = inspect.cleandoc(sampler.__doc__ or "").partition("Attributes\n----------\n")
    meanings = dict(re.findall(r"^(\w+) : [^\n]*\n((?:    [^\n]*\n?)+)", attributes, flags=re.MULTILINE))
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]
    if sampler in WITHOUT_GRADIENT:
        paragraphs.append("Takes models with `is_differentiable=False`.")
    rows = [
        f"| `{field.name}` | {_shown(field.default)} | {_plain(' '.join(meanings[field.name].split()))} |"
        for field in dataclasses.fields(sampler)
    ]
    wrapped = [
        textwrap.fill(_plain(paragraph), WIDTH, break_on_hyphens=False, break_long_words=False)
        for paragraph in paragraphs
    ]
    table = "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows])
    return "\n\n".join([f"## {sampler.__name__}", *wrapped, table]) + "\n"


def _shown(default: object) -> str:
    if isinstance(default, float) and math.isclose(default, math.pi / 2.0):
        return "pi / 2"
    return f'"{default}"' if isinstance(default, str) else str(default)


def _plain(text: str) -> str:
    return text.replace("``", "`")


def test_page_of_samplers_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "Run `python tests/contracts/test_samplers_page.py`."


if __name__ == "__main__":
    PAGE.write_text(page())
