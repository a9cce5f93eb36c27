"""What is said when a run is to go on with another model, other data or other libraries."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest

from distmc.data.data import Data
from distmc.errors import RunDirectoryError
from distmc.model.model import Model, Parameter
from distmc.run import identity
from distmc.storage import RunRecord, require_same
from distmc.versions import library_versions

PATH = Path("runs/one")
ROWS = {"x": np.arange(4.0), "n": np.arange(4)}


def build(scale: float = 1.0, **changes: Any) -> Model:
    parameters = {
        "level": dist.Normal(0.0, 1.0),
        "slopes": dist.Normal(0.0, 1.0).expand([2]),
        "rate": Parameter((), dist.constraints.positive),
    }
    return Model(
        parameters={**parameters, **changes},
        log_likelihood=lambda params, data: -scale * (data["x"] - params["level"]) ** 2,
    )


def of(record: RunRecord, model: Model, data: Data) -> RunRecord:
    return dataclasses.replace(record, **identity(model, data))


def refusal(record: RunRecord, model: Model, data: Data) -> str:
    with pytest.raises(RunDirectoryError) as caught:
        require_same(PATH, of(record, build(), Data(rows=ROWS)), of(record, model, data))
    return str(caught.value)


def test_the_same_model_and_data_are_known_again(record: RunRecord, recwarn: pytest.WarningsRecorder) -> None:
    require_same(PATH, of(record, build(), Data(rows=ROWS)), of(record, build(), Data(rows=ROWS)))
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (build(scale=2.0), "another model: `log_likelihood`, or an array that it uses, differs."),
        (build(level=dist.Normal(0.0, 2.0)), "the prior of `level` differs"),
        (build(level=dist.Cauchy(0.0, 1.0)), "`level`: Normal of shape () in the run, Cauchy of shape () now"),
        (build(slopes=dist.Normal(0.0, 1.0).expand([3])), "Normal of shape (2,) in the run, Normal of shape (3,) now"),
        (build(rate=Parameter((), dist.constraints.real)), "the support of `rate` differs"),
        (build(more=dist.Normal()), "`more` (Normal of shape ()) is new"),
        (
            dataclasses.replace(build(), log_prior=lambda params: params["level"]),
            "the priors together with `log_prior`",
        ),
    ],
)
def test_another_model_is_told_in_words(record: RunRecord, model: Model, words: str) -> None:
    told = refusal(record, model, Data(rows=ROWS))
    assert words in told
    assert "data" not in told.partition("A run goes on")[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Data(rows={"x": np.arange(4.0)[::-1], "n": ROWS["n"]}), "other data: the content of `x` differs."),
        (Data(rows={"x": np.arange(5.0), "n": np.arange(5)}), "other data: rows: 4 in the run, 5 now."),
        (Data(rows={"x": ROWS["x"]}), "row variable `n` (int32 of shape () for each row) is missing"),
        (Data(rows=ROWS, constants={"k": 1.0}), "constant `k` (float64 of shape ()) is new"),
        (Data(rows=ROWS | {"n": np.arange(4.0)}), "int32 of shape () for each row in the run, float64"),
        (Data(rows=ROWS, missing=["x"]), "`missing`: none in the run, x now"),
    ],
)
def test_other_data_are_told_in_words(record: RunRecord, data: Data, words: str) -> None:
    assert words in refusal(record, build(), data)


def test_long_lists_are_cut(record: RunRecord) -> None:
    rows = {f"v{number}": np.arange(4.0) for number in range(9)}
    with pytest.raises(RunDirectoryError, match=r"`v3` .* is new; and 5 more\. "):
        require_same(PATH, of(record, build(), Data(rows=ROWS)), of(record, build(), Data(rows=ROWS | rows)))


def older(record: RunRecord) -> RunRecord:
    return dataclasses.replace(record, versions={**library_versions(), "jax": "0.1.0", "ray": "0.1.0"})


def test_other_versions_are_named(record: RunRecord) -> None:
    before = of(older(record), build(), Data(rows=ROWS))
    with pytest.warns(UserWarning, match=r"other versions of libraries \(jax 0\.1\.0 in the run, [\d.]+ now\)") as told:
        require_same(PATH, before, of(record, build(), Data(rows=ROWS)))
    assert "functions of the model" not in str(told[0].message)


def test_programs_that_other_versions_traced_are_not_compared(record: RunRecord) -> None:
    before = of(older(record), build(), Data(rows=ROWS))
    with pytest.warns(UserWarning, match="Whether the functions of the model are the same cannot be told"):
        require_same(PATH, before, of(record, build(scale=2.0), Data(rows=ROWS)))
    with (
        pytest.warns(UserWarning, match="other versions"),
        pytest.raises(RunDirectoryError, match=r"`more` .* is new"),
    ):
        require_same(PATH, before, of(record, build(more=dist.Normal()), Data(rows=ROWS)))
