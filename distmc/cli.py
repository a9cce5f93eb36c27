"""The command line: thin commands that build one specification and hand it on.

JAX and Ray are imported when a command needs them, so that help comes at once.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from distmc import demo as words_demo
from distmc.commands.going_on import extend, resume
from distmc.commands.options import Command, load, placement, placement_options, prepare_process, workers_option
from distmc.commands.status import status
from distmc.errors import DistmcError, ModelError, SpecError, WorkerError
from distmc.samplers import SAMPLERS, Sampler, sampler_named
from distmc.spec import Precision, RunSpec


class Commands(click.Group):
    """Tells errors that are foreseen in words, with the exit code of their class."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except DistmcError as error:
            _tell(error, ctx.find_root().obj)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as error:
            click.echo("Stopped on request.", err=True)
            _tell_notes(error)
            ctx.exit(130)


def _tell(error: DistmcError, model_file: Path | None) -> None:
    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(str(error), err=True)
    if isinstance(error, ModelError) and error.__cause__ is not None and model_file is not None:
        from distmc.model_file import location

        where = location(error.__cause__, model_file)
        if where is not None and where not in str(error):
            click.echo(f"  {where}", err=True)
    if isinstance(error, WorkerError) and error.remote_traceback:
        click.echo(f"\nTraceback of the worker:\n{error.remote_traceback.rstrip()}", err=True)
    _tell_notes(error)


def _tell_notes(error: BaseException) -> None:
    """Show what was noted with an error, such as how to go on with the run."""
    for note in getattr(error, "__notes__", ()):
        click.echo(note, err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="distmc")
def cli() -> None:
    """Sample Bayesian posteriors where one machine is too slow.

    Exit codes: 0 done; 1 unexpected error; 2 unusable input; 3 run directory; 4 not enough room in the cluster;
    5 a worker failed; 6 workers disagreed; 130 stopped on request.
    """


def _count(name: str, words: str) -> Callable[[int], Callable[[Command], Command]]:
    """Return a maker of an option that is a whole number; what it is called with is the default."""
    return lambda default: click.option(name, type=int, default=default, show_default=True, help=words)


_chains = _count("--chains", "Chains in lockstep.")
_warmup = _count("--warmup", "Steps that tune.")
_draws = _count("--draws", "Kept draws of each chain.")
_seed = _count("--seed", "Seed of all random numbers.")


