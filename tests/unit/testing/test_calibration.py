"""Ranks and their uniformity; whole programs are calibrated in tests/statistical."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from distmc.testing.calibration import Calibration, require_calibrated, uniformity_p_value


def smallest_tail(ranks: Any, num_places: int) -> float:
    """Return the smallest pointwise tail probability of the ranks' distribution function, place by place."""
    tails = []
    for place in range(1, num_places):
        count = int(np.sum(np.asarray(ranks) < place))
        below = stats.binom.cdf(count, len(ranks), place / num_places)
        above = stats.binom.sf(count - 1, len(ranks), place / num_places)
        tails.append(2.0 * min(below, above))
    return min(tails)


@pytest.mark.parametrize("ranks", [[0, 0, 0, 1], [2, 2, 2, 2], [0, 1, 2, 2], [1, 1, 1, 1]])
def test_p_value_counts_all_ranks_that_are_as_uneven(ranks: list[int]) -> None:
    bound = smallest_tail(ranks, 3) * (1.0 + 1e-9)
    as_uneven = [smallest_tail(other, 3) <= bound for other in itertools.product(range(3), repeat=4)]
    assert uniformity_p_value(np.array(ranks), 2) == pytest.approx(np.mean(as_uneven), abs=1e-12)


def test_uniform_ranks_are_refused_as_often_as_agreed() -> None:
    rng = np.random.default_rng(0)
    p_values = [uniformity_p_value(rng.integers(0, 9, 50), 8) for _ in range(200)]
    # At most the nominal share, since ranks are discrete; the allowance is four standard errors.
    for level in (0.05, 0.2, 0.5):
        assert level / 2.0 < np.mean(np.array(p_values) <= level) < level + 4.0 * np.sqrt(level / 200.0)


UNEVEN = {
    "biased": lambda uniform: uniform**1.4,
    "too narrow": lambda uniform: stats.norm.cdf(1.5 * stats.norm.ppf(uniform)),
    "too wide": lambda uniform: stats.norm.cdf(stats.norm.ppf(uniform) / 1.5),
}


@pytest.mark.parametrize("kind", UNEVEN)
def test_uneven_ranks_are_refused(kind: str) -> None:
    uniform = np.random.default_rng(1).random(300)
    ranks = np.floor(64 * UNEVEN[kind](uniform)).astype(int)
    calibration = Calibration(ranks={"slope": ranks}, num_kept=63, autocorrelation={"slope": 0.0})
    with pytest.raises(AssertionError, match=r"not uniform(.|\n)*slope: p = "):
        require_calibrated(calibration)
    even = Calibration(ranks={"slope": np.floor(64 * uniform).astype(int)}, num_kept=63, autocorrelation={"slope": 0.0})
    require_calibrated(even)


@pytest.mark.parametrize("autocorrelation", [0.3, float("nan")])
def test_draws_that_depend_on_each_other_are_refused(autocorrelation: float) -> None:
    ranks = np.random.default_rng(0).integers(0, 64, 300)
    calibration = Calibration(ranks={"slope": ranks}, num_kept=63, autocorrelation={"slope": autocorrelation})
    with pytest.raises(AssertionError, match="thin more"):
        require_calibrated(calibration)
