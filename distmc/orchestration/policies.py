"""Decisions that the controller takes, as plain functions of facts: how long a chunk is, and who caused a failure."""

import dataclasses
import math
import re
import traceback
from collections.abc import Collection, Mapping, Sequence

from distmc.errors import InputError
from distmc.orchestration.messages import Failure, FailureKind
from distmc.orchestration.states import State
from distmc.sampling.reports import ChunkReport

CHUNK_SECONDS = 1.0
LONGEST_CHUNK_SECONDS = 2.0
# Some chunks take three times as long to write as most, so that this keeps the share of all below a hundredth.
_COMMIT_SHARE = 0.005
MAX_CHUNK_STEPS = 1000
MAX_GROWTH = 2
GATHERING_SECONDS = 5.0
# Starting a process again takes less, and the program for as many workers as before need not be compiled.
REPLACEMENT_SECONDS = 4.0
# `ray job stop` allows three seconds.
SAVING_SECONDS = 2.0
# Workers notice within milliseconds that another is lost, but on a busy machine even that takes a while.
PARTING_SECONDS = 5.0

# Loading and compiling may rightly take much longer than a chunk.
_SETUP = frozenset({State.FORMING, State.LOADING, State.COMPILING})
_SETUP_PATIENCE = 4.0

# XLA reports a lost peer as a plain ValueError, so its text has to tell. The status codes in front catch wordings
# that are not listed: taking an error for collateral only costs the triage time, the reverse blames an innocent.
_COLLECTIVE = re.compile(
    r"^(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED): |Gloo .*fail|NCCL"
    r"|Connection (reset|closed|refused)|Broken pipe|Socket closed",
    re.IGNORECASE | re.DOTALL,
)


# Who waits for another gives up before the controller would take it for silent, too.
_WAITING_SHARE = 0.8


class LostPeer(Exception):
    """What a worker waited for has not come from the other that was to give it."""


def next_chunk_length(current: int, reports: Collection[ChunkReport], commit_seconds: float = 0.0) -> int:
    """Choose the number of steps of the next chunk, so that a chunk lasts about `CHUNK_SECONDS`.

    Where writing one takes more than a two-hundredth of that, chunks last up to `LONGEST_CHUNK_SECONDS`.

    Short chunks lose little work when a worker is lost and answer quickly to a request to stop; long ones hide the
    cost of orders and files. Growth is limited, because the first chunks say little about the time of a step.

    Parameters
    ----------
    current : int
        Steps asked for in the chunk that the reports are about.
    reports : collection of ChunkReport
        One from each worker; the slowest decides.
    commit_seconds : float
        What it took to write the last chunk that was written.

    Returns
    -------
    int
        Between 1 and `MAX_CHUNK_STEPS`.
    """
    slowest = max(report.seconds / max(1, report.num_steps) for report in reports)
    longest = min(MAX_CHUNK_STEPS, MAX_GROWTH * current)
    wanted = min(max(CHUNK_SECONDS, commit_seconds / _COMMIT_SHARE), LONGEST_CHUNK_SECONDS)
    if slowest * longest <= wanted:
        return longest
    return max(1, math.floor(wanted / slowest))


def patience(state: State, hang_timeout_seconds: float) -> float:
    """Return the seconds of silence after which workers are given up that should answer in `state`."""
    return hang_timeout_seconds * (_SETUP_PATIENCE if state in _SETUP else 1.0)


def parting_patience(failed_in: State, longest_chunk_seconds: float) -> float:
    """Return the seconds in which workers have to come back after another one was lost.

    Those that take steps find out when they next exchange something, which is a gradient away and so less than a
    chunk. One that was in the middle of a message may never be told: gloo forgets it, and it waits for as long as for
    a silent worker. In other states there is no such limit.

    Parameters
    ----------
    failed_in : State
        What the run was doing.
    longest_chunk_seconds : float
        What the longest chunk or start so far has taken; the next may have `MAX_GROWTH` times the steps.
    """
    return max(PARTING_SECONDS, MAX_GROWTH * longest_chunk_seconds) if failed_in is State.RUNNING else math.inf


def handover_patience(hang_timeout_seconds: float) -> float:
    """Return the seconds for which workers wait for the program that the first of them compiles."""
    return _WAITING_SHARE * patience(State.COMPILING, hang_timeout_seconds)


def odd_ranks(digests: Mapping[int, str]) -> tuple[int, ...]:
    """Return the ranks whose digest is not that of the majority; all of them where there is no majority."""
    groups: dict[str, list[int]] = {}
    for rank, digest in sorted(digests.items()):
        groups.setdefault(digest, []).append(rank)
    if len(groups) == 1:
        return ()
    largest = max(groups.values(), key=len)
    if 2 * len(largest) <= len(digests):
        return tuple(sorted(digests))
    return tuple(rank for rank in sorted(digests) if rank not in largest)


def describe_exception(error: Exception, rank: int, *, uses_collectives: bool) -> Failure:
    """Turn an exception raised in a worker into a failure that can travel.

    Parameters
    ----------
    error : Exception
        What was raised.
    rank : int
        The worker.
    uses_collectives : bool
        Whether the worker was computing together with others, so that the loss of one of them can be the cause.

    Returns
    -------
    Failure
        Its `error` is the exception itself.
    """
    text = "".join(traceback.format_exception(error))
    lines = str(error).strip().splitlines()
    summary = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if isinstance(error, InputError):
        kind = FailureKind.INPUT
    elif isinstance(error, LostPeer) or (uses_collectives and _COLLECTIVE.search(str(error))):
        kind = FailureKind.COLLECTIVE
    else:
        kind = FailureKind.APPLICATION
    return Failure(rank=rank, kind=kind, summary=summary, traceback=text, error=error)


_RANKING = tuple(FailureKind)


def root_cause(failures: Sequence[Failure]) -> Failure:
    """Return the failure that explains the others.

    A worker that raised or died takes its peers with it: they report lost contact, which is never the cause while
    anything else is known. Among equals the one heard of first counts.
    """
    return min(failures, key=lambda failure: _RANKING.index(failure.kind))


def dispensable(cause: Failure, failures: Sequence[Failure], num_workers: int, fewest: int) -> frozenset[int]:
    """Return the ranks without which a run may go on that has failed for the same reason too often.

    A node that lacks a package or has another processor fails every time; the others need not end with it. That
    holds while some workers neither raised nor differ from most, and enough of them are left.

    Parameters
    ----------
    cause : Failure
        The root cause.
    failures : sequence of Failure
        All that is known.
    num_workers, fewest : int
        Workers of the generation, and those that the run needs.

    Returns
    -------
    frozenset of int
        Empty where the run has to end.
    """
    if cause.kind not in (FailureKind.APPLICATION, FailureKind.DRIFT):
        return frozenset()
    ranks = frozenset(failure.rank for failure in failures if failure.kind is cause.kind)
    num_left = num_workers - len(ranks)
    is_clear = num_left > len(ranks) if cause.kind is FailureKind.DRIFT else num_left > 0
    return ranks if is_clear and num_left >= fewest else frozenset()


def portable(failure: Failure) -> Failure:
    """Return `failure` fit to be sent to another process: only distmc's own errors are sure to survive pickling."""
    if failure.kind is FailureKind.INPUT:
        return failure
    return dataclasses.replace(failure, error=None)
