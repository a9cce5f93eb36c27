"""Shows on a terminal what a run is worth."""

import datetime
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from distmc.diagnostics import Finding, ParameterSummary, Summary, Verdict, summarise, verdict
from distmc.spec import RunSpec
from distmc.storage import open_run

MOST_ROWS = 20
"""So many values are shown unless all are asked for."""

_UNFINISHED = {
    "running": "This run goes on, as far as can be told from here",
    "interrupted": "This run was interrupted before its end",
    "failed": "This run failed before its end",
}
_STYLES = {"good": "bold green", "doubtful": "bold yellow", "bad": "bold red"}


def show_run(
    path: str | os.PathLike[str],
    file: Path | None = None,
    *,
    seconds: float | None = None,
    with_table: bool = False,
    every: bool = False,
    console: Console | None = None,
) -> None:
    """Show verdict and most telling numbers of a run.

    Parameters
    ----------
    path : path
        Directory of the run, finished or not.
    file : Path, optional
        Where its draws are, if that shall be told.
    seconds : float, optional
        Wall time of all of it, from reading the data on.
    with_table : bool
        Whether to show the values of parameters, those with the worst R-hat first unless all are shown.
    every : bool
        Whether to show all values, in their own order.
    console : rich.console.Console, optional
        Where to show it; the output stream if not given.

    Raises
    ------
    RunDirectoryError
        If there is no run or it is damaged.
    InputError
        If it has no draws after its warm-up.
    """
    console = console or Console()
    with open_run(path) as tree:
        summary, attributes = summarise(tree), tree.attrs
    if attributes["status"] in _UNFINISHED:
        planned = RunSpec.from_json(attributes["spec"]).num_draws
        words = f"{_UNFINISHED[attributes['status']]}: {summary.num_draws:,} of {planned:,} draws are committed.\n"
        console.print(words, style="bold", highlight=False, soft_wrap=True)
    if with_table:
        console.print(parameter_table(summary, every))
    console.print()
    show_verdict(verdict(summary), console)
    console.print(facts(summary, seconds))
    if file is not None:
        console.print(f"\nDraws: {file.absolute()}", soft_wrap=True, highlight=False, markup=False)
        console.print(f"To look at them: distmc summary {path}", soft_wrap=True, highlight=False, markup=False)


def show_verdict(judged: Verdict, console: Console) -> None:
    """Show a verdict, coloured by how bad it is."""
    opening, _, _ = str(judged).partition("\n")
    console.print(Text(opening, style=_STYLES[judged.level]))
    for finding in judged.findings:
        console.print(Padding(_finding(finding), (0, 0, 0, 2)))
    console.print()


def _finding(finding: Finding) -> Text:
    return Text.assemble((finding.what, _STYLES[finding.level]), "\n  Try: ", finding.remedy)


def facts(summary: Summary, seconds: float | None = None) -> Table:
    """Return the most telling numbers of a summary as a table without lines."""
    table = Table.grid(padding=(0, 2))
    for words, number, name in _facts(summary, seconds):
        table.add_row(words, number, Text(name, style="dim"))
    return table


def _facts(summary: Summary, seconds: float | None) -> Iterator[tuple[str, str, str]]:
    yield "chains, draws", f"{summary.num_chains}, {summary.num_draws:,}", f"{len(summary.parameters):,} values each"
    rhat, bulk, tail = summary.worst_rhat, summary.least_ess_bulk, summary.least_ess_tail
    if rhat and bulk and tail:
        yield "worst R-hat", f"{rhat.rhat:.3f}", rhat.name
        yield "least ESS, bulk", f"{bulk.ess_bulk:,.0f}", bulk.name
        yield "least ESS, tail", f"{tail.ess_tail:,.0f}", tail.name
    yield "divergences", f"{summary.num_divergent:,}", ""
    if summary.num_nonfinite:
        yield "not finite", f"{summary.num_nonfinite:,}", "draws that met such a log-density or gradient"
    if summary.draws_per_second is not None:
        yield "draws per second", f"{summary.draws_per_second:,.0f}", "of all chains together"
    if summary.ess_per_second is not None:
        yield "ESS per second", f"{summary.ess_per_second:,.1f}", "the least bulk ESS"
    if summary.sampling_seconds is not None:
        yield "time of the draws", _duration(summary.sampling_seconds), "after the warm-up"
    if seconds is not None:
        yield "time in all", _duration(seconds), "of this command, with start and compilation"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(datetime.timedelta(seconds=round(seconds)))


def parameter_table(summary: Summary, every: bool = False) -> Table:
    """Return the values of parameters as a table: all of them, or those with the worst R-hat."""
    values: Iterable[ParameterSummary] = summary.parameters
    title = None
    if not every and len(summary.parameters) > MOST_ROWS:
        # A value that is not a number compares with nothing; it belongs to the worst.
        values = sorted(summary.varying, key=lambda value: -value.rhat if value.rhat == value.rhat else -float("inf"))
        values = values[:MOST_ROWS]
        title = f"The {MOST_ROWS} of {len(summary.parameters):,} values with the worst R-hat; --all shows all"
    table = Table("value", title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("mean", "sd", "error of mean", "R-hat", "ESS bulk", "ESS tail"):
        table.add_column(heading, justify="right")
    for value in values:
        rest = ("constant", "", "") if value.is_constant else _quality(value)
        table.add_row(Text(value.name), f"{value.mean:.4g}", f"{value.sd:.3g}", f"{value.mcse_mean:.2g}", *rest)
    return table


def _quality(value: ParameterSummary) -> tuple[str, str, str]:
    return f"{value.rhat:.3f}", f"{value.ess_bulk:,.0f}", f"{value.ess_tail:,.0f}"
