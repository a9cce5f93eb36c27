"""Run directories and files of data: the only place that knows paths, netCDF and ArviZ's names."""

from distmc.storage.advice import how_to_go_on
from distmc.storage.dataset import open_run
from distmc.storage.files import doubt_about
from distmc.storage.identity import require_same
from distmc.storage.record import Generation, RunRecord
from distmc.storage.run_directory import RunDirectory
from distmc.storage.schema import Layout
from distmc.storage.sources import read_data, write_data

__all__ = [
    "Generation",
    "Layout",
    "RunDirectory",
    "RunRecord",
    "doubt_about",
    "how_to_go_on",
    "open_run",
    "read_data",
    "require_same",
    "write_data",
]
