"""What to type to go on with a run."""

import os
import shlex

from distmc.storage.record import RunRecord


def how_to_go_on(path: str | os.PathLike[str], record: RunRecord) -> str:
    """Return the call or command that goes on with a run, or adds draws to it if it is finished.

    Parameters
    ----------
    path : path
        Directory of the run.
    record : RunRecord
        Tells whether the run was started from Python, and on how many workers it was at most.
    """
    is_finished = record.status == "finished"
    verb = "extend" if is_finished else "resume"
    if not record.source:
        return f"distmc.{verb}({os.fspath(path)!r}, model, data{', num_draws' * is_finished})"
    workers = f" --workers {record.most_workers}" if record.most_workers > 1 else ""
    return f"distmc {verb} {shlex.quote(os.fspath(path))}{' --draws N' * is_finished}{workers}"
