"""The rows of a log-likelihood in float32, and what all of them share in float64.

A number that all rows share, such as the logarithm of a scale, is rounded alike in all of them: an error of 1e-7
comes to whole nats over ten million rows and is another one at every position, while errors of the rows' own
arithmetic cancel. So what follows from parameters and constants alone is evaluated in float64. What rows need of it,
parameters among it, is rounded to float32 last, and this rounding is made good to first order, since the gradient at
the rounded values is at hand: ``f(v) = f(r) + <grad f(r), v - r>``, with the second order below 1e-14 for each
observation.

For that the log-likelihood is read as JAX's own program of it, a list of equations. Those that touch no row and mean
the same in both types are moved; what is left, loops and functions with gradients of their own among it, runs as it
was written.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun

from distmc.spec import Precision
from distmc.types import Array, ConstrainedParameters

Contributions: TypeAlias = Callable[[ConstrainedParameters, Mapping[str, Any], Mapping[str, Any]], Array]
"""From parameters of one chain, rows and constants to one number for each row."""

MOVABLE = frozenset(
    """abs acos acosh add  and asin asinh atan atan2 atanh broadcast_in_dim cbrt cholesky clamp
    concatenate convert_element_type copy cos cosh cumlogsumexp cummax cummin cumprod cumsum digamma div
    dot_general dynamic_slice eq erf erf_inv erfc exp exp2 expm1 gather ge gt igamma igammac integer_pow
    is_finite le lgamma log log1p logistic lt max min mul ne neg not or pad pow reduce_and reduce_max reduce_min
    reduce_or reduce_prod reduce_sum regularized_incomplete_beta reshape rev rsqrt scatter select_n sign sin
    sinh slice sqrt square squeeze stop_gradient sub tan tanh transpose triangular_solve""".split()
)
"""JAX's names of operations that mean the same in float32 and float64."""

_WITHOUT_SLOPE = ("sign", "stop_gradient")
_TYPE_SETTINGS = ("new_dtype", "preferred_element_type")


def contributions_and_gradient(
    contributions: Contributions,
    params: ConstrainedParameters,
    rows: Mapping[str, Any],
    constants: Mapping[str, Any],
    precision: Precision,
) -> tuple[Array, Array, ConstrainedParameters]:
    """Return all rows' contributions, their sum, and its gradient, for one chain.

    Parameters
    ----------
    contributions : callable
        The log-likelihood of rows.
    params : mapping of float64 array
        Constrained parameters.
    rows : mapping of array, each (num_rows, ...)
        Reals in the type that `precision` asks for.
    constants : mapping of array
        In the same type.
    precision : {"mixed", "float64"}
        Type in which rows are evaluated.

    Returns
    -------
    contributions : float array (num_rows,)
    total : float64 array ()
        Added in float64, and corrected for what rounding shared values did to it.
    gradient : mapping of float64 array
        Shaped as `params`. Under `mixed` it is that of the rounded values, which is good enough to steer by.
    """
    if precision == "float64":
        values, pull_back = jax.vjp(_as_written(contributions, params, rows, constants), params)
        return values, jnp.sum(values, dtype=jnp.float64), pull_back(jnp.ones_like(values))[0]
    divided = divide(contributions, params, rows, constants)
    exact, pull_back_shared, others = jax.vjp(divided.shared, params, has_aux=True)
    rounded = _rounded(exact, divided.dtypes)
    values, pull_back_rows = jax.vjp(lambda handed: divided.of_rows(handed, others), rounded)
    (slopes,) = pull_back_rows(jnp.ones_like(values))
    slopes = [slope.astype(jnp.float64) for slope in slopes]
    total = jnp.sum(values, dtype=jnp.float64)
    for before, after, slope in zip(exact, rounded, slopes, strict=True):
        change = (before - after) * slope
        # Infinities, as masks use them, have no rounding; what goes wrong shows in the contributions themselves.
        total = total + jnp.sum(jnp.where(jnp.isfinite(change), change, 0.0))
    return values, total, pull_back_shared(slopes)[0]


def contributions_of_rows(
    contributions: Contributions,
    params: ConstrainedParameters,
    rows: Mapping[str, Any],
    constants: Mapping[str, Any],
    precision: Precision,
) -> Array:
    """Return contributions (num_rows,) with the digits of `contributions_and_gradient`, which takes the same."""
    if precision == "float64":
        return _as_written(contributions, params, rows, constants)(params)
    divided = divide(contributions, params, rows, constants)
    exact, others = divided.shared(params)
    return divided.of_rows(_rounded(exact, divided.dtypes), others)