def _model_options(command: Command) -> Command:
    """Add what `sample` and `check` have in common."""
    options = (
        click.argument("reference", metavar="FILE.py[:MODEL]"),
        click.option("--data", required=True, metavar="FILE", help="Rows and constants, an .npz or .nc file."),
        _chains(RunSpec.num_chains),
        _seed(RunSpec.seed),
        click.option(
            "--precision",
            type=click.Choice(get_args(Precision)),
            default=RunSpec.precision,
            show_default=True,
            help="Type in which rows are evaluated; they are always added in float64.",
        ),
        click.option(
            "--blocks",
            type=int,
            help="Logical blocks of rows, a power of two; more workers than blocks are never possible. "
            "[default: chosen from the data]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.option("--words", type=int, default=words_demo.NUM_WORDS, show_default=True, help="Words to listen to.")
@workers_option(words_demo.NUM_WORKERS, "Ray workers; 1: no Ray.")
@_chains(words_demo.NUM_CHAINS)
@_warmup(words_demo.NUM_WARMUP)
@_draws(words_demo.NUM_DRAWS)
@_seed(RunSpec.seed)
@click.option("--out", default=words_demo.PATH, show_default=True, metavar="DIRECTORY", help="Where the run goes.")
def demo(words: int, workers: int | tuple[int, int], chains: int, warmup: int, draws: int, seed: int, out: str) -> None:
    """Find vowels and consonants in English words without being told which is which.

    If DIRECTORY exists, the next free name is used.
    """
    spec = RunSpec(num_chains=chains, num_warmup=warmup, num_draws=draws, seed=seed)
    on = placement(workers)
    prepare_process(on)
    words_demo.run(words, spec, on, out)


@cli.command()
@_model_options
@_warmup(RunSpec.num_warmup)
@_draws(RunSpec.num_draws)
@click.option(
    "--sampler",
    type=click.Choice(list(SAMPLERS), case_sensitive=False),
    help="Algorithm. [default: ChEES; RWMH for a model without a gradient]",
)
@click.option(
    "--setting",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda context, option, given: dict(map(_setting, given)),
    help="A setting of the sampler, such as target_acceptance_rate=0.9; may be repeated.",
)
@click.option("--thin", type=int, default=RunSpec.thin, show_default=True, help="Steps for each kept draw.")
@click.option("--out", metavar="DIRECTORY", help="Where the run goes; must not hold one yet. [default: runs/FILE]")
@placement_options
@click.option("--progress/--no-progress", default=True, help="Show how the run is going.")
def sample(
    reference: str,
    data: str,
    chains: int,
    warmup: int,
    draws: int,
    seed: int,
    precision: Any,
    blocks: int | None,
    sampler: str | None,
    settings: dict[str, Any],
    thin: int,
    out: str | None,
    progress: bool,
    **where: Any,
) -> None:
    """Sample the posterior of a model given all rows of the data.

    MODEL is a distmc.Model in FILE.py, or a function that returns one; "model" if left out. The module-level names
    DIMS, COORDS and INITIAL of FILE.py are used if they are there, for dims, coords and initial of distmc.sample;
    INITIAL may also be a function of (num_chains, seed).
    """
    on = placement(**where)
    prepare_process(on)
    began = time.monotonic()
    # Settings are looked at before files are.
    spec = RunSpec(
        sampler=sampler_named(sampler, **settings) if sampler else _a_default_with(settings),
        num_chains=chains,
        num_warmup=warmup,
        num_draws=draws,
        thin=thin,
        seed=seed,
        precision=precision,
        num_blocks=blocks,
    )
    user = load(reference)
    from distmc.model.sampler_fit import default_sampler
    from distmc.run import Run
    from distmc.storage import doubt_about, read_data

    if sampler is None:
        default = sampler_named(type(default_sampler(user.model)).__name__, **settings)
        spec = dataclasses.replace(spec, sampler=default)
    path = out or Path("runs") / user.file.stem
    if doubt := doubt_about(path):
        _warn(doubt)
    prepared = Run.prepare(
        user.model,
        read_data(data),
        spec,
        on,
        initial=user.starting_values(chains, seed),
        dims=user.dims,
        coords=user.coords,
        source={"model": reference, "data": data, "directory": os.getcwd()},
    )
    for warning in prepared.warnings:
        _warn(warning)
    file = prepared.execute(path, progress=progress)
    from distmc import render

    render.show_run(path, file, seconds=time.monotonic() - began)


def _warn(words: str) -> None:
    click.secho(f"Warning: {words}", fg="yellow", err=True)


def _a_default_with(settings: dict[str, Any]) -> Sampler:
    """Return one of the two samplers that are defaults, if either has these settings; which it is, the model says."""
    try:
        return sampler_named("ChEES", **settings)
    except SpecError:
        with contextlib.suppress(SpecError):
            return sampler_named("RWMH", **settings)
        raise


@cli.command()
@_model_options
def check(reference: str, data: str, chains: int, seed: int, precision: Any, blocks: int | None) -> None:
    """Check a model with its data, without sampling: shapes, gradients, rows, precision, padding."""
    user = load(reference)
    from distmc.model.preflight import check as run_checks
    from distmc.model.sampler_fit import default_sampler
    from distmc.storage import read_data

    spec = RunSpec(
        sampler=default_sampler(user.model), num_chains=chains, seed=seed, precision=precision, num_blocks=blocks
    )
    report = run_checks(user.model, read_data(data), spec, initial=user.starting_values(chains, seed))
    click.echo(str(report))
    if not report.ok:
        raise click.exceptions.Exit(ModelError.exit_code)


@cli.command()
@click.argument("run", metavar="DIRECTORY")
@click.option("--all", "every", is_flag=True, help="Show every value, not only the worst.")
def summary(run: str, every: bool) -> None:
    """Say what the draws of a run are worth, finished or not."""
    from distmc import render

    render.show_run(run, with_table=True, every=every)


for command in (resume, extend, status):
    cli.add_command(command)


def _setting(text: str) -> tuple[str, Any]:
    """Read ``NAME=VALUE``; the value is a number, true or false where it reads as one, else text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"'{text}' is not of the form NAME=VALUE.")
    try:
        return name.strip().replace("-", "_"), json.loads(value)
    except json.JSONDecodeError:
        return name.strip().replace("-", "_"), value


def main() -> None:
    """Run the command line."""
    cli()
