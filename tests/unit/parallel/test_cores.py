"""Workers of a node sample on cores of their own, and compile on those of all."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from distmc.parallel import cores

# Prints the cores of three threads: one from before, one that was started to compile, and the calling one.
_WORKER = """
import json, os, sys, threading
from distmc.parallel import cores

def start_thread():
    named = []
    has_begun, has_ended = threading.Event(), threading.Event()
    def wait():
        named.append(threading.get_native_id())
        has_begun.set()
        has_ended.wait()
    threading.Thread(target=wait, daemon=True).start()
    has_begun.wait()
    return named[0]

def where(*threads):
    return [sorted(os.sched_getaffinity(thread)) for thread in threads]

num_local = len(os.sched_getaffinity(0))
messenger = start_thread()
cores.share_cores(num_local, 1)
compiler = start_thread()
report = [where(messenger, compiler, 0)]
cores.keep_to_cores(num_local - 1, num_local, 1)
report.append(where(messenger, compiler, 0))
cores.share_cores(num_local, 1)
report.append(where(messenger, compiler, 0))
print(json.dumps(report))
"""


@pytest.mark.parametrize(
    ("num_local", "num_cpus", "available", "expected"),
    [
        (2, 2, range(4), [(0, 1), (2, 3)]),
        (3, 1, [8, 2, 5, 7], [(2,), (5,), (7,)]),
        (2, 1, range(4), [(), ()]),
        (3, 2, range(4), [(), (), ()]),
    ],
    ids=["whole node", "some cores withheld", "node mostly free", "oversubscribed"],
)
def test_cores_are_disjoint_and_only_dealt_out_where_safe(
    num_local: int, num_cpus: int, available: list[int], expected: list[tuple[int, ...]]
) -> None:
    chosen = [cores.cores_for(rank, num_local, num_cpus, available) for rank in range(num_local)]
    assert chosen == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin processes")
def test_all_threads_but_those_from_before_move_between_compiling_and_sampling() -> None:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_WORKER)], check=True, capture_output=True, text=True, timeout=60
    )
    everywhere = sorted(os.sched_getaffinity(0))
    own = everywhere[-1:]
    assert json.loads(run.stdout) == [[everywhere] * 3, [everywhere, own, own], [everywhere] * 3]


def test_nothing_is_moved_where_the_system_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    cores.share_cores(2, 1)
    cores.keep_to_cores(0, 2, 1)
