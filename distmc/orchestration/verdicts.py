"""The words in which a failed run is reported: root cause first, then what is kept, then what to do."""

from collections.abc import Sequence

from distmc.errors import DriftError, InputError, Interrupted, WorkerError
from distmc.orchestration.events import Member
from distmc.orchestration.messages import Failure, FailureKind, StartFailed
from distmc.orchestration.states import State
from distmc.sampling.reports import ChunkReport
from distmc.types import Checkpoint

_ADVICE = {
    FailureKind.APPLICATION: "The traceback of the worker is attached; `distmc.check(model, data)` often shows the "
    "same problem in this process.",
    FailureKind.DEAD: "The usual reasons are memory that ran out, a crash in a library, and a node that went away; "
    "the system log of the node tells which. With more workers, each needs less memory.",
    FailureKind.SILENT: "If a single step can take that long, raise `hang_timeout_seconds`; else look at that node: "
    "a process that is stopped, a network that drops packets, a disk that does not answer.",
    FailureKind.COLLECTIVE: "No worker is known to have died, so the network between the nodes is the suspect: all "
    "workers must reach one another on every TCP port.",
}


def failure(
    cause: Failure,
    failures: Sequence[Failure],
    members: Sequence[Member],
    failed_in: State,
    kept: Checkpoint | None,
) -> Exception:
    """Make the error that reports a failed run.

    Parameters
    ----------
    cause : Failure
        The root cause.
    failures : sequence of Failure
        All that is known, the root cause included.
    members : sequence of Member
        The workers by rank.
    failed_in : State
        What the run was doing.
    kept : Checkpoint or None
        The state after the last chunk on disk; None: there is none.

    Returns
    -------
    Exception
        The worker's own error where it is about the input, else a `WorkerError`.
    """
    if cause.kind is FailureKind.INPUT and isinstance(cause.error, InputError):
        return cause.error
    alike = _alike(cause, failures)
    is_known = not _all_are_silent(cause, failures, members)
    rank = cause.rank if is_known else None
    what = f"{_subject(cause, failures, members)} {cause.kind.value}"
    if alike and is_known:
        what += f" (as did {_ranks(alike)})"
    error = WorkerError(
        f"{what} while the run was {failed_in.value}: {cause.summary}. {_kept(kept)} {_ADVICE[cause.kind]}",
        rank=rank,
        node=None if rank is None else members[rank].node,
        remote_traceback=cause.traceback,
    )
    if cause.error is not None:
        error.__cause__ = cause.error
    elif cause.traceback:
        error.add_note(f"In worker {cause.rank}:\n{cause.traceback}")
    return error


def in_words(cause: Failure, failures: Sequence[Failure], members: Sequence[Member], failed_in: State) -> str:
    """Say in one sentence what a run went on after, for its log."""
    if cause.kind is FailureKind.DRIFT:
        # Who differs from whom is said there, as far as it is known.
        return cause.summary
    who = _subject(cause, failures, members)
    return f"{who} {cause.kind.value} while the run was {failed_in.value}: {cause.summary}"


def with_stuck(reason: str, ranks: Sequence[int], members: Sequence[Member]) -> str:
    """Add to the root cause of a failure which workers did not come back from it."""
    who = " and ".join(f"process {members[rank].pid} (node {members[rank].node})" for rank in ranks)
    return f"{reason}; {who} did not come back from the exchange that this broke off"


def with_kept(message: str, kept: Checkpoint | None) -> str:
    """Add to `message` what is on disk, if anything is."""
    return message if kept is None else f"{message} {_kept(kept)}"


def not_started(event: StartFailed, kept: Checkpoint | None) -> WorkerError:
    """Make the error for worker processes that do not come up."""
    return WorkerError(
        f"Process {event.worker} of the run could not be started: {event.failure.summary}. {_kept(kept)} "
        "The logs of Ray on the nodes tell more; the usual reasons are a package that is missing there, and too little "
        "memory.",
        remote_traceback=event.failure.traceback,
    )


