"""A run in a process of its own; started by test_ray_clusters.py."""

import sys

import faulty

from distmc.errors import DistmcError
from distmc.orchestration.events import RunEvent, WorkersStarted
from distmc.orchestration.session import run
from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.spec import Ray


def commit(report: ChunkReport, arrays: ChunkArrays) -> None:
    print("step", report.step, flush=True)


def on_event(event: RunEvent) -> None:
    if isinstance(event, WorkersStarted):
        print("pids", *(member.pid for member in event.members), flush=True)


def main(num_workers: int, num_draws: int, address: str | None) -> int:
    try:
        run(
            faulty.task(num_draws=num_draws),
            Ray(num_workers=num_workers, address=address),
            commit=commit,
            on_event=on_event,
            build_worker=faulty.build(),
        )
    except DistmcError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] or None))
