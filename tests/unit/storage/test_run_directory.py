import contextlib
import dataclasses
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distmc.errors import RunDirectoryError
from distmc.spec import RunSpec
from distmc.storage import RunDirectory, RunRecord
from distmc.storage.chunks import read_chunk
from distmc.storage.states import read_state

WriteSteps = Callable[..., None]


def test_record_survives_the_way_to_disk_and_back(run: RunDirectory, record: RunRecord) -> None:
    assert RunDirectory.open(run.path).read_record() == record


def test_changes_and_generations_are_kept_in_the_record(run: RunDirectory) -> None:
    run.add_generation("the run began", ("10.0.0.1", "10.0.0.2"))
    second = run.add_generation("10.0.0.2 was lost", ("10.0.0.1",))
    run.note_standstill(2.71828, 40)
    run.update(status="interrupted", timings={"compiling": 2.5})
    record = run.read_record()
    assert record.status == "interrupted"
    assert record.timings == {"compiling": 2.5}
    assert [generation.number for generation in record.generations] == [0, 1]
    assert record.generations[1] == dataclasses.replace(second, standstill_seconds=2.718, steps_repeated=40)
    assert record.generations[1].nodes == ("10.0.0.1",)


def test_an_empty_directory_can_be_used_and_parents_are_made(tmp_path: Path, record: RunRecord) -> None:
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", record)
    RunDirectory.create(tmp_path / "one" / "two" / "three", record)
    assert (tmp_path / "one" / "two" / "three" / "run.json").exists()


def test_a_second_run_at_the_same_path_is_refused_and_changes_nothing(run: RunDirectory, record: RunRecord) -> None:
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(RunDirectoryError, match=r"already holds a run of this model and data.*delete that directory"):
        RunDirectory.create(run.path, dataclasses.replace(record, spec=RunSpec(seed=8)))
    assert (run.path / "run.json").read_bytes() == before


@pytest.mark.parametrize("kind", ["model", "data"])
def test_a_run_of_another_model_or_data_is_named(run: RunDirectory, record: RunRecord, kind: str) -> None:
    other = dataclasses.replace(record, **{f"{kind}_fingerprint": "c" * 64})
    with pytest.raises(RunDirectoryError, match=f"other {kind}: its {kind} fingerprint differs"):
        RunDirectory.create(run.path, other)


def test_a_run_without_a_chunk_leaves_nothing_but_what_was_there_before(
    run: RunDirectory, record: RunRecord, write_steps: WriteSteps
) -> None:
    assert run.discard_if_empty()
    assert not run.path.exists()
    again = RunDirectory.create(run.path, record)
    (run.path / "notes.txt").write_text("not of the run")
    assert again.discard_if_empty()
    assert [file.name for file in run.path.iterdir()] == ["notes.txt"]
    (run.path / "notes.txt").unlink()
    third = RunDirectory.create(run.path, record)
    write_steps(third, 10)
    before = sorted(run.path.rglob("*"))
    assert not third.discard_if_empty()
    assert sorted(run.path.rglob("*")) == before


@pytest.mark.parametrize("path", [3, None, b"runs", "ru\0ns"])
def test_what_is_no_path_is_refused(record: RunRecord, path: Any) -> None:
    with pytest.raises(RunDirectoryError, match="is not a path"):
        RunDirectory.create(path, record)
    with pytest.raises(RunDirectoryError, match="is not a path"):
        RunDirectory.open(path)


def test_a_directory_of_something_else_is_refused(tmp_path: Path, record: RunRecord) -> None:
    (tmp_path / "thesis.tex").write_text("a year of work")
    with pytest.raises(RunDirectoryError, match=r"not empty \(it holds thesis.tex\)"):
        RunDirectory.create(tmp_path, record)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("path", ["s3://bucket/run", "gs://bucket/run"])
def test_web_addresses_are_refused_rather_than_made_into_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: RunRecord, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunDirectoryError, match="web address"):
        RunDirectory.create(path, record)
    assert os.listdir(tmp_path) == []


def test_a_refused_creation_leaves_no_directory_behind(
    tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError, match="No space left on device"):
        RunDirectory.create(tmp_path / "deep" / "run", record)
    assert os.listdir(tmp_path) == []


def test_of_two_creators_at_once_the_second_fails_and_spares_the_first(
    tmp_path: Path, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunDirectory.create(tmp_path / "run", record)
    # The second looked before the first had made anything.
    monkeypatch.setattr(RunDirectory, "_refuse_taken", lambda self, record: None)
    with pytest.raises(RunDirectoryError, match="no other run uses"):
        RunDirectory.create(tmp_path / "run", record)
    assert first.read_record() == record


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path, record: RunRecord) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunDirectoryError, match="Not a directory"):
        RunDirectory.create(tmp_path / "run", record)


