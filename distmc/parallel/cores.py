"""Which cores a worker's threads run on: its own while it samples, those of all workers on its node while it compiles.

Threads start with the cores of the one that starts them. Those that compile are started once, with the first program,
so they are moved between compiling and sampling; those that compute are moved with them.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Collection
from pathlib import Path

_THREADS = Path("/proc/self/task")


def cores_for(local_rank: int, num_local: int, num_cpus: int, available: Collection[int]) -> tuple[int, ...]:
    """Choose the cores of one of several workers on a node; an empty tuple leaves the choice to the system.

    Cores are dealt out only where the workers of this run take up more than half of the node and fit on it. With
    less than that another run on the same node could have chosen the same cores, and free ones are plenty anyway.

    Parameters
    ----------
    local_rank, num_local : int
        The worker's place among those on its node, and their number.
    num_cpus : int
        Cores for each of them.
    available : collection of int
        Numbers of the cores that this process may use.

    Returns
    -------
    tuple of int
        Core numbers, disjoint for different `local_rank`.
    """
    wanted = num_local * num_cpus
    if not len(available) / 2 < wanted <= len(available):
        return ()
    cores = sorted(available)
    return tuple(cores[local_rank * num_cpus : (local_rank + 1) * num_cpus])


def share_cores(num_local: int, num_cpus: int) -> None:
    """Let this worker use the cores of all workers on its node, most of which wait while one compiles for all.

    To be called before anything is compiled: how many threads compile is settled by the cores that there are then.

    Parameters
    ----------
    num_local, num_cpus : int
        As in `cores_for`.
    """
    if _can_choose():
        shared = (core for rank in range(num_local) for core in cores_for(rank, num_local, num_cpus, _given_cores()))
        _move_to(set(shared) or _given_cores())


def keep_to_cores(local_rank: int, num_local: int, num_cpus: int) -> None:
    """Keep this worker to cores of its own, so that several on a node do not disturb each other.

    May be called again for another place on the node: what counts is the cores that the process was given at first.

    Parameters
    ----------
    local_rank, num_local, num_cpus : int
        As in `cores_for`.
    """
    if _can_choose():
        _move_to(cores_for(local_rank, num_local, num_cpus, _given_cores()) or _given_cores())


def _can_choose() -> bool:
    return hasattr(os, "sched_setaffinity")


@functools.cache
def _given_cores() -> frozenset[int]:
    """Return the cores that this process had before it was first moved."""
    return frozenset(os.sched_getaffinity(0))


@functools.cache
def _bystanders() -> frozenset[int]:
    """Return the threads from before this process was first moved: they carry Ray's messages, and stay free."""
    return frozenset(_threads())


def _threads() -> set[int]:
    """Return the threads of this process but for the calling one."""
    try:
        return {int(thread.name) for thread in _THREADS.iterdir()} - {threading.get_native_id()}
    except FileNotFoundError:
        return set()


def _move_to(cores: Collection[int]) -> None:
    """Move the calling thread, and all that have been started since this process was first moved."""
    settled = set(_bystanders())
    os.sched_setaffinity(0, cores)
    # Threads that were not moved yet may have started others meanwhile.
    while found := _threads() - settled:
        for thread in found:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)
        settled |= found
