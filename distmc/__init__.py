"""Exact Bayesian sampling where one machine is too slow: all chains in lockstep, rows over a Ray cluster."""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from distmc import errors
    from distmc.api import check, extend, resume, sample, verdict
    from distmc.data.data import Data
    from distmc.data.ragged import ragged
    from distmc.diagnostics.summary import summarise
    from distmc.mode import Optimum, optimize
    from distmc.model.model import Model, Parameter
    from distmc.samplers import HMC, LAPS, MALA, MAMS, MEADS, NUTS, RWMH, SNAPER, ChEES, Slice
    from distmc.spec import Local, Ray, Schedule
    from distmc.storage.dataset import open_run
    from distmc.storage.sources import read_data, write_data

    __version__: str

__all__ = [
    "HMC",
    "LAPS",
    "MALA",
    "MAMS",
    "MEADS",
    "NUTS",
    "RWMH",
    "SNAPER",
    "ChEES",
    "Data",
    "Local",
    "Model",
    "Optimum",
    "Parameter",
    "Ray",
    "Schedule",
    "Slice",
    "check",
    "errors",
    "extend",
    "open_run",
    "optimize",
    "ragged",
    "read_data",
    "resume",
    "sample",
    "summarise",
    "verdict",
    "write_data",
]

# Names are loaded when they are first used. JAX takes two seconds to import, which `distmc --help` need not wait for,
# and the command line can decide on JAX's devices before it is there.
_MODULES = {
    "distmc.api": ("check", "extend", "resume", "sample", "verdict"),
    "distmc.data.data": ("Data",),
    "distmc.data.ragged": ("ragged",),
    "distmc.diagnostics.summary": ("summarise",),
    "distmc.mode": ("Optimum", "optimize"),
    "distmc.model.model": ("Model", "Parameter"),
    "distmc.samplers": ("HMC", "LAPS", "MALA", "MAMS", "MEADS", "NUTS", "RWMH", "SNAPER", "ChEES", "Slice"),
    "distmc.spec": ("Local", "Ray", "Schedule"),
    "distmc.storage.dataset": ("open_run",),
    "distmc.storage.sources": ("read_data", "write_data"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> _typing.Any:
    """Load a public name when it is first used."""
    if name == "__version__":
        value: _typing.Any = _importlib.import_module("importlib.metadata").version("distmc")
    elif name == "errors":
        value = _importlib.import_module("distmc.errors")
    elif name in _MODULE_OF:
        value = getattr(_importlib.import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module 'distmc' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
