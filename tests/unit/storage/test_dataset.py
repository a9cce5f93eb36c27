import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz_stats
import numpy as np
import pytest
import xarray as xr
from arviz_base import extract

from distmc.errors import RunDirectoryError
from distmc.spec import RunSpec
from distmc.storage import Layout, RunDirectory, RunRecord, assembly, open_run

WriteSteps = Callable[..., None]


@pytest.fixture
def finished(run: RunDirectory, write_steps: WriteSteps) -> RunDirectory:
    write_steps(run, 10, 15, 26)
    run.finish()
    return run


def test_draws_come_back_in_order_and_to_the_bit(finished: RunDirectory, chain_of_steps: dict[str, Any]) -> None:
    with open_run(finished.path) as tree:
        for name, array in chain_of_steps["draws"].items():
            np.testing.assert_array_equal(tree[f"posterior/{name}"].values, array[:, 10:])
            np.testing.assert_array_equal(tree[f"warmup_posterior/{name}"].values, array[:, :10])
            assert tree[f"posterior/{name}"].dtype == np.float64


def test_statistics_have_arviz_names(finished: RunDirectory, chain_of_steps: dict[str, Any]) -> None:
    with open_run(finished.path) as tree:
        stats = tree["sample_stats"].to_dataset()
        assert set(stats.data_vars) == {
            "lp",
            "acceptance_rate",
            "step_size",
            "n_steps",
            "diverging",
            "energy",
            "energy_error",
        }
        assert set(tree["warmup_sample_stats"].data_vars) == set(stats.data_vars)
        assert stats["diverging"].dtype == bool
        assert stats["n_steps"].dtype == np.int64
        np.testing.assert_array_equal(stats["lp"].values, chain_of_steps["stats"]["logdensity"][:, 10:])
        np.testing.assert_array_equal(stats["diverging"].values, chain_of_steps["stats"]["is_divergent"][:, 10:])


def test_dimensions_and_labels_are_those_of_the_model(finished: RunDirectory) -> None:
    with open_run(finished.path) as tree:
        posterior = tree["posterior"]
        assert posterior["transition"].dims == ("chain", "draw", "transition_dim_0", "transition_dim_1")
        assert posterior["emission"].dims == ("chain", "draw", "state", "phone")
        assert posterior["phone"].values.tolist() == ["a", "e", "o"]
        assert posterior["state"].values.tolist() == [0, 1]
        assert posterior["chain"].values.tolist() == [0, 1, 2]
        assert posterior["draw"].values.tolist() == list(range(16))


def test_attributes_follow_the_schema_and_tell_about_the_run(
    run: RunDirectory, write_steps: WriteSteps, record: RunRecord
) -> None:
    write_steps(run, 10, 26)
    run.add_generation("the run began", ("10.0.0.1", "10.0.0.2"))
    run.update(timings={"compiling": 3.0})
    run.finish()
    with open_run(run.path) as tree:
        for attributes in (tree.attrs, tree["posterior"].attrs, tree["warmup_sample_stats"].attrs):
            assert attributes["created_at"] == record.created_at
            assert attributes["inference_library"] == attributes["creation_library"] == "distmc"
            assert attributes["inference_library_version"] == record.versions["distmc"]
            assert attributes["sampling_time"] == 8.0
        assert tree["posterior"].attrs["sample_dims"] == ["chain", "draw"]
        assert tree["posterior"].attrs["tuning_steps"] == 10
        assert tree.attrs["seed"] == 7
        assert tree.attrs["num_workers"] == 2
        assert tree.attrs["warmup_time"] == 5.0
        assert RunSpec.from_json(tree.attrs["spec"]) == record.spec
        assert json.loads(tree.attrs["timings"]) == {"compiling": 3.0}


def test_arviz_reads_the_file_as_it_is(finished: RunDirectory) -> None:
    with xr.open_datatree(finished.path / "posterior.nc") as tree:
        table = arviz_stats.summary(tree)
        rhat, ess = arviz_stats.rhat(tree), arviz_stats.ess(tree, method="tail")
        assert "transition[0, 1]" in table.index
        assert "emission[1, o]" in table.index
        assert np.isfinite(rhat["emission"].values).all()
        assert ess["transition"].shape == (2, 2)
        assert extract(tree)["rate"].sizes["sample"] == 48
        assert np.isfinite(arviz_stats.bfmi(tree)["energy"].values).all()


def test_an_unfinished_run_gives_the_same_tree(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 4, 10, 15, 26)
    before = open_run(run.path)
    assert not run.posterior_file.exists()
    run.finish()
    with open_run(run.path) as after:
        assert before.attrs == {**after.attrs, "status": "running", "is_partial": 1}
        xr.testing.assert_identical(xr.DataTree.from_dict(groups(before)), xr.DataTree.from_dict(groups(after)))


