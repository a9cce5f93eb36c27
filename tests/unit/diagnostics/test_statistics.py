"""Statistics of many values against ArviZ's own of each."""

import numpy as np
import pytest
import xarray as xr
from arviz_stats import summary as arviz_summary
from scipy import stats as scipy_stats

from distmc.diagnostics.statistics import Statistics, normal_scores, statistics

NAMES = {"rhat": "r_hat"}


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    """Return draws of more values than one slab holds, some of them odd."""
    rng = np.random.default_rng(3)
    draws = np.cumsum(rng.normal(size=(6, 51, 40)), axis=1)
    draws[..., 0] = 2.5
    draws[..., 1] = rng.integers(0, 3, size=(6, 51))
    draws[2, 7, 2] = np.nan
    draws[1, 3:9, 3] = np.inf
    draws[:, 20:, 4] = draws[:, 19:20, 4]
    draws[4, :, 5] += 30.0
    return draws


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("num_draws", [51, 50, 9, 8])
def test_all_numbers_are_those_of_arviz(draws: np.ndarray, num_draws: int) -> None:
    draws = draws[:, :num_draws]
    dataset = xr.Dataset({"x": (("chain", "draw", "value"), draws)})
    table = arviz_summary(dataset, kind="all", fmt="xarray", round_to="none")["x"]
    found = statistics(draws)
    for name in Statistics._fields:
        expected = table.sel(summary=NAMES.get(name, name)).values
        # ArviZ adds up the mean in another order.
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-13 if name == "mean" else 0.0, err_msg=name)


def test_scores_are_normal_quantiles_of_mean_ranks(draws: np.ndarray) -> None:
    values = np.moveaxis(draws, -1, 0)
    for value, scores in zip(values, normal_scores(values), strict=True):
        ranks = scipy_stats.rankdata(value, nan_policy="omit").reshape(value.shape)
        np.testing.assert_array_equal(scores, scipy_stats.norm.ppf((ranks - 0.375) / (value.size + 0.25)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_too_few_draws_have_no_rhat(draws: np.ndarray) -> None:
    assert np.all(np.isnan(statistics(draws[:, :7]).rhat))
