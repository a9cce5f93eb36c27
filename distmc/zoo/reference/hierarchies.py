"""Groups around a common mean: hierarchical normal models in their non-centred form.

``mean ~ Normal(0, mean_sd)``, ``spread`` from a prior on positive numbers, ``offset[j] ~ Normal(0, 1)``, and the
effect of group `j` is ``mean + spread offset[j]``. Given the spread, all else is normal and linear, so the posterior
is a mixture of normal distributions over one number, which a fine grid integrates.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpyro.distributions as dist
from scipy import stats

from distmc.data.data import Data
from distmc.model.model import Model
from distmc.types import Array, ConstrainedParameters, NumpyArray
from distmc.zoo.answers import Answer
from distmc.zoo.reference.problem import Problem
from distmc.zoo.reference.quadrature import normalised, require_box_is_wide_enough

MEAN_SD = 5.0
EIGHT_SCHOOLS = {
    "estimate": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    "error": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
}
"""Effects of coaching in eight schools, and their standard errors (Rubin 1981)."""


def eight_schools() -> Problem:
    """Return the eight schools, with the priors of posteriordb: a half-Cauchy of scale five for the spread.

    References
    ----------
    Rubin (1981), Estimation in parallel randomized experiments. doi:10.3102/10769986006004377.
    Magnusson et al. (2025), posteriordb, entry `eight_schools-eight_schools_noncentered`.
    """
    data = Data(rows={"group": np.arange(8), **EIGHT_SCHOOLS})
    half_cauchy = stats.halfcauchy(scale=5.0)
    return Problem(
        name="eight schools, non-centred",
        model=_build_model(dist.HalfCauchy(5.0), num_groups=8),
        data=data,
        # The posterior's tail falls like the tenth power: what is left out at the ends is nothing.
        answers=solve(data, half_cauchy.logpdf, log_spreads=np.linspace(-16.0, 7.0, 2301)),
        source="Normal given the spread, which a grid of 2,301 points integrates; posteriordb has the same model.",
    )


def many_groups(num_groups: int = 20) -> Problem:
    """Return groups of 1 to 12 observations each, so that some offsets are known well and others hardly."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(num_groups), rng.integers(1, 12, num_groups, endpoint=True))
    effect = 1.0 + 0.7 * rng.normal(size=num_groups)
    data = Data(rows={"group": group, "estimate": rng.normal(effect[group], 1.5), "error": np.full(group.size, 1.5)})
    return Problem(
        name="hierarchical normal",
        model=_build_model(dist.HalfNormal(2.0), num_groups),
        data=data,
        answers=solve(data, stats.halfnorm(scale=2.0).logpdf, log_spreads=np.linspace(-16.0, 3.0, 1901)),
        source="Normal given the spread, which a grid of 1,901 points integrates.",
    )


def _build_model(spread: Any, num_groups: int) -> Model:
    return Model(
        parameters={
            "mean": dist.Normal(0.0, MEAN_SD),
            "spread": spread,
            "offset": dist.Normal(0.0, 1.0).expand([num_groups]),
        },
        log_likelihood=log_likelihood,
    )


def log_likelihood(params: ConstrainedParameters, data: Mapping[str, Any]) -> Array:
    """Return the log-density of each estimate, (rows,)."""
    effect = params["mean"] + params["spread"] * params["offset"][data["group"]]
    contributions: Array = dist.Normal(effect, data["error"]).log_prob(data["estimate"])
    return contributions


class GivenSpread(NamedTuple):
    """The posterior of mean and offsets for one spread, and how well that spread explains the data.

    Attributes
    ----------
    mean, variance : float64 array (1 + num_groups,)
        Of the common mean and the offsets.
    evidence : float
        Log-density of the data, up to a constant.
    """

    mean: NumpyArray
    variance: NumpyArray
    evidence: float


def solve(
    data: Data, log_spread_prior: Callable[[NumpyArray], NumpyArray], log_spreads: NumpyArray
) -> dict[str, Answer]:
    """Return the exact posterior moments by parameter.

    Parameters
    ----------
    data : Data
        Row variables `group`, `estimate` and `error`.
    log_spread_prior : callable
        Log-density of spreads.
    log_spreads : float64 array
        The grid, evenly spaced.
    """
    spreads = np.exp(log_spreads)
    conditional = [_given_spread(data, spread) for spread in spreads]
    evidences = np.array([one.evidence for one in conditional])
    # The last term is the Jacobian of the logarithm.
    weights = normalised(evidences + log_spread_prior(spreads) + log_spreads)
    require_box_is_wide_enough(weights)
    mean = weights @ np.stack([one.mean for one in conditional])
    square = weights @ np.stack([one.variance + one.mean**2 for one in conditional])
    sd = np.sqrt(square - mean**2)
    spread = weights @ spreads
    return {
        "mean": Answer(mean[0], sd[0]),
        "spread": Answer(np.asarray(spread), np.sqrt(weights @ (spreads - spread) ** 2)),
        "offset": Answer(mean[1:], sd[1:]),
    }


def _given_spread(data: Data, spread: float) -> GivenSpread:
    """Linear regression of the estimates on the mean and the offsets, whose priors are normal."""
    group, estimate, error = (data.rows[name] for name in ("group", "estimate", "error"))
    num_groups = int(group.max()) + 1
    design = np.column_stack([np.ones(group.size), spread * (group[:, None] == np.arange(num_groups))])
    prior = np.diag(1.0 / np.concatenate([[MEAN_SD], np.ones(num_groups)]) ** 2)
    precision = prior + (design / error[:, None] ** 2).T @ design
    information = design.T @ (estimate / error**2)
    mean = np.linalg.solve(precision, information)
    evidence = 0.5 * (information @ mean - np.linalg.slogdet(precision)[1])
    return GivenSpread(mean, np.diag(np.linalg.inv(precision)), float(evidence))
