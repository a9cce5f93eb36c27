"""Shows how a run is going: a live bar on a terminal, a plain line now and then anywhere else."""

import collections
import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from distmc.orchestration.events import (
    ChunkCommitted,
    OnEvent,
    RunEnded,
    RunEvent,
    SamplingResumed,
    StageBegan,
    WorkersLost,
    WorkersStarted,
)
from distmc.spec import RunSpec

SECONDS_BETWEEN_LINES = 5.0
_WINDOW = 10
_FEWEST_COMMITS = 5
_STEADY = 2.0
_PHASES = {"warmup": "warm-up", "draws": "draws"}


class Tally:
    """Keeps count of a run from its events.

    Parameters
    ----------
    spec : RunSpec
        What was asked for.
    """

    def __init__(self, spec: RunSpec) -> None:
        self.phase = "starting workers"
        self.step = 0
        # Where this session began; a resumed run has steps before it.
        self._first_step = 0
        self.num_steps = spec.num_steps
        self.num_workers = 0
        self.generation = 0
        self.num_changes = 0
        self._cause = ""
        self.seconds_lost = 0.0
        self.seconds = 0.0
        self.is_over = False
        self._num_chains = spec.num_chains
        self._thin = spec.thin
        self._last: ChunkCommitted | None = None
        self._num_divergent = 0
        self._num_nonfinite = 0
        # Times and steps of the latest commits in this phase: older ones say little about what is still to come.
        self._recent: collections.deque[tuple[float, int]] = collections.deque(maxlen=_WINDOW)

    def note(self, event: RunEvent) -> None:
        """Take notice of `event`."""
        match event:
            case StageBegan():
                # While draws are saved, and before the first chunk, the line keeps to what it counts.
                self.phase = {"sampling": "first steps", "saving": self.phase}.get(event.stage, event.stage)
                self.seconds = event.seconds
                self._recent.append((event.seconds, self.step))
            case WorkersStarted():
                self.num_changes += self.num_workers > 0
                self.num_workers = len(event.members)
                self.generation = event.generation
            case WorkersLost():
                self._cause = event.cause
            case SamplingResumed():
                self.seconds_lost += event.standstill_seconds
                self._recent.clear()
            case ChunkCommitted():
                self._note_chunk(event)
            case RunEnded():
                self.seconds = event.seconds
                self.is_over = True

    def _note_chunk(self, event: ChunkCommitted) -> None:
        phase = _PHASES.get(event.report.phase, event.report.phase)
        if phase != self.phase:
            self.phase = phase
            self._num_divergent = 0
            self._num_nonfinite = 0
            while len(self._recent) > 1:
                self._recent.popleft()
        if self._last is None:
            self._first_step = event.report.step - event.report.num_steps
        self._last = event
        self.step = event.report.step
        self.seconds = event.seconds
        self._num_divergent += event.report.num_divergent
        self._num_nonfinite += event.report.num_nonfinite
        self._recent.append((event.seconds, event.report.step))

    @property
    def steps_per_second(self) -> float:
        """Steps of all chains per second, lately; 0 while unknown."""
        return _rate(list(self._recent))

    @property
    def seconds_left(self) -> float | None:
        """Time to the end at the present rate; None while the rate says little about the rest."""
        rate = self.steps_per_second
        return (self.num_steps - self.step) / rate if rate and self._is_steady() else None

    def _is_steady(self) -> bool:
        """Say whether the rate is likely to stay; steps early in warm-up can take a hundred times longer than later."""
        if self.phase == "draws":
            return True
        recent = list(self._recent)
        middle = len(recent) // 2
        rates = _rate(recent[: middle + 1]), _rate(recent[middle:])
        return len(recent) >= _FEWEST_COMMITS and max(rates) <= _STEADY * min(rates)

    def facts(self) -> str:
        """Return what is known about the sampler; empty before the first chunk."""
        if self._last is None or self._last.report.num_steps == 0:
            return ""
        report = self._last.report
        words = [
            f"step size {report.step_size:.3g}",
            f"{report.num_integration_steps:.1f} integration steps",
            f"acceptance {report.acceptance_rate:.2f}",
            f"{self._num_divergent} divergent",
        ]
        if self._num_nonfinite:
            words.append(f"{self._num_nonfinite} not finite")
        words.append(self._speed())
        if self.generation > 0:
            words.append(f"generation {self.generation} of {_workers(self.num_workers)}")
        if self.seconds_left is not None and not self.is_over:
            words.append(f"{_duration(self.seconds_left)} left")
        return " · ".join(words)

    def _speed(self) -> str:
        if self.phase == "draws":
            return f"{self.steps_per_second * self._num_chains / self._thin:,.0f} draws/s"
        return f"{self.steps_per_second:,.1f} steps/s"

    def news(self, event: RunEvent) -> str:
        """Return what is worth a line of its own: workers that are lost, come or leave; else nothing."""
        match event:
            case WorkersLost():
                return f"generation {event.generation}: {event.cause}. The run goes on from step {self.step}."
            case WorkersStarted() if event.generation > 0:
                # What the one before came to its end by has been told.
                reason = event.reason.removeprefix(self._cause).removeprefix("; ")
                why = f" ({reason})" if reason else ""
                return f"generation {event.generation}: {_workers(len(event.members))}{why}"
            case SamplingResumed():
                repeated = f", up to {event.steps_repeated} steps once more" if event.steps_repeated else ""
                return f"sampling again after {event.standstill_seconds:.1f} s{repeated}"
        return ""

    def line(self) -> str:
        """Return everything in one line."""
        steps = f" {self.step}/{self.num_steps} steps" if self._last is not None else ""
        facts = self.facts()
        return f"[{_duration(self.seconds)}] {self.phase}{steps}" + (f" · {facts}" if facts else "")

    def closing_line(self) -> str:
        """Return the line that ends a run."""
        changes = f"{self.num_changes} change{'s' if self.num_changes != 1 else ''} of workers"
        lost = f", {self.seconds_lost:.1f} s of it lost to {changes}" if self.num_changes else ""
        took = f"{self.step - self._first_step} steps of {self._num_chains} chains on {_workers(self.num_workers)}"
        return f"{took} in {_duration(self.seconds)}{lost}"