def sum_of_rows(
    contributions: Contributions, params: ConstrainedParameters, rows: Mapping[str, Any], constants: Mapping[str, Any]
) -> Array:
    """Return the sum of all rows' contributions for one chain without its gradient, float64.

    Takes what `contributions_and_gradient` takes; rows are evaluated in the type of what is given.
    """
    return jnp.sum(_as_written(contributions, params, rows, constants)(params), dtype=jnp.float64)


def _rounded(exact: list[Array], dtypes: list[Any]) -> list[Array]:
    """Return shared values rounded, so that no compiler takes rounding and widening again for nothing at all."""
    rounded: list[Array] = lax.optimization_barrier(
        [value.astype(dtype) for value, dtype in zip(exact, dtypes, strict=True)]
    )
    return rounded


class Divided(NamedTuple):
    """A log-likelihood in two halves.

    Attributes
    ----------
    shared : callable
        From float64 parameters to what rows need of them: a list of float64 arrays, and one of arrays that have no
        derivative and are taken as they are.
    dtypes : list of dtype
        What the float64 arrays have to be rounded to.
    of_rows : callable
        From these lists, the first one rounded, to contributions.
    """

    shared: Callable[[ConstrainedParameters], tuple[list[Array], list[Array]]]
    dtypes: list[Any]
    of_rows: Callable[[list[Array], list[Array]], Array]


def divide(
    contributions: Contributions,
    params: ConstrainedParameters,
    rows: Mapping[str, Any],
    constants: Mapping[str, Any],
) -> Divided:
    """Divide a log-likelihood into what parameters and constants decide and what touches rows.

    Takes what `contributions_and_gradient` takes; only the shapes of `params` are used.
    """
    single = {name: jax.ShapeDtypeStruct(value.shape, jnp.float32) for name, value in params.items()}
    program = _flat(contributions, single, rows, constants)
    jaxpr, inputs = program.jaxpr, iter(program.jaxpr.invars)
    param_vars, row_vars, constant_vars = ([next(inputs) for _ in group] for group in (params, rows, constants))
    fixed, moved, left, sloping = _sorted(jaxpr.eqns, param_vars, row_vars)

    known = dict(zip(jaxpr.constvars, _hidden(program.consts), strict=True))
    known |= zip(constant_vars, jax.tree.leaves(constants), strict=True)
    follows = _needed([*moved, *left], jaxpr.outvars, _made_by(fixed))
    known |= zip(follows, _function(jaxpr, fixed, [*known], follows)(*known.values()), strict=True)

    handed = _needed(left, jaxpr.outvars, [*param_vars, *_made_by(moved)])
    reals, others = [var for var in handed if var in sloping], [var for var in handed if var not in sloping]
    evaluate_left = _function(jaxpr, left, [*reals, *others, *row_vars, *known], jaxpr.outvars)

    def shared(params: ConstrainedParameters) -> tuple[list[Array], list[Array]]:
        values = known | dict(zip(param_vars, jax.tree.leaves(params), strict=True))
        for equation in moved:
            values[equation.outvars[0]] = _in_float64(equation, values)
        return [values[var] for var in reals], [values[var].astype(var.aval.dtype) for var in others]

    def of_rows(reals: list[Array], others: list[Array]) -> Array:
        return jnp.asarray(evaluate_left(*reals, *others, *jax.tree.leaves(rows), *known.values())[0])

    return Divided(shared, [var.aval.dtype for var in reals], of_rows)


class _Sorted(NamedTuple):
    """Equations by what they depend on, each list in the order of the program.

    Attributes
    ----------
    fixed, moved, left : list of equation
        On constants alone; on parameters and no row, and moved; all others.
    sloping : set of variable
        What changes smoothly with parameters. Rows may be unable to say how they depend on anything else.
    """

    fixed: list[Any]
    moved: list[Any]
    left: list[Any]
    sloping: set[Any]


def _sorted(equations: Sequence[Any], param_vars: list[Any], row_vars: list[Any]) -> _Sorted:
    fixed, moved, left, sloping = result = _Sorted([], [], [], set(param_vars))
    of_params, of_rows = set(param_vars), set(row_vars)
    num_rows = row_vars[0].aval.shape[0]
    for equation in equations:
        needs = _variables(equation.invars)
        if needs.isdisjoint(of_params | of_rows) and not equation.effects:
            fixed.append(equation)
        elif needs.isdisjoint(of_rows) and _can_move(equation, num_rows):
            moved.append(equation)
            of_params.update(equation.outvars)
            if equation.primitive.name not in _WITHOUT_SLOPE and not needs.isdisjoint(sloping):
                sloping.update(filter(_is_real, equation.outvars))
        else:
            if equation.primitive.name == "div" and sloping & _variables(equation.invars[1:]):
                inversion, equation = _by_reciprocal(equation)
                moved.append(inversion)
                of_params.update(inversion.outvars)
                sloping.update(inversion.outvars)
            left.append(equation)
            of_rows.update(equation.outvars)
    return result


