"""The metric, estimated from positions and gradients of all chains.

On a normal target with precision P gradients are ``-P (x - mean)``, so the geometric mean of the covariance of
positions and the inverse covariance of gradients is the target's covariance, exactly, wherever the positions are: few
draws are enough, and chains that are still under way do no harm. For a single coordinate that is the fourth root of a
ratio of variances. Once chains have arrived and draws are plenty, positions alone say better how far chains of other
targets have to go.

References
----------
Seyboldt, Carlson, Carpenter (2026), Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence.
arXiv:2603.18845.
"""

import dataclasses
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp

from distmc.adaptation.linalg import cholesky, inverse_root, invert_lower
from distmc.adaptation.low_rank import leading_subspace
from distmc.adaptation.moments import Moments, covariance, has_spread
from distmc.adaptation.window import Window, add_state, open_window
from distmc.kernels.metrics import Metric, Stretch
from distmc.samplers import MetricKind
from distmc.types import Array

Form: TypeAlias = Literal["diagonal", "dense", "low_rank"]
FORMS: tuple[Form, ...] = get_args(Form)

# A dense factor costs num_dimensions**2 for every chain and integration step.
_LARGEST_DENSE = 500
_DRAWS_PER_DIMENSION = 2
# Kept draws take this many times eight kilobytes.
_LARGEST_LOW_RANK = 5000
_RANK = 32
# With so many draws for each coordinate, positions say all, and gradients what differs from a normal target.
_PLENTY_OF_DRAWS = 100.0
_RIDGE = 1e-3
# A direction whose variance differs from 1 by less than this factor needs hardly more integration steps.
_NOT_WORTH_IT = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricRule:
    """How the metric is learned from a window of steps.

    Attributes
    ----------
    num_dimensions : int
        Coordinates of the target.
    form : {"diagonal", "dense", "low_rank"}
        Form of the metric.
    """

    num_dimensions: int
    form: Form

    def first(self) -> Metric:
        """Return the metric of a target with unit scales."""
        ones = jnp.ones(self.num_dimensions, jnp.float64)
        if self.form == "dense":
            return Metric(jnp.diag(ones), jnp.diag(ones))
        if self.form == "diagonal":
            return Metric(ones, ones)
        return Metric(ones, ones, _no_stretch(self.num_dimensions, 2 * self._rank))

    def nothing(self, state: Any) -> Window:
        """Return what is known at the start of a window, given a kernel's state."""
        return open_window(state, is_dense=self.form == "dense", keeps_ensembles=self.form == "low_rank")

    def add(self, seen: Window, state: Any, weight: Array) -> Window:
        """Return what is known after one more step; chains count by their weight (num_chains,)."""
        return add_state(seen, state, weight)

    def estimate(self, seen: Window, previous: Metric, has_arrived: Array | bool = True) -> Metric:
        """Return the metric at the end of a window.

        Parameters
        ----------
        seen : Window
            At its end.
        previous : Metric
            In force so far; coordinates that never moved keep its scale.
        has_arrived : bool scalar
            Whether chains have had the time to arrive, so that positions may say all if there are plenty of them.
        """
        scale = estimate_scale(seen, previous, has_arrived)
        if self.form == "diagonal":
            return Metric(scale, 1.0 / scale)
        if self.form == "dense":
            return dense_metric(seen, scale, has_arrived)
        return low_rank_metric(seen, scale, has_arrived, self._rank)

    @property
    def _rank(self) -> int:
        return min(_RANK, self.num_dimensions)


def choose_form(kind: MetricKind, num_dimensions: int, num_draws: int) -> Form:
    """Decide the form of the metric.

    Parameters
    ----------
    kind : {"auto", "diagonal", "dense", "low_rank"}
        What was asked for.
    num_dimensions : int
        Coordinates of the target.
    num_draws : int
        Of all chains in the longest window.
    """
    if kind != "auto":
        return kind
    if num_dimensions <= _LARGEST_DENSE and num_draws >= _DRAWS_PER_DIMENSION * num_dimensions:
        return "dense"
    return "low_rank" if num_dimensions <= _LARGEST_LOW_RANK and num_draws > 0 else "diagonal"


def estimate_scale(window: Window, previous: Metric, has_arrived: Array | bool) -> Array:
    """Return the scales of the coordinates, (num_dimensions,).

    Parameters
    ----------
    window : Window
        At its end.
    previous : Metric
        In force so far; coordinates that never moved keep its scale.
    has_arrived : bool scalar
        Whether chains have had the time to arrive.
    """
    moves, _ = _informed(window)
    scale = jnp.where(moves, _deviation(window.position), 1.0)
    if window.grad is not None:
        pulls = has_spread(window.grad) & ~positions_say_all(window, has_arrived)
        scale = jnp.where(pulls, jnp.sqrt(scale / jnp.where(pulls, _deviation(window.grad), 1.0)), scale)
    factor = previous.factor
    return jnp.where(moves, scale, factor if factor.ndim == 1 else jnp.sqrt(jnp.sum(factor**2, axis=1)))


