import dataclasses
import io
import math

import pytest
from rich.console import Console

from distmc import render
from distmc.diagnostics import ParameterSummary, Summary, verdict


def value(name: str, rhat: float, *, is_constant: bool = False) -> ParameterSummary:
    return ParameterSummary(
        name=name, mean=1.5, sd=0.5, mcse_mean=0.01, rhat=rhat, ess_bulk=900.0, ess_tail=800.0, is_constant=is_constant
    )


@pytest.fixture
def summary() -> Summary:
    many = tuple(value(f"rate[{i}]", 1.0 + i / 10_000) for i in range(30))
    return Summary(
        num_chains=4,
        num_draws=500,
        parameters=(value("fixed", math.nan, is_constant=True), value("lost", math.nan), *many),
        num_divergent=0,
        acceptance_rates=(),
        suspicious_chains=(),
        sampling_seconds=75.0,
    )


def text(*things: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_long_table_shows_the_worst_values_first(summary: Summary) -> None:
    title, _, *rows = text(render.parameter_table(summary)).splitlines()
    assert "The 20 of 32 values with the worst R-hat" in title
    assert [row.split()[0] for row in rows] == ["lost", *(f"rate[{i}]" for i in range(29, 10, -1))]


def test_whole_table_keeps_the_order_and_marks_constants(summary: Summary) -> None:
    _, *rows = text(render.parameter_table(summary, every=True)).splitlines()
    assert [row.split()[0] for row in rows] == [parameter.name for parameter in summary.parameters]
    assert rows[0].split() == ["fixed", "1.5", "0.5", "0.01", "constant"]


def test_facts_tell_what_is_known_and_leave_out_what_is_not(summary: Summary) -> None:
    good = dataclasses.replace(summary, parameters=(value("rate", 1.001),))
    told = text(render.facts(good, seconds=90.0))
    for words in ("1.001", "900", "800", "27 ", "0:01:15", "0:01:30"):
        assert words in told
    told = text(render.facts(dataclasses.replace(good, sampling_seconds=None)))
    assert "second" not in told
    assert "not finite" not in told
    assert "not finite" in text(render.facts(dataclasses.replace(good, num_nonfinite=3)))


def test_names_in_brackets_are_not_taken_for_markup(summary: Summary) -> None:
    odd = dataclasses.replace(summary, parameters=(value("rate[red]", 1.3),))
    console = Console(file=io.StringIO(), width=200)
    render.show_verdict(verdict(odd), console)
    console.print(render.facts(odd))
    console.print(render.parameter_table(odd))
    assert console.file.getvalue().count("rate[red]") >= 4  # type: ignore[attr-defined]
