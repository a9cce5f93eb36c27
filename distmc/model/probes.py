"""The checks of a model that look at shapes, values and rows; `preflight` runs them in order.

A check takes a `Subject`, returns what is worth telling, and raises the typed error of what cannot work.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distmc.data.blocks import MASK, pack_blocks, plan_blocks, row_numbers
from distmc.errors import ModelError, StartError
from distmc.model.abstract import shape_struct
from distmc.model.brief import brief
from distmc.model.density import cast_floats, likelihood_dtype, likelihood_output, log_prior_density, row_contributions
from distmc.model.gradients import require_gradient
from distmc.model.model import Parameter
from distmc.model.start import FLOAT64_HELPS, require_finite_starts
from distmc.model.subject import Note, Subject
from distmc.model.work import float64_share
from distmc.types import Array, NumpyArray

_MOST_ROWS_NAMED = 4
_PADDING_WORTH_A_WARNING = 0.25
_ROWS_WORTH_A_WARNING = 1000
_MUCH_FLOAT64 = 0.5
# Between two evaluations of a row with float32 digits, relative and absolute.
_SCREENING_TOLERANCE = 1e-3


def check_parameters(subject: Subject) -> list[Note]:
    """Report dimensions and refuse priors that are not finite where chains start."""
    unconstrainer = subject.unconstrainer
    subject.figures["num_dimensions"] = unconstrainer.num_dimensions
    subject.figures["num_constrained"] = unconstrainer.num_constrained
    _require_finite_prior(subject)
    count = len(unconstrainer.shapes)
    return [
        (
            "ok",
            f"{count} parameter{'s' * (count != 1)} of {unconstrainer.num_constrained} numbers, "
            f"{unconstrainer.num_dimensions} unconstrained dimensions.",
        )
    ]


def check_data(subject: Subject) -> list[Note]:
    """Report how rows are divided and warn where padding costs much."""
    plan = subject.plan
    subject.figures |= {
        "num_rows": subject.data.num_rows,
        "num_blocks": plan.num_blocks,
        "rows_per_block": plan.rows_per_block,
        "bucket_lengths": [bucket.length for bucket in plan.buckets if bucket.length is not None],
        "padding_share": plan.padding_share,
    }
    lengths = subject.figures["bucket_lengths"]
    buckets = f", length buckets of {', '.join(map(str, lengths))} steps" if lengths else ""
    blocks = f"{plan.num_blocks} block{'s' * (plan.num_blocks != 1)} of {plan.rows_per_block} rows"
    message = f"{subject.data.num_rows} rows in {blocks}{buckets}; {plan.padding_share:.0%} of the work is padding."
    is_worth_it = subject.spec.num_blocks is not None or subject.data.num_rows >= _ROWS_WORTH_A_WARNING
    if is_worth_it and plan.padding_share > _PADDING_WORTH_A_WARNING:
        advice = "Fewer blocks (`num_blocks`) pad less." if plan.num_blocks > 1 else "Lengths differ too much."
        return [("warning", f"{message} {advice}")]
    return [("ok", message)]


def check_likelihood(subject: Subject) -> list[Note]:
    """Refuse likelihoods of wrong shape and type; tell what the right ones will be computed in."""
    forms = set()
    for bucket in subject.plan.buckets:
        output = _output_for_bucket(subject, bucket.length, bucket.rows_per_block)
        forms.add("sum" if output.shape == () else "rows")
    if len(forms) > 1:
        raise ModelError(
            "`log_likelihood` returns contributions of rows for some lengths of rows and their sum for others; it must "
            "always return the same kind."
        )
    subject.figures["likelihood_form"] = forms.pop()
    subject.figures["likelihood_dtype"] = str(output.dtype)
    notes: list[Note] = [("ok", "Returns one contribution a row.")]
    if subject.figures["likelihood_form"] == "sum":
        notes = [
            (
                "note",
                "Returns a sum, so it is evaluated row by row and padding can be removed; returning the contributions "
                "of the rows, without summing them, is often faster.",
            )
        ]
    if subject.model.is_differentiable:
        require_gradient(subject)
    if subject.spec.precision_in_force == "mixed":
        notes += _compare_with_float32(subject)
    return notes


def _compare_with_float32(subject: Subject) -> list[Note]:
    """Tell if a likelihood that is given float32 does most of its work in float64."""
    dtype = likelihood_dtype("mixed")
    params = {name: shape_struct(shape, dtype) for name, shape in subject.unconstrainer.shapes.items()}
    contributions = functools.partial(row_contributions, subject.model)
    share = float64_share(jax.make_jaxpr(contributions)(params, *subject.inputs("mixed")))
    subject.figures["float64_share"] = share
    if share <= _MUCH_FLOAT64:
        return []
    return [
        (
            "note",
            f"Given float32, `log_likelihood` does {share:.0%} of its work in float64, so `mixed` precision gains "
            "little speed. Some of NumPyro's distributions, `Poisson` and `Binomial` among them, compute in float64 "
            "whatever they are given: write their formula out. A `jnp.zeros`, `jnp.array` or NumPy constant inside is "
            "float64 by default: give it the type of a parameter (`dtype=params[...].dtype`), or put it into the "
            "data's `constants`.",
        )
    ]


def check_finite(subject: Subject) -> list[Note]:
    """Refuse a model whose log-density is finite at no starting position that was tried."""
    values = subject.values
    is_finite = np.isfinite(values)
    good = is_finite.all(axis=1)
    subject.figures["num_finite_points"] = int(good.sum())
    num_points = len(subject.points)
    tried = f"{num_points} starting position{'s' * (num_points != 1)}, {subject.rows_examined()}"
    if good.all():
        return [("ok", f"The log-density is finite at {tried}.")]
    row = int(np.argmin(is_finite.sum(axis=0)))
    point = int(np.argmin(is_finite[:, row]))
    worst = (
        f"`log_likelihood` is {values[point, row]} for {subject.row_name(row)} "
        f"at {int((~is_finite[:, row]).sum())} of {num_points} starting positions"
    )
    where = subject.describe(subject.points[point])
    if not good.any():
        advice = (
            "A chain cannot start there; look at that row, at priors that reach where the likelihood overflows, or "
            "give `initial` values."
        )
        raise ModelError(
            f"The log-density is finite at none of {tried}: {worst}, for instance at {where}. "
            f"{FLOAT64_HELPS if subject.needs_float64 else advice}"
        )
    advice = FLOAT64_HELPS if subject.needs_float64 else "Chains that start there need other `initial` values."
    return [("warning", f"{worst}, for instance at {where}. {advice}")]


def check_starts(subject: Subject) -> list[Note]:
    """Refuse starting positions where log-density or gradient are not finite, on the rows examined, in any chain."""
    found, examined = subject.at_starts, subject.rows_examined()
    if not found.is_finite:
        advice = FLOAT64_HELPS if subject.needs_float64 else ""
        require_finite_starts(found.logdensity, found.gradient, f"over {examined}", advice=advice)
    what = "the log-density is" if found.gradient is None else "log-density and gradient are"
    return [("ok", f"All {len(found.logdensity)} chains start where {what} finite, over {examined}.")]


def check_every_row(subject: Subject) -> list[Note]:
    """Refuse rows that are not finite where a chain starts.

    A row that is impossible whatever the parameters are would end the run when its workers are up.
    """
    bad, chain, num_rows = subject.every_row.bad, subject.first_chain, subject.data.num_rows
    if not bad:
        return [("ok", f"All {num_rows} rows are finite where chain {chain} starts.")]
    numbers = [*bad]
    named = ", ".join(map(str, numbers[:_MOST_ROWS_NAMED])) + ", …" * (len(bad) > _MOST_ROWS_NAMED)
    advice = (
        "Correct rows that are impossible whatever the parameters are, leave them out, or mark what is missing in "
        "them; otherwise give `initial` values at which all rows are possible, or a prior that keeps to them."
    )
    raise StartError(
        f"`log_likelihood` is {bad[numbers[0]]} for row {numbers[0]} where chain {chain} starts, at "
        f"{subject.describe(subject.starts[chain])}; it is not finite there for {len(bad)} of {num_rows} rows "
        f"({named}), and no chain can start. {FLOAT64_HELPS if _is_finite_in_float64(subject, numbers[0]) else advice}"
    )


def _is_finite_in_float64(subject: Subject, row: int) -> bool:
    rows = cast_floats({name: array[row : row + 1] for name, array in subject.data.rows.items()}, np.float64)
    constants = cast_floats(subject.data.constants or {}, np.float64)
    flat = jnp.asarray(subject.starts[subject.first_chain])
    return bool(np.isfinite(subject.contributions_of("float64", flat, rows, constants)).all())


def screen_rows(subject: Subject) -> list[Note]:
    """Refuse what `check_rows_add_up` does, if two evaluations that are there anyway say that it should be asked."""
    among_some, among_others = subject.at_starts.contributions[subject.first_chain], subject.every_row.examined
    if np.allclose(among_some, among_others, rtol=_SCREENING_TOLERANCE, atol=_SCREENING_TOLERANCE):
        return []
    return check_rows_add_up(subject)


def check_rows_add_up(subject: Subject) -> list[Note]:
    """Refuse a likelihood in which a row's contribution depends on other rows or on padding."""
    flat = jnp.asarray(subject.finite_points[0])
    params = brief(lambda flat: subject.unconstrainer.constrain(flat)[0])(flat)
    rows = {name: jnp.asarray(array) for name, array in cast_floats(subject.some_data.rows, np.float64).items()}
    constants = {
        name: jnp.asarray(array) for name, array in cast_floats(subject.data.constants or {}, np.float64).items()
    }
    whole = np.asarray(brief(subject.model.log_likelihood)(params, {**rows, **constants}))
    parts = _contributions_by_blocks(subject, params, constants)
    tolerance = 1e-3 if whole.dtype.itemsize < 8 else 1e-8
    examined = subject.rows_examined()
    if whole.ndim == 0:
        _require_equal_sum(float(whole), float(parts.sum(dtype=np.float64)), tolerance * (1 + np.abs(parts).sum()))
        return [("ok", f"The sum equals that of single rows ({examined}).")]
    differs = ~np.isclose(whole, parts, rtol=tolerance, atol=tolerance, equal_nan=True)
    if differs.any():
        row = int(np.argmax(differs))
        length = "" if subject.data.lengths is None else f" of {subject.some_data.lengths[row]} steps"  # type: ignore[index]
        raise ModelError(
            f"The contribution of {subject.row_name(row)}{length} is {whole[row]:.6g} when it is evaluated among "
            f"{examined}, but {parts[row]:.6g} in its block, where other rows and less padding stand around it. A "
            "contribution must depend on its own row alone: use no mean, sum or normalisation over rows, and no step "
            "beyond a row's length."
        )
    return [("ok", f"Each row contributes the same in any block ({examined}).")]


