"""Ends processes that do not run any more but are not dead either.

Ray asks a process to end itself before it ends it by force, and waits for five seconds; the room of a process that is
stopped (SIGSTOP, a frozen container) is needed sooner.
"""

import os
import pathlib
import signal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_STOPPED = "Tt"


def end_stopped(pid: int, node: str) -> None:
    """Have a process of the cluster killed if it is stopped; returns at once.

    Parameters
    ----------
    pid : int
        Number of the process.
    node : str
        Ray's name of its node.
    """
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    ray.remote(_kill_if_stopped).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(pid)


def _kill_if_stopped(pid: int) -> None:
    """Kill the process; one that still runs ends as Ray tells it, and its number may be another's by now."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        # It is gone, or this is no Linux, where Ray's own patience has to do.
        return
    if state in _STOPPED:
        os.kill(pid, signal.SIGKILL)
