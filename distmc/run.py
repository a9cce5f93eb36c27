"""One run from its specification to its files: what both doors, Python and the command line, go through."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

from distmc.data.blocks import plan_blocks
from distmc.data.data import Data
from distmc.errors import Interrupted, SpecError
from distmc.model.fingerprint import fingerprint
from distmc.model.model import Model
from distmc.model.preflight import cheap_checks
from distmc.model.start import starting_positions
from distmc.model.transforms import Unconstrainer
from distmc.orchestration import session
from distmc.orchestration.events import OnEvent, RunEvent, StageBegan, WorkersStarted
from distmc.progress import Tally, display
from distmc.sampling.algorithms import schedule_of
from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.sampling.worker import WorkerTask, require_enough_blocks
from distmc.spec import Placement, RunSpec
from distmc.storage import Layout, RunDirectory, RunRecord
from distmc.types import NumpyArray

Callback: TypeAlias = Callable[[ChunkReport, dict[str, NumpyArray]], object]
"""Told of every committed chunk and its draws."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run whose input has been checked and which only needs a place to be written to.

    Attributes
    ----------
    task : WorkerTask
        What the workers are given.
    on : Local or Ray
        Where they are.
    record : RunRecord
        What run.json says at the start.
    """

    task: WorkerTask
    on: Placement
    record: RunRecord

    @classmethod
    def prepare(
        cls,
        model: Model,
        data: Data,
        spec: RunSpec,
        on: Placement,
        *,
        initial: Mapping[str, Any] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Sequence[Any]] | None = None,
    ) -> Self:
        """Check everything that can be checked in this process and decide what was left open.

        Raises
        ------
        InputError
            If model, data, settings and starting values do not fit together.
        """
        _require_kind("model", model, Model, "a `distmc.Model`")
        _require_kind("on", on, Placement, "`distmc.Local()` or `distmc.Ray(...)`")
        layout = Layout(shapes=Unconstrainer(model).shapes, dims=dims or {}, coords=coords or {})
        cheap_checks(model, data, spec, initial=initial)
        blocks = plan_blocks(data, spec.num_blocks)
        require_enough_blocks(on.fewest_workers, blocks.num_blocks)
        spec = dataclasses.replace(spec, num_blocks=blocks.num_blocks, schedule=schedule_of(spec))
        start = starting_positions(model, spec.num_chains, spec.seed, initial)
        record = RunRecord(
            spec=spec,
            model_fingerprint=fingerprint(model, data),
            data_fingerprint=data.fingerprint(),
            layout=layout,
        )
        return cls(task=WorkerTask(spec=spec, model=model, data=data, start=start), on=on, record=record)

    def execute(self, path: str | os.PathLike[str], *, progress: bool = True, callback: Callback | None = None) -> Path:
        """Compute all draws and write them.

        Parameters
        ----------
        path : path
            Directory of the run; must not hold one yet.
        progress : bool
            Show how the run is going.
        callback : Callback, optional
            Called in this process after each commit. What it raises ends the run.

        Returns
        -------
        posterior_file : Path
            The draws, readable by ArviZ.

        Raises
        ------
        RunDirectoryError, CapacityError, WorkerError, Interrupted
            Draws that were committed before are kept and readable with `open_run`.
        """
        directory = RunDirectory.create(path, self.record)
        try:
            with directory.writing():
                with display(Tally(self.task.spec)) if progress else contextlib.nullcontext(_ignore) as show:
                    self._sample(directory, show, callback)
                return directory.finish()
        except (Interrupted, KeyboardInterrupt):
            if not directory.discard_if_empty():
                directory.update(status="interrupted")
            raise
        except BaseException:
            if not directory.discard_if_empty():
                directory.update(status="failed")
            raise

    def _sample(self, directory: RunDirectory, show: OnEvent, callback: Callback | None) -> None:
        timings: dict[str, float] = {}

        def commit(report: ChunkReport, arrays: ChunkArrays) -> None:
            directory.write_chunk(
                chunk=arrays.chunk,
                phase=arrays.phase,
                first_step=arrays.first_step,
                num_steps=report.num_steps,
                draws=arrays.draws,
                stats=arrays.stats,
                unconstrained=arrays.unconstrained if self.task.spec.keep_unconstrained else None,
                seconds=report.seconds,
            )
            directory.write_state(chunk=arrays.chunk, step=report.step, state=arrays.state)
            if callback is not None:
                callback(report, arrays.draws)

        def on_event(event: RunEvent) -> None:
            if isinstance(event, StageBegan):
                timings[f"{event.stage} began"] = round(event.seconds, 3)
                directory.update(timings=dict(timings))
            elif isinstance(event, WorkersStarted):
                reason = "start" if event.generation == 0 else "workers changed"
                directory.add_generation(reason, tuple(member.node for member in event.members))
            show(event)

        session.run(self.task, self.on, commit=commit, on_event=on_event)


def _require_kind(name: str, value: object, kind: Any, needed: str) -> None:
    if not isinstance(value, kind):
        raise SpecError(f"`{name}={value!r}` is of type `{type(value).__name__}`; give {needed}.")


def _ignore(event: RunEvent) -> None:
    """Do nothing with `event`."""