def groups(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    return {name: child.to_dataset().load() for name, child in tree.children.items()}


def test_a_run_that_has_not_come_past_its_warmup_has_only_that(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 6)
    tree = open_run(run.path)
    assert set(tree.children) == {"warmup_posterior", "warmup_sample_stats"}
    assert tree["warmup_posterior"].sizes["draw"] == 6


@pytest.mark.parametrize("boundaries", [None, ()])
def test_a_run_without_draws_says_so(
    run: RunDirectory, write_steps: WriteSteps, boundaries: tuple[int, ...] | None
) -> None:
    if boundaries is not None:
        write_steps(run, *boundaries)
    with pytest.raises(RunDirectoryError, match="holds no draws yet"):
        open_run(run.path)
    with pytest.raises(RunDirectoryError, match="holds no draws yet"):
        run.finish()
    assert run.read_record().status == "running"


def test_draws_written_after_a_finish_are_seen(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 10, 15)
    run.finish()
    run.update(status="running")
    write_steps(run, 10, 15, 26)
    assert open_run(run.path)["posterior"].sizes["draw"] == 16


def test_assembling_twice_gives_equal_bytes_whatever_the_chunks(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 10, 15, 26)
    first = run.finish().read_bytes()
    assert run.finish().read_bytes() == first
    write_steps(run, 5, 10, 12, 26)
    assert run.finish().read_bytes() == first


def test_positions_are_kept_when_they_are_given(run: RunDirectory, chain_of_steps: dict[str, Any]) -> None:
    positions = np.random.default_rng(3).normal(size=(3, 16, 7))
    run.write_chunk(
        chunk=1,
        phase="draws",
        first_step=0,
        draws={name: array[:, 10:] for name, array in chain_of_steps["draws"].items()},
        stats={},
        unconstrained=positions,
    )
    run.finish()
    with open_run(run.path) as tree:
        np.testing.assert_array_equal(tree["unconstrained_posterior/position"].values, positions)


def test_a_damaged_chunk_is_named_and_no_posterior_is_written(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 10, 26)
    file = run.path / "chunks" / "000002.nc"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunDirectoryError, match=r"000002.nc` is damaged"):
        run.finish()
    with pytest.raises(RunDirectoryError, match=r"000002.nc` is damaged"):
        open_run(run.path)
    assert sorted(os.listdir(run.path)) == ["chunks", "run.json", "state"]
    assert run.read_record().status == "running"


def test_chunks_of_another_number_of_chains_are_named(
    run: RunDirectory, write_steps: WriteSteps, chain_of_steps: dict[str, Any]
) -> None:
    write_steps(run, 10)
    run.write_chunk(
        chunk=2,
        phase="warmup",
        first_step=10,
        draws={name: array[:2, :4] for name, array in chain_of_steps["draws"].items()},
        stats={name: array[:2, :4] for name, array in chain_of_steps["stats"].items()},
    )
    with pytest.raises(RunDirectoryError, match=r"000002.nc` is damaged: its arrays have other names or shapes"):
        open_run(run.path)


def test_a_damaged_posterior_is_named_and_can_be_replaced(finished: RunDirectory) -> None:
    finished.posterior_file.write_bytes(b"not netCDF")
    with pytest.raises(RunDirectoryError, match=r"posterior.nc` is damaged.*delete that file"):
        open_run(finished.path)
    finished.posterior_file.unlink()
    assert open_run(finished.path)["posterior"].sizes["draw"] == 16


def test_one_chunk_is_in_memory_at_a_time(
    run: RunDirectory, write_steps: WriteSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    write_steps(run, 5, 10, 15, 20, 26)
    alive: list[weakref.ref[np.ndarray[Any, Any]]] = []
    most = 0
    read = assembly.read_chunk

    def watched(header: Any) -> dict[str, np.ndarray[Any, Any]]:
        nonlocal most
        arrays = read(header)
        alive.extend(weakref.ref(array) for name, array in arrays.items() if name.endswith("posterior/rate"))
        most = max(most, sum(reference() is not None for reference in alive))
        return arrays

    monkeypatch.setattr(assembly, "read_chunk", watched)
    run.finish()
    assert len(alive) == 5
    assert most <= 2


def test_a_parameter_without_elements_is_kept(tmp_path: Path) -> None:
    record = RunRecord(
        spec=RunSpec(num_warmup=0, num_draws=4, num_chains=2),
        model_fingerprint="",
        data_fingerprint="",
        layout=Layout(shapes={"slope": (0,), "scale": ()}),
    )
    run = RunDirectory.create(tmp_path / "run", record)
    draws = {"slope": np.zeros((2, 4, 0)), "scale": np.ones((2, 4))}
    run.write_chunk(chunk=1, phase="draws", first_step=0, draws=draws, stats={})
    run.finish()
    with open_run(run.path) as tree:
        assert tree["posterior/slope"].shape == (2, 4, 0)
