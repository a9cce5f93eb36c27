"""Exact Bayesian sampling of data too many for one machine: all chains in lockstep, rows over a Ray cluster."""

from importlib.metadata import version

from distmc import errors
from distmc.api import check, open_run, read_data, sample, summarise, verdict, write_data
from distmc.data.data import Data
from distmc.data.ragged import ragged
from distmc.model.model import Model, Parameter
from distmc.spec import HMC, ChEES, Local, Ray

__version__ = version("distmc")

__all__ = [
    "HMC",
    "ChEES",
    "Data",
    "Local",
    "Model",
    "Parameter",
    "Ray",
    "check",
    "errors",
    "open_run",
    "ragged",
    "read_data",
    "sample",
    "summarise",
    "verdict",
    "write_data",
]