def _require_equal_sum(whole: float, parts: float, tolerance: float) -> None:
    if not abs(whole - parts) <= tolerance:
        raise ModelError(
            f"`log_likelihood` returns {whole:.6g} for several rows together, but for the single rows values that "
            f"add up to {parts:.6g}. It must return the sum over rows: no mean, and no term that belongs to no row, "
            "such as a prior, which would be counted once a row; put that into `log_prior`."
        )


def _contributions_by_blocks(subject: Subject, params: Any, constants: dict[str, Array]) -> NumpyArray:
    """Return contributions in the order of rows, each evaluated in a block as a run would."""
    data = subject.some_data
    plan = plan_blocks(data, min(4, 1 << (data.num_rows.bit_length() - 1)))
    result = np.zeros(data.num_rows)

    def contributions(block: dict[str, Array]) -> Array:
        return row_contributions(subject.model, params, block, constants)

    packed = pack_blocks(data, plan, 0, plan.num_blocks)
    for bucket, numbers in zip(packed, row_numbers(plan, 0, plan.num_blocks), strict=True):
        values = brief(functools.partial(jax.lax.map, contributions))(cast_floats(bucket, np.float64))
        result[numbers[bucket[MASK]]] = np.asarray(values)[bucket[MASK]]
    return result


def _output_for_bucket(subject: Subject, length: int | None, num_rows: int) -> jax.ShapeDtypeStruct:
    dtype = likelihood_dtype(subject.spec.precision_in_force)

    def struct(shape: tuple[int, ...], given: Any) -> jax.ShapeDtypeStruct:
        return shape_struct(shape, dtype if given.kind == "f" else given)

    rows = {}
    for name, array in subject.data.rows.items():
        tail = array.shape[1:]
        if name in (subject.data.ragged or ()):
            tail = (length, *tail[1:])
        rows[name] = struct((num_rows, *tail), array.dtype)
    constants = {name: struct(array.shape, array.dtype) for name, array in (subject.data.constants or {}).items()}
    params = {name: shape_struct(shape, dtype) for name, shape in subject.unconstrainer.shapes.items()}
    return likelihood_output(subject.model, params, rows, constants)


