"""`distmc resume` and `distmc extend`: a run is taken up again with the model and data that it was started with."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from distmc.commands.options import Command, load, placement, placement_options, prepare_process
from distmc.errors import SpecError
from distmc.spec import Local, Ray

if TYPE_CHECKING:
    from distmc.data.data import Data
    from distmc.model.model import Model


def _going_on(command: Command) -> Command:
    """Add what both commands have in common."""
    decorators: tuple[Callable[[Command], Command], ...] = (
        click.argument("run", metavar="DIRECTORY"),
        click.argument("reference", required=False, metavar="[FILE.py[:MODEL]]"),
        click.option("--data", metavar="FILE", help="Rows and constants. [default: the file that the run began with]"),
        placement_options,
        click.option("--progress/--no-progress", default=True, help="Show how the run is going."),
    )
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@click.command()
@_going_on
def resume(run: str, reference: str | None, data: str | None, progress: bool, **where: Any) -> None:
    """Bring a run that was stopped, failed or was killed to its end.

    The draws are those of an uninterrupted run, to the bit, wherever they are computed. Model and data are those that
    `distmc sample` or `distmc demo` was given, found where they were then or under the same path from here, unless
    FILE.py:MODEL and --data say where they are now.
    """
    _go_on(run, reference, data, progress, where, None)


@click.command()
@_going_on
@click.option("--draws", type=int, required=True, metavar="N", help="Draws of each chain to add.")
def extend(run: str, reference: str | None, data: str | None, progress: bool, draws: int, **where: Any) -> None:
    """Add draws to a run, as if they had been asked for at first, to the bit.

    A run that is not finished is brought to its new end. Model and data as for `distmc resume`, which also takes up
    an extension that was stopped.
    """
    _go_on(run, reference, data, progress, where, draws)


def _go_on(
    run: str, reference: str | None, data: str | None, progress: bool, where: dict[str, Any], more_draws: int | None
) -> None:
    on = placement(**where)
    prepare_process(on)
    began = time.monotonic()
    from distmc.storage import RunDirectory, how_to_go_on
    from distmc.storage.advice import options_of

    record = RunDirectory.open(run).read_record()
    source = record.source
    model, rows = _model_and_data(run, source, reference, data)
    if record.status == "finished" and more_draws is None:
        click.echo(f"This run was finished before. To add draws: {how_to_go_on(run, record)}")
    elif isinstance(on, Local) and isinstance(record.placement, Ray) and _is_where_unsaid():
        click.echo(
            "This run was computed by workers of a Ray cluster; it goes on in this process. To use workers, add: "
            f"{options_of(record.placement).strip()}",
            err=True,
        )
    from distmc import demo, render
    from distmc.resumption import go_on

    with _told_in_words():
        file = go_on(run, model, rows, on, more_draws=more_draws, progress=progress)
    if "words" in source:
        demo.show_states(Path(run), rows.rows["length"])
    render.show_run(run, file, seconds=time.monotonic() - began)


def _is_where_unsaid() -> bool:
    """Say whether the command line leaves it to the defaults where to compute."""
    source = click.get_current_context().get_parameter_source
    return all(source(name) is ParameterSource.DEFAULT for name in ("workers", "local"))


def _model_and_data(
    run: str, source: Mapping[str, str], reference: str | None, data: str | None
) -> tuple["Model", "Data"]:
    if "words" in source and reference is None and data is None:
        from distmc.zoo import words

        return words.build_model(), words.load_words(int(source["words"]))
    if not source and (reference is None or data is None):
        raise SpecError(
            f"`{run}` was started from Python, so it does not say where its model and data are. Call "
            f"`distmc.resume({run!r}, model, data)` or `distmc.extend` there, or name both here: "
            f"`distmc resume {run} FILE.py:MODEL --data FILE`."
        )
    from distmc.storage import read_data

    return load(reference or _found(source, "model")).model, read_data(data or _found(source, "data"))


def _found(source: Mapping[str, str], what: str) -> str:
    """Return where a file of the run is now: where it was when the run began, or under the same path from here."""
    given = source.get(what, "")
    there = Path(source.get("directory", "."), given).expanduser()
    for candidate in (str(there), given):
        if given and Path(candidate.rpartition(".py:")[0] + ".py" if ".py:" in candidate else candidate).is_file():
            return candidate
    option = "`FILE.py:MODEL` after the directory" if what == "model" else "`--data FILE`"
    raise SpecError(f"The {what} of this run was `{there}`, which is not there any more; give {option}.")


@contextlib.contextmanager
def _told_in_words() -> Iterator[None]:
    """Show warnings without the line of code that they come from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.secho(f"Warning: {message}", fg="yellow", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield
