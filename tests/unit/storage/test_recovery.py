"""Where a run goes on after files were lost or damaged."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distmc.errors import DamagedFileError, RunDirectoryError
from distmc.storage import RunDirectory, RunRecord
from distmc.storage.recovery import recover, states_to_keep

EDGES = (2, 5, 10, 14, 20, 26)


@pytest.fixture
def written(run: RunDirectory, write_steps: Callable[..., None]) -> RunDirectory:
    """Return a run of chunks 0 to 6 with the states that are kept of them."""
    write_steps(run, *EDGES)
    for chunk, step in enumerate((0, *EDGES)):
        run.write_state(chunk=chunk, step=step, state={"position": np.full((3, 2), float(chunk))})
    return run


def states(run: RunDirectory) -> list[int]:
    return sorted(int(file.stem) for file in (run.path / "state").glob("*.nc"))


def chunks(run: RunDirectory) -> list[int]:
    return sorted(int(file.stem) for file in (run.path / "chunks").glob("*.nc"))


def cut_short(run: RunDirectory, *names: str) -> None:
    for name in names:
        file = run.path / name
        file.write_bytes(file.read_bytes()[:-300])


def recovered(run: RunDirectory) -> tuple[int, int] | None:
    checkpoint = run.recover()
    if checkpoint is None:
        return None
    assert np.all(checkpoint.arrays["position"] == checkpoint.chunk)
    return checkpoint.chunk, checkpoint.step


def test_states_are_kept_ever_further_apart() -> None:
    kept: list[int] = []
    for number in range(1, 301):
        kept = sorted(states_to_keep([*kept, number]))
        assert kept[-2:] == [number - 1, number][-len(kept) :]
        # At most about four times as many chunks are repeated as have followed the damaged one.
        for chunk in range(1, number + 1):
            before = max((state for state in kept if state < chunk), default=0)
            assert number - before <= 4 * (number - chunk + 1)
    assert len(kept) <= 12


def test_run_goes_on_after_its_last_chunk(written: RunDirectory, recwarn: pytest.WarningsRecorder) -> None:
    assert states(written) == [4, 5, 6]
    assert recovered(written) == (6, 26)
    assert chunks(written) == [0, 1, 2, 3, 4, 5, 6]
    assert len(recwarn) == 0


def test_chunk_whose_state_was_not_written_any_more_is_repeated(
    written: RunDirectory, recwarn: pytest.WarningsRecorder
) -> None:
    (written.path / "state" / "000006.nc").unlink()
    assert recovered(written) == (5, 20)
    assert chunks(written) == [0, 1, 2, 3, 4, 5]
    assert len(recwarn) == 0


def test_new_run_begins_at_its_beginning(run: RunDirectory, recwarn: pytest.WarningsRecorder) -> None:
    assert recovered(run) is None
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    ("damaged", "told", "goes_on"),
    [
        (("chunks/000006.nc",), ["000006.nc` is damaged"], (5, 20)),
        (("chunks/000005.nc",), ["000005.nc` is damaged"], (4, 14)),
        (("state/000006.nc",), ["000006.nc` is damaged"], (5, 20)),
        (("state/000006.nc", "chunks/000005.nc"), ["chunks/000005.nc` is damaged"], (4, 14)),
        (("chunks/000005.nc", "state/000004.nc"), ["chunks/000005.nc` is", "state/000004.nc` is", "beginning"], None),
        (("chunks/000002.nc",), ["chunks/000002.nc` is damaged", "holds no state of a good chunk", "beginning"], None),
    ],
)
def test_damage_is_named_and_repeated_from_the_state_before_it(
    written: RunDirectory, damaged: tuple[str, ...], told: list[str], goes_on: tuple[int, int] | None
) -> None:
    cut_short(written, *damaged)
    with pytest.warns(UserWarning, match="comes out with the same bits") as caught:
        assert recovered(written) == goes_on
    for words in told:
        assert words in str(caught[0].message)
    last = -1 if goes_on is None else goes_on[0]
    assert chunks(written) == list(range(last + 1))
    assert max(states(written), default=-1) == last
    # What is beyond can still be looked at.
    (aside,) = (written.path / "discarded").iterdir()
    assert str(aside) in str(caught[0].message)
    assert sorted(int(file.stem) for file in (aside / "chunks").glob("*")) == list(range(last + 1, 7))
    # What is left is whole.
    found = recover(written.path / "chunks", written.path / "state")
    assert found.problems == ()


@pytest.mark.parametrize("name", ["chunks/000001.nc", "chunks/000006.nc", "state/000006.nc", "chunks", "state"])
def test_what_cannot_be_read_is_not_taken_for_damaged(
    written: RunDirectory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not answer for a while costs no draws."""
    refused, read_bytes, listed = written.path / name, Path.read_bytes, Path.iterdir

    def refuse(path: Path) -> None:
        if path == refused:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda path: refuse(path) or read_bytes(path))
        patched.setattr(Path, "iterdir", lambda path: refuse(path) or listed(path))
        with pytest.raises(
            RunDirectoryError, match=r"could not be read: Input/output error\. Nothing was chang"
        ) as told:
            written.recover()
    assert f"`{refused}`" in str(told.value)
    assert not isinstance(told.value, DamagedFileError)
    assert not (written.path / "discarded").exists()
    assert recovered(written) == (6, 26)


def test_directory_in_place_of_a_chunk_is_not_taken_for_a_damaged_one(written: RunDirectory) -> None:
    file = written.path / "chunks" / "000003.nc"
    file.unlink()
    file.mkdir()
    with pytest.raises(RunDirectoryError, match=r"000003.nc` could not be read: Is a directory"):
        written.recover()
    assert chunks(written) == [0, 1, 2, 3, 4, 5, 6]


def test_missing_chunk_is_named(written: RunDirectory) -> None:
    (written.path / "chunks" / "000005.nc").unlink()
    with pytest.warns(UserWarning, match=r"000006.nc` begins at step 20, but .* end at step 14: a chunk is missing"):
        assert recovered(written) == (4, 14)


def test_state_of_another_chunk_is_not_believed(written: RunDirectory) -> None:
    state = written.path / "state"
    (state / "000005.nc").replace(state / "000006.nc")
    with pytest.warns(UserWarning, match=r"000006.nc` is not the state after chunk 6"):
        assert recovered(written) == (4, 14)


def test_start_is_kept_and_verified(tmp_path: Path, record: RunRecord) -> None:
    start = np.random.default_rng(0).normal(size=(3, 7))
    run = RunDirectory.create(tmp_path / "run", record, start)
    assert np.array_equal(run.read_start(), start)
    cut_short(run, "start.nc")
    with pytest.raises(RunDirectoryError, match=r"start.nc` is damaged"):
        run.read_start()
    assert run.discard_if_empty()
    assert not run.path.exists()