def test_a_missing_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no run"):
        RunDirectory.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not one of a distmc run"), ('{"format": 99}', "has format 99"), ('{"format": 1}', "not one of")],
)
def test_a_damaged_record_is_named(run: RunDirectory, text: str, words: str) -> None:
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=words) as caught:
        RunDirectory.open(run.path)
    assert str(run.path / "run.json") in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_chunks_are_listed_and_read_back_to_the_bit(
    run: RunDirectory, write_steps: WriteSteps, chain_of_steps: dict[str, Any]
) -> None:
    write_steps(run, 10, 15, 26)
    headers = run.chunks()
    assert [(header.chunk, header.phase, header.first_step, header.num_steps) for header in headers] == [
        (0, "start", 0, 0),
        (1, "warmup", 0, 10),
        (2, "draws", 10, 5),
        (3, "draws", 15, 11),
    ]
    arrays = read_chunk(headers[3])
    np.testing.assert_array_equal(arrays["posterior/transition"], chain_of_steps["draws"]["transition"][:, 15:])
    np.testing.assert_array_equal(arrays["sample_stats/diverging"], chain_of_steps["stats"]["is_divergent"][:, 15:])
    assert arrays["sample_stats/diverging"].dtype == bool
    assert "warmup_posterior/rate" in read_chunk(headers[1])


def test_a_chunk_without_draws_may_be_left_out(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 10)
    (run.path / "chunks" / "000000.nc").unlink()
    assert [header.chunk for header in run.chunks()] == [1]


def test_a_gap_between_chunks_is_found(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 5, 10, 26)
    (run.path / "chunks" / "000002.nc").unlink()
    with pytest.raises(RunDirectoryError, match=r"000003.nc` begins at step 10.*end at step 5"):
        run.chunks()


def test_unfinished_files_are_not_taken_for_chunks(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 10)
    (run.path / "chunks" / ".000002.nc.partial").write_bytes(b"half")
    assert [header.chunk for header in run.chunks()] == [0, 1]


def test_draws_that_do_not_fit_the_run_are_refused(run: RunDirectory, chain_of_steps: dict[str, Any]) -> None:
    draws = {name: array[:, :4] for name, array in chain_of_steps["draws"].items()}
    with pytest.raises(RunDirectoryError, match=r"`transition` of chunk 1 has shape \(3, 4, 2\)"):
        run.write_chunk(
            chunk=1, phase="warmup", first_step=0, draws={**draws, "transition": draws["transition"][..., 0]}, stats={}
        )
    with pytest.raises(RunDirectoryError, match=r"has draws of \['rate'\]"):
        run.write_chunk(chunk=1, phase="warmup", first_step=0, draws={"rate": draws["rate"]}, stats={})
    with pytest.raises(RunDirectoryError, match=r"`energy` of chunk 1 has shape \(3, 5\)"):
        run.write_chunk(chunk=1, phase="warmup", first_step=0, draws=draws, stats={"energy": np.zeros((3, 5))})
    assert run.chunks() == []


def test_equal_chunks_are_equal_files(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 10)
    first = (run.path / "chunks" / "000001.nc").read_bytes()
    write_steps(run, 10)
    assert (run.path / "chunks" / "000001.nc").read_bytes() == first


STATE = {
    "position": np.linspace(0.0, 1.0, 6).reshape(3, 2),
    "adaptation/step_size": np.float64(0.1),
    "rng_key": np.array([1, 2**32 - 1], np.uint32),
    "is_tuned": np.array([True, False]),
    "empty": np.zeros((3, 0), np.float32),
    "big_endian": np.arange(3, dtype=">i8"),
}


def test_the_state_comes_back_to_the_bit_and_the_latest_two_are_kept(
    run: RunDirectory, write_steps: WriteSteps
) -> None:
    edges = (0, 5, 10, 26)
    write_steps(run, *edges[1:])
    for chunk, step in enumerate(edges):
        run.write_state(chunk=chunk, step=step, state={**STATE, "counter": np.int64(chunk)})
    assert sorted(os.listdir(run.path / "state")) == ["000002.nc", "000003.nc"]
    saved = run.recover()
    assert saved is not None
    assert (saved.chunk, saved.step, saved.arrays.pop("counter")) == (3, 26, 3)
    assert set(saved.arrays) == set(STATE)
    for name, array in STATE.items():
        np.testing.assert_array_equal(saved.arrays[name], array)
        assert saved.arrays[name].dtype == np.asarray(array).dtype.newbyteorder("=")
        assert saved.arrays[name].shape == np.shape(array)


def test_state_of_a_type_that_netcdf_does_not_have_is_refused(run: RunDirectory) -> None:
    with pytest.raises(RunDirectoryError, match="`wave` of type complex128 cannot be stored"):
        run.write_state(chunk=0, step=0, state={"wave": np.array([1j])})


def test_chunks_beyond_the_state_can_be_set_aside(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 5, 10, 26)
    for chunk in range(1, 4):
        run.write_state(chunk=chunk, step=0, state=STATE)
    content = (run.path / "chunks" / "000003.nc").read_bytes()
    aside = run.discard_chunks_after(2)
    assert aside is not None
    assert aside.parent == run.path / "discarded"
    assert [header.chunk for header in run.chunks()] == [0, 1, 2]
    assert os.listdir(aside / "state") == ["000003.nc"]
    assert (aside / "chunks" / "000003.nc").read_bytes() == content
    assert run.discard_chunks_after(2) is None


def test_a_file_that_disappears_from_the_disk_is_named(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 10)
    header = run.chunks()[1]
    header.path.unlink()
    with pytest.raises(RunDirectoryError, match=r"000001.nc` could not be read: No such file"):
        read_chunk(header)


def test_every_damage_to_a_chunk_is_found(run: RunDirectory, write_steps: WriteSteps) -> None:
    """A file cut short or with a changed byte either reads as it was, as in unused space, or is named."""
    write_steps(run, 10)
    header = run.chunks()[1]
    content, truth = header.path.read_bytes(), read_chunk(header)
    rng = np.random.default_rng(0)
    num_found = 0
    for place in rng.integers(0, len(content), size=300):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        damages = [bytes(changed)] if rng.uniform() < 0.8 else [content[:place]]
        for damage in damages:
            header.path.write_bytes(damage)
            try:
                arrays = read_chunk(header)
            except RunDirectoryError as error:
                assert str(header.path) in str(error)  # noqa: PT017 - either outcome is right
                num_found += 1
                continue
            assert {name: array.tobytes() for name, array in arrays.items()} == {
                name: array.tobytes() for name, array in truth.items()
            }
    assert num_found > 100


def test_a_changed_draw_is_named_by_its_checksum(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 10)
    header = run.chunks()[1]
    content = header.path.read_bytes()
    draw = read_chunk(header)["warmup_posterior/rate"][1, 2].tobytes()
    assert content.count(draw) == 1
    header.path.write_bytes(content.replace(draw, np.float64(1.0).tobytes()))
    with pytest.raises(RunDirectoryError, match=r"000001.nc` is damaged: its content does not match its checksum"):
        read_chunk(header)


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let the operating system refuse to write larger files, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told_and_leaves_what_was_there(run: RunDirectory) -> None:
    run.write_state(chunk=0, step=0, state={"position": np.zeros(4)})
    with (
        largest_file(65536),
        pytest.raises(RunDirectoryError, match=r"000001.nc` could not be written: .*MiB free.*untouched"),
    ):
        run.write_state(chunk=1, step=1, state={"position": np.zeros(10_000)})
    assert os.listdir(run.path / "state") == ["000000.nc"]
    assert read_state(run.path / "state" / "000000.nc")[1] == {"chunk": 0, "step": 0}


def test_a_disk_that_fills_while_the_posterior_is_written_is_told(run: RunDirectory, write_steps: WriteSteps) -> None:
    write_steps(run, 10, 26)
    with largest_file(8192), pytest.raises(RunDirectoryError, match=r"posterior.nc` could not be written"):
        run.finish()
    assert sorted(os.listdir(run.path)) == ["chunks", "run.json", "state"]
    assert run.read_record().status == "running"
    assert run.finish().exists()


def test_a_refusal_by_the_file_system_is_told_with_its_cause(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, write_steps: WriteSteps
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RunDirectoryError, match=r"000000.nc` could not be written: Permission denied"):
        write_steps(run, 10)
    assert os.listdir(run.path / "chunks") == []


def test_a_file_gets_its_name_only_after_its_content_is_on_the_disk(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    flush, replace = os.fsync, os.replace

    def watch_flush(descriptor: int) -> None:
        events.append(f"flush {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        flush(descriptor)

    def watch_replace(source: Path, target: Path) -> None:
        events.append(f"rename {source.name}")
        replace(source, target)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("the names of open files are only known on Linux")
    monkeypatch.setattr(os, "fsync", watch_flush)
    monkeypatch.setattr(os, "replace", watch_replace)
    run.write_state(chunk=5, step=0, state=STATE)
    assert events == ["flush .000005.nc.partial", "rename .000005.nc.partial", "flush state"]
