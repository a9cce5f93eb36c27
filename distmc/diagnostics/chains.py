"""Chains that do not do what the others do, and the sign that gave each of them away.

In lockstep sampling, averages over many chains hide the one that is stuck or sits in another mode; here every chain
is looked at by itself.
"""

import dataclasses
from typing import Literal, TypeAlias

import numpy as np
import xarray as xr

from distmc.types import NumpyArray

Sign: TypeAlias = Literal["nonfinite", "stuck", "low_density", "apart", "divergent"]

FEWEST_MOVES = 0.05
"""A chain that moves in a smaller share of its steps counts as stuck; tuned samplers move in most."""

FAR_BELOW = 4.0
"""Distance in mean log-density below the other chains, in units of the chain's own spread, that gives it away."""

GAP = 3.0
"""Gap between groups of chain means, in units of the spread within chains, that counts as separate groups."""

DIVERGENCE_SHARE, FEWEST_DIVERGENCES = 0.5, 10
"""A chain with more than this share of at least this many divergences is named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainSign:
    """A chain that looks wrong.

    Attributes
    ----------
    chain : int
        Number of the chain.
    sign : {"nonfinite", "stuck", "low_density", "apart", "divergent"}
        What kind of sign it is.
    words : str
        The sign in words, to follow "chain 7".
    """

    chain: int
    sign: Sign
    words: str

    def __str__(self) -> str:
        """Return one line."""
        return f"chain {self.chain} {self.words}"


def suspicious_chains(posterior: xr.Dataset, stats: xr.Dataset | None) -> tuple[ChainSign, ...]:
    """Return the chains that look wrong, each with its first sign.

    Parameters
    ----------
    posterior : Dataset with dimensions (chain, draw, ...)
        The draws.
    stats : Dataset with dimensions (chain, draw) or None
        `lp`, `acceptance_rate` and `diverging` are looked at, as far as they are there.

    Returns
    -------
    tuple of ChainSign
        In the order of the chains.
    """
    arrays = {str(name): _sample_first(array) for name, array in posterior.data_vars.items() if array.size}
    statistics = {} if stats is None else {str(name): _sample_first(array) for name, array in stats.data_vars.items()}
    signs: dict[int, ChainSign] = {}
    for found in (_nonfinite(arrays), _stuck(arrays, statistics), _low_density(statistics)):
        _keep_first(signs, found)
    _keep_first(signs, _apart(arrays, excluded=set(signs)))
    _keep_first(signs, _divergent(statistics))
    return tuple(signs[chain] for chain in sorted(signs))


def _keep_first(signs: dict[int, ChainSign], found: list[ChainSign]) -> None:
    for sign in found:
        signs.setdefault(sign.chain, sign)


def _sample_first(array: xr.DataArray) -> NumpyArray:
    return np.asarray(array.transpose("chain", "draw", ...).values)


def _nonfinite(arrays: dict[str, NumpyArray]) -> list[ChainSign]:
    signs = []
    for name, array in arrays.items():
        counts = np.sum(~np.isfinite(array.reshape(array.shape[0], -1)), axis=1)
        for chain in np.flatnonzero(counts):
            words = f"has {counts[chain]:,} values of `{name}` that are infinite or not a number"
            signs.append(ChainSign(chain=int(chain), sign="nonfinite", words=words))
    return signs


def _stuck(arrays: dict[str, NumpyArray], statistics: dict[str, NumpyArray]) -> list[ChainSign]:
    moves = count_moves(arrays)
    num_steps = next(iter(arrays.values())).shape[1] - 1
    rates = statistics.get("acceptance_rate")
    signs = []
    for chain in np.flatnonzero(moves < FEWEST_MOVES * num_steps):
        words = f"moved in {moves[chain]:,} of {num_steps:,} steps" if moves[chain] else "never accepted a proposal"
        if rates is not None:
            words += f" (mean acceptance rate {np.mean(rates[chain]):.2g}, median chain "
            words += f"{np.median(np.mean(rates, axis=1)):.2g})"
        signs.append(ChainSign(chain=int(chain), sign="stuck", words=words))
    return signs


def count_moves(arrays: dict[str, NumpyArray]) -> NumpyArray:
    """Return, for each chain, the number of draws that differ from the draw before."""
    num_chains, num_draws = next(iter(arrays.values())).shape[:2]
    has_moved = np.zeros((num_chains, max(num_draws - 1, 0)), bool)
    for array in arrays.values():
        has_moved |= np.any(array[:, 1:] != array[:, :-1], axis=tuple(range(2, array.ndim)))
    counts: NumpyArray = np.sum(has_moved, axis=1)
    return counts


def _low_density(statistics: dict[str, NumpyArray]) -> list[ChainSign]:
    logdensity = statistics.get("lp")
    if logdensity is None or len(logdensity) < 2:
        return []
    with np.errstate(all="ignore"):
        means, spreads = np.mean(logdensity, axis=1), np.std(logdensity, axis=1)
    signs = []
    for chain in np.flatnonzero(np.isfinite(means)):
        others = np.delete(means, chain)
        spread = spreads[chain] or np.nanmedian(np.delete(spreads, chain))
        distance = np.nanmedian(others) - means[chain]
        if distance > FAR_BELOW * spread:
            size = f", {distance / spread:,.0f} times its own spread" if spread > 0 else ""
            words = f"has a mean log-density {distance:,.4g} below the median of the others{size}: it sits in "
            words += "another mode or has not arrived yet"
            signs.append(ChainSign(chain=int(chain), sign="low_density", words=words))
    return signs


@dataclasses.dataclass(frozen=True)
class _Split:
    """Two groups of chains along one coordinate; `gap` in units of the spread within chains."""

    gap: float
    label: str
    means: NumpyArray
    below: NumpyArray
    above: NumpyArray


def _apart(arrays: dict[str, NumpyArray], excluded: set[int]) -> list[ChainSign]:
    """Find the coordinate along which chains fall into two groups most clearly; name the smaller group."""
    num_chains = len(next(iter(arrays.values())))
    chains = np.array([chain for chain in range(num_chains) if chain not in excluded])
    if len(chains) < 2:
        return []
    split = max((_widest_split(name, array[chains]) for name, array in arrays.items()), key=lambda found: found.gap)
    if not split.gap > GAP:
        return []
    minority, majority = sorted((split.below, split.above), key=len)
    elsewhere = np.median(split.means[majority])
    return [
        ChainSign(
            chain=int(chains[member]),
            sign="apart",
            words=f"has `{split.label}` around {split.means[member]:.4g} where {len(majority)} other chains have it "
            f"around {elsewhere:.4g}; the gap is {split.gap:,.0f} times the spread within chains",
        )
        for member in minority
    ]


def _widest_split(name: str, array: NumpyArray) -> _Split:
    flat = array.reshape(*array.shape[:2], -1)
    means = np.mean(flat, axis=1)
    within = np.sqrt(np.mean(np.var(flat, axis=1), axis=0))
    order = np.argsort(means, axis=0)
    gaps = np.diff(np.take_along_axis(means, order, axis=0), axis=0)
    ratios = np.divide(gaps, within, out=np.zeros_like(gaps), where=within > 0)
    place = int(np.argmax(ratios)) if ratios.size else 0
    cut, element = divmod(place, flat.shape[2]) if ratios.size else (0, 0)
    index = tuple(int(i) for i in np.unravel_index(element, array.shape[2:]))
    return _Split(
        gap=float(ratios.flat[place]) if ratios.size else 0.0,
        label=element_name(name, index),
        means=means[:, element],
        below=order[: cut + 1, element],
        above=order[cut + 1 :, element],
    )


def element_name(name: str, labels: tuple[object, ...]) -> str:
    """Return the name of one element of a parameter, such as ``transition[0,1]``."""
    return f"{name}[{','.join(map(str, labels))}]" if labels else name


def _divergent(statistics: dict[str, NumpyArray]) -> list[ChainSign]:
    diverging = statistics.get("diverging")
    if diverging is None or len(diverging) < 3:
        return []
    counts = np.sum(diverging, axis=1)
    total = int(counts.sum())
    return [
        ChainSign(
            chain=int(chain),
            sign="divergent",
            words=f"has {int(counts[chain]):,} of all {total:,} divergences",
        )
        for chain in np.flatnonzero(counts > DIVERGENCE_SHARE * total)
        if total >= FEWEST_DIVERGENCES
    ]