def _by_reciprocal(division: Any) -> tuple[Any, Any]:
    """Return a division of rows by a shared number as the number's inversion and a product.

    A compiler may do the same, and the reciprocal is then one more shared number, which it would round unseen.
    """
    numerator, divisor = division.invars
    reciprocal = Var(divisor.aval)
    inversion = _equation(lambda value: lax.integer_pow(value, -1), [divisor], [reciprocal])
    return inversion, _equation(lax.mul, [numerator, reciprocal], division.outvars)


def _equation(function: Callable[..., Array], inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """Return the one equation of a function with these variables."""
    structs = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in inputs]
    (equation,) = jax.make_jaxpr(function)(*structs).eqns
    return equation.replace(invars=[*inputs], outvars=[*outputs])


def _can_move(equation: Any, num_rows: int) -> bool:
    if equation.primitive.name not in MOVABLE:
        return False
    # A number that is repeated for every row is cheaper to repeat where it is used.
    size, *sizes = (math.prod(atom.aval.shape) for atom in (equation.outvars[0], *equation.invars))
    return size <= sum(sizes) or num_rows not in equation.outvars[0].aval.shape


def _in_float64(equation: Any, values: Mapping[Any, Any]) -> Array:
    def wide(atom: Any) -> Any:
        value = atom.val if isinstance(atom, Literal) else values[atom]
        return jnp.asarray(value, jnp.float64) if _is_real(atom) else value

    settings = dict(equation.params)
    for name in _TYPE_SETTINGS:
        if settings.get(name) is not None and jnp.issubdtype(settings[name], jnp.floating):
            settings[name] = jnp.dtype(jnp.float64)
    result: Array = equation.primitive.bind(*map(wide, equation.invars), **settings)
    return result


def _flat(function: Callable[..., Any], *arguments: Any) -> ClosedJaxpr:
    """Trace a function, with the equations of compiled functions in place of their calls."""
    program = jax.make_jaxpr(function)(*arguments)
    return jax.make_jaxpr(lambda *inputs: _inlined(program, inputs))(*jax.tree.leaves(arguments))


def _inlined(program: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    jaxpr = program.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*program.consts, *inputs], strict=True))

    def read(atoms: Sequence[Any]) -> list[Any]:
        return [atom.val if isinstance(atom, Literal) else values[atom] for atom in atoms]

    for equation in jaxpr.eqns:
        operands = read(equation.invars)
        if equation.primitive.name == "jit":
            results = _inlined(equation.params["jaxpr"], operands)
        else:
            needs = [atom for atom in equation.invars if isinstance(atom, Var)]
            results = _function(jaxpr, [equation], needs, equation.outvars)(*read(needs))
        values.update(zip(equation.outvars, results, strict=True))
    return read(jaxpr.outvars)


def _as_written(
    contributions: Contributions, params: ConstrainedParameters, rows: Mapping[str, Any], constants: Mapping[str, Any]
) -> Callable[[ConstrainedParameters], Array]:
    """Return a log-likelihood as a function of parameters, with the arrays that it closes over hidden."""
    program = _flat(contributions, params, rows, constants)
    evaluate = jaxpr_as_fun(ClosedJaxpr(program.jaxpr, _hidden(program.consts)))
    return lambda params: jnp.asarray(evaluate(*jax.tree.leaves((params, rows, constants)))[0])


def _hidden(constants: Sequence[Any]) -> list[Any]:
    """Hide arrays that a log-likelihood closes over from the compiler.

    It rewrites arithmetic on arrays that it knows, and not in the same way in programs for other numbers of workers.
    """
    return [*lax.optimization_barrier([*constants])]


def _function(jaxpr: Jaxpr, equations: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """Return some of a program's equations as a function."""
    part = jaxpr.replace(constvars=[], invars=[*inputs], outvars=[*outputs], eqns=[*equations])
    return jaxpr_as_fun(ClosedJaxpr(part, []))


def _made_by(equations: Sequence[Any]) -> list[Any]:
    return [var for equation in equations for var in equation.outvars]


def _needed(equations: Sequence[Any], results: Sequence[Any], among: Sequence[Any]) -> list[Any]:
    """Return those variables that equations or the results need."""
    needed = _variables([*results, *(atom for equation in equations for atom in equation.invars)])
    return [var for var in among if var in needed]


def _variables(atoms: Sequence[Any]) -> set[Any]:
    """Return what is not written out as a number."""
    return {atom for atom in atoms if isinstance(atom, Var)}


def _is_real(atom: Any) -> bool:
    return bool(jnp.issubdtype(atom.aval.dtype, jnp.floating))
