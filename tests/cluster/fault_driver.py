"""Drives one run through faults in a process of its own; started by test_faults.py.

Takes one JSON object: what `endure` is to be given. Tells on its output what the run tells, one JSON object a line.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from distmc.orchestration.events import (
    ChunkCommitted,
    RunEvent,
    SamplingResumed,
    StageBegan,
    WorkersLost,
    WorkersStarted,
)
from distmc.orchestration.pace import Pace
from distmc.samplers import RWMH
from distmc.spec import Local, Ray
from distmc.testing.endurance import endure
from distmc.testing.faults import Fault
from distmc.zoo import normal

BEGAN = time.monotonic()
MODEL, DATA = normal.build_model(), normal.simulate(12)
NUM_WARMUP, NUM_DRAWS = 60, 240
SETTINGS: dict[str, Any] = {
    "sampler": RWMH(),
    "num_chains": 2,
    "num_warmup": NUM_WARMUP,
    "num_draws": NUM_DRAWS,
    "num_blocks": 4,
}


def tell(kind: str, **facts: Any) -> None:
    # In one piece: Ray writes to the output as well, in the middle of lines.
    os.write(1, f"\n{json.dumps({'kind': kind, 'at': round(time.monotonic() - BEGAN, 1), **facts})}\n".encode())


def on_event(event: RunEvent) -> None:
    match event:
        case WorkersStarted():
            pids = [member.pid for member in event.members]
            tell("started", generation=event.generation, reason=event.reason, pids=pids)
        case WorkersLost():
            tell("lost", generation=event.generation, cause=event.cause, rank=event.rank, node=event.node)
        case SamplingResumed():
            seconds = round(event.standstill_seconds, 2)
            tell("resumed", generation=event.generation, seconds=seconds, repeated=event.steps_repeated)
        case StageBegan():
            tell("stage", stage=event.stage)
        case ChunkCommitted():
            tell("step", step=event.report.step)


def main(given: dict[str, Any]) -> None:
    plan = tuple(Fault(**fault) for fault in given.pop("plan"))
    ray, hurry = given.pop("ray"), given.pop("dawdles_until", None)

    def listen(event: RunEvent) -> None:
        on_event(event)
        if isinstance(event, ChunkCommitted) and hurry is not None and not Path(hurry).exists():
            # Ever longer, so that the end is not reached before, however slow the machine is.
            until = time.monotonic() + min(3.0, 0.1 * 1.15**event.report.chunk)
            while time.monotonic() < until and not Path(hurry).exists():
                time.sleep(0.02)

    if hurry is not None:
        # Whoever has come shall join; whether that pays is not the question.
        Pace.growth_pays = lambda self, present, possible, steps, now: possible > present  # type: ignore[method-assign]
    on = Local() if ray is None else Ray(**ray)
    endured = endure(MODEL, DATA, plan, on=on, on_event=listen, **{**SETTINGS, **given})
    tell("finished", stops=endured.stops, warnings=endured.warnings)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
