"""What to type to go on with a run."""

import dataclasses
import os
import shlex

from distmc.spec import Local, Placement, Ray
from distmc.storage.record import RunRecord

_OPTIONS = {
    "num_workers": "--workers",
    "address": "--address",
    "num_cpus_per_worker": "--cpus-per-worker",
    "num_gpus_per_worker": "--gpus-per-worker",
    "start_timeout_seconds": "--start-timeout",
    "hang_timeout_seconds": "--hang-timeout",
}


def how_to_go_on(path: str | os.PathLike[str], record: RunRecord) -> str:
    """Return the call or command that goes on with a run, or adds draws to it if it is finished.

    Parameters
    ----------
    path : path
        Directory of the run.
    record : RunRecord
        Tells whether the run was started from Python, and where it was computed last.
    """
    is_finished = record.status == "finished"
    verb = "extend" if is_finished else "resume"
    if not record.source:
        on = _in_python(record.placement)
        return f"distmc.{verb}({os.fspath(path)!r}, model, data{', num_draws' * is_finished}{on})"
    options = options_of(record.placement)
    return f"distmc {verb} {shlex.quote(os.fspath(path))}{' --draws N' * is_finished}{options}"


def _in_python(placement: Placement) -> str:
    if isinstance(placement, Local):
        return ""
    settings = ", ".join(f"{name}={value!r}" for name, value in _settings(placement).items())
    return f", on=distmc.Ray({settings})"


def options_of(placement: Placement) -> str:
    """Return the options of the command line that say where to compute, each with a blank before it."""
    if isinstance(placement, Local):
        return ""
    words = [""]
    for name, option in _OPTIONS.items():
        if name in _settings(placement):
            value = getattr(placement, name)
            words += [option, shlex.quote(":".join(map(str, value)) if isinstance(value, tuple) else str(value))]
    # One worker without any other option would be this process, without Ray.
    return " ".join(words if words[1:] != ["--workers", "1"] else [*words, "--cpus-per-worker", "1"])


def _settings(placement: Ray) -> dict[str, object]:
    """Return the number of workers, which everybody wants to see, and what differs from the defaults."""
    return {
        field.name: value
        for field in dataclasses.fields(placement)
        if (value := getattr(placement, field.name)) != field.default or field.name == "num_workers"
    }
