"""What the command line says, and with which exit code it ends."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import distmc
from distmc import cli
from distmc.commands.options import WorkerCount, placement, placement_options
from distmc.errors import Interrupted, WorkerError
from distmc.run import Run
from distmc.storage.advice import options_of
from distmc.testing.invariance import require_identical

MODEL = """
import jax.numpy as jnp
import numpyro.distributions as dist

import distmc
from scale import unit


def log_likelihood(params, data):
    return -0.5 * jnp.sum(((data["y"] - params["loc"]) / unit) ** 2, axis=-1)


def build():
    return distmc.Model(parameters={"loc": dist.Normal(jnp.zeros(2), 10.0).to_event(1)}, log_likelihood=log_likelihood)


model = build()
with_sum = distmc.Model(parameters=model.parameters, log_likelihood=lambda p, d: log_likelihood(p, d).sum())
too_few = distmc.Model(parameters=model.parameters, log_likelihood=lambda p, d: log_likelihood(p, d)[1:])
no_such_row = distmc.Model(
    parameters=model.parameters,
    log_likelihood=lambda p, d: p["loc"][0] * d["z"],
)
without_gradient = distmc.Model(model.parameters, log_likelihood, is_differentiable=False)
number = 3


def needs_more(argument):
    return model


DIMS = {"loc": ["place"]}
COORDS = {"place": ["here", "there"]}


def INITIAL(num_chains, seed):
    return {"loc": jnp.full((num_chains, 2), 0.5)}
