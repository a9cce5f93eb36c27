"""`distmc status`: how far a run has come, from its directory alone; needs neither JAX nor Ray."""

import datetime
import shlex
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from distmc.storage.record import Generation
    from distmc.storage.status import RunStatus

_MOST_GENERATIONS = 5


@click.command()
@click.argument("run", metavar="DIRECTORY")
def status(run: str) -> None:
    """Say how far a run has come, and what to do next.

    Reads the directory alone and leaves it as it is. Exit code 0 whatever the status is, 3 if there is no run or
    run.json is damaged.
    """
    from distmc.storage.status import status_of

    found = status_of(run)
    click.echo(f"{run}: {found.record.status}")
    if found.record.error:
        click.echo(f"  {found.record.error}")
    if found.damage:
        click.echo(f"  {found.damage}")
    for name, words in _facts(found):
        click.echo(f"{name:<9}{words}")
    for words in _next_steps(run, found):
        click.echo(f"{'next':<9}{words}")


def _facts(found: "RunStatus") -> Iterator[tuple[str, str]]:
    spec = found.record.spec
    phase = "in warm-up" if found.step < spec.num_warmup else "after warm-up"
    yield "steps", f"{found.step:,} of {spec.num_steps:,}, {phase}"
    yield "draws", f"{found.num_draws:,} of {spec.num_draws:,} of each of {spec.num_chains} chains"
    when = f", the last committed {_date(found.last_commit)}" if found.last_commit else ""
    yield "chunks", f"{len(found.headers):,}{when}"
    generations = found.record.generations
    if len(generations) > _MOST_GENERATIONS:
        yield "workers", f"{len(generations) - _MOST_GENERATIONS} earlier generations, see run.json"
    for generation in generations[-_MOST_GENERATIONS:]:
        yield "workers", _generation(generation)
    stages = found.stage_seconds
    if stages:
        longest = max(stages, key=lambda stage: stages[stage])
        yield "times", f"{longest} took {stages[longest]:.1f} s, the longest of all stages before sampling"
    if found.slowest is not None:
        seconds = found.slowest.seconds / found.slowest.num_steps
        yield (
            "times",
            f"the slowest step took {seconds:.3g} s, in chunk {found.slowest.chunk}; the median of chunks is "
            f"{found.median_seconds_per_step:.3g} s",
        )


def _generation(generation: "Generation") -> str:
    nodes = Counter(generation.nodes)
    where = ", ".join(node if count == 1 else f"{node} ({count})" for node, count in nodes.items())
    when = _date(datetime.datetime.fromisoformat(generation.started_at))
    count = f"{len(generation.nodes)} worker{'s' * (len(generation.nodes) != 1)}"
    lost = f", after {generation.standstill_seconds:.1f} s of standstill" if generation.standstill_seconds else ""
    return f"generation {generation.number} ({generation.reason}, {when}): {count} on {where}{lost}"


def _next_steps(run: str, found: "RunStatus") -> Iterator[str]:
    from distmc.storage.advice import how_to_go_on

    go_on = how_to_go_on(run, found.record)
    if found.record.status == "running":
        yield f"wait; or, if the process that writes it is gone for certain: {go_on}"
        return
    if found.num_draws:
        yield f"distmc summary {shlex.quote(run)}"
    yield go_on


def _date(time: datetime.datetime) -> str:
    return f"{time.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