class ClimbTally(Tally):
    """Keeps count of a climb to a mode."""

    def facts(self) -> str:
        """Return how fast the starts climb; empty before the first chunk."""
        if self._last is None or self._last.report.num_steps == 0:
            return ""
        return f"{self.steps_per_second:,.1f} evaluations/s"


def _workers(number: int) -> str:
    return f"{number} worker{'s' if number != 1 else ''}"


def _rate(commits: Sequence[tuple[float, int]]) -> float:
    """Return steps per second between the first and the last of these times and steps; 0 while unknown."""
    if len(commits) < 2:
        return 0.0
    (first_time, first_step), (last_time, last_step) = commits[0], commits[-1]
    return (last_step - first_step) / (last_time - first_time) if last_time > first_time else 0.0


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


@contextlib.contextmanager
def display(tally: Tally, console: Console | None = None) -> Iterator[OnEvent]:
    """Show the progress of a run while the context lasts.

    Parameters
    ----------
    tally : Tally
        Keeps count.
    console : rich.console.Console, optional
        Where to show it. The default is the error stream, which leaves the output to results.

    Yields
    ------
    callable (RunEvent) -> None
        To be told of every event of the run.
    """
    console = console or Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        with _live(console, tally) as refresh:
            yield _noting(tally, refresh)
    else:
        yield _noting(tally, _Lines(console, tally))


def _noting(tally: Tally, show: Callable[[RunEvent], None]) -> OnEvent:
    def on_event(event: RunEvent) -> None:
        tally.note(event)
        show(event)

    return on_event


class _Lines:
    """Prints a line for every stage, and one every few seconds while sampling."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self._console = console
        self._tally = tally
        self._next = 0.0

    def __call__(self, event: RunEvent) -> None:
        match event:
            case StageBegan() if event.stage != "saving":
                self._print(self._tally.line())
            case ChunkCommitted() if event.seconds >= self._next:
                self._print(self._tally.line())
                self._next = event.seconds + SECONDS_BETWEEN_LINES
            case RunEnded(error=None):
                self._print(self._tally.closing_line())
            case _ if news := self._tally.news(event):
                self._print(f"[{_duration(self._tally.seconds)}] {news}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _live(console: Console, tally: Tally) -> Iterator[Callable[[RunEvent], None]]:
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=console,
        expand=True,
    )
    task = bar.add_task(tally.phase, total=tally.num_steps)
    # It takes two lines where one is too narrow for all.
    facts = Text(style="dim")

    def refresh(event: RunEvent) -> None:
        bar.update(task, description=tally.phase, completed=tally.step)
        facts.plain = tally.facts()
        if news := tally.news(event):
            console.print(news, style="yellow", markup=False, highlight=False)
        elif isinstance(event, RunEnded) and event.error is None:
            console.print(tally.closing_line(), markup=False, highlight=False)

    with Live(Group(bar, facts), console=console, refresh_per_second=8):
        yield refresh
