"""What `Data` accepts, refuses and remembers."""

import pickle

import numpy as np
import pytest

from distmc.data.data import Data
from distmc.errors import DataError

WORDS = np.zeros((3, 5), np.int8)


def test_rows_are_kept_as_read_only_arrays():
    data = Data(rows={"x": [[1.0, 2.0], [3.0, 4.0]], "y": np.array([1, 2], np.int8)}, constants={"k": 3})
    assert data.num_rows == 2
    assert data.rows["y"].dtype == np.int8
    assert data.constants["k"] == 3
    with pytest.raises(ValueError, match="read-only"):
        data.rows["x"][0, 0] = 5.0


def test_the_given_array_stays_writable():
    given = np.ones(3)
    Data(rows={"x": given})
    given[0] = 2.0
    assert given[0] == 2.0


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0, 2**31 - 1]), np.int32),
        (np.array([0, 2**31]), np.int64),
        (np.array([-(2**31) - 1, 0]), np.int64),
        (np.array([0, 5], np.uint64), np.int32),
        (np.array([0, 5], np.uint16), np.uint16),
        (np.array([True, False]), np.bool_),
        (np.array([1.0, 2.0], ">f8"), np.dtype("<f8")),
    ],
)
def test_types(values, dtype):
    stored = Data(rows={"x": values}).rows["x"]
    assert stored.dtype == dtype
    assert stored.dtype.isnative
    assert np.array_equal(stored, values)


def test_coerce_reads_a_mapping_as_rows_and_leaves_data_alone():
    data = Data(rows={"x": [1.0]})
    assert Data.coerce(data) is data
    assert Data.coerce({"x": [1.0, 2.0]}).num_rows == 2
    with pytest.raises(DataError, match="`data` is of type `list`"):
        Data.coerce([1, 2])


def test_ragged_variables_are_found_by_their_shape():
    data = Data(rows={"word": WORDS, "when": np.zeros((3, 5, 2)), "z": np.zeros((3, 2)), "n": [1, 3, 5]}, length="n")
    assert set(data.ragged) == {"word", "when"}
    assert data.lengths.tolist() == [1, 3, 5]


def test_ragged_variables_can_be_named():
    rows = {"word": WORDS, "z": np.zeros((3, 9)), "n": [1, 3, 5]}
    assert Data(rows=rows, length="n", ragged=["word"]).ragged == ("word",)


def test_nan_is_allowed_where_it_means_missing():
    data = Data(rows={"x": [1.0, np.nan], "y": [1.0, 2.0]}, missing=["x"])
    assert data.missing == ("x",)
    assert Data(rows={"x": [np.nan, np.nan]}, missing="x").missing == ("x",)


def test_constants_may_be_infinite():
    assert np.isinf(Data(rows={"x": [1.0]}, constants={"log_mask": [0.0, -np.inf]}).constants["log_mask"]).any()


