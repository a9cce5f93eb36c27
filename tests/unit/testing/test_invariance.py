"""The comparison of runs sees every bit and says where it is."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from distmc.spec import Local, Placement, Ray
from distmc.testing import invariance


def draws() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "warmup/slope": rng.normal(size=(3, 4, 2)),
        "slope": rng.normal(size=(3, 5, 2)),
        "is_divergent": np.zeros((3, 5), bool),
        "num_integration_steps": np.ones((3, 5), np.int32),
    }


def test_equal_runs_have_no_difference() -> None:
    assert invariance.first_difference(draws(), draws()) is None
    invariance.require_identical(draws(), draws())


@pytest.mark.parametrize("name", list(draws()))
def test_last_bit_is_seen_and_shown(name: str) -> None:
    changed = draws()
    changed[name][1, 2:].view(np.uint8).reshape(-1)[0] ^= 1
    difference = invariance.first_difference(draws(), changed)
    assert difference is not None
    assert (difference.variable, difference.chain, difference.draw) == (name, 1, 2)
    for run in (draws(), changed):
        bits = run[name][1, 2:].reshape(-1)[:1].tobytes()[::-1].hex()
        assert f"0x{bits}" in str(difference)
    assert f"1 of its {changed[name].size} numbers differ" in str(difference)


def test_earliest_draw_is_told() -> None:
    changed = draws()
    changed["slope"][0, 3, 0] += 1.0
    changed["is_divergent"][2, 1] = True
    difference = invariance.first_difference(draws(), changed)
    assert difference is not None
    assert (difference.variable, difference.chain, difference.draw, difference.element) == ("is_divergent", 2, 1, ())
    changed["warmup/slope"][1, 3, 1] += 1.0
    difference = invariance.first_difference(draws(), changed, names=("Local", "three workers"))
    assert difference is not None
    assert (difference.variable, difference.draw, difference.element) == ("warmup/slope", 3, (1,))
    assert str(difference).startswith("`warmup/slope[1]` first differs in draw 3 of chain 1: ")
    assert " in Local but " in str(difference)
    assert "2" not in str(difference).split("numbers differ")[1]


def test_zeros_and_not_numbers_are_compared_by_their_bits() -> None:
    zero, nan = {"x": np.zeros((1, 1))}, {"x": np.full((1, 1), np.nan)}
    assert invariance.first_difference(zero, {"x": -np.zeros((1, 1))}) is not None
    assert invariance.first_difference(nan, {"x": np.full((1, 1), np.nan)}) is None
    assert invariance.first_difference(nan, {"x": -np.full((1, 1), np.nan)}) is not None


def test_variables_and_shapes_are_compared() -> None:
    fewer = draws()
    del fewer["slope"]
    assert str(invariance.first_difference(draws(), fewer)) == "`slope` is in left but not in right."
    assert str(invariance.first_difference(fewer, draws())) == "`slope` is in right but not in left."
    shorter = draws() | {"slope": draws()["slope"][:, :4]}
    told = str(invariance.first_difference(draws(), shorter))
    assert told == "`slope` is float64 (3, 5, 2) in left but float64 (3, 4, 2) in right."


def tree(shift: float = 0.0) -> xr.DataTree:
    dims = ("chain", "draw", "side")
    return xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset({"slope": (dims, draws()["slope"] + shift)}),
            "observed_data": xr.Dataset({"y": (("row",), np.arange(3.0))}),
        }
    )


def test_trees_are_compared_by_group() -> None:
    assert invariance.first_difference(tree(), tree()) is None
    difference = invariance.first_difference(tree(), tree(1e-12))
    assert difference is not None
    assert (difference.variable, difference.chain, difference.draw) == ("posterior/slope", 0, 0)


def test_placements_are_compared_with_the_first() -> None:
    asked = []

    def run(on: Placement) -> dict[str, Any]:
        asked.append(on.fewest_workers)
        return draws() | {"slope": draws()["slope"] + (on.fewest_workers == 3)}

    invariance.check(run, [Local(), Ray(num_workers=2)])
    with pytest.raises(AssertionError, match=r"`slope\[0\]` first differs in draw 0 of chain 0: .* in Local\(\) but "):
        invariance.check(run, [Local(), Ray(num_workers=2), Ray(num_workers=3), Ray(num_workers=4)])
    assert asked == [1, 2, 1, 2, 3]
    with pytest.raises(ValueError, match="at least two"):
        invariance.check(run, [Local()])
