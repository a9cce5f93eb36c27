"""The check that float32 rows are precise enough for the acceptance test.

What a chain accepts or rejects by is a *difference* of log-densities between two points of the posterior. The
check estimates how far that difference, with rows evaluated in float32 and added in float64, lies from the one in
float64: from some rows near the mode, scaled to all rows.
"""

import warnings

import jax.numpy as jnp
import numpy as np
from scipy import optimize

from distmc.model.subject import Note, Subject
from distmc.spec import Precision
from distmc.types import NumpyArray

MAX_ERROR = 1e-2
"""Error of a log-density difference, in nats, above which float64 is advised: one in a hundred accepted wrongly."""

_NUM_DIRECTIONS = 16
_MAX_ITERATIONS = 200


def check_precision(subject: Subject) -> list[Note]:
    """Estimate the error of log-density differences under mixed precision and advise float64 where it is large."""
    if subject.spec.precision == "float64":
        return [("ok", "Rows are evaluated in float64, as `precision` asks.")]
    errors = _row_errors(subject)
    if errors is None:
        return [("note", "Precision was not estimated: no point was found at which the rows tell a change apart.")]
    error = _scaled_to_all_rows(errors, subject.data.num_rows)
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


def _row_errors(subject: Subject) -> NumpyArray | None:
    """Return each row's error of the difference between two points one posterior scale apart, (directions, rows)."""
    points = subject.finite_points
    best = int(np.argmax([float(subject.log_density(jnp.asarray(point))) for point in points]))
    mode = _rough_mode(subject, points[best])

    def difference(step: NumpyArray, precision: Precision) -> NumpyArray:
        low, high = (
            np.asarray(subject.contributions(mode + sign * step, precision=precision), np.float64) for sign in (-1, 1)
        )
        return high - low

    rng = np.random.default_rng(subject.spec.seed)
    errors = []
    for direction in rng.normal(size=(_NUM_DIRECTIONS, len(mode))):
        # The variance of the rows' slopes is their Fisher information, which gives the posterior's scale.
        information = subject.data.num_rows * np.var(difference(1e-4 * direction, "float64") / 2e-4)
        if not (np.isfinite(information) and information > 0):
            continue
        scaled = direction / np.sqrt(1 + information)
        errors.append(difference(scaled, "mixed") - difference(scaled, "float64"))
    return np.stack(errors) if errors else None


def _scaled_to_all_rows(errors: NumpyArray, num_rows: int) -> float:
    """Return the error of a sum over all rows: what rows have in common grows with their number, noise with its root.

    Parameters
    ----------
    errors : float array (directions, rows examined)
        Errors of single rows.
    """
    noise = np.var(errors, axis=1)
    common = np.maximum(np.mean(errors, axis=1) ** 2 - noise / errors.shape[1], 0)
    return float(np.sqrt(np.mean(num_rows * noise + num_rows**2 * common)))


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