"""
SMALL = ["--chains", "4", "--warmup", "30", "--draws", "20"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a user's files and a finished run in `runs/tiny`."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "scale.py").write_text("unit = 1.0\n")
    (folder / "tiny.py").write_text(MODEL)
    (folder / "raises.py").write_text("import math\n\n\nvalue = math.sqrt(-1)\n")
    (folder / "wrong.py").write_text("value = (\n")
    (folder / "bytes.py").write_bytes(b"\xff\xfe\x00")
    (folder / "text.txt").write_text("no model")
    y = np.random.default_rng(0).normal(size=(64, 2))
    np.savez(folder / "data.npz", y=y)
    np.savez(folder / "nan.npz", y=np.where(y > 2.0, np.nan, y))
    np.save(folder / "array.npy", y)
    (folder / "array.npy").rename(folder / "array.npz")
    (folder / "damaged.npz").write_bytes(b"PK nothing of the kind")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = run(["sample", "tiny.py", "--data", "data.npz", *SMALL])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the user's directory."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments: list[str]) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli.cli, arguments)


def test_help_comes_at_once_and_lists_the_commands() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "distmc", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for name in ("check", "demo", "extend", "resume", "sample", "status", "summary"):
        assert f"\n  {name} " in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "distmc.cli" in imported
    assert not imported & {"jax", "ray", "numpy", "xarray"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.py", "--data", "data.npz"], ["`none.py` does not exist"]),
        (["text.txt", "--data", "data.npz"], ["`text.txt` does not end in `.py`"]),
        (["bytes.py", "--data", "data.npz"], ["`bytes.py`"]),
        (
            ["wrong.py", "--data", "data.npz"],
            ["is not valid Python: '(' was never closed", "wrong.py, line 1: value = ("],
        ),
        (
            ["raises.py", "--data", "data.npz"],
            ["`raises.py` raised ValueError", "raises.py, line 4: value = math.sqrt(-1)"],
        ),
        (["tiny.py:other", "--data", "data.npz"], ["has no name `other`", "'model', 'with_sum'"]),
        (["tiny.py:number", "--data", "data.npz"], ["`number` of `tiny.py` is a `int`", "must be a `distmc.Model`"]),
        (["tiny.py:needs_more", "--data", "data.npz"], ["`needs_more`", "raised TypeError"]),
        (["tiny.py:too_few", "--data", "data.npz"], ["returned shape", "contributions of its"]),
        (["tiny.py:no_such_row", "--data", "data.npz"], ["raised KeyError", "`log_likelihood`"]),
        (["tiny.py", "--data", "none.npz"], ["`none.npz` does not exist"]),
        (["tiny.py", "--data", "damaged.npz"], ["`damaged.npz` could not be read"]),
        (["tiny.py", "--data", "array.npz"], ["`array.npz` could not be read", "It must be an archive"]),
        (["tiny.py", "--data", "nan.npz"], ["`y` is NaN"]),
        (["tiny.py", "--data", "data.npz", "--seed", str(2**64)], ["must be below 2**63"]),
        (["tiny.py", "--data", "data.npz", "--chains", "0"], ["`num_chains=0` must be a whole number of at least 2"]),
        (["tiny.py", "--data", "data.npz", "--blocks", "3"], ["`num_blocks=3`"]),
        (["tiny.py"], ["Missing option '--data'"]),
    ],
)
@pytest.mark.parametrize("command", ["sample", "check"])
def test_unusable_input_ends_in_words_and_leaves_nothing(
    here: Path, command: str, arguments: list[str], told: list[str]
) -> None:
    before = sorted(here.rglob("*"))
    result = run([command, *arguments, *(["--out", "runs/new"] if command == "sample" else [])])
    assert result.exit_code == 2, result.output
    for words in told:
        assert words in result.output
    assert "Traceback" not in result.output
    assert [file for file in sorted(here.rglob("*")) if "__pycache__" not in str(file)] == [
        file for file in before if "__pycache__" not in str(file)
    ]


@pytest.mark.usefixtures("here")
def test_error_in_the_likelihood_shows_the_line_of_the_user() -> None:
    result = run(["sample", "tiny.py:no_such_row", "--data", "data.npz"])
    assert result.exit_code == 2
    assert re.search(r"  tiny\.py, line \d+: log_likelihood=lambda p, d: p\[.loc.\]\[0\] \* d\[.z.\]", result.stderr)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--draws", "0", "`num_draws=0`"),
        ("--draws", "-5", "`num_draws=-5`"),
        ("--warmup", "-1", "`num_warmup=-1`"),
        ("--workers", "0", "`num_workers=0`"),
        ("--workers", "-2", "`num_workers=-2`"),
        ("--cpus-per-worker", "0", "`num_cpus_per_worker=0`"),
        ("--hang-timeout", "-1", "`hang_timeout_seconds=-1.0`"),
        ("--gpus-per-worker", "2", "`num_gpus_per_worker=2`: a worker owns one device"),
        ("--setting", "target_acceptance_rate=1.5", "`target_acceptance_rate=1.5`"),
        ("--setting", "target_rate=0.5", "ChEES has no setting `target_rate`; it has min_trajectory_length"),
        ("--setting", "jitter", "'jitter' is not of the form NAME=VALUE"),
        ("--thin", "0", "`thin=0`"),
    ],
)
def test_impossible_counts_are_refused_before_anything_is_read(option: str, value: str, told: str) -> None:
    result = run(["sample", "none.py", "--data", "none.npz", option, value])
    assert result.exit_code == 2
    assert told in result.stderr


@pytest.mark.parametrize(
    ("model", "setting", "told"),
    [
        ("without_gradient", "num_proposals=3", ""),
        ("model", "num_proposals=3", "ChEES has no setting `num_proposals`"),
        ("without_gradient", "jitter=0.2", "RWMH has no setting `jitter`"),
    ],
)
@pytest.mark.usefixtures("here")
def test_settings_are_those_of_the_sampler_that_the_model_gets(
    model: str, setting: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers = []

    def execute(prepared: Run, *arguments: Any, **options: Any) -> None:
        samplers.append(prepared.record.spec.sampler)
        raise WorkerError("Far enough.")

    monkeypatch.setattr(Run, "execute", execute)
    result = run(["sample", f"tiny.py:{model}", "--data", "data.npz", *SMALL, "--setting", setting])
    assert told in result.stderr
    assert samplers == ([] if told else [distmc.RWMH(num_proposals=3)])


@pytest.mark.usefixtures("here")
def test_more_workers_than_blocks_are_refused() -> None:
    result = run(["sample", "tiny.py", "--data", "data.npz", "--blocks", "2", "--workers", "3", "--out", "new"])
    assert result.exit_code == 2
    assert "3 workers were asked for, but the rows are cut into 2 blocks" in result.stderr


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("model", "told"),
    [("model", "already holds a run of this model and data"), ("with_sum", "holds a run of another model")],
)
def test_directory_of_a_run_is_not_used_again(model: str, told: str) -> None:
    before = Path("runs/tiny/run.json").read_bytes()
    result = run(["sample", f"tiny.py:{model}", "--data", "data.npz", *SMALL, "--out", "runs/tiny"])
    assert result.exit_code == 3
    assert told in result.stderr
    assert Path("runs/tiny/run.json").read_bytes() == before


def test_sample_writes_where_the_file_is_called_and_uses_its_names(files: Path) -> None:
    with distmc.open_run(files / "runs" / "tiny") as tree:
        loc = tree["posterior"]["loc"]
        assert loc.sizes == {"chain": 4, "draw": 20, "place": 2}
        assert loc["place"].values.tolist() == ["here", "there"]
        first = tree["warmup_posterior"]["loc"].values[:, 0]
    # The priors are ten wide; chains that begin where INITIAL says are still there after a first tiny step.
    assert np.abs(first - 0.5).max() < 1.0


@pytest.mark.usefixtures("here")
def test_summary_of_a_finished_run() -> None:
    result = run(["summary", "runs/tiny"])
    assert result.exit_code == 0, result.output
    for words in ("loc[here]", "loc[there]", "worst R-hat", "least ESS, tail", "draws per second", "Bad: "):
        assert words in result.stdout


@pytest.mark.usefixtures("here")
def test_summary_of_a_killed_run_says_that_it_was_cut_off(tmp_path: Path) -> None:
    killed = shutil.copytree("runs/tiny", tmp_path / "killed")
    (killed / "posterior.nc").unlink()
    record = json.loads((killed / "run.json").read_text())
    (killed / "run.json").write_text(json.dumps(record | {"status": "running"}))
    (killed / "run.lock").write_text(socket.gethostname())
    result = run(["summary", str(killed)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("This run was interrupted before its end: 20 of 20 draws are committed.\n")
    assert "This run" not in run(["summary", "runs/tiny"]).stdout


@pytest.mark.usefixtures("here")
def test_killed_run_is_resumed_and_then_extended_bit_for_bit(tmp_path: Path) -> None:
    killed = shutil.copytree("runs/tiny", tmp_path / "killed")
    (killed / "posterior.nc").unlink()
    for folder in ("chunks", "state"):
        max((killed / folder).glob("*.nc")).unlink()
    resumed = run(["resume", str(killed), "--no-progress"])
    assert resumed.exit_code == 0, resumed.output
    require_same_run("runs/tiny", killed)
    assert "finished before" in run(["resume", str(killed)]).stdout
    extended = run(["extend", str(killed), "--draws", "5", "--no-progress"])
    assert extended.exit_code == 0, extended.output
    asked_at_first = run(["sample", "tiny.py", "--data", "data.npz", *SMALL[:-1], "25", "--out", "runs/longer"])
    assert asked_at_first.exit_code == 0, asked_at_first.output
    require_same_run("runs/longer", killed)


GOES_ON_HERE = "it goes on in this process. To use workers, add: --workers 1:3 --address 10.0.0.1:6379\n"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("command", "status", "on", "is_told"),
    [
        (["resume"], "interrupted", distmc.Ray(num_workers=(1, 3), address="10.0.0.1:6379"), True),
        (["extend", "--draws", "5"], "finished", distmc.Ray(num_workers=(1, 3), address="10.0.0.1:6379"), True),
        (["resume"], "finished", distmc.Ray(num_workers=(1, 3), address="10.0.0.1:6379"), False),
        (["resume", "--local"], "interrupted", distmc.Ray(num_workers=(1, 3), address="10.0.0.1:6379"), False),
        (["resume", "--workers", "1"], "interrupted", distmc.Ray(num_workers=(1, 3), address="10.0.0.1:6379"), False),
        (["resume"], "interrupted", distmc.Local(), False),
    ],
)
def test_run_of_workers_that_goes_on_without_them_says_so(
    tmp_path: Path, command: list[str], status: str, on: distmc.Local | distmc.Ray, is_told: bool
) -> None:
    stopped = shutil.copytree("runs/tiny", tmp_path / "stopped")
    record = json.loads((stopped / "run.json").read_text())
    changes = {"status": status, "placement": dataclasses.asdict(on)}
    (stopped / "run.json").write_text(json.dumps(record | changes))
    result = run([*command, str(stopped), "--no-progress"])
    assert result.exit_code == 0, result.output
    assert (GOES_ON_HERE in result.stderr) == is_told
    assert "goes on in this process" not in result.stdout


@pytest.mark.parametrize(
    "on",
    [
        distmc.Local(),
        distmc.Ray(num_workers=1),
        distmc.Ray(num_workers=(1, 3), hang_timeout_seconds=20.0),
        distmc.Ray(num_workers=2, address="10.0.0.1:6379", num_cpus_per_worker=2),
    ],
)
def test_options_that_are_advised_mean_the_same_place(on: distmc.Local | distmc.Ray) -> None:
    @click.command()
    @placement_options
    def where(**options: Any) -> None:
        click.echo(repr(placement(**options)))

    assert CliRunner().invoke(where, options_of(on).split()).stdout == f"{on!r}\n"


def require_same_run(wanted: str | Path, found: str | Path) -> None:
    with distmc.open_run(wanted) as oracle, distmc.open_run(found) as tree:
        require_identical(oracle, tree, names=(str(wanted), str(found)))


def test_summary_without_a_run_says_so(tmp_path: Path) -> None:
    result = run(["summary", str(tmp_path / "none")])
    assert result.exit_code == 3
    assert "none" in result.stderr


@pytest.mark.usefixtures("here")
def test_check_of_a_good_model() -> None:
    result = run(["check", "tiny.py:build", "--data", "data.npz"])
    assert result.exit_code == 0, result.output
    assert "ready to sample" in result.stdout


@pytest.fixture
def ending(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs `sample` with a run that ends in an exception."""

    def end(error: BaseException, *options: str) -> Result:
        def execute(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(Run, "execute", execute)
        return run(["sample", "tiny.py", "--data", "data.npz", "--out", "new", *options])

    return end


def test_sample_in_a_ray_job_warns_of_a_path_that_will_not_stay(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(files, tmp_path / "working_dir_files" / "_ray_pkg_0123", ignore=lambda *_: ["runs"])
    monkeypatch.chdir(copy)
    monkeypatch.setattr(Run, "execute", lambda *_, **__: (_ for _ in ()).throw(Interrupted("Enough is seen.")))
    for options, is_warned in ((["--out", "runs/a"], True), ([], True), (["--out", str(tmp_path / "a")], False)):
        result = run(["sample", "tiny.py", "--data", "data.npz", *options])
        assert result.exit_code == 130
        assert ("Warning: `runs/" in result.stderr) is is_warned


def test_what_the_checks_warn_of_is_told_before_the_run(ending: Callable[..., Result]) -> None:
    result = ending(Interrupted("Enough is seen."), "--sampler", "laps", "--chains", "4")
    assert result.stderr.startswith("Warning: `num_chains=4` with LAPS: ")
    assert "Warning" not in ending(Interrupted("Enough is seen.")).stderr


def test_failure_of_a_worker_is_told_root_cause_first(ending: Callable[..., Result]) -> None:
    remote = 'Traceback (most recent call last):\n  File "user.py", line 3\nZeroDivisionError\n'
    result = ending(WorkerError("Worker 1 of 2 raised ZeroDivisionError.", rank=1, remote_traceback=remote))
    assert result.exit_code == 5
    assert result.stderr == f"Error: Worker 1 of 2 raised ZeroDivisionError.\n\nTraceback of the worker:\n{remote}"


@pytest.mark.parametrize("error", [Interrupted("10 steps are kept."), KeyboardInterrupt()])
def test_request_to_stop_has_the_exit_code_of_ctrl_c(ending: Callable[..., Result], error: BaseException) -> None:
    assert ending(error).exit_code == 130


def test_unforeseen_exceptions_keep_their_traceback(ending: Callable[..., Result]) -> None:
    error = RuntimeError("nobody thought of this")
    result = ending(error)
    assert result.exit_code == 1
    assert result.exception is error


def test_one_worker_needs_no_ray_unless_an_option_asks_for_it() -> None:
    assert cli.placement(1) == distmc.Local()
    assert cli.placement(1, local=True) == distmc.Local()
    assert cli.placement(3, cpus_per_worker=2) == distmc.Ray(num_workers=3, num_cpus_per_worker=2)
    assert cli.placement(1, address="auto") == distmc.Ray(num_workers=1, address="auto")
    assert cli.placement(1, hang_timeout=60.0) == distmc.Ray(num_workers=1, hang_timeout_seconds=60.0)
    assert cli.placement(2, start_timeout=5.0) == distmc.Ray(num_workers=2, start_timeout_seconds=5.0)
    assert cli.placement(1, gpus_per_worker=1) == distmc.Ray(num_workers=1, num_gpus_per_worker=1)
    with pytest.raises(click.UsageError, match="--local"):
        cli.placement(2, local=True)


@pytest.mark.parametrize(("given", "number"), [("3", 3), ("1:4", (1, 4)), (2, 2)])
def test_workers_are_a_number_or_the_fewest_and_the_most(given: str | int, number: int | tuple[int, int]) -> None:
    assert WorkerCount().convert(given, None, None) == number
    assert cli.placement(number) == distmc.Ray(num_workers=number)


@pytest.mark.parametrize("given", ["many", "1:2:3", "1-4", ""])
def test_other_words_for_workers_are_refused(given: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 1:4"):
        WorkerCount().convert(given, None, None)


def test_fewest_of_one_worker_may_still_grow_and_needs_ray() -> None:
    assert cli.placement((1, 2)) == distmc.Ray(num_workers=(1, 2))


@pytest.mark.parametrize(
    ("on", "before", "after"),
    [
        (distmc.Ray(num_gpus_per_worker=1), None, "cpu"),
        (distmc.Ray(), "cuda", "cuda"),
        (distmc.Local(), None, None),
    ],
    ids=["the workers own the GPUs", "the user has decided", "this process owns the GPU"],
)
def test_driver_leaves_gpus_to_the_workers(
    monkeypatch: pytest.MonkeyPatch, on: distmc.Ray | distmc.Local, before: str | None, after: str | None
) -> None:
    monkeypatch.setenv("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    monkeypatch.delenv("JAX_PLATFORMS")
    if before is not None:
        monkeypatch.setenv("JAX_PLATFORMS", before)
    cli.prepare_process(on)
    assert os.environ.get("JAX_PLATFORMS") == after
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.mark.parametrize("on", [distmc.Local(), distmc.Ray()], ids=lambda on: type(on).__name__)
@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("4", "4")], ids=["by itself", "as the user says"])
def test_process_computes_with_one_thread(
    monkeypatch: pytest.MonkeyPatch, on: distmc.Ray | distmc.Local, before: str | None, after: str
) -> None:
    # What is set here is put back afterwards, whatever else happens to it.
    for name in ("PJRT_NPROC", "JAX_PLATFORMS", "RAY_IGNORE_UNHANDLED_ERRORS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv("PJRT_NPROC")
    if before is not None:
        monkeypatch.setenv("PJRT_NPROC", before)
    cli.prepare_process(on)
    assert os.environ["PJRT_NPROC"] == after


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="names of threads are read from /proc")
def test_sampling_from_the_command_line_computes_with_one_thread(here: Path) -> None:
    """JAX reads the setting when it starts its devices, so that it has to come before."""
    (here / "counting.py").write_text(
        textwrap.dedent("""
        import pathlib

        import distmc
        import numpyro.distributions as dist


        def log_likelihood(params, data):
            names = [file.read_text() for file in pathlib.Path("/proc/self/task").glob("*/comm")]
            pathlib.Path("threads").write_text(str(sum("XLAEigen" in name for name in names)))
            return dist.Normal(params["mean"], 1.0).log_prob(data["y"])


        model = distmc.Model({"mean": dist.Normal(0.0, 1.0)}, log_likelihood)
        """)
    )
    np.savez(here / "y.npz", y=np.arange(20.0))
    settings = ["--data", "y.npz", "--chains", "2", "--warmup", "10", "--draws", "10", "--out", "run"]
    command = [sys.executable, "-m", "distmc", "sample", "counting.py:model", *settings]
    environment = {name: value for name, value in os.environ.items() if name != "PJRT_NPROC"}
    subprocess.run(command, cwd=here, env=environment, check=True, capture_output=True)
    assert (here / "threads").read_text() == "1"


def test_installed_command_reports_unusable_input(here: Path) -> None:
    (here / "late.py").write_text(
        textwrap.dedent("""
        import distmc

        model = distmc.Model(parameters={}, log_likelihood=None)
    """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "distmc", "sample", "late.py", "--data", "data.npz"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: `late.py` raised ModelError: ")
    assert "late.py, line 4: model = distmc.Model(" in done.stderr
    assert "Traceback" not in done.stderr
