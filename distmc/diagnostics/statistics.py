"""R-hat, effective sample sizes and errors of many values: ArviZ's statistics, of draws that are ranked once.

Ranking is what takes time. ArviZ ranks a value's draws for R-hat and again for the bulk ESS, by a general function;
here they are ranked once, and many values are laid out one after the other beforehand. The numbers are the same.
"""

from typing import NamedTuple

import numpy as np
from arviz_base import rcParams
from arviz_stats.base.array import array_stats
from scipy.special import ndtri

from distmc.types import NumpyArray

# Values at a time: each cache line of the draws is read once, and little memory is needed beside them.
_SLAB = 32


class Statistics(NamedTuple):
    """Statistics of values, each array as long as there are values.

    Attributes
    ----------
    mean, sd, mcse_mean, rhat, ess_bulk, ess_tail : float64 array (num_values,)
        As `ParameterSummary` has them. R-hat and bulk ESS of fewer than eight draws are not a number.
    """

    mean: NumpyArray
    sd: NumpyArray
    mcse_mean: NumpyArray
    rhat: NumpyArray
    ess_bulk: NumpyArray
    ess_tail: NumpyArray


def statistics(draws: NumpyArray) -> Statistics:
    """Return the statistics of each value.

    Parameters
    ----------
    draws : array (num_chains, num_draws, num_values)

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter, Buerkner (2021), Rank-normalization, folding, and localization: an improved
    R-hat for assessing convergence of MCMC. doi:10.1214/20-BA1221.
    """
    slabs = [_of_slab(draws[..., first : first + _SLAB]) for first in range(0, draws.shape[-1], _SLAB)]
    return Statistics(*(np.concatenate(kind) for kind in zip(*slabs, strict=True)))


def _of_slab(draws: NumpyArray) -> Statistics:
    values = np.ascontiguousarray(np.moveaxis(draws, -1, 0), np.float64)
    half = values.shape[2] // 2
    split = np.concatenate([values[:, :, :half], values[:, :, -half:]], axis=1)
    scores = normal_scores(split)
    folded_scores = normal_scores(np.abs(split - np.median(split, axis=(1, 2), keepdims=True)))
    rhat, folded_rhat = (array_stats.rhat(kind, method="identity") for kind in (scores, folded_scores))
    return Statistics(
        mean=np.mean(draws, axis=(0, 1)),
        sd=np.std(draws, axis=(0, 1)),
        mcse_mean=array_stats.mcse(values, method="mean"),
        rhat=np.maximum(rhat, folded_rhat),
        ess_bulk=array_stats.ess(scores, method="identity"),
        ess_tail=array_stats.ess(values, method="tail", prob=rcParams["stats.ci_prob"]),
    )


def normal_scores(values: NumpyArray) -> NumpyArray:
    """Return the normal quantiles that belong to the ranks of draws, (num_values, num_chains, num_draws).

    Draws that are equal share their mean rank; those that are not a number stay so.
    """
    scores = np.empty_like(values)
    for place, value in enumerate(values):
        flat = value.ravel()
        order = np.argsort(flat)
        ordered = flat[order]
        edges = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
        ranks = np.empty(flat.size)
        ranks[order] = np.repeat((edges[:-1] + edges[1:] + 1) / 2, np.diff(edges))
        flat_scores = ndtri((ranks - 3 / 8) / (flat.size + 1 / 4))
        scores[place] = np.where(np.isnan(flat), np.nan, flat_scores).reshape(value.shape)
    return scores
