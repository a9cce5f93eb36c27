from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from distmc.diagnostics import ChainSign, summarise

Arrays = dict[str, np.ndarray[Any, Any]]
AsTree = Callable[..., xr.DataTree]


def signs(tree: xr.DataTree) -> tuple[ChainSign, ...]:
    return summarise(tree).suspicious_chains


def test_healthy_chains_show_no_sign(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    assert signs(as_tree(draws, stats)) == ()


def test_slowly_mixing_chains_that_agree_show_no_sign(as_tree: AsTree) -> None:
    """Autocorrelation alone, here about 10 effective draws a chain, must not be taken for modes."""
    rng = np.random.default_rng(2)
    walk = np.zeros((8, 500, 5))
    walk[:, 0] = rng.normal(size=(8, 5))
    for step in range(1, 500):
        walk[:, step] = 0.96 * walk[:, step - 1] + np.sqrt(1 - 0.96**2) * rng.normal(size=(8, 5))
    lp = -0.5 * np.sum(walk**2, axis=2)
    assert signs(as_tree({"x": walk}, {"lp": lp})) == ()


def test_a_chain_that_never_moved_is_named(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    for array in draws.values():
        array[5] = array[5, :1]
    stats["acceptance_rate"][5] = 0.0
    (sign,) = signs(as_tree(draws, stats))
    assert (sign.chain, sign.sign) == (5, "stuck")
    assert str(sign).startswith("chain 5 never accepted a proposal (mean acceptance rate 0, median chain 0.8)")


def test_a_chain_that_hardly_moved_is_named(draws: Arrays, as_tree: AsTree) -> None:
    for array in draws.values():
        array[2, :200], array[2, 200:] = array[2, 0], array[2, 200]
    (sign,) = signs(as_tree(draws))
    assert str(sign) == "chain 2 moved in 1 of 249 steps"


def test_a_chain_far_below_in_density_is_named(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    stats["lp"][3] -= 500.0
    (sign,) = signs(as_tree(draws, stats))
    assert (sign.chain, sign.sign) == (3, "low_density")
    distance = np.median(np.mean(np.delete(stats["lp"], 3, axis=0), axis=1)) - np.mean(stats["lp"][3])
    assert f"{distance / np.std(stats['lp'][3]):,.0f} times its own spread" in sign.words


def test_of_two_chains_the_lower_one_is_named(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    stats["lp"][1] -= 500.0
    two = [{name: array[:2] for name, array in arrays.items()} for arrays in (draws, stats)]
    assert [(sign.chain, sign.sign) for sign in signs(as_tree(*two))] == [(1, "low_density")]


def test_a_chain_above_the_others_is_not_blamed(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    stats["lp"][3] += 5.0
    assert signs(as_tree(draws, stats)) == ()


def test_chains_in_an_equally_good_mode_are_told_by_the_parameter(
    draws: Arrays, stats: Arrays, as_tree: AsTree
) -> None:
    draws["slope"][[1, 6], :, 1, 2] += 20.0
    found = signs(as_tree(draws, stats))
    assert [(sign.chain, sign.sign) for sign in found] == [(1, "apart"), (6, "apart")]
    assert "has `slope[1,2]` around 20" in found[0].words or "has `slope[1,2]` around 19" in found[0].words
    assert "6 other chains" in found[0].words


def test_chains_split_in_halves_name_one_half(draws: Arrays, as_tree: AsTree) -> None:
    draws["rate"][:4] += 100.0
    assert len(signs(as_tree(draws))) == 4


def test_a_stuck_chain_does_not_hide_a_split_of_the_others(draws: Arrays, as_tree: AsTree) -> None:
    for array in draws.values():
        array[0] = array[0, :1]
    draws["rate"][7] += 100.0
    assert [(sign.chain, sign.sign) for sign in signs(as_tree(draws))] == [(0, "stuck"), (7, "apart")]


def test_values_that_are_not_finite_are_named(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    draws["slope"][4, 10:12, 0, 0] = np.inf
    draws["slope"][4, 13, 0, 1] = np.nan
    (sign,) = signs(as_tree(draws, stats))
    assert str(sign) == "chain 4 has 3 values of `slope` that are infinite or not a number"


def test_the_chain_with_most_divergences_is_named(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    stats["diverging"][6, :30] = True
    stats["diverging"][:, 40] = True
    (sign,) = signs(as_tree(draws, stats))
    assert str(sign) == "chain 6 has 31 of all 38 divergences"


def test_few_or_shared_divergences_blame_no_chain(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    stats["diverging"][6, :9] = True
    assert signs(as_tree(draws, stats)) == ()
    stats["diverging"][:, :20] = True
    assert signs(as_tree(draws, stats)) == ()


def test_constant_and_empty_parameters_are_passed_over(draws: Arrays, as_tree: AsTree) -> None:
    draws["fixed"] = np.ones((8, 250, 2))
    draws["none"] = np.ones((8, 250, 0))
    assert signs(as_tree(draws)) == ()
