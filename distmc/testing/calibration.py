"""Simulation-based calibration: a test of the whole program, from the prior to the draws, on any model.

Draw parameters from the prior, data from the parameters, and draws from the posterior given the data. Then the
parameters that the data came from are one more draw from that posterior, and their rank among the draws is uniform.
That holds on average over the prior for a program that is right, whatever the model: it proves likelihood, prior,
Jacobian, sum over blocks, warm-up and kernel together, where no posterior is known in closed form.

A run's program takes rows as values, so it is compiled once and serves all replicates. The log-density itself is
ranked, too, since it sees errors that no single parameter shows (Modrák et al. 2023).

References
----------
Talts, Betancourt, Simpson, Vehtari, Gelman (2018), Validating Bayesian inference algorithms with simulation-based
calibration. arXiv:1804.06788.
Säilynoja, Bürkner, Vehtari (2022), Graphical test for discrete uniformity and its applications in goodness-of-fit
evaluation and multiple sample comparison. doi:10.1007/s11222-022-10090-6.
Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman, Vehtari (2023), Simulation-based calibration checking for
Bayesian computation: the choice of test quantities shapes sensitivity. doi:10.1214/23-BA1404.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from distmc.data.data import Data
from distmc.model.start import starting_positions
from distmc.model.transforms import Unconstrainer
from distmc.testing.virtual import VirtualRun
from distmc.types import ConstrainedParameters, NumpyArray

Simulate: TypeAlias = Callable[[np.random.Generator], tuple[ConstrainedParameters, Data]]
"""Draws parameters from the prior, and data of one shape from them."""

FALSE_ALARM_RATE = 1e-3
MAX_AUTOCORRELATION = 0.1
"""Correlation of a chain's neighbouring kept draws above which their ranks say little."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Ranks of true parameters among draws from their posteriors.

    Attributes
    ----------
    ranks : dict of int array (num_replicates,)
        By quantity, such as ``slope[1]``: how many of the kept draws are smaller than the truth.
    num_kept : int
        Draws that each truth is compared with.
    autocorrelation : dict of float
        By quantity: correlation of a chain's neighbouring kept draws, pooled over chains and replicates.
    """

    ranks: Mapping[str, NumpyArray]
    num_kept: int
    autocorrelation: Mapping[str, float]

    @property
    def p_values(self) -> dict[str, float]:
        """By quantity: the probability that uniform ranks look as uneven."""
        return {name: uniformity_p_value(ranks, self.num_kept) for name, ranks in self.ranks.items()}

    def __str__(self) -> str:
        """Return one line for each quantity."""
        p_values = self.p_values
        lines = []
        for name, ranks in self.ranks.items():
            share = (ranks + 0.5) / (self.num_kept + 1)
            lines.append(
                f"{name}: p = {p_values[name]:.2g}; mean of ranks {np.mean(share):.3f}, standard deviation "
                f"{np.std(share):.3f}; autocorrelation {self.autocorrelation[name]:+.3f}"
            )
        return "\n".join(lines)


class _Replicates(NamedTuple):
    """Truths and kept draws, position and log-density of each, by replicate, kept draw and chain."""

    truth: NumpyArray
    truth_logdensity: NumpyArray
    position: NumpyArray
    logdensity: NumpyArray


def calibrate(run: VirtualRun, simulate: Simulate, *, num_replicates: int, thinning: int, seed: int = 0) -> Calibration:
    """Rank simulated truths among the draws of a run's program.

    Parameters
    ----------
    run : VirtualRun
        The compiled program; its specification says how many warm-up steps and draws a replicate takes.
    simulate : callable
        From a random generator to parameters from the model's prior and data from them. Best written without the
        model, so that an error in the model does not repeat itself.
    num_replicates : int
        Data sets.
    thinning : int
        Every so many-th draw of a chain is kept; enough to make them independent.
    seed : int
        Of truths, data, starts and steps.
    """
    unconstrainer = Unconstrainer(run.model)
    with jax.enable_x64(True):
        unconstrain = jax.jit(unconstrainer.unconstrain)
        constrain = jax.jit(jax.vmap(lambda flat: unconstrainer.constrain(flat)[0]))
        pieces = []
        for replicate in range(num_replicates):
            rng = np.random.default_rng([seed, replicate])
            params, data = simulate(rng)
            truth = np.asarray(unconstrain({name: jnp.asarray(params[name]) for name in unconstrainer.shapes}))
            pieces.append(_replicate(run, data, truth, seed=int(rng.integers(2**31)), thinning=thinning))
        replicates = _Replicates(*(np.stack(leaves) for leaves in zip(*pieces, strict=True)))
        quantities = dict(_quantities(replicates, constrain))
    ties = np.random.default_rng([seed, num_replicates])
    return Calibration(
        ranks={name: _ranks(truth, kept, ties) for name, (truth, kept) in quantities.items()},
        num_kept=replicates.logdensity[0].size,
        autocorrelation={name: _autocorrelation(kept) for name, (_, kept) in quantities.items()},
    )


def require_calibrated(calibration: Calibration, *, false_alarm_rate: float = FALSE_ALARM_RATE) -> None:
    """Refuse a program whose posteriors are not right on average over the prior.

    Parameters
    ----------
    calibration : Calibration
        What `calibrate` returned.
    false_alarm_rate : float
        Probability of refusing a right program, over all quantities.

    Raises
    ------
    AssertionError
        If the ranks of a quantity are not uniform, or if the kept draws depend on each other too much to tell.
    """
    sticky = {name: value for name, value in calibration.autocorrelation.items() if not value <= MAX_AUTOCORRELATION}
    if sticky:
        raise AssertionError(
            f"Neighbouring kept draws are correlated by more than {MAX_AUTOCORRELATION}, so ranks say little; thin "
            f"more.\n{calibration}"
        )
    p_values = calibration.p_values
    if min(p_values.values()) * len(p_values) <= false_alarm_rate:
        raise AssertionError(
            "Ranks of true parameters among posterior draws are not uniform. They should have the mean 0.5 and the "
            "standard deviation 0.289: another mean tells of a bias, more spread of posteriors that are too narrow, "
            f"less of posteriors that are too wide.\n{calibration}"
        )


def uniformity_p_value(ranks: NumpyArray, num_kept: int) -> float:
    """Return the probability that independent ranks, uniform on 0 ... num_kept, look as uneven as these.

    The statistic is that of Säilynoja et al.: the smallest of the pointwise tail probabilities of the empirical
    distribution function, which for each rank has a binomial distribution. The probability that the whole function
    stays between the bounds which that number sets is summed up exactly, rank by rank.

    Parameters
    ----------
    ranks : int array (num_replicates,)
        Each from 0 to `num_kept`.
    num_kept : int
        Draws that each truth was compared with.
    """
    num_replicates, num_places = len(ranks), num_kept + 1
    observed = np.cumsum(np.bincount(ranks, minlength=num_places))[:-1]
    tails = _tails(num_replicates, num_places)
    smallest = min(tail[count] for tail, count in zip(tails, observed, strict=True))
    # Tails that are equal but for rounding count as reached.
    inside = [np.flatnonzero(tail > smallest * (1.0 + 1e-9)) for tail in tails]
    reached, probability = np.zeros(1, int), np.ones(1)
    for place, allowed in enumerate(inside):
        # Of the ranks at this place or later, how many are exactly here?
        here = allowed[None, :] - reached[:, None]
        share = 1.0 / (num_places - place)
        probability = probability @ stats.binom.pmf(here, num_replicates - reached[:, None], share)
        reached = allowed
    return float(np.clip(1.0 - np.sum(probability), 0.0, 1.0))


@functools.lru_cache(maxsize=4)
def _tails(num_replicates: int, num_places: int) -> NumpyArray:
    """Return two-sided tail probabilities of all counts, by place; the same for all quantities."""
    counts, shares = np.arange(num_replicates + 1), np.arange(1, num_places)[:, None] / num_places
    below, above = stats.binom.cdf(counts, num_replicates, shares), stats.binom.sf(counts - 1, num_replicates, shares)
    tails: NumpyArray = 2.0 * np.minimum(below, above)
    return tails


def _replicate(run: VirtualRun, data: Data, truth: NumpyArray, *, seed: int, thinning: int) -> _Replicates:
    """Run the program on one data set."""
    spec = run.spec
    state = run.start(data, np.tile(truth, (spec.num_chains, 1)))
    truth_logdensity = np.asarray(state.kernel.logdensity)[0]
    state = run.start(data, starting_positions(run.model, spec.num_chains, seed))
    if not np.isfinite(np.asarray(state.kernel.logdensity)).all():
        raise ValueError("A chain starts where the log-density is not finite; choose another model for calibration.")
    _, trace = run.advance(data, state, spec.num_warmup + spec.num_draws, seed)
    kept = slice(spec.num_warmup + thinning - 1, None, thinning)
    return _Replicates(truth, truth_logdensity, np.asarray(trace.position[kept]), np.asarray(trace.logdensity[kept]))


def _quantities(
    replicates: _Replicates, constrain: Callable[[NumpyArray], ConstrainedParameters]
) -> Iterator[tuple[str, tuple[NumpyArray, NumpyArray]]]:
    """Yield truths (replicate,) and draws (replicate, draw, chain) of each number, and of the log-density."""
    num_dimensions = replicates.truth.shape[-1]
    truths = constrain(replicates.truth)
    draws = constrain(replicates.position.reshape(-1, num_dimensions))
    for name, values in truths.items():
        kept = np.asarray(draws[name]).reshape(replicates.position.shape[:-1] + values.shape[1:])
        for index in np.ndindex(values.shape[1:]):
            element = name + (f"[{','.join(map(str, index))}]" if index else "")
            yield element, (np.asarray(values)[(..., *index)], kept[(..., *index)])
    yield "log-density", (replicates.truth_logdensity, replicates.logdensity)


def _ranks(truth: NumpyArray, kept: NumpyArray, rng: np.random.Generator) -> NumpyArray:
    """Return how many draws of each replicate are smaller than the truth, ties broken at random."""
    flat, truth = kept.reshape(len(truth), -1), truth[:, None]
    ties = np.count_nonzero(flat == truth, axis=1)
    return np.asarray(np.count_nonzero(flat < truth, axis=1) + rng.integers(0, ties, endpoint=True))


def _autocorrelation(kept: NumpyArray) -> float:
    """Return the correlation of neighbouring draws within a chain, given each replicate's mean; 0 for single draws."""
    if kept.shape[1] < 2:
        return 0.0
    offset = kept - np.mean(kept, axis=(1, 2), keepdims=True)
    return float(np.mean(offset[:, 1:] * offset[:, :-1]) / np.mean(offset**2))
