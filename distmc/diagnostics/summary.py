"""The numbers that tell what draws are worth, all of them ArviZ's."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from arviz_stats.base.array import array_stats

from distmc.diagnostics.chains import ChainSign, element_name, suspicious_chains
from distmc.diagnostics.statistics import statistics
from distmc.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterSummary:
    """One element of one parameter.

    Attributes
    ----------
    name : str
        Such as ``rate`` or ``transition[0,1]``.
    mean, sd : float
        Posterior mean and standard deviation.
    mcse_mean : float
        Monte Carlo standard error of the mean.
    rhat : float
        Rank-normalised split R-hat, the larger of bulk and folded.
    ess_bulk, ess_tail : float
        Effective sample sizes.
    is_constant : bool
        Whether all draws are equal, as on the fixed elements of a Cholesky factor; R-hat says nothing then.
    """

    name: str
    mean: float
    sd: float
    mcse_mean: float
    rhat: float
    ess_bulk: float
    ess_tail: float
    is_constant: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What the draws of a run are worth, as plain values.

    Attributes
    ----------
    num_chains, num_draws : int
        Chains, and draws of each.
    parameters : tuple of ParameterSummary
        Every element of every parameter.
    num_divergent : int
        Draws whose trajectory diverged.
    acceptance_rates : tuple of float
        Mean acceptance rate of each chain; empty if it was not recorded.
    suspicious_chains : tuple of ChainSign
        Chains that look stuck or sit in another mode.
    sampling_seconds : float or None
        Wall time of the draws, if known.
    energy_bfmi : tuple of float
        Estimated Bayesian fraction of missing information of each chain: the mean square of the energy's change from
        draw to draw over its variance. Near 1 where energies are drawn freely; empty if they were not recorded.
    num_nonfinite : int
        Draws that met a log-density or gradient that is not finite.
    """

    num_chains: int
    num_draws: int
    parameters: tuple[ParameterSummary, ...]
    num_divergent: int
    acceptance_rates: tuple[float, ...]
    suspicious_chains: tuple[ChainSign, ...]
    sampling_seconds: float | None
    energy_bfmi: tuple[float, ...] = ()
    num_nonfinite: int = 0

    @property
    def varying(self) -> tuple[ParameterSummary, ...]:
        """Return the elements that are not constant."""
        return tuple(parameter for parameter in self.parameters if not parameter.is_constant)

    @property
    def worst_rhat(self) -> ParameterSummary | None:
        """Return the element with the largest R-hat; one whose R-hat is not a number comes first."""
        return self._extreme(lambda parameter: -parameter.rhat)

    @property
    def least_ess_bulk(self) -> ParameterSummary | None:
        """Return the element with the least bulk ESS."""
        return self._extreme(lambda parameter: parameter.ess_bulk)

    @property
    def least_ess_tail(self) -> ParameterSummary | None:
        """Return the element with the least tail ESS."""
        return self._extreme(lambda parameter: parameter.ess_tail)

    @property
    def draws_per_second(self) -> float | None:
        """Return draws of all chains per second of sampling, if the time is known."""
        return self._per_second(self.num_chains * self.num_draws)

    @property
    def ess_per_second(self) -> float | None:
        """Return the least bulk ESS per second of sampling, if the time is known."""
        return self._per_second(self.least_ess_bulk.ess_bulk) if self.least_ess_bulk else None

    def __str__(self) -> str:
        """Return a few lines with the most telling numbers."""
        lines = [f"{self.num_chains} chains of {self.num_draws:,} draws, {len(self.parameters):,} values each"]
        if self.worst_rhat and self.least_ess_bulk and self.least_ess_tail:
            lines += [
                f"worst R-hat       {self.worst_rhat.rhat:.3f} ({self.worst_rhat.name})",
                f"least bulk ESS    {self.least_ess_bulk.ess_bulk:,.0f} ({self.least_ess_bulk.name})",
                f"least tail ESS    {self.least_ess_tail.ess_tail:,.0f} ({self.least_ess_tail.name})",
            ]
        lines.append(f"divergences       {self.num_divergent:,}")
        if self.num_nonfinite:
            lines.append(f"not finite        {self.num_nonfinite:,}")
        if self.draws_per_second is not None and self.ess_per_second is not None:
            lines.append(f"draws per second  {self.draws_per_second:,.1f}")
            lines.append(f"ESS per second    {self.ess_per_second:,.1f}")
        return "\n".join([*lines, *map(str, self.suspicious_chains)])

    def _extreme(self, key: Callable[[ParameterSummary], float]) -> ParameterSummary | None:
        def nan_first(parameter: ParameterSummary) -> float:
            return -math.inf if math.isnan(key(parameter)) else key(parameter)

        return min(self.varying, key=nan_first, default=None)

    def _per_second(self, amount: float) -> float | None:
        return amount / self.sampling_seconds if self.sampling_seconds else None


