"""A run that was stopped, killed or damaged and then resumed gives the bits of one that never was.

The uninterrupted run is the oracle. Compiled programs are kept on disk while these tests run, so that a run taken up
again need not wait for the compiler; which program runs is JAX's own decision, from the program's text.
"""

import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
import xarray as xr
from jax.experimental.compilation_cache import compilation_cache

import distmc
from distmc import resumption
from distmc.errors import Interrupted, RunDirectoryError, SpecError
from distmc.run import Run
from distmc.sampling.reports import ChunkReport
from distmc.spec import RunSpec
from distmc.storage import RunDirectory
from distmc.testing.faults import Fault
from distmc.testing.injection import injected
from distmc.testing.invariance import require_identical
from distmc.zoo import normal, regression

pytestmark = pytest.mark.usefixtures("optimised")

NUM_DRAWS, MORE_DRAWS = 20, 10
# Every second step is kept, so that chunks end between draws too.
SETTINGS: dict[str, Any] = {
    "num_chains": 4,
    "num_warmup": 30,
    "num_draws": NUM_DRAWS,
    "thin": 2,
    "num_blocks": 4,
    "keep_unconstrained": True,
    "progress": False,
}
IN_WARMUP, IN_DRAWS = 12, 47
INITIAL = {"weights": [1.0, 0.0, 0.0], "variance": 2.0}
DATA = regression.simulate(40)

DRIVER = f"""
import sys, time
import distmc
from distmc.zoo import regression

def tell(report, draws):
    print(report.step, flush=True)
    time.sleep(0.1)

distmc.sample(
    regression.build_model(), regression.simulate(40), path=sys.argv[1], callback=tell, **{SETTINGS!r}
)
"""


class Stop(Exception):
    """Ends a run."""


def stop_at(step: int) -> Callable[[ChunkReport, Any], None]:
    def callback(report: ChunkReport, draws: Any) -> None:
        if report.step >= step:
            raise Stop

    return callback


def sample(path: Path, **changes: Any) -> xr.DataTree:
    return distmc.sample(regression.build_model(), DATA, path=path, **{**SETTINGS, **changes})


def resume(path: Path, **options: Any) -> xr.DataTree:
    return distmc.resume(path, regression.build_model(), DATA, **{"progress": False, **options})


def variables(tree: xr.DataTree) -> dict[str, Any]:
    return {
        f"{group}/{name}": array.values
        for group in tree.groups
        for name, array in tree[group].data_vars.items()
        if group != "/"
    }


def require_same(tree: xr.DataTree, oracle: xr.DataTree) -> None:
    found, wanted = variables(tree), variables(oracle)
    assert found.keys() == wanted.keys()
    assert {"/posterior/weights", "/warmup_sample_stats/step_size", "/unconstrained_posterior/position"} <= set(found)
    require_identical(wanted, found, names=("the oracle", "the run"))


@pytest.fixture(scope="module", autouse=True)
def compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep compiled programs on disk while these tests run."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    yield Path(str(options["jax_compilation_cache_dir"]))
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that nothing interrupted."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    sample(path)
    return path


@pytest.fixture(scope="module")
def oracle(whole: Path) -> xr.DataTree:
    return distmc.open_run(whole).load()


