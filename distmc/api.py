"""The Python door: thin functions that build one specification and hand it on.

What storage and diagnostics offer as it is (`open_run`, `read_data`, `summarise`, ...) is public from where it is
written; see ``distmc/__init__.py``. Both are loaded when they are first used, so that ``import distmc`` stays quick.
"""

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distmc.data.data import Data
from distmc.errors import SpecError
from distmc.model.model import Model
from distmc.model.sampler_fit import default_sampler
from distmc.samplers import Sampler, sampler_named
from distmc.spec import Local, Placement, Precision, RunSpec, Schedule

if TYPE_CHECKING:
    import xarray as xr

    from distmc.diagnostics import Verdict
    from distmc.model.preflight import CheckReport
    from distmc.run import Callback

    PathLike = str | os.PathLike[str]


def sample(
    model: Model,
    data: Data | Mapping[str, Any],
    *,
    sampler: Sampler | str | None = None,
    num_chains: int = RunSpec.num_chains,
    num_warmup: int = RunSpec.num_warmup,
    num_draws: int = RunSpec.num_draws,
    schedule: Schedule | None = None,
    thin: int = RunSpec.thin,
    seed: int = RunSpec.seed,
    on: Placement | None = None,
    path: "PathLike | None" = None,
    precision: Precision = RunSpec.precision,
    num_blocks: int | None = RunSpec.num_blocks,
    initial: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    keep_unconstrained: bool = RunSpec.keep_unconstrained,
    callback: "Callback | None" = None,
    progress: bool = True,
) -> "xr.DataTree":
    """Sample the posterior of a model given all rows of the data.

    Parameters
    ----------
    model : Model
        Parameters with priors, and the log-likelihood of rows.
    data : Data or mapping of array
        The rows; a mapping means that all of it is rows.
    sampler : Sampler or str, optional
        A sampler with its settings, such as `HMC(trajectory_length=2.0)`, or its name in any case, such as `"hmc"`.
        `ChEES()` if not given, or `RWMH()` for a model with `is_differentiable=False`.
    num_chains, num_warmup, num_draws : int
        Chains in lockstep, tuning steps and kept draws of each.
    schedule : Schedule, optional
        What the `num_warmup` tuning steps are for; chosen from their number if not given.
    thin : int
        Steps for each kept draw.
    seed : int
        Same model, data, settings and seed give the same draws, to the bit, wherever they are computed.
    on : Local or Ray, optional
        Where to compute: this process (`Local()`, if not given) or the workers of a Ray cluster.
    path : path, optional
        Directory for the run; must not hold one yet. Not given: a temporary one, removed at the end.
    precision : {"mixed", "float64"}
        Type in which rows are evaluated; they are always added in float64. Samplers without gradients evaluate them in
        float64 too.
    num_blocks : int, optional
        Logical blocks of rows, a power of two; chosen from the data if not given.
    initial : mapping of array, optional
        Starting values by parameter, for all chains or with a leading axis of chains. Others are drawn from the prior.
    dims, coords : mapping, optional
        Names of parameters' axes, and labels along named axes, as ArviZ has them.
    keep_unconstrained : bool
        Keep the draws in unconstrained coordinates too, in the group `unconstrained_posterior`.
    callback : callable (ChunkReport, dict of array) -> None, optional
        Called in this process for every chunk of about a second, once it is on disk: with facts about it and its draws,
        each (num_chains, draws in the chunk, ...) by name. What it raises ends the run.
    progress : bool
        Show how the run is going.

    Returns
    -------
    tree : xarray.DataTree
        `posterior`, `sample_stats` and their `warmup_*` in ArviZ's schema, dims `chain` and `draw`.

    Raises
    ------
    InputError
        If something given cannot be used; nothing has been started.
    RunDirectoryError
        If `path` holds a run already, or cannot be written.
    CapacityError, WorkerError, Interrupted
        See `distmc.errors`. Committed draws stay readable with `open_run`.

    Warns
    -----
    UserWarning
        If something will make the run slow or imprecise, as `check` says, or if `path` will not stay.
    """
    from distmc.run import Run
    from distmc.storage import doubt_about, open_run

    _require_function(callback)
    spec = RunSpec(
        sampler=_sampler_of(sampler, model),
        num_chains=num_chains,
        num_warmup=num_warmup,
        num_draws=num_draws,
        schedule=schedule,
        thin=thin,
        seed=seed,
        precision=precision,
        num_blocks=num_blocks,
        keep_unconstrained=keep_unconstrained,
    )
    prepared = Run.prepare(model, Data.coerce(data), spec, on or Local(), initial=initial, dims=dims, coords=coords)
    for warning in prepared.warnings:
        warnings.warn(warning, stacklevel=2)
    if path is not None:
        if doubt := doubt_about(path):
            warnings.warn(doubt, stacklevel=2)
        prepared.execute(path, progress=progress, callback=callback)
        return open_run(path)
    temporary = tempfile.mkdtemp(prefix="distmc-")
    try:
        prepared.execute(temporary, progress=progress, callback=callback)
    except BaseException as error:
        with contextlib.suppress(OSError):
            # It is gone already, or empty, if nothing was committed.
            os.rmdir(temporary)
        if os.path.exists(temporary):
            error.add_note(f"The committed draws are in `{temporary}`; `distmc.open_run` reads them.")
        raise
    tree = open_run(temporary).load()
    tree.close()
    shutil.rmtree(temporary)
    return tree


