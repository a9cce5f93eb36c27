"""The life of a worker, alone in its run."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from distmc.data.blocks import plan_blocks
from distmc.errors import SpecError, StartError
from distmc.model.density import serial_logdensity
from distmc.model.transforms import Unconstrainer
from distmc.samplers import NUTS
from distmc.sampling import worker as worker_module
from distmc.sampling.reports import ChunkArrays, ChunkReport
from distmc.sampling.state import digest
from distmc.sampling.worker import Worker, WorkerTask, require_enough_blocks
from distmc.storage.schema import to_groups
from distmc.types import Checkpoint

pytestmark = pytest.mark.usefixtures("compiled_for_users")


def advance(worker: Worker, chunk_length: int, num_steps: int) -> tuple[list[ChunkReport], list[ChunkArrays]]:
    reports, chunks = [], []
    while not reports or reports[-1].step < num_steps:
        done = reports[-1].step if reports else 0
        reports.append(worker.advance(min(chunk_length, num_steps - done)))
        chunks.append(worker.collect(reports[-1].chunk))
    return reports, chunks


def joined(chunks: list[ChunkArrays]) -> dict[str, Any]:
    """Return everything that was kept, over all chunks."""
    first = chunks[0]
    return {
        "unconstrained": np.concatenate([chunk.unconstrained for chunk in chunks], axis=1),
        **{name: np.concatenate([chunk.draws[name] for chunk in chunks], axis=1) for name in first.draws},
        **{name: np.concatenate([chunk.stats[name] for chunk in chunks], axis=1) for name in first.stats},
    }


@pytest.fixture(scope="module")
def whole(compiled_worker: Worker) -> tuple[list[ChunkReport], list[ChunkArrays]]:
    """Return the run in chunks of twenty steps."""
    compiled_worker.start()
    return advance(compiled_worker, 20, 70)


def test_start_evaluates_the_starting_positions(compiled_worker: Worker, task: WorkerTask) -> None:
    report = compiled_worker.start()
    assert (report.chunk, report.phase, report.step, report.num_steps) == (0, "start", 0, 0)
    arrays = compiled_worker.collect(0)
    np.testing.assert_array_equal(arrays.state["kernel.position"], task.start)
    with jax.enable_x64(True):
        serial = jax.jit(serial_logdensity(task.model, task.data, plan_blocks(task.data, 8), task.spec.precision))
        expected = [float(serial(position)) for position in task.start]
    np.testing.assert_allclose(arrays.state["kernel.logdensity"], expected, rtol=1e-6)
    assert arrays.unconstrained.shape == (4, 0, 3)
    assert arrays.draws["slope"].shape == (4, 0, 2)


def test_chunks_end_where_a_phase_does(worker: Worker) -> None:
    warmup, draws = worker.advance(1000), worker.advance(1000)
    assert (warmup.chunk, warmup.phase, warmup.step, warmup.num_steps) == (1, "warmup", 40, 40)
    assert (draws.chunk, draws.phase, draws.step, draws.num_steps) == (2, "draws", 70, 30)
    over = worker.advance(1000)
    assert (over.phase, over.step, over.num_steps) == ("draws", 70, 0)


def test_statistics_of_trees_differ_between_chains(task: WorkerTask) -> None:
    spec = dataclasses.replace(task.spec, sampler=NUTS(max_tree_depth=4))
    worker = Worker(dataclasses.replace(task, spec=spec), 0, 1)
    worker.load()
    worker.compile()
    worker.start()
    report, arrays = worker.advance(30), worker.collect(1)
    stored = to_groups(arrays.phase, arrays.draws, arrays.stats, None)
    stats = {path.removeprefix("warmup_sample_stats/"): array for path, array in stored.items()}
    n_steps, tree_depth, is_full = (stats[name] for name in ("n_steps", "tree_depth", "reached_max_tree_depth"))
    assert n_steps.shape == tree_depth.shape == is_full.shape == (4, 30)
    assert np.any(n_steps != n_steps[0])
    assert np.all((2**tree_depth - 1 <= n_steps) & (n_steps < 2 ** (tree_depth + 1)))
    assert is_full.dtype == bool
    assert np.all(tree_depth[is_full] == 4)
    # What the workers evaluated is what the chain with the largest tree needed.
    assert report.num_integration_steps == np.mean(np.max(n_steps, axis=0))


def test_where_chunks_end_changes_nothing(worker: Worker, whole: Any) -> None:
    reports, chunks = advance(worker, 7, 70)
    assert [report.num_steps for report in reports] == [7] * 5 + [5] + [7] * 4 + [2]
    for name, kept in joined(whole[1]).items():
        assert joined(chunks)[name].tobytes() == kept.tobytes(), name
    assert digest(chunks[-1].state) == digest(whole[1][-1].state)


def test_resumed_run_goes_on_bit_for_bit(task: WorkerTask, whole: Any) -> None:
    _, chunks = whole
    # The first twenty steps lie in the middle of warm-up.
    resumed = Worker(task, 0, 1)
    resumed.load()
    resumed.compile()
    report = resumed.start(Checkpoint(chunk=1, step=20, arrays=chunks[0].state))
    assert (report.phase, report.chunk, report.step) == ("start", 1, 20)
    _, rest = advance(resumed, 20, 70)
    assert [chunk.chunk for chunk in rest] == [chunk.chunk for chunk in chunks[1:]]
    assert rest[0].first_step == 20
    for name, kept in joined(chunks[1:]).items():
        assert joined(rest)[name].tobytes() == kept.tobytes(), name
    assert digest(rest[-1].state) == digest(chunks[-1].state)


def test_same_run_again_has_the_same_digests(worker: Worker, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # One that is alone has nobody to be compared with.
    assert {report.digest for report in whole[0]} == {""}
    runs = []
    for _ in range(2):
        worker.start()
        with monkeypatch.context() as patch:
            patch.setattr(worker, "_num_workers", 2)
            reports, _ = advance(worker, 20, 70)
        runs.append([report.digest for report in reports])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(runs[0])
    assert "" not in runs[0]


def test_draws_are_positions_on_their_supports(task: WorkerTask, whole: Any) -> None:
    kept = joined(whole[1])
    assert kept["unconstrained"].shape == (4, 70, 3)
    assert kept["slope"].shape == (4, 70, 2)
    with jax.enable_x64(True):
        unconstrainer = Unconstrainer(task.model)
        params = jax.vmap(jax.vmap(lambda flat: unconstrainer.constrain(flat)[0]))(kept["unconstrained"])
    for name, values in params.items():
        np.testing.assert_allclose(kept[name], values, rtol=1e-12)
    np.testing.assert_array_equal(whole[1][-1].state["kernel.position"], kept["unconstrained"][:, -1])


def test_reports_tell_what_the_chunk_holds(whole: Any) -> None:
    for report, chunk in zip(*whole, strict=True):
        stats = chunk.stats
        assert report.acceptance_rate == pytest.approx(stats["acceptance_rate"].mean())
        assert report.num_integration_steps == pytest.approx(stats["num_integration_steps"].mean())
        assert report.step_size == pytest.approx(stats["step_size"].mean())
        assert report.num_divergent == stats["is_divergent"].sum()
        assert chunk.first_step == report.step - report.num_steps
        assert (chunk.chunk, chunk.phase) == (report.chunk, report.phase)
    draws = whole[1][-1].stats
    length = draws["step_size"] * draws["num_integration_steps"]
    # Nothing but the jitter changes trajectories any more.
    assert np.ptp(np.log(length)) < np.log(1.5 / 0.5)


def test_start_that_is_not_finite_is_refused(compiled_worker: Worker, task: WorkerTask) -> None:
    start = task.start.copy()
    start[2] = 1e300
    compiled_worker._task = dataclasses.replace(task, start=start)
    try:
        with pytest.raises(StartError, match=r"1 of 4 chains start where .*chain 2: log-density"):
            compiled_worker.start()
    finally:
        compiled_worker._task = task


def test_more_workers_than_blocks_are_refused(task: WorkerTask) -> None:
    with pytest.raises(SpecError, match="9 workers were asked for, but the rows are cut into 8 blocks"):
        Worker(task, 0, 9).load()
    require_enough_blocks(8, 8)
    with pytest.raises(SpecError, match=r"rows are few: .* gain nothing .* More workers need a larger `num_blocks`"):
        require_enough_blocks(3, 2)
    with pytest.raises(SpecError, match=r"use at most 64\. More workers need a larger `num_blocks`"):
        require_enough_blocks(65, 64)


def test_program_that_cannot_be_saved_is_compiled_by_all(
    compiled_worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(program: Any) -> bytes:
        raise ValueError("cannot be serialised")

    monkeypatch.setattr(worker_module, "save_program", refuse)
    with pytest.warns(UserWarning, match="every worker compiles it: cannot be serialised"):
        assert compiled_worker.saved_program() is None


def test_worker_without_its_peers_does_not_compile(task: WorkerTask) -> None:
    worker = Worker(task, 0, 2)
    worker.load()
    with pytest.raises(RuntimeError, match="2 workers need one device each"):
        worker.compile()
