"""Timing, machine facts and provenance, shared by the benchmarks."""

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine_facts(packages: tuple[str, ...]) -> dict[str, Any]:
    """Return what a reader needs to judge a timing: processor, cores this process may use, versions."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "jax_threads": os.environ.get("PJRT_NPROC"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def provenance() -> dict[str, str | None]:
    """Return by what a measurement is known again: its date, and the commit, with a plus if files differ from it.

    Results, which benchmarks write themselves, may differ. The commit is None where there is no git, or no repository.
    """
    try:
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude)results")
        commit = _git("rev-parse", "--short=10", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {"measured": datetime.datetime.now(datetime.UTC).date().isoformat(), "commit": commit}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def time_interleaved(cases: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return seconds of each repeat; the cases take turns, so that a busy machine slows all of them alike.

    Each turn runs its case twice and times the second run: in a sampler a gradient follows a gradient, and does not
    find caches and memory as some other program left them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, run in cases.items():
            run()
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median seconds of each case."""
    return {name: statistics.median(times) for name, times in seconds.items()}


def write_result(name: str, result: Mapping[str, Any], directory: Path = RESULTS) -> Path:
    """Write a result as JSON and return where it is."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
