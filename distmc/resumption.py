"""A run taken up again, to its end or beyond it: what both doors, Python and the command line, go through."""

import dataclasses
import numbers
import os
from pathlib import Path

from distmc.data.data import Data
from distmc.errors import RunDirectoryError, SpecError
from distmc.model.model import Model
from distmc.model.start import starting_positions
from distmc.run import Callback, add_advice, carry_out, identity, require_kinds
from distmc.sampling.worker import WorkerTask, require_enough_blocks
from distmc.spec import Placement, RunSpec
from distmc.storage import RunDirectory, RunRecord, open_run, require_same
from distmc.types import Checkpoint, NumpyArray


def go_on(
    path: str | os.PathLike[str],
    model: Model,
    data: Data,
    on: Placement,
    *,
    more_draws: int | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Path:
    """Compute the draws that a run still lacks, and more if asked for.

    Parameters
    ----------
    path : path
        Directory of the run.
    model, data : Model, Data
        Those that the run began with.
    on : Local or Ray
        Where to compute; the draws do not depend on it.
    more_draws : int, optional
        Draws of each chain to add to those that were asked for before; not given: none.
    progress, callback
        As for `Run.execute`.

    Returns
    -------
    posterior_file : Path
        The draws, readable by ArviZ.

    Raises
    ------
    RunDirectoryError
        If there is no run, another process writes it, or model or data are others.
    InputError
        If there are more workers than blocks, or `more_draws` is no count.
    CapacityError, WorkerError, Interrupted
        What was committed is kept, and the run can be resumed again.
    """
    require_kinds(model, on)
    directory = RunDirectory.open(path)
    record = directory.read_record()
    _require_count(more_draws)
    require_same(directory.path, record, dataclasses.replace(record, **identity(model, data)))
    require_enough_blocks(on.fewest_workers, record.spec.num_blocks or 1)
    if more_draws is None and _is_complete(directory, record):
        return directory.posterior_file
    with directory.writing():
        # Read again: while the data were looked at, another process may have extended the run.
        spec = directory.read_record().spec
        spec = dataclasses.replace(spec, num_draws=spec.num_draws + int(more_draws or 0))
        checkpoint = directory.recover()
        start = _start(directory, model, spec, checkpoint)
        directory.update(spec=spec, placement=on, status="running", error=None)
        task = WorkerTask(spec=spec, model=model, data=data, start=start)
        try:
            return carry_out(directory, task, on, checkpoint=checkpoint, progress=progress, callback=callback)
        except BaseException as error:
            add_advice(error, directory)
            raise


def _require_count(more_draws: object) -> None:
    if more_draws is None:
        return
    if not isinstance(more_draws, numbers.Integral) or isinstance(more_draws, bool) or more_draws < 1:
        raise SpecError(f"`num_draws={more_draws!r}` must be a whole number of at least 1: the draws to add.")


def _is_complete(directory: RunDirectory, record: RunRecord) -> bool:
    """Say whether a run has its posterior.nc; if that is damaged, the run is put together again."""
    if record.status != "finished" or not directory.posterior_file.exists():
        return False
    try:
        open_run(directory.path).close()
    except RunDirectoryError:
        return False
    return True


def _start(directory: RunDirectory, model: Model, spec: RunSpec, checkpoint: Checkpoint | None) -> NumpyArray:
    try:
        return directory.read_start()
    except RunDirectoryError:
        if checkpoint is None:
            raise
    # Workers evaluate the target there before they take up the checkpoint; nothing depends on where it is.
    return starting_positions(model, spec.num_chains, spec.seed)
