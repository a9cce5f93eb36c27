import dataclasses
import pickle
import time
from collections.abc import Callable
from typing import Any

import arviz_stats
import numpy as np
import pytest
import xarray as xr

from distmc.diagnostics import Summary, summarise
from distmc.errors import InputError

Arrays = dict[str, np.ndarray[Any, Any]]
AsTree = Callable[..., xr.DataTree]


def test_numbers_are_those_of_arviz(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    tree = as_tree(draws, stats)
    summary = summarise(tree)
    table = {parameter.name: parameter for parameter in summary.parameters}
    assert set(table) == {"rate", *(f"slope[{i},{j}]" for i in range(2) for j in range(3))}
    rhat, bulk, tail = arviz_stats.rhat(tree), arviz_stats.ess(tree), arviz_stats.ess(tree, method="tail")
    assert table["slope[1,2]"].rhat == rhat["slope"].values[1, 2]
    assert table["slope[1,2]"].ess_bulk == bulk["slope"].values[1, 2]
    assert table["slope[0,1]"].ess_tail == tail["slope"].values[0, 1]
    assert table["rate"].mean == pytest.approx(np.mean(draws["rate"]))
    assert table["rate"].mcse_mean == arviz_stats.mcse(tree)["rate"].values


def test_fraction_of_missing_information_is_that_of_arviz(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    stats["energy"] = np.cumsum(np.random.default_rng(8).normal(size=stats["lp"].shape), axis=1)
    tree = as_tree(draws, stats)
    np.testing.assert_allclose(summarise(tree).energy_bfmi, np.ravel(arviz_stats.bfmi(tree)["energy"]))
    del stats["energy"]
    assert summarise(as_tree(draws, stats)).energy_bfmi == ()


def test_the_worst_are_found_and_rates_are_per_second(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    draws["slope"][3:, :, 1, 0] += 1.0
    summary = summarise(as_tree(draws, stats, seconds=4.0))
    assert summary.worst_rhat is not None
    assert summary.worst_rhat.name == "slope[1,0]"
    assert summary.worst_rhat.rhat == max(parameter.rhat for parameter in summary.parameters)
    assert summary.least_ess_bulk is not None
    assert summary.least_ess_bulk.ess_bulk == min(parameter.ess_bulk for parameter in summary.parameters)
    assert summary.least_ess_tail is not None
    assert summary.least_ess_tail.ess_tail == min(parameter.ess_tail for parameter in summary.parameters)
    assert summary.draws_per_second == 8 * 250 / 4.0
    assert summary.ess_per_second == summary.least_ess_bulk.ess_bulk / 4.0
    assert "worst R-hat" in str(summary)
    assert "(slope[1,0])" in str(summary)


def test_labels_of_the_coordinates_name_the_elements(as_tree: AsTree, draws: Arrays) -> None:
    tree = as_tree({"slope": draws["slope"]})
    posterior = tree["posterior"].to_dataset().assign_coords(slope_dim_0=["low", "high"])
    summary = summarise(xr.DataTree.from_dict({"posterior": posterior}))
    assert summary.parameters[-1].name == "slope[high,2]"


def test_constant_elements_are_listed_but_never_the_worst(draws: Arrays, as_tree: AsTree) -> None:
    draws["slope"][..., 0, 0] = 1.0
    summary = summarise(as_tree(draws))
    constants = [parameter.name for parameter in summary.parameters if parameter.is_constant]
    assert constants == ["slope[0,0]"]
    assert len(summary.varying) == 6
    assert summary.worst_rhat is not None
    assert np.isfinite(summary.worst_rhat.rhat)


def test_a_value_that_is_not_a_number_is_the_worst(draws: Arrays, as_tree: AsTree) -> None:
    draws["slope"][2, 7, 0, 1] = np.nan
    summary = summarise(as_tree(draws))
    assert summary.worst_rhat is not None
    assert summary.worst_rhat.name == "slope[0,1]"
    assert np.isnan(summary.worst_rhat.rhat)


def test_without_statistics_and_times_the_rest_is_told(draws: Arrays, as_tree: AsTree) -> None:
    summary = summarise(as_tree(draws, seconds=0.0))
    assert summary.num_divergent == 0
    assert summary.acceptance_rates == ()
    assert summary.draws_per_second is None
    assert summary.ess_per_second is None
    assert "per second" not in str(summary)


def test_divergences_and_acceptance_are_counted(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    stats["diverging"][1, 3:6] = True
    summary = summarise(as_tree(draws, stats))
    assert (summary.num_divergent, summary.num_nonfinite) == (3, 0)
    assert "not finite" not in str(summary)
    stats["is_nonfinite"] = stats["diverging"] & (np.arange(stats["diverging"].shape[1]) > 3)
    again = summarise(as_tree(draws, stats))
    assert again.num_nonfinite == 2
    assert "not finite        2" in str(again)
    assert summary.acceptance_rates == pytest.approx(np.mean(stats["acceptance_rate"], axis=1))


def test_a_part_of_the_parameters_can_be_asked_for(draws: Arrays, as_tree: AsTree) -> None:
    tree = as_tree(draws)
    assert [parameter.name for parameter in summarise(tree, var_names=["rate"]).parameters] == ["rate"]
    with pytest.raises(InputError, match=r"asks for \['speed'\], but the parameters are \['rate', 'slope'\]"):
        summarise(tree, var_names=["speed"])


def test_a_tree_without_draws_is_refused(draws: Arrays, as_tree: AsTree) -> None:
    with pytest.raises(InputError, match=r"no draws to summarise.*no group `posterior`"):
        summarise(xr.DataTree.from_dict({"warmup_posterior": as_tree(draws)["posterior"].to_dataset()}))


@pytest.mark.parametrize("tree", [None, "runs/words", 3])
def test_what_is_no_tree_is_refused(tree: Any) -> None:
    with pytest.raises(InputError, match="`tree` is of type"):
        summarise(tree)


def test_a_summary_is_a_frozen_value_that_pickles(draws: Arrays, stats: Arrays, as_tree: AsTree) -> None:
    summary = summarise(as_tree(draws, stats))
    assert pickle.loads(pickle.dumps(summary)) == summary
    assert isinstance(summary, Summary)
    with pytest.raises(dataclasses.FrozenInstanceError):
        summary.num_chains = 3  # type: ignore[misc]


def test_a_hundred_values_in_32_chains_take_seconds(as_tree: AsTree) -> None:
    rng = np.random.default_rng(0)
    tree = as_tree({"x": rng.normal(size=(32, 500, 100))}, {"lp": rng.normal(size=(32, 500))})
    began = time.process_time()
    summary = summarise(tree)
    assert len(summary.parameters) == 100
    assert time.process_time() - began < 20.0
