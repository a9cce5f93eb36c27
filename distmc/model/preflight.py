"""Checks of a model with its data before anything is started, each with a message of its own.

`check` runs all of them and reports; `cheap_checks` runs those that take a moment and raises the first failure.
Everything is evaluated serially in this process: a bounded number of rows, and once every row for one chain.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from distmc.data.data import Data
from distmc.errors import InputError
from distmc.model.double import double_precision
from distmc.model.gradients import check_gradient
from distmc.model.model import Model
from distmc.model.precision import check_precision
from distmc.model.probes import (
    check_data,
    check_every_row,
    check_finite,
    check_likelihood,
    check_parameters,
    check_rows_add_up,
    check_starts,
    screen_rows,
)
from distmc.model.sampler_fit import check_sampler, default_sampler
from distmc.model.subject import Note, Subject
from distmc.spec import RunSpec
from distmc.types import NumpyArray

Outcome: TypeAlias = Literal["ok", "note", "warning", "failed", "skipped"]

# In this order, because a later check is of use only where the earlier essential ones have passed.
_ESSENTIAL = (
    ("sampler", check_sampler),
    ("parameters", check_parameters),
    ("data", check_data),
    ("likelihood", check_likelihood),
    ("finite", check_finite),
)
_STARTS = (
    ("starts", check_starts),
    ("every row", check_every_row),
)
_CHEAP = (*_ESSENTIAL, *_STARTS, ("rows add up", screen_rows))
_THOROUGH = (
    *_STARTS,
    ("gradient", check_gradient),
    ("rows add up", check_rows_add_up),
    ("precision", check_precision),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    name : str
        Name of the check.
    outcome : {"ok", "note", "warning", "failed", "skipped"}
        `warning`: the run will work, but not as well as it could. `failed`: it would not work or be wrong.
    message : str
        What was found, in words.
    """

    name: str
    outcome: Outcome
    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What all checks found; ``print`` it.

    Attributes
    ----------
    findings : tuple of Finding
        In the order of the checks; a check may have several.
    figures : dict
        Numbers that were met on the way, such as `num_rows`, `num_blocks`, `padding_share`, `num_dimensions`.
    """

    findings: tuple[Finding, ...]
    figures: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not any(finding.outcome == "failed" for finding in self.findings)

    def __str__(self) -> str:
        """Return the report as text, one line a finding."""
        failed, warnings = (sum(f.outcome == outcome for f in self.findings) for outcome in ("failed", "warning"))
        verdict = "ready to sample" if self.ok else f"{failed} check{'s' * (failed != 1)} failed"
        if warnings:
            verdict += f", {warnings} warning{'s' * (warnings != 1)}"
        lines = [f"{finding.outcome:<8} {finding.name:<12} {finding.message}" for finding in self.findings]
        return "\n".join([f"distmc check: {verdict}", *lines])


class Checked(NamedTuple):
    """What a run begins with, once the checks that take a moment have passed.

    Attributes
    ----------
    start : float64 array (num_chains, num_dimensions)
        Where the chains start; see `starting_positions`.
    warnings : tuple of str
        Why the run will not work as well as it could.
    """

    start: NumpyArray
    warnings: tuple[str, ...]


def check(
    model: Model,
    data: Data | Mapping[str, Any],
    spec: RunSpec | None = None,
    *,
    initial: Mapping[str, Any] | None = None,
) -> CheckReport:
    """Check a model with its data and report, without starting anything.

    Parameters
    ----------
    model : Model
        What shall be sampled.
    data : Data or mapping
        What was observed.
    spec : RunSpec or None
        Settings of the run; sampler, seed, number of blocks and precision are used.
    initial : mapping of array, or None
        Starting values that the run will be given, see `starting_positions`; they are where the model is evaluated.

    Returns
    -------
    report : CheckReport
        Findings and figures. A failure of the model or the data is a finding, not an exception.
    """
    with double_precision(model):
        try:
            subject = Subject(model, Data.coerce(data), spec or _default_spec(model), initial)
        except InputError as error:
            failed = Finding(name="data", outcome="failed", message=str(error))
            return CheckReport(findings=(failed,), figures={})
        findings: list[Finding] = []
        can_go_on = True
        for name, function in (*_ESSENTIAL, *_THOROUGH):
            if not can_go_on:
                findings.append(Finding(name=name, outcome="skipped", message="A check that it builds on failed."))
                continue
            try:
                findings += [_finding(name, note) for note in function(subject)]
            except InputError as error:
                findings.append(Finding(name=name, outcome="failed", message=str(error)))
                can_go_on = (name, function) in _THOROUGH
    return CheckReport(findings=tuple(findings), figures=subject.figures)


def cheap_checks(
    model: Model,
    data: Data | Mapping[str, Any],
    spec: RunSpec | None = None,
    *,
    initial: Mapping[str, Any] | None = None,
) -> Checked:
    """Run the checks that take a moment, which every run begins with.

    Takes what `check` takes, and looks at sampler, parameters and supports, data, shape of the likelihood, whether
    log-density and gradient are finite at the starting positions of all chains on a few rows, whether all rows are at
    that of the first chain, and whether what a row contributes depends on other rows.

    Returns
    -------
    checked : Checked
        Starting positions and warnings.

    Raises
    ------
    InputError
        The first failure, as `SpecError`, `ModelError`, `DataError` or `StartError`.
    """
    with double_precision(model):
        subject = Subject(model, Data.coerce(data), spec or _default_spec(model), initial)
        notes = [note for _, function in _CHEAP for note in function(subject)]
        return Checked(subject.starts, tuple(message for outcome, message in notes if outcome == "warning"))


def _default_spec(model: Model) -> RunSpec:
    return RunSpec(sampler=default_sampler(model))


def _finding(name: str, note: Note) -> Finding:
    outcome, message = note
    return Finding(name=name, outcome=outcome, message=message)
