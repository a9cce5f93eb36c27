"""Does a kernel leave its target exactly invariant? A test with a budget of false alarms.

Chains start at exact, independent draws and take a few steps with fixed parameters. If the kernel is right they are
exact, independent draws afterwards, whatever the step size: no convergence is waited for and no Monte Carlo error has
to be guessed. Moments before and after are compared chain by chain, marginal ranks with the uniform distribution, and
for a reversible kernel the pair (before, after) with the pair (after, before). Only a kernel that is wrong differs,
however efficient or slow it is.

Many chains cost little, since all step at once. Where the evidence of some thousand is doubtful, others are run, more
of them, until it is not; the whole procedure raises a false alarm with at most the probability it was given.

References
----------
Gandy and Scott (2020), Unit testing for MCMC and other Monte Carlo methods. arXiv:2001.06465. Section 4 has the
sequential procedure.
Geweke (2004), Getting it right: joint distribution tests of posterior simulators. doi:10.1198/016214504000001132.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import stats

from distmc.sampling.rng import chain_keys, seed_key
from distmc.testing.cases import KernelCase
from distmc.testing.targets import BANANA, BOUNDED, NORMAL, ExactTarget
from distmc.types import Array, NumpyArray

TARGETS = (NORMAL, BANANA, BOUNDED)
"""The targets that every kernel is tried on."""

FALSE_ALARM_RATE = 1e-5
NUM_CHAINS = 16384
NUM_STEPS = 6
_ROUNDS = 4
# Chains of the second round and those after it, in units of the first.
_GROWTH = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """What chains that started at exact draws look like some steps later.

    Attributes
    ----------
    p_values : mapping of float
        By what was compared, such as ``mean of 0``: the probability of a difference as large if the kernel is exact.
    acceptance_rate : float
        Mean over chains and steps.
    moved_share : float
        Share of the chains that are not where they started.
    """

    p_values: Mapping[str, float]
    acceptance_rate: float
    moved_share: float

    @property
    def p_value(self) -> float:
        """The smallest p-value, corrected for the number of comparisons (Bonferroni)."""
        return min(1.0, len(self.p_values) * min(self.p_values.values()))

    def __str__(self) -> str:
        """Return the smallest p-values, and how the chains moved."""
        worst = sorted(self.p_values.items(), key=lambda item: item[1])[:3]
        named = ", ".join(f"{name}: p = {p:.2g}" for name, p in worst)
        return (
            f"{named} (of {len(self.p_values)} comparisons; mean acceptance rate {self.acceptance_rate:.2f}, "
            f"{self.moved_share:.0%} of the chains moved)"
        )


def require_invariant(
    case: KernelCase,
    target: ExactTarget,
    *,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    num_chains: int = NUM_CHAINS,
    num_steps: int = NUM_STEPS,
    seed: int = 0,
) -> Evidence:
    """Refuse a kernel that does not leave a target invariant.

    Parameters
    ----------
    case : KernelCase
        The kernel and its parameters.
    target : ExactTarget
        What it should leave as it is.
    false_alarm_rate : float
        Probability of refusing a kernel that is exact, over all rounds and comparisons.
    num_chains : int
        Chains of the first round; later ones have four times as many.
    num_steps : int
        Steps of each chain.
    seed : int
        Of starting points and steps.

    Returns
    -------
    evidence : Evidence
        Of the last round.

    Raises
    ------
    AssertionError
        Names what differs most.
    """
    refuse = false_alarm_rate / _ROUNDS
    doubtful = refuse ** (1.0 / _ROUNDS)
    for number in range(_ROUNDS):
        count = num_chains if number == 0 else _GROWTH * num_chains
        evidence = gather_evidence(case, target, num_chains=count, num_steps=num_steps, seed=seed + number)
        if evidence.p_value <= refuse:
            raise AssertionError(f"{case} does not leave the target `{target}` invariant. {evidence}.")
        if evidence.p_value > doubtful + refuse:
            break
        # A kernel that is exact comes this far with probability `doubtful`, which leaves as much more to spend.
        refuse /= doubtful
    if evidence.moved_share == 0.0:
        raise AssertionError(f"{case} moves no chain on the target `{target}`.")
    return evidence


def gather_evidence(
    case: KernelCase, target: ExactTarget, *, num_chains: int = NUM_CHAINS, num_steps: int = NUM_STEPS, seed: int = 0
) -> Evidence:
    """Step from exact draws and compare; see `require_invariant`."""
    normal = np.random.default_rng([seed, 0]).normal(size=(num_chains, target.num_dimensions))
    position = target.from_normal(normal)
    with jax.enable_x64(True):
        advance = _compiled(case, target, num_steps)
        parameters = case.parameters(target.metric, num_chains)
        after, rate = jax.device_get(advance(seed_key(seed), position, parameters))
    return Evidence(
        p_values=compare(normal, target.to_normal(after), is_reversible=case.is_reversible),
        acceptance_rate=float(rate),
        moved_share=float(np.mean(np.any(after != position, axis=1))),
    )


def compare(before: NumpyArray, after: NumpyArray, *, is_reversible: bool) -> dict[str, float]:
    """Return p-values for the hypothesis that independent standard normal vectors stayed so.

    Parameters
    ----------
    before, after : float64 array (num_chains, num_dimensions)
        In the coordinates of `ExactTarget.to_normal`.
    is_reversible : bool
        Whether before and after may be exchanged.

    Returns
    -------
    p_values : dict of float
        By what was compared.
    """
    coordinates = range(before.shape[1])
    p_values = {}
    for place in coordinates:
        was, now = before[:, place], after[:, place]
        p_values[f"mean of {place}"] = _mean_is_zero(now - was)
        p_values[f"variance of {place}"] = _mean_is_zero(now**2 - was**2)
        p_values[f"ranks of {place}"] = float(stats.kstest(now, stats.norm.cdf).pvalue)
        if is_reversible:
            p_values[f"reversal of {place}"] = _mean_is_zero(was * (now**2 - 1.0) - now * (was**2 - 1.0))
    for one, two in itertools.combinations(coordinates, 2):
        was, now = before[:, [one, two]], after[:, [one, two]]
        p_values[f"covariance of {one} and {two}"] = _mean_is_zero(np.prod(now, axis=1) - np.prod(was, axis=1))
        if is_reversible:
            swapped = was[:, 0] * now[:, 1] - was[:, 1] * now[:, 0]
            p_values[f"reversal of {one} and {two}"] = _mean_is_zero(swapped)
    length = np.sum(after**2, axis=1)
    p_values["ranks of the length"] = float(stats.kstest(length, stats.chi2(before.shape[1]).cdf).pvalue)
    return p_values


def _mean_is_zero(differences: NumpyArray) -> float:
    """Return the p-value of a mean of independent numbers; 1 where nothing differs."""
    if not differences.any():
        return 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


@functools.lru_cache(maxsize=4)
def _compiled(case: KernelCase, target: ExactTarget, num_steps: int) -> Callable[..., Any]:
    kernel = case.build_kernel(target.target)

    def advance(key: Array, position: Array, parameters: Any) -> tuple[Array, Array]:
        num_chains = position.shape[0]

        def one_step(step: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
            state, rate = carry
            state, info = kernel.step(chain_keys(key, step + 1, num_chains), state, parameters)
            return state, rate + jnp.mean(info.acceptance_rate) / num_steps

        state = case.start(kernel, chain_keys(key, jnp.asarray(0), num_chains), position)
        state, rate = lax.fori_loop(0, num_steps, one_step, (state, jnp.zeros((), jnp.float64)))
        return state.position, rate

    return jax.jit(advance)
