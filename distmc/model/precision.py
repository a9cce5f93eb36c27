"""The check that float32 rows are precise enough for the acceptance test.

What a chain accepts or rejects by is a *difference* of log-densities between two points of the posterior. The
check estimates how far that difference, with rows evaluated as under mixed precision, lies from the one in float64:
from some rows near the mode, scaled to all rows.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from distmc.model.brief import brief
from distmc.model.density import row_contributions
from distmc.model.shared import contributions_and_gradient
from distmc.model.subject import Note, Subject
from distmc.spec import Precision
from distmc.types import Array, ConstrainedParameters, NumpyArray

MAX_ERROR = 1e-2
"""Error of a log-density difference, in nats, above which float64 is advised: one in a hundred accepted wrongly."""

_NUM_STEPS = 64
_MAX_ITERATIONS = 200
_STANDS_OUT = 3.0  # standard errors
_ROUNDING = 2.5e-8  # of numbers to float32: relative, root mean square


def check_precision(subject: Subject) -> list[Note]:
    """Estimate the error of log-density differences under mixed precision and advise float64 where it is large."""
    if subject.spec.precision == "float64":
        return [("ok", "Rows are evaluated in float64, as `precision` asks.")]
    if subject.spec.precision_in_force == "float64":
        return [("note", "Rows are evaluated in float64: what `mixed` rounds is made up for by gradients only.")]
    error = _estimate_error(subject)
    if error is None:
        return [("note", "Precision was not estimated: no point was found at which the rows tell a change apart.")]
    subject.figures["precision_error"] = error
    size = f"about {error:.1g} nats, estimated from {subject.rows_examined()} near the mode"
    if not error <= MAX_ERROR:
        return [
            (
                "warning",
                f"Under `mixed` precision log-density differences are wrong by {size}, more than {MAX_ERROR:g}; give "
                '`precision="float64"`, or rescale what makes rows large (centre times and coordinates).',
            )
        ]
    return [("ok", f"Under `mixed` precision log-density differences are wrong by {size}.")]


def _estimate_error(subject: Subject) -> float | None:
    points = subject.finite_points
    best = int(np.argmax([float(subject.log_density(jnp.asarray(point))) for point in points]))
    mode = _rough_mode(subject, points[best])
    _, slopes = _by_row(subject, "float64")(mode)
    params, scores = _pulled_back(subject, mode, slopes)
    steps = _posterior_steps(scores, subject)
    if not len(steps):
        return None
    mixed = _by_row(subject, "mixed")

    def error_of_difference(step: NumpyArray) -> NumpyArray:
        low, high = (
            np.asarray(mixed(mode + sign * step)[0]) - np.asarray(subject.contributions(mode + sign * step))
            for sign in (-1, 1)
        )
        difference: NumpyArray = high - low
        return difference

    of_rows = _scaled_to_all_rows(np.stack([error_of_difference(step) for step in steps]), subject.data.num_rows)
    return float(np.hypot(of_rows, _second_order(params, slopes, subject.data.num_rows)))


def _by_row(subject: Subject, precision: Precision) -> Callable[[Any], tuple[Array, ConstrainedParameters]]:
    """Compile, from a position, the contribution of each row examined and its slopes in all parameters."""
    contributions = functools.partial(row_contributions, subject.model)
    rows, constants = subject.inputs(precision)

    def of_one(params: ConstrainedParameters, row: Mapping[str, Any]) -> tuple[Array, ConstrainedParameters]:
        single = {name: value[None] for name, value in row.items()}
        _, contribution, slopes = contributions_and_gradient(contributions, params, single, constants, precision)
        return contribution, slopes

    def of_all(flat: Array) -> tuple[Array, ConstrainedParameters]:
        params, _ = subject.unconstrainer.constrain(flat)
        return jax.vmap(of_one, in_axes=(None, 0))(params, rows)

    return jax.jit(of_all)


def _pulled_back(
    subject: Subject, flat: NumpyArray, slopes: ConstrainedParameters
) -> tuple[dict[str, NumpyArray], NumpyArray]:
    """Return parameters at a position, and slopes in parameters of each row as slopes in its coordinates."""

    def of_all(flat: Array, slopes: ConstrainedParameters) -> tuple[ConstrainedParameters, Array]:
        params, pull_back = jax.vjp(lambda flat: subject.unconstrainer.constrain(flat)[0], flat)
        return params, jax.vmap(lambda slope: pull_back(slope)[0])(slopes)

    params, scores = jax.tree.map(np.asarray, brief(of_all)(flat, slopes))
    return params, scores


def _posterior_steps(scores: NumpyArray, subject: Subject) -> NumpyArray:
    """Draw from the normal approximation of the posterior around its mode, (steps, num_dimensions).

    Parameters
    ----------
    scores : float array (rows examined, num_dimensions)
        Gradients of contributions, whose covariance is the Fisher information of one row. Steps go only where the
        rows examined tell positions apart.
    """
    if not np.isfinite(scores).all():
        return np.empty((0, scores.shape[1]))
    _, singular_values, directions = np.linalg.svd(scores - scores.mean(axis=0), full_matrices=False)
    information = subject.data.num_rows * singular_values**2 / len(scores)
    directions, information = directions[information > 1], information[information > 1]
    normal = np.random.default_rng(subject.spec.seed).normal(size=(_NUM_STEPS, len(directions)))
    steps: NumpyArray = normal / np.sqrt(1 + information) @ directions
    return steps if len(directions) else steps[:0]


def _scaled_to_all_rows(errors: NumpyArray, num_rows: int) -> float:
    """Return the error of a sum over all rows: what rows have in common grows with their number, noise with its root.

    Parameters
    ----------
    errors : float array (steps, rows examined)
        Errors of single rows.

    Notes
    -----
    Noise leaves something in the means over the rows examined as well, and times very many rows that is much. So
    rows have in common only what stands out from it.
    """
    num_steps, num_examined = errors.shape
    noise = np.mean(np.var(errors, axis=1))
    left_by_noise = noise / num_examined
    common = np.mean(np.mean(errors, axis=1) ** 2) - left_by_noise
    if common < _STANDS_OUT * np.sqrt(2 / num_steps) * left_by_noise:
        common = 0.0
    return float(np.sqrt(num_rows * noise + num_rows**2 * common))


def _second_order(params: ConstrainedParameters, slopes: ConstrainedParameters, num_rows: int) -> float:
    """Return what correcting the rounding of parameters to first order leaves: half its square times the information.

    It is alike in all rows, but may drown in the noise of those examined.

    Parameters
    ----------
    params : mapping of float array
        At the mode.
    slopes : mapping of float array, each (rows examined, ...)
        Derivatives of contributions.
    """
    relative = [np.asarray(slopes[name]) * np.asarray(params[name]) for name in params]
    return 0.5 * num_rows * sum(float(np.sum(np.mean((_ROUNDING * slope) ** 2, axis=0))) for slope in relative)


def _rough_mode(subject: Subject, start: NumpyArray) -> NumpyArray:
    """Climb to near the mode of the rows examined; where the climb fails, stay."""

    def descent(flat: NumpyArray) -> tuple[float, NumpyArray]:
        value, gradient = subject.log_density_and_gradient(jnp.asarray(flat))
        return -float(value), -np.asarray(gradient)

    # Values that are not finite make the line search shorten its step, which is what is wanted, and warn about it.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = optimize.minimize(descent, start, jac=True, method="L-BFGS-B", options={"maxiter": _MAX_ITERATIONS})
    climbed: NumpyArray = result.x
    return climbed if np.isfinite(result.fun) and np.isfinite(climbed).all() else start
