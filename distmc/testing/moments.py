"""Gates for posteriors whose moments are known: how far off a run is, in units of its own Monte Carlo error.

A fixed tolerance is either too wide for a long run or too narrow for a short one. The Monte Carlo standard error of a
mean or a standard deviation, which ArviZ estimates from the chains themselves, is the tolerance that fits.

References
----------
Vehtari, Gelman, Simpson, Carpenter, Bürkner (2021), Rank-normalization, folding, and localization: an improved R-hat
for assessing convergence of MCMC, section 4. doi:10.1214/20-BA1221.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from arviz_stats.base.array import array_stats

from distmc.types import NumpyArray
from distmc.zoo.answers import Answer

MAX_SCORE = 4.0
"""Distance from the exact value, in Monte Carlo standard errors, that a correct run exceeds once in 16,000 times."""
MAX_RHAT = 1.01
"""Largest R-hat of chains that agree (Vehtari et al. 2021)."""


Moment: TypeAlias = Literal["mean", "sd"]
_MOMENTS: tuple[Moment, ...] = ("mean", "sd")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentScore:
    """One moment of one element of one parameter.

    Attributes
    ----------
    name : str
        Such as ``shares[2]``.
    moment : {"mean", "sd"}
        Which moment.
    estimate, exact : float
        From the draws, and known.
    mcse : float
        Monte Carlo standard error of the estimate.
    rhat : float
        Of the element.
    """

    name: str
    moment: Moment
    estimate: float
    exact: float
    mcse: float
    rhat: float

    @property
    def z(self) -> float:
        """Return the distance from the exact value in Monte Carlo standard errors."""
        return (self.estimate - self.exact) / self.mcse

    def is_good(self, max_score: float = MAX_SCORE, max_rhat: float = MAX_RHAT) -> bool:
        """Say whether the distance and R-hat stay within bounds; a value that is not a number does not."""
        return abs(self.z) <= max_score and self.rhat <= max_rhat

    def __str__(self) -> str:
        """Return one line with all figures."""
        return (
            f"{self.moment} of {self.name}: {self.estimate:.6g}, exact {self.exact:.6g}, off by {self.z:+.1f} Monte "
            f"Carlo errors of {self.mcse:.2g}; R-hat {self.rhat:.4f}"
        )


def score_moments(tree: Any, exact: Mapping[str, Answer]) -> tuple[MomentScore, ...]:
    """Compare posterior means and standard deviations with exact ones.

    Parameters
    ----------
    tree : xarray.DataTree
        With the group `posterior`, dimensions ``(chain, draw, ...)``.
    exact : mapping of Answer
        By parameter.

    Returns
    -------
    scores : tuple of MomentScore
        Two for each element of each parameter in `exact`.
    """
    scores: list[MomentScore] = []
    for name, answer in exact.items():
        draws = np.asarray(tree["posterior"][name].values)
        for index in np.ndindex(draws.shape[2:]):
            element = name + (f"[{','.join(map(str, index))}]" if index else "")
            one = draws[(slice(None), slice(None), *index)]
            scores += _scores_of_element(element, one, Answer(answer.mean[index], answer.sd[index]))
    return tuple(scores)


def require_moments(
    tree: Any, exact: Mapping[str, Answer], *, max_score: float = MAX_SCORE, max_rhat: float = MAX_RHAT
) -> None:
    """Refuse a posterior that is not the exact one.

    Parameters
    ----------
    tree : xarray.DataTree
        With the group `posterior`.
    exact : mapping of Answer
        By parameter.
    max_score : float
        Largest distance of a mean or standard deviation in Monte Carlo standard errors.
    max_rhat : float
        Largest R-hat.

    Raises
    ------
    AssertionError
        Names every moment that is too far off, with its figures.
    """
    wrong = [score for score in score_moments(tree, exact) if not score.is_good(max_score, max_rhat)]
    if wrong:
        raise AssertionError("The posterior is not the exact one.\n" + "\n".join(map(str, wrong)))


def _scores_of_element(name: str, draws: NumpyArray, answer: Answer) -> list[MomentScore]:
    statistics: Any = array_stats
    rhat = float(statistics.rhat(draws, chain_axis=0, draw_axis=1))
    estimates = {"mean": np.mean(draws), "sd": np.std(draws, ddof=1)}
    squares = (draws - estimates["mean"]) ** 2
    mcse_of_squares = float(statistics.mcse(squares, method="mean", chain_axis=0, draw_axis=1))
    # By the delta method. ArviZ takes the autocorrelation of the draws for that of their squares, which promises too
    # much where draws alternate around the mean.
    mcses = {
        "mean": float(statistics.mcse(draws, method="mean", chain_axis=0, draw_axis=1)),
        "sd": mcse_of_squares / (2.0 * float(estimates["sd"])),
    }
    return [
        MomentScore(
            name=name,
            moment=moment,
            estimate=float(estimates[moment]),
            exact=float(getattr(answer, moment)),
            mcse=mcses[moment],
            rhat=rhat,
        )
        for moment in _MOMENTS
    ]
