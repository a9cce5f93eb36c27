"""The Python door: what it refuses, in which words, before anything is started, and what it gives."""

import json
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import xarray as xr

import distmc
from distmc import errors, run
from distmc.errors import DataError, InputError, ModelError, RunDirectoryError, SpecError, StartError
from distmc.model.start import starting_positions
from distmc.orchestration import session
from distmc.orchestration.events import ChunkCommitted
from distmc.sampling.worker import Worker
from distmc.spec import RunSpec
from distmc.zoo import categorical, normal

NUM_ROWS = 40
SMALL: dict[str, Any] = {"num_chains": 4, "num_warmup": 30, "num_draws": 20, "num_blocks": 4, "progress": False}
DIVISION = distmc.Schedule(initial_buffer=2, windows=(8, 11), final_buffer=9)


def _rows() -> dict[str, Any]:
    return {"value": np.linspace(-1.0, 1.0, NUM_ROWS)}


def _model(log_likelihood: Callable[..., Any] = normal.log_likelihood, **parameters: Any) -> distmc.Model:
    return distmc.Model(parameters={"mean": dist.Normal(0.0, 1.0), **parameters}, log_likelihood=log_likelihood)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if a run gets as far as its workers, or to Ray."""

    def started(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the run was started")

    monkeypatch.setattr(session, "run", started)
    before = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    yield
    assert before == ("ray" in sys.modules and sys.modules["ray"].is_initialized())


def _sample(**changes: Any) -> Any:
    return distmc.sample(**{"model": _model(), "data": _rows(), **SMALL, **changes})


BAD_DATA: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "is empty"),
    "no rows": ({"value": np.zeros(0)}, "row"),
    "not a mapping": ([1.0, 2.0], "`data` is of type `list`"),
    "unequal rows": ({"value": np.zeros(4), "other": np.zeros(5)}, "4.*5|5.*4"),
    "NaN": ({"value": np.array([0.0, np.nan])}, "NaN in row 1.*missing"),
    "infinite": ({"value": np.array([0.0, 1.0, np.inf])}, "infinite in row 2"),
    "text": ({"value": np.array(["a", "b"])}, "unique"),
    "objects": ({"value": np.array([None, 1.0])}, "type `object`"),
    "complex": ({"value": np.array([1j])}, "real and imaginary"),
    "sequences of different lengths": ({"value": [[1.0], [1.0, 2.0]]}, "distmc.ragged"),
    "a scalar": ({"value": 1.0}, "`value`"),
}


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(("data", "words"), BAD_DATA.values(), ids=BAD_DATA)
def test_data_that_cannot_be_used(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _sample(data=data)


BAD_LIKELIHOODS: dict[str, tuple[Callable[..., Any], str]] = {
    "wrong shape": (lambda params, data: jnp.zeros((3, 2)), r"returned shape \(3, 2\)"),
    "a column too many": (lambda params, data: data["value"][:, None] * params["mean"], r"Sum over\s+all axes"),
    "nothing": (lambda params, data: None, "None"),
    "integers": (lambda params, data: jnp.zeros(data["value"].shape, int), "int"),
    "another name": (lambda params, data: params["means"] * data["value"], "means"),
    "never finite": (lambda params, data: jnp.log(-jnp.abs(data["value"]) - 1.0) * params["mean"], "finite at none"),
}


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(("log_likelihood", "words"), BAD_LIKELIHOODS.values(), ids=BAD_LIKELIHOODS)
def test_likelihoods_that_cannot_be_used(log_likelihood: Callable[..., Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        _sample(model=_model(log_likelihood))


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (lambda: dist.Poisson(3.0), "discrete"),
        (lambda: distmc.Parameter(support=dist.constraints.boolean), "discrete"),
        (lambda: distmc.Parameter(shape=(2,), support=dist.constraints.sphere), "cannot map"),
        (lambda: distmc.Parameter(support="positive"), "is not a constraint"),
        (lambda: dist.Delta(1.0), "constants"),
        (lambda: dist.Normal, "call it"),
        (lambda: 1.0, "of type `float`"),
    ],
    ids=["counts", "boolean", "sphere", "text", "fixed", "class", "number"],
)
def test_parameters_that_cannot_be_used(parameter: Callable[[], Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        _sample(model=_model(other=parameter()))


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("initial", "words"),
    [
        ({"scale": -1.0}, "outside the support"),
        ({"scale": 0.0}, "boundary|outside"),
        ({"scale": np.nan}, "outside the support"),
        ({"mean": np.inf}, "outside the support|boundary"),
        ({"mean": np.zeros(3)}, r"shape \(3,\)"),
        ({"mu": 0.0}, r"names \['mu'\]"),
        ([0.0], "mapping"),
    ],
)
def test_starting_values_that_cannot_be_used(initial: Any, words: str) -> None:
    with pytest.raises(StartError, match=words):
        _sample(model=_model(scale=dist.HalfNormal(1.0)), initial=initial)


@pytest.mark.usefixtures("nothing_starts")
def test_a_single_chain_that_starts_where_the_gradient_is_not_finite_is_named() -> None:
    def log_likelihood(params: Any, data: Any) -> Any:
        # Below zero the slope of the root is infinite, and that of the maximum zero.
        return normal.log_likelihood(params, data) + jnp.sqrt(jnp.maximum(params["mean"], 0.0))

    # Beyond the first few chains.
    mean = np.ones(7)
    mean[5] = -1.0
    with pytest.raises(StartError, match=r"1 of 7 chains start where .*chain 5: log-density .*over all 40 rows"):
        _sample(model=_model(log_likelihood), num_chains=7, initial={"mean": mean})


def test_check_looks_where_chains_of_the_same_seed_start() -> None:
    model = _model(lambda params, data: jnp.where(params["mean"] > 0.0, normal.log_likelihood(params, data), jnp.nan))
    is_inside = {seed: bool((starting_positions(model, 2, seed) > 0.0).all()) for seed in range(20)}
    for wanted in (True, False):
        seed = next(seed for seed, found in is_inside.items() if found is wanted)
        assert distmc.check(model, _rows(), num_chains=2, seed=seed).ok is wanted


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_chains", 0),
        ("num_chains", -4),
        ("num_chains", 1),
        ("num_warmup", -1),
        ("num_draws", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("num_blocks", 2**40),
        ("keep_unconstrained", "yes"),
        ("callback", 3),
        ("num_blocks", 3),
        ("precision", "float16"),
        ("sampler", "Nuts2"),
    ],
)
def test_settings_that_cannot_be_used(name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"`{name}="):
        _sample(**{name: value})


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    "data",
    [lambda: distmc.Data(rows=_rows(), missing=3), lambda: distmc.ragged(None), lambda: distmc.ragged(7)],  # type: ignore[arg-type]
)
def test_lists_that_are_none(data: Callable[[], Any]) -> None:
    with pytest.raises(DataError, match="list"):
        _sample(data=data())


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("sampler", [distmc.ChEES(), distmc.HMC()], ids=["ChEES", "HMC"])
def test_samplers_that_follow_a_gradient_that_is_not_there(sampler: Any) -> None:
    model = distmc.Model({"mean": dist.Normal(0.0, 1.0)}, normal.log_likelihood, is_differentiable=False)
    with pytest.raises(SpecError, match=r"follows the gradient .* `distmc.RWMH\(\)` or `distmc.Slice\(\)`"):
        _sample(model=model, sampler=sampler)


@pytest.mark.parametrize(("is_differentiable", "sampler"), [(True, distmc.ChEES()), (False, distmc.RWMH())])
def test_sampler_that_a_model_gets_where_none_is_chosen(
    is_differentiable: bool, sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Prepared(Exception):
        """Ends `sample` where the run would be executed."""

    def stop(prepared: run.Run, *arguments: Any, **options: Any) -> None:
        raise Prepared(prepared.record.spec.sampler)

    monkeypatch.setattr(run.Run, "execute", stop)
    model = distmc.Model({"mean": dist.Normal(0.0, 1.0)}, normal.log_likelihood, is_differentiable=is_differentiable)
    with pytest.raises(Prepared) as caught:
        _sample(model=model)
    assert caught.value.args == (sampler,)


@pytest.mark.usefixtures("nothing_starts")
def test_a_placement_that_is_none() -> None:
    with pytest.raises(InputError, match="`on="):
        _sample(on="ray")


@pytest.mark.usefixtures("nothing_starts")
def test_a_model_that_is_none() -> None:
    with pytest.raises(InputError, match="`model"):
        _sample(model=normal.log_likelihood)


@pytest.mark.usefixtures("nothing_starts")
def test_a_division_of_warmup_into_another_number_of_steps() -> None:
    with pytest.raises(SpecError, match="add up to 29 steps, not to `num_warmup=30`; give `num_warmup=29`"):
        _sample(schedule=distmc.Schedule(initial_buffer=2, windows=(8, 11), final_buffer=8))


@pytest.mark.usefixtures("nothing_starts")
def test_more_workers_than_blocks() -> None:
    with pytest.raises(SpecError, match=r"5 workers .* 4 blocks"):
        _sample(on=distmc.Ray(num_workers=5))


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"dims": {"mean": ["a"]}}, "mean"),
        ({"dims": {"means": ["a"]}}, "means"),
        ({"dims": "mean"}, "`dims='mean'` must be a mapping"),
        ({"dims": {"mean": 3}}, "`dims` gives `mean` 3; it must be a list"),
        ({"coords": {"a": []}}, "a"),
        ({"coords": ["a"]}, "must be a mapping"),
        ({"coords": {"a": 3}}, "must be a list"),
    ],
)
def test_names_of_axes_that_do_not_fit(names: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        _sample(**names)


@pytest.mark.usefixtures("nothing_starts")
def test_refusals_leave_no_directory_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        _sample(data={}, path=tmp_path / "run")
    with pytest.raises(SpecError):
        _sample(on=distmc.Ray(num_workers=5), path=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_more_workers_than_the_cluster_can_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Decided from the number of cores of this machine: no cluster is started to find out. Other tests of this
    # process may be connected to theirs.
    def refuse(**_: object) -> None:
        raise AssertionError("a cluster was started")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(errors.CapacityError, match=r"`num_workers=1000` .* room for \d+"):
        _sample(num_blocks=1024, on=distmc.Ray(num_workers=1000, address="local"), path=tmp_path / "run")
    # Nothing was computed, so nothing is in the way of the next attempt.
    assert list(tmp_path.iterdir()) == []


# A run ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.DataTree]:
    path = tmp_path_factory.mktemp("runs") / "deep" / "categories"
    tree = distmc.sample(
        categorical.build_model(),
        categorical.simulate(NUM_ROWS),
        path=path,
        dims={"shares": ["category"]},
        coords={"category": ["a", "b", "c", "d"]},
        **SMALL,
    )
    return path, tree


@pytest.fixture(scope="module")
def without_path(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.DataTree]:
    """Return where temporary files go, and a run without a path whose warm-up is divided as `DIVISION` says."""
    directory = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(directory))
        return directory, _sample(sampler=distmc.MALA(), schedule=DIVISION)


def test_arviz_reads_the_tree(finished: tuple[Path, xr.DataTree]) -> None:
    _, tree = finished
    assert tree["posterior"]["shares"].dims == ("chain", "draw", "category")
    assert dict(tree["posterior"].sizes) == {"chain": 4, "draw": 20, "category": 4}
    assert tree["warmup_posterior"].sizes["draw"] == 30
    assert {"diverging", "lp", "n_steps", "acceptance_rate"} <= set(tree["sample_stats"].data_vars)
    table = arviz_stats.summary(tree)
    assert list(table.index) == ["shares[a]", "shares[b]", "shares[c]", "shares[d]"]
    np.testing.assert_allclose(tree["posterior"]["shares"].sum("category"), 1.0)


def test_the_division_of_warmup_is_told(finished: tuple[Path, xr.DataTree]) -> None:
    _, tree = finished
    division = distmc.Schedule(initial_buffer=7, windows=(17,), final_buffer=6)
    assert RunSpec.from_json(tree.attrs["spec"]).schedule == division
    for group in ("posterior", "warmup_posterior", "sample_stats"):
        told = tree[group].attrs
        assert (told["initial_buffer"], told["final_buffer"], told["tuning_steps"]) == (7, 6, 30)
        np.testing.assert_array_equal(told["windows"], [17])


def test_a_division_of_warmup_that_is_given_is_used_and_told(without_path: tuple[Path, xr.DataTree]) -> None:
    _, tree = without_path
    assert RunSpec.from_json(tree.attrs["spec"]).schedule == DIVISION
    np.testing.assert_array_equal(tree["posterior"].attrs["windows"], DIVISION.windows)
    size = tree["warmup_sample_stats"]["step_size"].values.reshape(-1, DIVISION.num_warmup)[0]
    # Each window ends with a fresh search, which in one dimension begins at 1.
    assert set(np.flatnonzero(size == 1.0)) == {end + 1 for end in DIVISION.window_ends}


def test_the_path_is_kept_and_opens_again(finished: tuple[Path, xr.DataTree]) -> None:
    path, tree = finished
    assert (path / "posterior.nc").is_file()
    again = distmc.open_run(path)
    xr.testing.assert_identical(again["posterior"].to_dataset(), tree["posterior"].to_dataset())
    again.close()
    assert json.loads((path / "run.json").read_text())["status"] == "finished"


def test_the_file_says_where_its_draws_come_from(finished: tuple[Path, xr.DataTree]) -> None:
    path, _ = finished
    with xr.open_datatree(path / "posterior.nc") as file:
        attributes = dict(file.attrs)
    versions = json.loads(attributes["versions"])
    assert {"python", "distmc", "jax", "jaxlib", "numpyro", "numpy"} <= set(versions)
    assert (versions["distmc"], versions["jax"]) == (distmc.__version__, jax.__version__)
    assert attributes["inference_library_version"] == distmc.__version__
    spec = RunSpec.from_json(attributes["spec"])
    assert (spec.num_chains, spec.num_warmup, spec.num_draws, spec.num_blocks) == (4, 30, 20, 4)
    assert (attributes["seed"], attributes["num_workers"]) == (spec.seed, 1)
    assert (attributes["status"], attributes["is_partial"]) == ("finished", 0)
    stages = json.loads(attributes["timings"])
    assert 0 <= stages["compiling began"] <= stages["sampling began"]
    assert attributes["sampling_time"] > 0 < attributes["warmup_time"]
    assert len(attributes["model_fingerprint"]) == len(attributes["data_fingerprint"]) == 64


def test_a_run_of_another_model_is_not_overwritten(finished: tuple[Path, xr.DataTree]) -> None:
    path, _ = finished
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    with pytest.raises(RunDirectoryError, match="another model and other data"):
        _sample(path=path)
    with pytest.raises(RunDirectoryError, match="other data: the content of `category`"):
        distmc.sample(categorical.build_model(), categorical.simulate(NUM_ROWS, seed=1), path=path, **SMALL)
    with pytest.raises(RunDirectoryError, match="already holds a run of this model and data"):
        distmc.sample(categorical.build_model(), categorical.simulate(NUM_ROWS), path=path, **SMALL)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_without_a_path_nothing_is_left(without_path: tuple[Path, xr.DataTree]) -> None:
    directory, tree = without_path
    assert tree["posterior"]["mean"].shape == (4, 20)
    assert list(directory.iterdir()) == []


def test_a_path_in_rays_copy_of_the_folder_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setattr(run.Run, "execute", lambda *_, **__: None)
    monkeypatch.setattr("distmc.storage.open_run", lambda path: None)
    with pytest.warns(
        UserWarning, match=rf"`runs/a` lies in the copy .* node .*: `{copy}/runs/a`. Ray deletes such copies"
    ):
        _sample(path="runs/a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _sample(path=tmp_path / "runs")


def test_what_the_checks_warn_of_is_told_where_sample_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.Run, "execute", lambda *_, **__: None)
    monkeypatch.setattr("distmc.storage.open_run", lambda path: None)
    with pytest.warns(UserWarning, match="`num_chains=4` with LAPS") as caught:
        _sample(sampler="laps", path="never written")
    assert [warning.filename for warning in caught] == [__file__]


# Runs that end early --------------------------------------------------------------------------------------------------


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chunks be of five steps, so that a small run has several."""
    advance = Worker.advance
    monkeypatch.setattr(Worker, "advance", lambda self, num_steps: advance(self, min(num_steps, 5)))