def resume(
    path: "PathLike",
    model: Model,
    data: Data | Mapping[str, Any],
    *,
    on: Placement | None = None,
    callback: "Callback | None" = None,
    progress: bool = True,
) -> "xr.DataTree":
    """Take up a run that was stopped, failed or was killed, and bring it to its end.

    The draws are those of an uninterrupted run, to the bit. A run that is finished is returned as it is.

    Parameters
    ----------
    path : path
        Directory of the run.
    model : Model
    data : Data or mapping of array
        Those that the run began with.
    on : Local or Ray, optional
        Where to compute; need not be where the run began. This process (`Local()`), if not given.
    callback, progress
        As for `sample`; chunks that are on disk already are not told of again.

    Returns
    -------
    tree : xarray.DataTree
        As from `sample`, from the first draw on.

    Raises
    ------
    RunDirectoryError
        If there is no run, another process writes it, or model or data are others; names what differs.
    InputError
        If something given cannot be used; nothing has been started.
    CapacityError, WorkerError, Interrupted
        See `distmc.errors`. What was committed is kept, and the run can be resumed again.

    Warns
    -----
    UserWarning
        If a file of the run is damaged or missing, so that steps are repeated, or if libraries have other versions
        than when the run began, so that the last bits may differ.
    """
    return _go_on(path, model, data, on, None, callback, progress)


def extend(
    path: "PathLike",
    model: Model,
    data: Data | Mapping[str, Any],
    num_draws: int,
    *,
    on: Placement | None = None,
    callback: "Callback | None" = None,
    progress: bool = True,
) -> "xr.DataTree":
    """Add draws to a run, as if they had been asked for at first, to the bit.

    A run that is not finished is brought to its new end.

    Parameters
    ----------
    path : path
        Directory of the run.
    model : Model
    data : Data or mapping of array
        Those that the run began with.
    num_draws : int
        Draws of each chain to add to those asked for before.
    on, callback, progress
        As for `resume`, which takes up an extension that was stopped, too.

    Returns
    -------
    tree : xarray.DataTree
        As from `sample`, from the first draw on.

    Raises
    ------
    SpecError
        If `num_draws` is no whole number of at least 1.
    RunDirectoryError, InputError, CapacityError, WorkerError, Interrupted
        As for `resume`.
    """
    if num_draws is None:
        raise SpecError("`num_draws=None` must be a whole number of at least 1: the draws to add.")
    return _go_on(path, model, data, on, num_draws, callback, progress)


def _go_on(
    path: "PathLike",
    model: Model,
    data: Data | Mapping[str, Any],
    on: Placement | None,
    more_draws: int | None,
    callback: "Callback | None",
    progress: bool,
) -> "xr.DataTree":
    from distmc.resumption import go_on
    from distmc.storage import open_run

    _require_function(callback)
    go_on(path, model, Data.coerce(data), on or Local(), more_draws=more_draws, progress=progress, callback=callback)
    return open_run(path)


def _require_function(callback: object) -> None:
    if callback is not None and not callable(callback):
        raise SpecError(f"`callback={callback!r}` is not a function; give `fn(report, draws)`.")


def _sampler_of(sampler: Sampler | str | None, model: Model) -> Sampler:
    if sampler is None:
        return default_sampler(model)
    return sampler_named(sampler) if isinstance(sampler, str) else sampler


def check(
    model: Model,
    data: Data | Mapping[str, Any],
    *,
    num_chains: int = RunSpec.num_chains,
    seed: int = RunSpec.seed,
    precision: Precision = RunSpec.precision,
    num_blocks: int | None = RunSpec.num_blocks,
    initial: Mapping[str, Any] | None = None,
) -> "CheckReport":
    """Check a model with its data before anything is started; see the report's findings.

    The sampler is the one that `sample` takes where none is chosen.

    Parameters
    ----------
    model : Model
    data : Data or mapping of array
    num_chains, seed, precision, num_blocks, initial
        As `sample` is going to be given them.

    Returns
    -------
    report : CheckReport
        `ok`, `findings` and `figures`; `print` it to read it.
    """
    from distmc.model.preflight import check as run_checks

    spec = RunSpec(
        sampler=default_sampler(model), num_chains=num_chains, seed=seed, precision=precision, num_blocks=num_blocks
    )
    return run_checks(model, Data.coerce(data), spec, initial=initial)


def verdict(tree: "xr.DataTree") -> "Verdict":
    """Say in words whether a posterior can be trusted, and what to try where it cannot.

    Parameters
    ----------
    tree : xarray.DataTree
        What `sample` or `open_run` returned.

    Returns
    -------
    verdict : Verdict
        `print` it to read it.

    Raises
    ------
    InputError
        If there are no draws after the warm-up.
    """
    from distmc import diagnostics

    return diagnostics.verdict(diagnostics.summarise(tree))
