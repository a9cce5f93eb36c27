"""What commands have in common: where to compute, and how a model is read."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from distmc.spec import Local, Placement, Ray

if TYPE_CHECKING:
    from distmc.model_file import ModelFile

Command = TypeVar("Command", bound=Callable[..., Any])


class WorkerCount(click.ParamType[int | tuple[int, int]]):
    """A number of workers, or the fewest and the most of them with a colon in between."""

    name = "N or FEWEST:MOST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, int]:
        """Return a number, or two."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            numbers = [int(part) for part in value.split(":")]
        except ValueError:
            numbers = []
        match numbers:
            case [number]:
                return number
            case [fewest, most]:
                return fewest, most
        self.fail(f"{value!r} is neither a number of workers, such as 4, nor the fewest and the most, such as 1:4.")


def workers_option(default: int, help_text: str) -> Callable[[Command], Command]:
    """Return the option for how many workers there are."""
    return click.option(
        "--workers", type=WorkerCount(), default=default, show_default=True, metavar="N|FEWEST:MOST", help=help_text
    )


def placement_options(command: Command) -> Command:
    """Add where to compute."""
    options = (
        workers_option(
            1,
            "1: this process, without Ray, unless a Ray option says otherwise. More: workers of a Ray "
            "cluster. FEWEST:MOST: as many of them as there are, which may change.",
        ),
        click.option("--local", is_flag=True, help="Compute in this process, without Ray."),
        click.option(
            "--address",
            metavar="HOST:PORT",
            help='Ray cluster to use, "auto" to find one, "local" to start one on this machine. [default: that of '
            "RAY_ADDRESS, else one started on this machine]",
        ),
        click.option("--cpus-per-worker", type=int, metavar="N", help="Cores of each worker. [default: 1]"),
        click.option("--gpus-per-worker", type=int, metavar="N", help="GPUs of each worker, 0 or 1. [default: 0]"),
        click.option(
            "--start-timeout",
            type=float,
            metavar="SECONDS",
            help="Longest wait for room for the fewest workers, also after some were lost. [default: 120]",
        ),
        click.option(
            "--hang-timeout",
            type=float,
            metavar="SECONDS",
            help="Silence after which a worker is given up and replaced. [default: 300]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def placement(
    workers: int | tuple[int, int],
    local: bool = False,
    address: str | None = None,
    cpus_per_worker: int | None = None,
    gpus_per_worker: int | None = None,
    start_timeout: float | None = None,
    hang_timeout: float | None = None,
) -> Placement:
    """Return where to compute; one worker needs no Ray unless an option of Ray is given.

    Raises
    ------
    click.UsageError
        If `local` and other options exclude each other.
    SpecError
        If a number is impossible.
    """
    options = {
        "address": address,
        "num_cpus_per_worker": cpus_per_worker,
        "num_gpus_per_worker": gpus_per_worker,
        "start_timeout_seconds": start_timeout,
        "hang_timeout_seconds": hang_timeout,
    }
    given = {name: value for name, value in options.items() if value is not None}
    on_ray = Ray(num_workers=workers, **given)  # type: ignore[arg-type]
    if local and (workers != 1 or given):
        raise click.UsageError(
            "--local computes in this process, which is one worker without Ray; leave out --local, or the other "
            "options of where to compute."
        )
    return Local() if workers == 1 and not given else on_ray


def prepare_process(on: Placement) -> None:
    """Settle what JAX and Ray read from the environment when they are first imported or used."""
    # With one thread for each core a run in this process is slower, and where a likelihood has large products its last
    # bits are not those of workers with one core each.
    os.environ.setdefault("PJRT_NPROC", "1")
    if isinstance(on, Ray):
        # JAX in this process would take most memory of the GPUs that the workers are to own.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        # The root cause is told in the end; what follows from it, worker by worker, is not worth a traceback.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")


def load(reference: str) -> "ModelFile":
    """Read a user's model; where an error comes from the user's own lines, they are shown with it."""
    from distmc.model_file import load_model_file, split_reference

    click.get_current_context().find_root().obj = split_reference(reference)[0]
    return load_model_file(reference)