def stopped(by: str, during: State, committed_step: int, num_steps: int) -> Interrupted:
    """Make the error for a run that was asked to stop."""
    kept = (
        f"{committed_step} of {num_steps} steps are committed and kept"
        if committed_step
        else "no step is committed yet, so nothing is kept"
    )
    return Interrupted(f"The run was stopped by {by} while it was {during.value}; {kept}.")


def with_count(error: Exception, num_failures: int) -> Exception:
    """Note with `error` that it was not the first since the last chunk on disk, if it was not."""
    if num_failures > 1:
        error.add_note(
            f"This was failure number {num_failures} since the last chunk on disk. What fails again at the same place "
            "is more likely the program or its data than the cluster; the log and run.json have the earlier ones."
        )
    return error


def drift(
    odd: Sequence[int],
    report: ChunkReport,
    members: Sequence[Member],
    kept: Checkpoint | None,
    differences: Sequence[str] = (),
) -> DriftError:
    """Make the error for replicas that differ.

    Parameters
    ----------
    odd : sequence of int
        Ranks that differ from the majority; all ranks where there is none.
    report : ChunkReport
        A report of the chunk in which they differ.
    members : sequence of Member
        The workers by rank.
    kept : Checkpoint or None
        The state after the last chunk on disk; None: there is none.
    differences : sequence of str
        Facts about these workers' machines that differ from those of the others, in words.
    """
    is_known = len(odd) < len(members)
    nodes = ", ".join(sorted({member.node for member in members}))
    found = f"They differ in: {'; '.join(differences)}." if differences else "Nothing known of their machines differs."
    return DriftError(
        f"{difference(odd, report, members)}. {_kept(kept)} {found} The usual reasons are nodes with different "
        f"processors, GPUs or library versions, and faulty memory; use nodes of one kind. Nodes of this run: {nodes}.",
        rank=odd[0] if is_known else None,
        node=members[odd[0]].node if is_known else None,
    )


def difference(
    odd: Sequence[int], report: ChunkReport, members: Sequence[Member], differences: Sequence[str] = ()
) -> str:
    """Say in one sentence who differs from whom, and in what their machines do, as far as that is known."""
    if len(odd) == len(members):
        who = "The workers do not agree, and no majority tells which of them is wrong"
    else:
        who = f"Worker {', '.join(f'{rank} (node {members[rank].node})' for rank in odd)} differs from the others"
    found = f"; their machines differ in: {'; '.join(differences)}" if differences else ""
    return (
        f"{who}: the state that every worker holds a copy of is no longer the same to the bit after step "
        f"{report.step} (chunk {report.chunk}){found}"
    )


def _subject(cause: Failure, failures: Sequence[Failure], members: Sequence[Member]) -> str:
    everybody = _all_are_silent(cause, failures, members)
    return f"All {len(members)} workers" if everybody else _name(cause.rank, members)


def _all_are_silent(cause: Failure, failures: Sequence[Failure], members: Sequence[Member]) -> bool:
    """Say whether nobody can be told from the others, as all of them wait."""
    return cause.kind is FailureKind.SILENT and len(_alike(cause, failures)) + 1 == len(members) > 1


def _alike(cause: Failure, failures: Sequence[Failure]) -> list[int]:
    """Return the other ranks that failed in the same way."""
    return [other.rank for other in failures if other.kind is cause.kind and other.rank != cause.rank]


def _name(rank: int, members: Sequence[Member]) -> str:
    return f"Worker {rank} of {len(members)} (node {members[rank].node}, process {members[rank].pid})"


def _ranks(ranks: Sequence[int]) -> str:
    words = ", ".join(map(str, ranks))
    return f"worker {words}" if len(ranks) == 1 else f"workers {words}"


def _kept(kept: Checkpoint | None) -> str:
    if kept is None:
        return "No steps had been committed."
    return f"All steps up to step {kept.step} (chunk {kept.chunk}) are committed and kept."