BAD = {
    "rows not a mapping": (dict(rows=[1, 2]), "`rows` is of type `list`"),
    "constants not a mapping": (dict(rows={"x": [1]}, constants=[1]), "`constants` is of type `list`"),
    "no variable": (dict(rows={}), "`rows` is empty"),
    "no rows": (dict(rows={"x": np.zeros((0, 2))}), "have no rows"),
    "name not text": (dict(rows={3: [1]}), "name 3 is not usable"),
    "name of the mask": (dict(rows={"row_mask": [True]}), "used by distmc for the mask"),
    "name twice": (dict(rows={"x": [1]}, constants={"x": 1}), "`x` stands in `rows` and in `constants`"),
    "unequal rows": (dict(rows={"x": [1, 2], "y": [1]}), "`x`: 2, `y`: 1"),
    "scalar row": (dict(rows={"x": 1}), "`x` is a single number"),
    "objects": (dict(rows={"x": np.array([None, 1])}), "type `object`"),
    "text": (dict(rows={"x": np.array(["a", "b"])}), r"type `<U1`.*return_inverse"),
    "complex": (dict(rows={"x": [1j]}), "type `complex128`.*real and imaginary"),
    "dates": (dict(rows={"x": np.array(["2020-01-01"], "datetime64[D]")}), "since a fixed date"),
    "long double": (dict(rows={"x": np.zeros(2, np.longdouble)}), "Convert it to float64"),
    "lists of different lengths": (dict(rows={"x": [[1], [1, 2]]}), "distmc.ragged"),
    "masked array": (dict(rows={"x": np.ma.masked_array([1.0], [True])}), "masked array"),
    "nan": (dict(rows={"x": [1.0, 2.0, np.nan]}), r"`x` is NaN in row 2.*missing=\['x'\]"),
    "inf": (dict(rows={"x": [1.0, np.inf]}), "`x` is infinite in row 1"),
    "inf though missing": (dict(rows={"x": [np.nan, -np.inf]}, missing=["x"]), "`x` is infinite in row 1"),
    "nan constant": (dict(rows={"x": [1.0]}, constants={"c": np.nan}), "Constant `c` contains NaN"),
    "unknown missing": (dict(rows={"x": [1.0]}, missing=["y"]), "`missing` names `y`, but the row variables are `x`"),
    "unknown length": (dict(rows={"x": [[1.0]]}, length="n"), "`length` names `n`, but"),
    "length not whole": (dict(rows={"x": [[1.0]], "n": [1.0]}, length="n"), "`n` of type `float64`.*one integer"),
    "length not a vector": (dict(rows={"x": [[1.0]], "n": [[1]]}, length="n"), r"shape \(1, 1\)"),
    "length zero": (dict(rows={"w": WORDS, "n": [1, 0, 2]}, length="n"), "`n` is 0 in row 1"),
    "length too long": (dict(rows={"w": WORDS, "n": [1, 6, 2]}, length="n"), "up to 6 steps.*`w` has 5"),
    "nothing ragged": (dict(rows={"w": [1, 2], "n": [1, 2]}, length="n"), "there is none"),
    "ambiguous ragged": (
        dict(rows={"w": WORDS, "z": np.zeros((3, 9)), "n": [1, 3, 5]}, length="n"),
        r"`w`: 5, `z`: 9.*ragged=\['w'\]",
    ),
    "ragged without length": (dict(rows={"w": WORDS}, ragged=["w"]), "`ragged` is given without `length`"),
    "unknown ragged": (dict(rows={"w": WORDS, "n": [1, 3, 5]}, length="n", ragged=["v"]), "`ragged` names `v`"),
    "ragged too short": (
        dict(rows={"w": WORDS, "n": [1, 3, 6]}, length="n", ragged=["w"]),
        r"`w` has shape \(3, 5\), but `n` counts up to 6",
    ),
    "nan beyond the length": (
        dict(rows={"x": [[1.0, np.nan], [1.0, 2.0]], "n": [1, 2]}, length="n"),
        "row 0 at step 1, beyond the row's 1 steps",
    ),
    "nan within the length": (
        dict(rows={"x": [[1.0, 2.0], [np.nan, 2.0]], "n": [1, 2]}, length="n"),
        r"`x` is NaN in row 1; .*missing",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_own_message(case):
    arguments, message = BAD[case]
    with pytest.raises(DataError, match=message):
        Data(**arguments)


def test_fingerprint_is_of_content_not_of_order_or_integer_width():
    one = Data(rows={"x": np.arange(4), "y": np.ones((4, 2))}, constants={"k": 1.0})
    other = Data(rows={"y": np.ones((4, 2)), "x": np.arange(4, dtype=np.int32)}, constants={"k": 1.0})
    assert one.fingerprint() == other.fingerprint()
    assert len(one.fingerprint()) == 64


@pytest.mark.parametrize(
    "changed",
    [
        dict(rows={"x": np.arange(4.0)[::-1], "n": [1, 1, 1, 1]}),
        dict(rows={"x": np.arange(4, dtype=np.float32), "n": [1, 1, 1, 1]}),
        dict(rows={"x": np.arange(4.0)[:, None], "n": [1, 1, 1, 1]}),
        dict(rows={"z": np.arange(4.0), "n": [1, 1, 1, 1]}),
        dict(rows={"x": np.arange(4.0)}, constants={"n": [1, 1, 1, 1]}),
        dict(rows={"x": np.arange(4.0), "n": [1, 1, 1, 1]}, missing=["x"]),
    ],
)
def test_fingerprint_changes_with_content(changed):
    base = Data(rows={"x": np.arange(4.0), "n": [1, 1, 1, 1]})
    assert Data(**changed).fingerprint() != base.fingerprint()


def test_fingerprint_tells_ragged_rows_from_rectangular_ones():
    rows = {"w": WORDS, "n": [1, 3, 5]}
    assert Data(rows=rows).fingerprint() != Data(rows=rows, length="n").fingerprint()


def test_pickling_keeps_everything():
    data = Data(rows={"w": WORDS, "n": [1, 3, 5]}, constants={"k": 2}, length="n")
    copy = pickle.loads(pickle.dumps(data))
    assert copy.fingerprint() == data.fingerprint()
    assert copy.ragged == data.ragged