def _require_finite_prior(subject: Subject) -> None:
    """Name the prior, or the term beside them, that is not finite at one of the points."""

    def terms(flat: Array) -> tuple[dict[str, Array], Array, Array]:
        params, log_abs_det = subject.unconstrainer.constrain(flat)
        priors = {
            name: jnp.sum(parameter.log_prob(params[name]))
            for name, parameter in subject.model.parameters.items()
            if not isinstance(parameter, Parameter)
        }
        return priors, log_prior_density(subject.model, params), log_abs_det

    # One after the other: whether JAX can map over chains what a model calls is the matter of a later check.
    priors, total, log_abs_det = brief(functools.partial(jax.lax.map, terms))(subject.points)
    for name, values in priors.items():
        _require_finite(
            subject,
            values,
            f"The prior `{type(subject.model.parameters[name]).__name__}` of parameter `{name}`",
            "Are its own parameters possible, for instance its scale positive?",
            name,
        )
    _require_finite(subject, total, "`log_prior`", "It must be finite wherever the supports allow a value.")
    _require_finite(
        subject,
        log_abs_det,
        "The change to unconstrained coordinates",
        "A chain cannot start on the boundary of a support; give `initial` values inside.",
    )


def _require_finite(subject: Subject, values: Array, what: str, advice: str, only: str | None = None) -> None:
    bad = np.flatnonzero(~np.isfinite(np.asarray(values)))
    if len(bad):
        where = subject.describe(subject.points[bad[0]], only)
        raise ModelError(f"{what} has log-density {values[bad[0]]} at {where}, where a chain would start. {advice}")
