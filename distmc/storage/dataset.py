"""Opening a run as one tree in ArviZ's schema."""

import os

import xarray as xr

from distmc.errors import RunDirectoryError
from distmc.storage import assembly
from distmc.storage.files import describe
from distmc.storage.run_directory import RunDirectory


def open_run(path: str | os.PathLike[str]) -> xr.DataTree:
    """Return the draws of a run, finished or not.

    A finished run is read from its posterior.nc, array by array when they are used; of any other run, all committed
    chunks are read into memory. Both give the same tree.

    Parameters
    ----------
    path : str or path
        The run directory.

    Returns
    -------
    xarray.DataTree
        Groups `posterior`, `sample_stats`, `warmup_posterior` and `warmup_sample_stats` with the dimensions
        ``(chain, draw, ...)``, as far as there are draws of them.

    Raises
    ------
    RunDirectoryError
        If there is no run, no draw yet, or a file is damaged.
    """
    run = RunDirectory.open(path)
    record = run.read_record()
    file = run.posterior_file
    if record.status != "finished" or not file.exists():
        return assembly.load(file, record, run.chunks())
    try:
        return xr.open_datatree(file, engine="netcdf4")
    except (OSError, RuntimeError, ValueError) as error:
        raise RunDirectoryError(
            f"`{file}` is damaged: {describe(error)}. The committed chunks are kept apart from it: "
            "delete that file, and the run is read from them."
        ) from error
