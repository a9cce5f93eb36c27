"""One run from its specification to its files: what both doors, Python and the command line, go through."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias

from distmc.data.blocks import plan_blocks
from distmc.data.data import Data
from distmc.data.facts import combine
from distmc.errors import DistmcError, Interrupted, SpecError
from distmc.model.fingerprint import facts
from distmc.model.model import Model
from distmc.model.preflight import cheap_checks
from distmc.model.transforms import Unconstrainer
from distmc.orchestration import session
from distmc.orchestration.events import (
    OnEvent,
    RunEnded,
    RunEvent,
    SamplingResumed,
    StageBegan,
    WorkersLost,
    WorkersStarted,
)
from distmc.progress import Tally, display
from distmc.sampling.algorithms import schedule_of
from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.sampling.worker import WorkerTask, require_enough_blocks
from distmc.spec import Placement, RunSpec
from distmc.storage import Layout, RunDirectory, RunRecord, how_to_go_on
from distmc.types import Checkpoint, NumpyArray

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
    warnings : tuple of str
        Why it will not work as well as it could; whoever samples is to be told.
    """

    task: WorkerTask
    on: Placement
    record: RunRecord
    warnings: tuple[str, ...]

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
        source: Mapping[str, str] | None = None,
    ) -> Self:
        """Check everything that can be checked in this process and decide what was left open.

        Raises
        ------
        InputError
            If model, data, settings and starting values do not fit together.
        """
        require_kinds(model, on)
        layout = Layout(shapes=Unconstrainer(model).shapes, dims=dims or {}, coords=coords or {})
        start, warnings = cheap_checks(model, data, spec, initial=initial)
        blocks = plan_blocks(data, spec.num_blocks)
        require_enough_blocks(on.fewest_workers, blocks.num_blocks)
        spec = dataclasses.replace(spec, num_blocks=blocks.num_blocks, schedule=schedule_of(spec))
        record = RunRecord(
            spec=spec,
            layout=layout,
            source=source or {},
            placement=on,
            **identity(model, data),
        )
        task = WorkerTask(spec=spec, model=model, data=data, start=start)
        return cls(task=task, on=on, record=record, warnings=warnings)

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
        directory = RunDirectory.create(path, self.record, self.task.start)
        try:
            with directory.writing():
                return carry_out(directory, self.task, self.on, progress=progress, callback=callback)
        except BaseException as error:
            if not directory.discard_if_empty():
                add_advice(error, directory)
            raise


def carry_out(
    directory: RunDirectory,
    task: WorkerTask,
    on: Placement,
    *,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
    callback: Callback | None = None,
) -> Path:
    """Compute the draws that a run directory still lacks and put them together.

    Parameters
    ----------
    directory : RunDirectory
        Where this process is known as the one that writes.
    task : WorkerTask
    on : Local or Ray
    checkpoint : Checkpoint, optional
        Where to go on; not given: at the beginning.
    progress, callback
        As for `Run.execute`.

    Returns
    -------
    posterior_file : Path
        The draws. When the run ends early, those so far are there too.
    """
    ledger = _Ledger(directory, task.spec, callback)
    try:
        if checkpoint is None or checkpoint.step < task.spec.num_steps:
            tally = Tally(task.spec)
            tally.step = checkpoint.step if checkpoint else 0
            with display(tally) if progress else contextlib.nullcontext(_ignore) as show:
                on_event = ledger.telling(show)
                session.run(task, on, commit=ledger.commit, on_event=on_event, checkpoint=checkpoint)
        return directory.finish()
    except BaseException as error:
        ledger.close(error)
        raise


class _Ledger:
    """Writes down what a session reports."""

    def __init__(self, directory: RunDirectory, spec: RunSpec, callback: Callback | None) -> None:
        self._directory = directory
        self._spec = spec
        self._callback = callback
        self._timings: dict[str, float] = {}
        self._earlier_generations = 0
        self._is_closed = False

    def commit(self, report: ChunkReport, arrays: ChunkArrays) -> None:
        """Write a chunk, then the state after it."""
        self._directory.write_chunk(
            chunk=arrays.chunk,
            phase=arrays.phase,
            first_step=arrays.first_step,
            num_steps=report.num_steps,
            draws=arrays.draws,
            stats=arrays.stats,
            unconstrained=arrays.unconstrained if self._spec.keep_unconstrained else None,
            seconds=report.seconds,
        )
        self._directory.write_state(chunk=arrays.chunk, step=report.step, state=arrays.state)
        if self._callback is not None:
            self._callback(report, arrays.draws)

    def telling(self, show: OnEvent) -> OnEvent:
        """Return what is to be told of every event: it is noted, then shown with the number that was noted."""

        def on_event(event: RunEvent) -> None:
            self._note(event)
            show(self._numbered(event))

        return on_event

    def _note(self, event: RunEvent) -> None:
        match event:
            case StageBegan():
                self._timings[f"{event.stage} began"] = round(event.seconds, 3)
                self._directory.update(timings=dict(self._timings))
            case WorkersStarted():
                noted = self._directory.add_generation(event.reason, tuple(member.node for member in event.members))
                self._earlier_generations = noted.number - event.generation
                if event.generation > 0:
                    # Stages of one generation only, or their lengths could not be told.
                    self._timings.clear()
            case SamplingResumed():
                self._directory.note_standstill(event.standstill_seconds, event.steps_repeated)
            case RunEnded() if event.error is not None:
                # Before the workers are let go of: whoever stops a job may wait only seconds before it is killed.
                self.close(event.error)

    def _numbered(self, event: RunEvent) -> RunEvent:
        """Count generations over all starts of the run, as run.json does; a session counts its own."""
        if isinstance(event, WorkersStarted | WorkersLost | SamplingResumed):
            return dataclasses.replace(event, generation=self._earlier_generations + event.generation)
        return event

    def close(self, error: BaseException) -> None:
        """Note why the run ends early and put its draws together; what goes wrong here hides no other error."""
        if self._is_closed:
            return
        is_stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        with contextlib.suppress(DistmcError):
            self._directory.update(status="interrupted" if is_stopped else "failed", error=_in_words(error))
        self._is_closed = True
        with contextlib.suppress(DistmcError):
            self._directory.write_partial()


def _in_words(error: BaseException) -> str:
    return str(error) if isinstance(error, DistmcError) else f"{type(error).__name__}: {error}".removesuffix(": ")


def add_advice(error: BaseException, directory: RunDirectory) -> None:
    """Note with an error how to go on with the run that it ended."""
    with contextlib.suppress(DistmcError):
        error.add_note(f"To go on with it: `{how_to_go_on(directory.path, directory.read_record())}`.")


def identity(model: Model, data: Data) -> dict[str, Any]:
    """Return the fields of a `RunRecord` by which model and data are known again."""
    of_model, of_data = facts(model, data), data.facts()
    return {
        "model_fingerprint": combine(of_model),
        "data_fingerprint": combine(of_data),
        "model_facts": of_model,
        "data_facts": of_data,
    }


def require_kinds(model: object, on: object) -> None:
    """Refuse what is no model and what is no place to compute.

    Raises
    ------
    SpecError
        Names the type that was given.
    """
    _require_kind("model", model, Model, "a `distmc.Model`")
    _require_kind("on", on, Placement, "`distmc.Local()` or `distmc.Ray(...)`")


def _require_kind(name: str, value: object, kind: Any, needed: str) -> None:
    if not isinstance(value, kind):
        raise SpecError(f"`{name}={value!r}` is of type `{type(value).__name__}`; give {needed}.")


def _ignore(event: RunEvent) -> None:
    """Do nothing with `event`."""
