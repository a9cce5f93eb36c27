"""The check that a model's gradient is finite and is its gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from distmc.errors import ModelError
from distmc.model.abstract import first_line
from distmc.model.start import FLOAT64_HELPS, UNTAKEN_BRANCH
from distmc.model.subject import Note, Subject
from distmc.types import NumpyArray

_WITHOUT = "say `is_differentiable=False`, and `distmc.RWMH()` samples it without"
_MAX_DIRECTIONS = 24
_MAX_POINTS = 2
_RELATIVE_TOLERANCE = 1e-3


def require_gradient(subject: Subject) -> None:
    """Refuse a log-density that JAX cannot differentiate, without computing anything."""
    terms = {
        "`log_likelihood`": lambda flat: jnp.sum(subject.contributions(flat)),
        "`log_prior` or a prior": subject.log_prior,
    }
    for name, term in terms.items():
        try:
            jax.eval_shape(jax.grad(term), jnp.asarray(subject.points[0]))
        except Exception as error:
            raise ModelError(
                f"{name} raised {type(error).__name__} when distmc asked JAX for its gradient: {first_line(error)} "
                f"If the model has no gradient, {_WITHOUT}."
            ) from error


def check_gradient(subject: Subject) -> list[Note]:
    """Compare the gradient with central differences along one random direction within each parameter.

    Differences are taken in float64 with three step sizes around the cube root of the rounding error, where
    truncation and rounding balance; the closest counts. Whether it is finite is seen from the starts of all chains. A
    model that is marked as having none is not asked for it.
    """
    if not subject.model.is_differentiable:
        return [
            ("note", "Not looked at: `is_differentiable=False` says that there is none, and no sampler asks for it.")
        ]
    found = subject.at_starts
    chains = np.flatnonzero(np.isfinite(found.logdensity)).tolist()
    # A sampler that needs no gradient has not asked for any.
    if found.gradient is not None:
        for chain in chains:
            _require_finite_gradient(subject, chain, found.gradient[chain])
    names, directions = _directions(subject)
    for chain in chains[:_MAX_POINTS]:
        point = subject.starts[chain]
        value, gradient = (np.asarray(part) for part in subject.log_density_and_gradient(jnp.asarray(point)))
        _require_finite_gradient(subject, chain, gradient)
        _require_agreement(subject, point, float(value), gradient, names, directions)
    counted = f"{len(names)} direction{'s' * (len(names) != 1)}, {subject.rows_examined()}"
    return [("ok", f"Finite, and equal to finite differences ({counted}).")]


def _directions(subject: Subject) -> tuple[list[str], NumpyArray]:
    """Return parameter names and one unit vector for each, zero in the coordinates of other parameters."""
    rng = np.random.default_rng(subject.spec.seed)
    names, directions = [], []
    offset = 0
    for name, shape in subject.unconstrainer.unconstrained_shapes.items():
        size = int(np.prod(shape))
        if size:
            direction = np.zeros(subject.unconstrainer.num_dimensions)
            direction[offset : offset + size] = rng.normal(size=size)
            names.append(name)
            directions.append(direction / np.linalg.norm(direction))
        offset += size
    if len(names) > _MAX_DIRECTIONS:
        chosen = np.sort(rng.choice(len(names), _MAX_DIRECTIONS, replace=False))
        names, directions = [names[i] for i in chosen], [directions[i] for i in chosen]
    return names, np.stack(directions)


def _require_finite_gradient(subject: Subject, chain: int, gradient: NumpyArray) -> None:
    bad = np.flatnonzero(~np.isfinite(gradient))
    if len(bad):
        coordinate = subject.unconstrainer.coordinate_names[bad[0]]
        advice = FLOAT64_HELPS if subject.needs_float64 else UNTAKEN_BRANCH
        raise ModelError(
            f"Where chain {chain} starts, the log-density is finite but its gradient is {gradient[bad[0]]} in "
            f"{len(bad)} of {len(gradient)} coordinates, the first `{coordinate}`: {advice}"
        )


def _require_agreement(
    subject: Subject, point: NumpyArray, value: float, gradient: NumpyArray, names: list[str], directions: NumpyArray
) -> None:
    eps = float(np.finfo(jax.eval_shape(subject.contributions, jnp.asarray(point)).dtype).eps)
    steps = eps ** (1 / 3) * np.array([10.0, 1.0, 0.1])

    def difference(direction: NumpyArray, step: float) -> float:
        ahead, behind = (float(subject.log_density(jnp.asarray(point + s * direction))) for s in (step, -step))
        return (ahead - behind) / (2 * step)

    found = np.array([[difference(direction, step) for step in steps] for direction in directions])
    expected = directions @ gradient
    rounding = 10 * eps * (1 + abs(value)) / steps
    allowed = _RELATIVE_TOLERANCE * np.abs(expected)[:, None] + 1e-6 + rounding[None, :]
    agrees = (np.abs(found - expected[:, None]) <= allowed).any(axis=1)
    if not agrees.all():
        worst = int(np.argmin(agrees))
        closest = found[worst, np.argmin(np.abs(found[worst] - expected[worst]))]
        raise ModelError(
            f"The gradient of the log-density along parameter `{names[worst]}` is {expected[worst]:.6g}, but finite "
            f"differences give {closest:.6g}. A step function, rounding to integers, `jax.lax.stop_gradient` or a "
            "wrong `jax.custom_vjp` in the log-likelihood or `log_prior` does that; sampling that follows the gradient "
            f"would be wrong or stuck. If the model has no other gradient, {_WITHOUT}."
        )