def summarise(tree: xr.DataTree, var_names: Sequence[str] | None = None) -> Summary:
    """Summarise the draws of a run.

    Parameters
    ----------
    tree : DataTree
        With the group `posterior` and, if possible, `sample_stats`; dimensions ``(chain, draw, ...)``.
    var_names : sequence of str, optional
        Parameters to look at; all of them where left out.

    Returns
    -------
    Summary
        Plain values that can be pickled.

    Raises
    ------
    InputError
        If there are no draws after the warm-up, or a name is unknown.

    References
    ----------
    .. [1] A. Vehtari, A. Gelman, D. Simpson, B. Carpenter and P.-C. Buerkner, "Rank-normalization, folding, and
           localization: an improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16(2), 2021.
    .. [2] M. Betancourt, "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo",
           arXiv:1604.00695, 2016: the fraction of missing information.
    """
    posterior = _posterior(tree, var_names)
    stats = tree["sample_stats"].to_dataset() if "sample_stats" in tree.children else None
    return Summary(
        num_chains=posterior.sizes["chain"],
        num_draws=posterior.sizes["draw"],
        parameters=tuple(row for name in posterior for row in _rows(posterior[name])),
        num_divergent=_count(stats, "diverging"),
        acceptance_rates=_acceptance_rates(stats),
        suspicious_chains=suspicious_chains(posterior, stats),
        sampling_seconds=_sampling_seconds(tree),
        energy_bfmi=_energy_bfmi(stats),
        num_nonfinite=_count(stats, "is_nonfinite"),
    )


def _count(stats: xr.Dataset | None, name: str) -> int:
    return 0 if stats is None or name not in stats else int(stats[name].sum())


def _posterior(tree: xr.DataTree, var_names: Sequence[str] | None) -> xr.Dataset:
    if not isinstance(tree, xr.DataTree):
        raise InputError(
            f"`tree` is of type `{type(tree).__name__}`; give the DataTree that `distmc.sample` or `distmc.open_run` "
            "returned."
        )
    if "posterior" not in tree.children or not tree["posterior"].sizes.get("draw"):
        raise InputError(
            "There are no draws to summarise: the run has not come past its warm-up (the tree has no group "
            "`posterior`). Wait if it is still going on, or resume it; `distmc status DIRECTORY` tells."
        )
    posterior = tree["posterior"].to_dataset()
    unknown = [name for name in var_names or () if name not in posterior]
    if unknown:
        raise InputError(
            f"`var_names` asks for {unknown}, but the parameters are {[str(name) for name in posterior.data_vars]}."
        )
    chosen = list(var_names) if var_names else list(posterior.data_vars)
    return posterior[[name for name in chosen if posterior[name].size]].load()  # ArviZ takes no empty arrays.


def _rows(array: xr.DataArray) -> Iterator[ParameterSummary]:
    array = array.transpose("chain", "draw", ...)
    draws = np.asarray(array.values).reshape(*array.shape[:2], -1)
    is_constant = np.max(draws, axis=(0, 1)) == np.min(draws, axis=(0, 1))
    with np.errstate(all="ignore"):  # Constant values make ArviZ divide zero by zero; the result, NaN, says so.
        columns = statistics(draws)
    labels = itertools.product(*(array[dim].values for dim in array.dims[2:]))
    for place, label in enumerate(labels):
        numbers = {kind: float(column[place]) for kind, column in columns._asdict().items()}
        yield ParameterSummary(
            name=element_name(str(array.name), label), is_constant=bool(is_constant[place]), **numbers
        )


def _acceptance_rates(stats: xr.Dataset | None) -> tuple[float, ...]:
    if stats is None or "acceptance_rate" not in stats:
        return ()
    return tuple(float(rate) for rate in stats["acceptance_rate"].mean("draw").values)


def _energy_bfmi(stats: xr.Dataset | None) -> tuple[float, ...]:
    if stats is None or "energy" not in stats:
        return ()
    energies = np.asarray(stats["energy"].transpose("chain", "draw").values, np.float64)
    with np.errstate(all="ignore"):  # A chain that does not move gives what is not a number.
        fractions = array_stats.bfmi(energies)
    return tuple(float(fraction) for fraction in fractions)


def _sampling_seconds(tree: xr.DataTree) -> float | None:
    attributes: dict[Any, Any] = {**tree.attrs, **tree["posterior"].attrs}
    seconds = float(attributes.get("sampling_time", 0.0))
    return seconds if seconds > 0 else None
