from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from distmc.data.data import Data
from distmc.errors import DataError
from distmc.storage import read_data, write_data


def ragged_data() -> Data:
    rng = np.random.default_rng(0)
    height = rng.normal(size=5)
    height[2] = np.nan
    return Data(
        rows={
            "word": rng.integers(0, 9, size=(5, 4)).astype(np.int8),
            "length": np.array([1, 4, 2, 3, 4]),
            "height": height,
            "is_noun": np.array([True, False, True, False, True]),
            "file": np.arange(5, dtype=np.float32),
        },
        constants={"scale": np.float64(2.5), "design": rng.normal(size=(2, 3))},
        length="length",
        missing=("height",),
    )


@pytest.mark.parametrize("suffix", ["npz", "nc"])
@pytest.mark.parametrize("data", [ragged_data(), Data(rows={"y": np.arange(3.0)})], ids=["ragged", "plain"])
def test_data_come_back_equal(tmp_path: Path, suffix: str, data: Data) -> None:
    file = tmp_path / f"words.{suffix}"
    write_data(file, data)
    found = read_data(file)
    assert found.fingerprint() == data.fingerprint()
    for name, array in data.rows.items():
        np.testing.assert_array_equal(found.rows[name], array)
        assert found.rows[name].dtype == array.dtype
    assert set(found.constants or {}) == set(data.constants or {})
    assert (found.length, tuple(found.missing)) == (data.length, tuple(data.missing))


def test_a_file_made_by_numpy_alone_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "words.npz"
    np.savez(file, word=np.ones((3, 2)), steps=np.array([1, 2, 2]), __length__="steps", **{"constants/k": np.arange(4)})
    data = read_data(file)
    assert set(data.rows) == {"word", "steps"}
    assert data.length == "steps"
    np.testing.assert_array_equal((data.constants or {})["k"], np.arange(4))


def test_a_file_made_by_xarray_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "words.nc"
    xr.Dataset(
        {"y": ("row", [1.0, np.nan]), "x": (("row", "covariate"), np.ones((2, 3))), "w": ("covariate", np.ones(3))},
        coords={"row": [10, 11], "covariate": ["a", "b", "c"]},
        attrs={"missing": "y"},
    ).to_netcdf(file)
    data = read_data(file)
    assert set(data.rows) == {"x", "y"}
    assert set(data.constants or {}) == {"w"}
    assert tuple(data.missing) == ("y",)


def test_a_folder_without_access_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(DataError, match=r"words.npz` could not be read: Permission denied\."):
        read_data(tmp_path / "words.npz")


@pytest.mark.parametrize("suffix", ["npz", "nc"])
def test_unusable_files_are_named(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"words.{suffix}"
    with pytest.raises(DataError, match=f"^The file of data `[^`]*words.{suffix}` does not exist"):
        read_data(file)
    file.write_bytes(b"neither zip nor netCDF")
    with pytest.raises(DataError, match=f"words.{suffix}` could not be read"):
        read_data(file)
    write_data(file, ragged_data())
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(DataError, match=f"words.{suffix}` could not be read"):
        read_data(file)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ends in `.csv`; a file of data ends in `.npz`"):
        read_data(tmp_path / "words.csv")
    with pytest.raises(DataError, match="has no ending; a file of data"):
        write_data(tmp_path / "words", ragged_data())


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "words.npz"
    np.savez(file, words=np.array([["a"], "b"], dtype=object))
    with pytest.raises(DataError, match=r"Entry `\w+`: Object arrays cannot be loaded .*`astype\(float\)`"):
        read_data(file)


@pytest.mark.parametrize("content", [b"hello", b"PK\3\4", b"\x80\4N.", b"\x93NUMPY\1\0"])
def test_what_is_no_archive_is_told_what_it_must_be(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "words.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"could not be read: File is not a zip file\. It must be an archive of arrays"):
        read_data(tmp_path / "words.npz")


def test_one_array_under_the_name_of_an_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.zeros(3))
    (tmp_path / "words.npy").rename(tmp_path / "words.npz")
    with pytest.raises(DataError, match="It must be an archive of arrays of numbers"):
        read_data(tmp_path / "words.npz")


@pytest.mark.parametrize("path", [3, None, b"words.npz", "words\0.npz"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(DataError, match="is not a path"):
        read_data(path)


def test_a_mapping_is_written_as_rows(tmp_path: Path) -> None:
    write_data(tmp_path / "words.npz", {"y": np.arange(3.0)})
    assert read_data(tmp_path / "words.npz").fingerprint() == Data(rows={"y": np.arange(3.0)}).fingerprint()
    with pytest.raises(DataError, match="`data` is of type `str`"):
        write_data(tmp_path / "words.npz", "y")  # type: ignore[arg-type]


def test_a_file_without_rows_says_what_rows_are(tmp_path: Path) -> None:
    file = tmp_path / "words.nc"
    xr.Dataset({"y": ("time", [1.0, 2.0])}).to_netcdf(file)
    with pytest.raises(DataError, match="first dimension is called `row`"):
        read_data(file)


@pytest.mark.parametrize(
    ("suffix", "told"),
    [
        ("npz", r"an entry `constants/NAME`, .* `__missing__`"),
        ("nc", r"first dimension is not called `row`, .* attribute"),
    ],
)
def test_values_that_no_likelihood_can_use_name_the_file_and_what_to_write_there(
    tmp_path: Path, suffix: str, told: str
) -> None:
    file = tmp_path / f"words.{suffix}"
    y = np.array([1.0, np.nan])
    if suffix == "npz":
        np.savez(file, y=y)
    else:
        xr.Dataset({"y": ("row", y)}).to_netcdf(file)
    with pytest.raises(DataError, match=f"words.{suffix}` cannot be used. .*NaN.* {told}"):
        read_data(file)


@pytest.mark.parametrize(("name", "suffix"), [("row", "nc"), ("a/b", "npz"), ("__length__", "npz")])
def test_names_with_a_meaning_of_their_own_are_refused(tmp_path: Path, name: str, suffix: str) -> None:
    file = tmp_path / f"words.{suffix}"
    with pytest.raises(DataError, match="have a meaning of their own"):
        write_data(file, Data(rows={name: np.arange(3.0)}))
    assert not file.exists()


def test_a_directory_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file or directory"):
        write_data(tmp_path / "nowhere" / "words.npz", ragged_data())
