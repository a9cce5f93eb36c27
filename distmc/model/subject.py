"""A model with its data under examination: what the checks of `preflight` look at."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from distmc.data.blocks import BlockPlan, plan_blocks
from distmc.data.data import Data
from distmc.data.slabs import row_slabs
from distmc.errors import ModelError
from distmc.model.abstract import first_line, raised
from distmc.model.brief import brief
from distmc.model.density import cast_floats, likelihood_dtype, log_prior_density, row_contributions
from distmc.model.model import Model
from distmc.model.shared import contributions_and_gradient, contributions_of_rows
from distmc.model.start import starting_positions
from distmc.model.transforms import Unconstrainer
from distmc.samplers import WITHOUT_GRADIENT
from distmc.spec import Precision, RunSpec
from distmc.types import Array, ConstrainedParameters, NumpyArray

Note: TypeAlias = tuple[Literal["ok", "note", "warning"], str]
"""Outcome and message of a check that passed."""

MAX_ROWS_EXAMINED = 256
_NUM_POINTS = 4
# Starting positions are evaluated in slabs of at most this many, so that thousands of chains need no more memory, and
# of fewer where rows are large. The numbers are those of all rows examined, once for each chain: each intermediate
# that the gradient keeps may have as many, 32 mebibytes of float64.
_MOST_CHAINS_AT_ONCE = 64
_MOST_NUMBERS_AT_ONCE = 1 << 22


class AtStarts(NamedTuple):
    """What the rows examined give at the starting positions of all chains.

    Attributes
    ----------
    logdensity : float64 array (num_chains,)
        Priors, log-determinant and the rows examined.
    contributions : float array (num_chains, rows examined)
    gradient : float64 array (num_chains, num_dimensions), or None
        Of the log-density; None for a sampler that needs none.
    """

    logdensity: NumpyArray
    contributions: NumpyArray
    gradient: NumpyArray | None

    @property
    def is_finite(self) -> bool:
        """Whether all chains can start."""
        return all(np.isfinite(part).all() for part in self if part is not None)


class EveryRow(NamedTuple):
    """What the evaluation of every row has given.

    Attributes
    ----------
    bad : dict of int to float
        Rows that are not finite, by ascending number, and their contributions.
    examined : float array (rows examined,)
        Contributions of the rows that the other checks examine, which have had other rows around them here, and
        ragged ones less padding behind them.
    """

    bad: dict[int, float]
    examined: NumpyArray


class Subject:
    """A model with its data under examination: some of its rows, some points, and the figures found so far.

    Attributes
    ----------
    figures : dict
        Filled by the checks.
    row_indices : int array
        Rows that the checks evaluate, spread evenly over all, with the shortest and the longest among them.
    """

    def __init__(self, model: Model, data: Data, spec: RunSpec, initial: Mapping[str, Any] | None) -> None:
        self.model = model
        self.data = data
        self.spec = spec
        self.initial = initial
        self.figures: dict[str, Any] = {}
        self.row_indices = _rows_to_examine(data)

    @functools.cached_property
    def unconstrainer(self) -> Unconstrainer:
        """The model's coordinates."""
        return Unconstrainer(self.model)

    @functools.cached_property
    def plan(self) -> BlockPlan:
        """Blocks of all rows."""
        return plan_blocks(self.data, self.spec.num_blocks)

    @functools.cached_property
    def some_data(self) -> Data:
        """The rows that are examined."""
        rows = {name: array[self.row_indices] for name, array in self.data.rows.items()}
        of_data = self.data
        return Data(rows, of_data.constants, of_data.length, of_data.missing, of_data.ragged)

    @functools.cached_property
    def starts(self) -> NumpyArray:
        """Starting positions of all chains, (num_chains, num_dimensions)."""
        return starting_positions(self.model, self.spec.num_chains, self.spec.seed, self.initial)

    @property
    def points(self) -> NumpyArray:
        """Some starting positions, (num_points, num_dimensions)."""
        return self.starts[:_NUM_POINTS]

    @functools.cached_property
    def at_starts(self) -> AtStarts:
        """The rows examined at the starting positions of all chains, with the digits that the run will have."""
        return self.evaluated_at_starts(self.spec.precision_in_force)

    @functools.cached_property
    def needs_float64(self) -> bool:
        """Whether all chains could start in float64, where some cannot with the digits of the run."""
        return self.spec.precision_in_force == "mixed" and self.evaluated_at_starts("float64").is_finite

    def evaluated_at_starts(self, precision: Precision) -> AtStarts:
        """Evaluate the rows examined at the starting positions of all chains, by one compiled program.

        Raises
        ------
        ModelError
            If the model cannot be evaluated for several chains at once, or raises at these positions.
        """
        slabs, inputs = _slabs(self.starts, _chains_at_once(self.some_data)), self.inputs(precision)
        evaluate = self._traced(precision, slabs[0], *inputs).lower().compile()
        try:
            parts = [jax.tree.map(np.asarray, evaluate(slab, *inputs)) for slab in slabs]
        except Exception as error:
            where = f"at the starting positions ({len(slabs[0])} chains at once, {self.rows_examined()})"
            raise raised(self._evaluated, where, error) from error
        return AtStarts(*jax.tree.map(lambda *pieces: np.concatenate(pieces)[: len(self.starts)], *parts))

    @functools.cached_property
    def first_chain(self) -> int:
        """The first chain that can start, as far as the rows examined tell."""
        return int(np.argmax(np.isfinite(self.at_starts.contributions).all(axis=1)))

    @functools.cached_property
    def every_row(self) -> EveryRow:
        """Every row, once, where `first_chain` starts, with the digits of the run.

        Raises
        ------
        ModelError
            If the model raises at some of the rows.
        """
        precision, chain = self.spec.precision_in_force, self.first_chain
        dtype = likelihood_dtype(precision)
        start = jnp.asarray(self.starts[chain])
        constants = jax.tree.map(jnp.asarray, cast_floats(self.data.constants or {}, dtype))
        evaluate = brief(functools.partial(self.contributions_of, precision))
        bad: dict[int, float] = {}
        examined = np.full(len(self.row_indices), np.nan)
        for numbers, rows in row_slabs(self.data, self.plan, self.spec.num_chains):
            try:
                found = np.asarray(evaluate(start, cast_floats(rows, dtype), constants))
            except Exception as error:
                where = f"where chain {chain} starts, at {len(numbers)} rows from row {numbers[0]} on"
                raise raised("The log-likelihood", where, error) from error
            is_bad = ~np.isfinite(found)
            bad |= zip(numbers[is_bad].tolist(), found[is_bad].tolist(), strict=True)
            place = np.searchsorted(self.row_indices, numbers).clip(max=len(examined) - 1)
            is_examined = self.row_indices[place] == numbers
            examined[place[is_examined]] = found[is_examined]
        return EveryRow(dict(sorted(bad.items())), examined)

    def _traced(
        self, precision: Precision, slab: NumpyArray, rows: Mapping[str, Any], constants: Mapping[str, Any]
    ) -> jax.stages.Traced:
        """Return `_terms` for several chains, which nothing is computed for; refuse what JAX cannot map over chains."""
        terms = jax.vmap(functools.partial(self._terms, precision), (0, None, None))
        try:
            traced: jax.stages.Traced = brief(terms).trace(slab, rows, constants)
            return traced
        except Exception as error:
            raise ModelError(
                f"{self._evaluated} raised {type(error).__name__} when distmc asked JAX for several chains at once: "
                f"{first_line(error)} Chains move together, so `jax.vmap` must be able to map it; a "
                "`jax.pure_callback` says how with `vmap_method`."
            ) from error

    @property
    def _needs_gradient(self) -> bool:
        return not isinstance(self.spec.sampler, WITHOUT_GRADIENT)

    @property
    def _evaluated(self) -> str:
        return "The log-density or its gradient" if self._needs_gradient else "The log-density"

    def _terms(
        self, precision: Precision, flat: Array, rows: Mapping[str, Any], constants: Mapping[str, Any]
    ) -> tuple[Array, Array, Array | None]:
        """Return the fields of `AtStarts` for one chain."""
        if not self._needs_gradient:
            contributions = self.contributions_of(precision, flat, rows, constants)
            return self.log_prior(flat) + jnp.sum(contributions, dtype=jnp.float64), contributions, None
        (params, log_prior), pull_back = jax.vjp(self._constrain, flat)
        of_rows = functools.partial(row_contributions, self.model)
        contributions, total, slopes = contributions_and_gradient(of_rows, params, rows, constants, precision)
        (gradient,) = pull_back((slopes, jnp.ones_like(log_prior)))
        return log_prior + total, contributions, gradient

    def contributions_of(
        self, precision: Precision, flat: Array, rows: Mapping[str, Any], constants: Mapping[str, Any]
    ) -> Array:
        """Return the contributions of rows at one position; rows and constants have the type of this precision."""
        params, _ = self.unconstrainer.constrain(flat)
        of_rows = functools.partial(row_contributions, self.model)
        return contributions_of_rows(of_rows, params, rows, constants, precision)

    def _constrain(self, flat: Array) -> tuple[ConstrainedParameters, Array]:
        """Return parameters at one position, and the log-density of priors and Jacobian."""
        params, log_abs_det = self.unconstrainer.constrain(flat)
        return params, log_prior_density(self.model, params) + log_abs_det

    @functools.cached_property
    def contributions(self) -> Callable[[Array], Array]:
        """Compiled: from a position to the contributions of the rows examined, in float64."""

        def contributions(flat: Array) -> Array:
            return self.contributions_of("float64", flat, *self.inputs("float64"))

        return jax.jit(contributions)

    def inputs(self, precision: Precision) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the rows examined and the constants in the type that a run evaluates them in."""
        dtype = likelihood_dtype(precision)
        return cast_floats(self.some_data.rows, dtype), cast_floats(self.data.constants or {}, dtype)

    @functools.cached_property
    def log_prior(self) -> Callable[[Array], Array]:
        """Compiled: from a position to its priors and log-determinant."""
        return jax.jit(lambda flat: self._constrain(flat)[1])

    @functools.cached_property
    def log_density_and_gradient(self) -> Callable[[Array], tuple[Array, Array]]:
        """Compiled: from a position to the log-density of the rows examined and its gradient."""
        return jax.jit(jax.value_and_grad(self.log_density))

    def log_density(self, flat: Array) -> Array:
        """Return the log-density of the rows examined at one position."""
        return self.log_prior(flat) + jnp.sum(self.contributions(flat), dtype=jnp.float64)

    @property
    def values(self) -> NumpyArray:
        """Contributions at all points, (num_points, rows examined)."""
        return self.at_starts.contributions[:_NUM_POINTS]

    @property
    def finite_points(self) -> NumpyArray:
        """Those of the points at which every row is finite, (some of num_points, num_dimensions)."""
        points: NumpyArray = self.points[np.isfinite(self.values).all(axis=1)]
        return points

    def row_name(self, index: int) -> str:
        """Return a row's number in the whole data, in words."""
        return f"row {int(self.row_indices[index])}"

    def rows_examined(self) -> str:
        """Return how many rows are looked at, in words."""
        examined, total = len(self.row_indices), self.data.num_rows
        return f"all {total} rows" if examined == total else f"{examined} of {total} rows"

    def describe(self, flat: NumpyArray, only: str | None = None) -> str:
        """Return the parameters at one position in words, all or one of them, shortened."""
        params = self.unconstrainer.constrain(jnp.asarray(flat))[0]
        shown = {name: value for name, value in params.items() if only in (None, name)}
        texts = [f"{name} = {_short(np.asarray(value))}" for name, value in list(shown.items())[:4]]
        return ", ".join(texts) + (", …" if len(shown) > len(texts) else "")


def _chains_at_once(data: Data) -> int:
    numbers: int = sum(array.size for array in data.rows.values())
    return max(1, min(_MOST_CHAINS_AT_ONCE, _MOST_NUMBERS_AT_ONCE // max(1, numbers)))


def _slabs(positions: NumpyArray, most: int) -> list[NumpyArray]:
    """Cut positions into slabs of one size, of at most so many chains; copies of the first fill the last up."""
    num_slabs = -(-len(positions) // most)
    size = -(-len(positions) // num_slabs)
    missing = num_slabs * size - len(positions)
    return np.split(np.concatenate([positions, positions[:1].repeat(missing, axis=0)]), num_slabs)


def _short(value: NumpyArray) -> str:
    return " ".join(np.array2string(value, precision=3, threshold=6, edgeitems=2).split())


def _rows_to_examine(data: Data) -> NumpyArray:
    if data.num_rows <= MAX_ROWS_EXAMINED:
        return np.arange(data.num_rows)
    spread = np.linspace(0, data.num_rows - 1, MAX_ROWS_EXAMINED - 2).astype(np.int64)
    lengths = data.lengths
    extremes = [] if lengths is None else [int(np.argmin(lengths)), int(np.argmax(lengths))]
    return np.unique([*spread, *extremes])
