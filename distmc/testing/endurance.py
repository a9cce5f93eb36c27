"""Takes a run to its end through whatever a plan of faults has in store, and keeps what it told on the way."""

import dataclasses
import os
import time
import warnings
from pathlib import Path
from typing import Any

from distmc.api import resume, sample
from distmc.data.data import Data
from distmc.errors import RunDirectoryError, WorkerError
from distmc.model.model import Model
from distmc.orchestration.events import OnEvent, RunEvent
from distmc.spec import Placement
from distmc.testing.faults import Plan
from distmc.testing.injection import injected


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endured:
    """What became of a run.

    Attributes
    ----------
    tree : xarray.DataTree
        Its draws.
    stops : tuple of str
        Why it stopped before its end and had to be resumed, each time.
    warnings : tuple of str
        What was warned of when it was resumed.
    events : tuple of (float, RunEvent)
        All that it told, with the time in seconds since 1970.
    """

    tree: Any
    stops: tuple[str, ...]
    warnings: tuple[str, ...]
    events: tuple[tuple[float, RunEvent], ...]


def endure(
    model: Model,
    data: Data,
    plan: Plan,
    *,
    path: str | os.PathLike[str],
    ledger: str | os.PathLike[str],
    on: Placement,
    chunk_steps: int | None = None,
    chunk_seconds: float = 0.0,
    on_event: OnEvent | None = None,
    **settings: Any,
) -> Endured:
    """Begin a run, or go on with one, and resume it each time that a fault stops it.

    Parameters
    ----------
    model, data : Model, Data
        As for `distmc.sample`.
    plan : tuple of Fault
        What is to go wrong.
    path, ledger : path
        Directories of the run and of what has struck. Those of an earlier call that did not come to its end, because
        its process was killed for instance, are taken up.
    on : Local or Ray
        Where to compute.
    chunk_steps, chunk_seconds, on_event
        As for `distmc.testing.injection.injected`.
    **settings
        Of `distmc.sample`.

    Raises
    ------
    RunDirectoryError, WorkerError
        If the run stops more often than the plan has faults.
    """
    events: list[tuple[float, RunEvent]] = []
    stops: list[str] = []

    def listen(event: RunEvent) -> None:
        events.append((time.time(), event))
        if on_event is not None:
            on_event(event)

    pace: dict[str, Any] = {"chunk_steps": chunk_steps, "chunk_seconds": chunk_seconds}
    with injected(plan, ledger, on_event=listen, **pace), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while True:
            try:
                if (Path(path) / "run.json").exists():
                    tree = resume(path, model, data, on=on, progress=False)
                else:
                    tree = sample(model, data, path=path, on=on, progress=False, **settings)
                break
            except (RunDirectoryError, WorkerError) as error:
                if len(stops) == len(plan):
                    raise
                stops.append(str(error))
    words = tuple(str(warning.message) for warning in caught)
    return Endured(tree=tree, stops=tuple(stops), warnings=words, events=tuple(events))