def dense_metric(window: Window, scale: Array, has_arrived: Array | bool) -> Metric:
    """Return the dense metric of a window's covariances, given the scales of the coordinates."""
    moves, pulls = _informed(window)
    # Factor matrices of scaled coordinates: entries near 1 whatever the scales.
    spread = _standardised(window.position, 1.0 / scale, moves)
    grad_spread = None if window.grad is None else _standardised(window.grad, scale, pulls)
    is_enough = positions_say_all(window, has_arrived)
    factor = scale[:, None] * standard_factor(spread, grad_spread, window.position.count, is_enough)
    diagonal = Metric(jnp.diag(scale), jnp.diag(1.0 / scale))
    metric: Metric = _if_finite(Metric(factor, invert_lower(factor)), diagonal)
    return metric


def low_rank_metric(window: Window, scale: Array, has_arrived: Array | bool, rank: int) -> Metric:
    """Return the metric that is dense in the leading directions of a window's draws, and diagonal elsewhere.

    It is diagonal everywhere if no direction differs much: more steps by a diagonal metric are cheaper then.
    """
    moves, pulls = _informed(window)
    # Without gradients positions have the directions of both, so that there are as many.
    num_directions = rank if window.grad is not None else 2 * rank
    scales = jnp.where(moves, 1.0 / scale, 0.0), jnp.where(pulls, scale, 0.0)
    subspace = leading_subspace(window, *scales, num_directions)
    # Chosen from all directions, the leading ones differ by chance as much as the draws are few for all of them.
    is_enough = has_arrived & _has_plenty(subspace.count, scale.size)
    factor = standard_factor(subspace.spread, subspace.grad_spread, subspace.count, is_enough)
    is_needed = ~_is_within(factor @ factor.T, 1.0 / _NOT_WORTH_IT, _NOT_WORTH_IT)
    stretch = Stretch(subspace.basis, factor, invert_lower(factor), is_needed)
    return Metric(scale, 1.0 / scale, _if_finite(stretch, _no_stretch(*subspace.basis.shape)))


def _no_stretch(num_dimensions: int, size: int) -> Stretch:
    identity = jnp.eye(size, dtype=jnp.float64)
    return Stretch(jnp.zeros((num_dimensions, size), jnp.float64), identity, identity, is_needed=jnp.asarray(False))


def standard_factor(
    spread: Array, grad_spread: Array | None, num_draws: Array, without_grad: Array | bool = False
) -> Array:
    """Return a lower triangular ``F`` such that ``F F'`` estimates the covariance of a target with scales near 1.

    Parameters
    ----------
    spread, grad_spread : float64 array (size, size)
        Covariances of positions and of gradients. Where there are no gradients, correlations between positions are
        shrunk: by half where there are as many draws as dimensions, hardly at all where there are ten times as many.
    num_draws : float64 scalar
        That both were estimated from. The fewer, the heavier the ridge that keeps both definite.
    without_grad : bool scalar
        Whether to leave gradients out.
    """
    size = spread.shape[0]
    share = size / jnp.maximum(num_draws, 1.0)
    identity = jnp.eye(size, dtype=spread.dtype)
    if grad_spread is None:
        return cholesky(jnp.where(identity > 0.0, spread, spread / (1.0 + share**3)))
    ridge = _RIDGE * share**2 * identity
    factor = cholesky(spread + ridge)
    # The geometric mean of A = L L' and the inverse of B is L inv(root(L' B L)) L'.
    mean_factor = factor @ cholesky(inverse_root(factor.T @ (grad_spread + ridge) @ factor))
    return jnp.where(without_grad, factor, mean_factor)


def positions_say_all(window: Window, has_arrived: Array | bool) -> Array:
    """Tell whether a window's positions alone say better what the target is like than gradients do, a bool scalar."""
    return has_arrived & _has_plenty(window.position.count, window.position.mean.size)


def _has_plenty(num_draws: Array, num_dimensions: int) -> Array:
    return num_draws > _PLENTY_OF_DRAWS * num_dimensions


def _informed(window: Window) -> tuple[Array, Array]:
    """Tell the coordinates of which positions say something, and those of which gradients do so, too."""
    moves = has_spread(window.position)
    return moves, moves if window.grad is None else moves & has_spread(window.grad)


def _deviation(moments: Moments) -> Array:
    variance = covariance(moments)
    return jnp.sqrt(variance if variance.ndim == 1 else jnp.diagonal(variance))


def _standardised(moments: Moments, scale: Array, is_informed: Array) -> Array:
    """Return the covariance of scaled vectors; coordinates of which nothing is known count as standard normal."""
    identity = jnp.eye(scale.size, dtype=scale.dtype)
    return jnp.where(jnp.outer(is_informed, is_informed), covariance(moments) * jnp.outer(scale, scale), identity)


def _if_finite(wanted: Any, fallback: Any) -> Any:
    is_finite = _are_finite(wanted)
    return jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), wanted, fallback)


def _are_finite(values: Any) -> Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(values)]))


def _is_within(matrix: Array, low: float, high: float) -> Array:
    """Tell whether all eigenvalues of a symmetric matrix lie between two numbers: only then both factors exist."""
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    return _are_finite((cholesky(matrix - low * identity), cholesky(high * identity - matrix)))
