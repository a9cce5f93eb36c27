import json
from typing import Any

import numpy as np
import pytest

from distmc.errors import ModelError
from distmc.storage import Layout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shapes": {"draw": ()}}, "`draw` is called like a dimension"),
        ({"shapes": {"state": (), "rate": (2,)}, "dims": {"rate": ("state",)}}, "`state` is called like a dimension"),
        ({"shapes": {"a/b": ()}}, "has no slash"),
        ({"shapes": {"": ()}}, "cannot name"),
        ({"shapes": {"rate ": ()}}, "does not end in a space"),
        ({"shapes": {"rate": (2,)}, "dims": {"rate": ("a", "b")}}, "needs 1 different names"),
        ({"shapes": {"rate": (2, 2)}, "dims": {"rate": ("a", "a")}}, "needs 2 different names"),
        ({"shapes": {"rate": (2,)}, "dims": {"rate": ("chain",)}}, "none of them 'chain'"),
        ({"shapes": {"rate": (2,)}, "dims": {"speed": ("a",)}}, "`speed`, which is none of the parameters"),
        ({"shapes": {"a": (2,), "b": (3,)}, "dims": {"a": ("k",), "b": ("k",)}}, "length 3 in `b` but 2 elsewhere"),
        ({"shapes": {"a": (2,)}, "dims": {"a": ("k",)}, "coords": {"k": ("x",)}}, "1 labels .* length is 2"),
        ({"shapes": {"a": (2,)}, "coords": {"k": ("x", "y")}}, "unknown, as no parameter has it"),
        ({"shapes": {"a": (2,)}, "dims": {"a": ("k",)}, "coords": {"k": ("x", 1)}}, "all of them text or all"),
    ],
)
def test_names_that_cannot_be_stored_are_refused_in_words(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Layout(**arguments)


@pytest.mark.parametrize("name", ["rate", "μ", "beta[0]", "_x", "a.b", "log rate", "2nd"])
def test_usual_names_are_accepted(name: str) -> None:
    assert Layout(shapes={name: (2,)}).axes(name) == (f"{name}_dim_0",)


def test_arrays_and_single_names_become_plain_tuples() -> None:
    layout = Layout(shapes={"a": (np.int64(2),)}, dims={"a": "year"}, coords={"year": np.array([2001, 2002])})
    assert layout.axes("a") == ("year",)
    assert layout.coords["year"] == (2001, 2002)
    assert json.loads(json.dumps(layout.to_dict()))["shapes"] == {"a": [2]}