@pytest.fixture
def failing_after_warmup(monkeypatch: pytest.MonkeyPatch, short_chunks: None) -> None:
    advance = Worker.advance

    def advance_or_fail(self: Worker, num_steps: int) -> Any:
        report = advance(self, num_steps)
        if report.step >= 45:
            raise ZeroDivisionError("planted")
        return report

    monkeypatch.setattr(Worker, "advance", advance_or_fail)


@pytest.mark.usefixtures("failing_after_warmup")
def test_a_failing_run_keeps_what_was_committed(tmp_path: Path) -> None:
    with pytest.raises(errors.WorkerError, match="ZeroDivisionError: planted") as caught:
        _sample(path=tmp_path / "run")
    kept = re.search(r"steps up to step (\d+)", str(caught.value))
    assert kept is not None
    assert int(kept[1]) == 40
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    tree = distmc.open_run(tmp_path / "run")
    assert tree["warmup_posterior"].sizes["draw"] == 30
    assert tree["posterior"].sizes["draw"] == 10
    assert tree.attrs["status"] == "failed"


@pytest.mark.usefixtures("short_chunks")
def test_an_interrupted_run_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press_ctrl_c(event: Any) -> None:
        if isinstance(event, ChunkCommitted) and event.report.step == 40:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(run, "_ignore", press_ctrl_c)
    with pytest.raises(errors.Interrupted, match=r"\d+ of 50 steps are committed"):
        _sample(path=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    tree = distmc.open_run(tmp_path / "run")
    assert tree["posterior"].sizes["draw"] >= 10
    assert np.isfinite(tree["posterior"]["mean"]).all()


@pytest.mark.usefixtures("failing_after_warmup")
def test_a_failing_run_without_a_path_says_where_its_draws_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(errors.WorkerError) as caught:
        _sample()
    (left,) = tmp_path.iterdir()
    assert str(left) in "\n".join(caught.value.__notes__)
    assert distmc.open_run(left)["posterior"].sizes["draw"] == 10


@pytest.mark.parametrize("place", [run.Run, session], ids=["before the run", "in it"])
def test_a_run_without_a_path_that_commits_nothing_leaves_nothing(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(place, "execute" if place is run.Run else "run", fail)
    with pytest.raises(ZeroDivisionError) as caught:
        _sample()
    assert list(tmp_path.iterdir()) == []
    assert not hasattr(caught.value, "__notes__")


# What is kept ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every_step() -> xr.DataTree:
    tree: xr.DataTree = _sample(sampler="hmc", num_draws=30, keep_unconstrained=True)
    return tree


def test_thinning_keeps_the_last_of_so_many_steps(every_step: xr.DataTree) -> None:
    thinned = _sample(sampler="HMC", num_draws=10, thin=3)
    assert thinned.posterior.sizes["draw"] == 10
    for group in ("posterior", "sample_stats"):
        for name, values in thinned[group].data_vars.items():
            np.testing.assert_array_equal(values, every_step[group][name][:, 2::3], err_msg=str(name))
    np.testing.assert_array_equal(thinned.warmup_posterior["mean"], every_step.warmup_posterior["mean"])


def test_a_chunk_may_end_between_two_kept_draws() -> None:
    thinned = _sample(num_draws=2, thin=37)
    assert thinned.posterior.sizes["draw"] == 2


def test_unconstrained_draws_are_kept_on_request(every_step: xr.DataTree) -> None:
    np.testing.assert_allclose(every_step.unconstrained_posterior["position"][..., 0], every_step.posterior["mean"])
    assert "unconstrained_posterior" not in _sample().children


def test_callback_is_given_every_committed_chunk() -> None:
    seen: list[Any] = []
    tree = _sample(callback=lambda report, draws: seen.append((report, draws["mean"])))
    assert [report.chunk for report, _ in seen] == list(range(1, 1 + len(seen)))
    kept = np.concatenate([draws for report, draws in seen if report.phase == "draws"], axis=1)
    np.testing.assert_array_equal(kept, tree.posterior["mean"])


def test_what_a_callback_raises_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    def stop_in_draws(report: Any, draws: Any) -> None:
        if report.phase == "draws":
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        _sample(callback=stop_in_draws, path=tmp_path / "run")
    assert distmc.open_run(tmp_path / "run").posterior.sizes["draw"] >= 1


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("name", ["nuts2", ""])
def test_unknown_sampler_is_refused_with_the_names_of_those_there_are(name: str) -> None:
    with pytest.raises(SpecError, match=r"choose one of .*'chees'"):
        _sample(sampler=name)