@pytest.fixture(scope="module")
def stopped_in_draws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that was stopped among its draws; to be copied, not changed."""
    path = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.raises(Stop) as caught:
        sample(path, callback=stop_at(IN_DRAWS))
    assert "distmc.resume(" in caught.value.__notes__[0]
    return path


@pytest.fixture
def stopped(stopped_in_draws: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped_in_draws, tmp_path / "stopped")


# Stopped --------------------------------------------------------------------------------------------------------------


def test_run_stopped_in_warmup_goes_on(tmp_path: Path, oracle: xr.DataTree) -> None:
    with pytest.raises(Stop):
        sample(tmp_path / "run", callback=stop_at(IN_WARMUP))
    told: list[int] = []
    tree = resume(tmp_path / "run", callback=lambda report, draws: told.append(report.step))
    require_same(tree, oracle)
    assert IN_WARMUP < told[0] <= told[-1] == 70


def test_run_stopped_among_its_draws_is_readable_at_once_and_goes_on(stopped: Path, oracle: xr.DataTree) -> None:
    record = RunDirectory.open(stopped).read_record()
    assert (record.status, record.error) == ("failed", "Stop")
    with xr.open_datatree(stopped / "posterior.nc") as partial:
        assert (partial.attrs["status"], partial.attrs["is_partial"]) == ("failed", 1)
        count = partial["posterior"].sizes["draw"]
        assert 0 < count < NUM_DRAWS
        assert partial["posterior"].equals(oracle["posterior"].isel(draw=slice(count)))
    require_same(resume(stopped), oracle)
    record = RunDirectory.open(stopped).read_record()
    assert (record.status, record.error) == ("finished", None)
    assert [generation.reason for generation in record.generations] == ["the run began", "the run was resumed"]
    with xr.open_datatree(stopped / "posterior.nc") as complete:
        assert complete.attrs["is_partial"] == 0


def test_run_whose_disk_was_too_full_to_say_so_does_not_pass_for_running(tmp_path: Path, oracle: xr.DataTree) -> None:
    path = tmp_path / "run"
    disk_is_full = tuple(Fault(kind="full disk", phase=phase, step=IN_WARMUP) for phase in ("commit", "record"))
    with injected(disk_is_full, tmp_path / "struck"), pytest.raises(RunDirectoryError, match="No space left on device"):
        sample(path)
    assert '"status": "running"' in (path / "run.json").read_text()
    assert RunDirectory.open(path).read_record().status == "interrupted"
    require_same(resume(path), oracle)
    assert not (path / "run.lock").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, "interrupted"), (signal.SIGKILL, "running")])
def test_run_whose_driver_was_stopped_or_killed_goes_on(
    number: signal.Signals, status: str, tmp_path: Path, oracle: xr.DataTree, compiled_programs: Path
) -> None:
    path = tmp_path / "run"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(compiled_programs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-c", DRIVER, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **cache}
    ) as driver:
        assert driver.stdout is not None
        steps = next((int(line) for line in driver.stdout if int(line) >= IN_WARMUP), None)
        driver.send_signal(number)
        _, errors = driver.communicate(timeout=60)
    assert steps is not None, errors
    assert driver.returncode != 0
    assert f'"status": "{status}"' in (path / "run.json").read_text()
    assert (path / "posterior.nc").exists() is (number == signal.SIGTERM)
    assert ("distmc.errors.Interrupted" in errors) is (number == signal.SIGTERM)
    require_same(resume(path), oracle)


@pytest.fixture
def killed_early(tmp_path: Path) -> Path:
    """Return the directory of a run whose driver was killed before the first chunk."""
    spec = RunSpec(**{name: value for name, value in SETTINGS.items() if name != "progress"})
    prepared = Run.prepare(regression.build_model(), DATA, spec, distmc.Local(), initial=INITIAL)
    RunDirectory.create(tmp_path / "killed", prepared.record, prepared.task.start)
    return tmp_path / "killed"


def test_run_without_a_chunk_begins_where_it_was_told_to(killed_early: Path, tmp_path: Path) -> None:
    require_same(resume(killed_early), sample(tmp_path / "whole", initial=INITIAL))


def test_run_that_is_interrupted_again_before_its_first_chunk_is_kept(
    killed_early: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise Interrupted("early")

    monkeypatch.setattr("distmc.orchestration.session.run", interrupt)
    with pytest.raises(Interrupted):
        resume(killed_early)
    record = RunDirectory.open(killed_early).read_record()
    assert (record.status, record.error) == ("interrupted", "early")


@pytest.mark.usefixtures("ray_cluster")
def test_run_begun_here_goes_on_with_two_workers_of_ray_and_is_extended_by_three(
    stopped: Path, oracle: xr.DataTree, longer: xr.DataTree
) -> None:
    require_same(resume(stopped, on=distmc.Ray(num_workers=2)), oracle)
    require_same(extend(stopped, MORE_DRAWS, on=distmc.Ray(num_workers=3)), longer)
    generations = RunDirectory.open(stopped).read_record().generations
    assert [len(generation.nodes) for generation in generations] == [1, 2, 3]


# Refused --------------------------------------------------------------------------------------------------------------


def test_other_data_and_other_models_are_refused_and_change_nothing(stopped: Path) -> None:
    before = {file: file.read_bytes() for file in stopped.rglob("*") if file.is_file()}
    with pytest.raises(RunDirectoryError, match="other data: rows: 40 in the run, 41 now"):
        distmc.resume(stopped, regression.build_model(), regression.simulate(41))
    with pytest.raises(RunDirectoryError, match="another model and other data: the parameters: weights, variance in"):
        distmc.extend(stopped, normal.build_model(), normal.simulate(40), 5)
    with pytest.raises(SpecError, match="`num_draws=0`"):
        extend(stopped, 0)
    assert {file: file.read_bytes() for file in stopped.rglob("*") if file.is_file()} == before


def test_run_that_another_process_writes_is_left_alone(stopped: Path) -> None:
    directory = RunDirectory.open(stopped)
    with directory.writing(), pytest.raises(RunDirectoryError, match="Another process is writing"):
        resume(stopped)
    assert directory.read_record().status == "failed"


# Damaged --------------------------------------------------------------------------------------------------------------


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-700])


def newest(folder: Path) -> Path:
    return max(folder.glob("*.nc"))


def test_damaged_chunk_is_named_and_computed_again(stopped: Path, oracle: xr.DataTree) -> None:
    damaged = sorted((stopped / "chunks").glob("*.nc"))[-2]
    cut_short(damaged)
    with pytest.warns(UserWarning, match=rf"{damaged.name}` is damaged.*goes on from its state after chunk"):
        tree = resume(stopped)
    require_same(tree, oracle)


def test_damaged_state_is_passed_over(stopped: Path, oracle: xr.DataTree) -> None:
    damaged = newest(stopped / "state")
    cut_short(damaged)
    with pytest.warns(UserWarning, match=rf"{damaged.name}` is damaged.*goes on from its state after chunk"):
        tree = resume(stopped)
    require_same(tree, oracle)


def test_run_whose_first_chunk_is_damaged_begins_again(stopped: Path, oracle: xr.DataTree) -> None:
    cut_short(stopped / "chunks" / "000001.nc")
    with pytest.warns(UserWarning, match=r"000001.nc` is damaged.*from its beginning"):
        tree = resume(stopped)
    require_same(tree, oracle)


def test_finished_run_is_returned_as_it_is_and_put_together_again_if_need_be(
    whole: Path, tmp_path: Path, oracle: xr.DataTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    before = (path / "posterior.nc").read_bytes()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a session was started")

    monkeypatch.setattr("distmc.orchestration.session.run", refuse)
    # Closed, or else the file would seem whole to this process when it has been cut short.
    with resume(path) as tree:
        require_same(tree, oracle)
    assert (path / "posterior.nc").read_bytes() == before
    cut_short(path / "posterior.nc")
    require_same(resume(path), oracle)


# Longer ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    """Return a run for which all draws were asked for at first."""
    return sample(tmp_path_factory.mktemp("runs") / "longer", num_draws=NUM_DRAWS + MORE_DRAWS)


def extend(path: Path, num_draws: Any, **options: Any) -> xr.DataTree:
    return distmc.extend(path, regression.build_model(), DATA, num_draws, **{"progress": False, **options})


def test_finished_run_is_extended(whole: Path, tmp_path: Path, longer: xr.DataTree) -> None:
    path = shutil.copytree(whole, tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_same(extend(path, MORE_DRAWS), longer)
    assert RunDirectory.open(path).read_record().spec.num_draws == NUM_DRAWS + MORE_DRAWS


def test_extensions_add_up_though_one_began_before_the_other_was_done(
    stopped: Path, longer: xr.DataTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, identity = MORE_DRAWS - 1, resumption.identity

    def extend_meanwhile(*of: Any) -> dict[str, Any]:
        monkeypatch.setattr(resumption, "identity", identity)
        extend(stopped, first)
        return identity(*of)

    monkeypatch.setattr(resumption, "identity", extend_meanwhile)
    require_same(extend(stopped, MORE_DRAWS - first), longer)


def test_unfinished_run_gets_a_further_end(stopped: Path, longer: xr.DataTree) -> None:
    require_same(extend(stopped, MORE_DRAWS), longer)
