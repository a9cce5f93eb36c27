"""One arithmetic for programs that are compiled for different numbers of devices.

A compiler works out what it can from numbers in a program's text and from arrays that it closes over: it takes their
logarithms with another library than the one used at run time, and divides by what is repeated by multiplying by its
reciprocal. When it does so depends on how many devices the program is for, and with it the last bits of results. So
programs are rewritten before they are compiled: every real number that they know is chosen at run time, by a
condition that never holds and that no compiler can see through, every array of them comes out of a branch that it
decides on, and every quotient is a product with a reciprocal.
Scalars that follow from such numbers alone, a logarithm say, are computed once, outside of all loops. A table from
which more entries are taken than it has, as logarithms of a few probabilities for many rows, is computed before.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var, jaxpr_as_fun

from distmc.types import Array, PyTree

# Arithmetic with these is exact, whoever does it; functions of them, named below, are not.
_EXACT = (0.0, 1.0, -1.0)
_ROUNDED = frozenset(
    "acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt cos cosh digamma erf erf_inv erfc exp exp2 "
    "expm1 igamma igammac lgamma log log1p logistic polygamma pow regularized_incomplete_beta rsqrt sin sinh sqrt tan "
    "tanh zeta".split()
)
# Names that JAX gives to calls of functions, and where it keeps what they call. Derivatives have been taken, and chains
# put together.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
_REPEATED_OR_CHOSEN = ("while", "scan", "cond")


def canonical(function: Callable[..., PyTree], never: Callable[..., Array]) -> Callable[..., PyTree]:
    """Return `function` in a form that compilers leave alone.

    Parameters
    ----------
    function : callable
        From pytrees of arrays to a pytree of arrays; can be traced by JAX. Derivatives in it have been taken: those of
        the result are of no use.
    never : callable
        From the same arguments to a bool scalar that is False, and not known to be so before the program runs.

    Notes
    -----
    Communication: that of `function`.
    Invariance: what `function` computes, up to rounding.
    """

    def rewritten(*arguments: PyTree) -> PyTree:
        program, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _Evaluation(program, never(*arguments)).of(program, jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return rewritten


def isolated(never: Array) -> Callable[[Callable[..., PyTree]], Callable[..., PyTree]]:
    """Make a function of arrays a part of its own, which compilers do not merge with what stands around it.

    Parameters
    ----------
    never : bool scalar
        False, and not known to be so before the program runs.

    Notes
    -----
    Products and sums that stand together are rounded once, those that stand apart twice; what stands together must not
    depend on what is done with the result.
    """

    def decorate(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        # A call, so that it is traced once.
        called = jax.jit(lambda *arguments: function(*arguments))

        def nothing(*arguments: Array) -> PyTree:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(called, *arguments))

        return lambda *arguments: lax.cond(never, nothing, called, *arguments)

    return decorate


class _Evaluation:
    """Evaluates programs with hidden numbers and without quotients."""

    def __init__(self, program: ClosedJaxpr, never: Array) -> None:
        self._never = never
        self._special = {
            "while": self._while,
            "scan": self._scan,
            "cond": self._cond,
            "div": self._quotient,
            "gather": self._gather,
        }
        self._numbers = self._chosen_together(_numbers(program.jaxpr))
        self._arrays = self._out_of_a_branch(_arrays(program))
        # By the identity of equations, which live as long as the program does.
        self._settled: dict[int, list[Any]] = {}
        self._of_made_tables: set[int] = set()
        self._visited: set[int] = set()
        self._visit(program.jaxpr)

    def of(self, program: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        """Return the results of `program` for these inputs."""
        jaxpr = program.jaxpr
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(self._hide, program.consts), strict=True))
        values |= zip(jaxpr.invars, inputs, strict=True)

        known: set[Any] = set()

        def read(atom: Any) -> Any:
            return self._hide(atom.val) if isinstance(atom, Literal) else values[atom]

        def is_known(atom: Any) -> bool:
            return _is_exact(atom.val) if isinstance(atom, Literal) else atom in known

        for equation in jaxpr.eqns:
            if id(equation) in self._settled:
                values.update(zip(equation.outvars, self._settled[id(equation)], strict=True))
                continue
            operands, name = [read(atom) for atom in equation.invars], equation.primitive.name
            if name in _ROUNDED:
                pairs = zip(operands, equation.invars, strict=True)
                operands = [self._chosen(value) if is_known(atom) else value for value, atom in pairs]
            elif all(map(is_known, equation.invars)):
                known.update(equation.outvars)
            values.update(zip(equation.outvars, self._results(equation, operands), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _results(self, equation: Any, operands: list[Any]) -> list[Any]:
        """Return the results of one equation."""
        name = equation.primitive.name
        if name in _CALLS:
            return self.of(_closed(equation.params[_CALLS[name]]), operands)
        return self._special.get(name, _as_it_is)(equation, operands)

    def _visit(self, jaxpr: Any) -> None:
        """Compute what follows from numbers in the text alone, whose uses may stand in loops and branches."""
        if id(jaxpr) in self._visited:
            return
        self._visited.add(id(jaxpr))
        settled: dict[Any, Any] = {}
        made: set[int] = set()
        for equation in jaxpr.eqns:
            if _is_settled(equation, settled):
                operands = [
                    self._chosen(atom.val) if isinstance(atom, Literal) else settled[atom] for atom in equation.invars
                ]
                self._settled[id(equation)] = self._results(equation, operands)
                settled.update(zip(equation.outvars, self._settled[id(equation)], strict=True))
            elif equation.primitive.name == "gather" and id(equation.invars[0]) in made:
                self._of_made_tables.add(id(equation))
            else:
                for program in _entered(equation):
                    self._visit(program.jaxpr)
            made.update(map(id, equation.outvars))

    def _hide(self, value: Any) -> Any:
        """Return a value that the compiler knows as one that it does not know."""
        if isinstance(value, jax.core.Tracer) or not _is_real(value):
            return value
        if np.ndim(value) == 0:
            number = self._numbers.get(_key(value))
            return value if number is None else number()
        return self._arrays[id(value)]

    def _chosen_together(self, values: dict[tuple[str, float], Any]) -> dict[tuple[str, float], Callable[[], Array]]:
        """Choose all numbers of a type at once, outside all loops: a program has dozens of them."""
        found: dict[tuple[str, float], Callable[[], Array]] = {}
        for dtype in dict.fromkeys(dtype for dtype, _ in values):
            keys = [key for key in values if key[0] == dtype]
            together = lax.optimization_barrier(self._chosen(np.stack([values[key] for key in keys])))
            found |= {
                key: functools.partial(lax.index_in_dim, together, place, keepdims=False)
                for place, key in enumerate(keys)
            }
        return found

    def _out_of_a_branch(self, values: dict[int, Any]) -> dict[int, Array]:
        """Hide arrays, outside all loops; where one is chosen, one device alone still knows what it is chosen from."""
        if not values:
            return {}
        hidden = isolated(self._never)(lambda: [jnp.asarray(value) for value in values.values()])()
        return dict(zip(values, hidden, strict=True))

    def _chosen(self, value: Any) -> Array:
        if not _is_real(value):
            return jnp.asarray(value)
        return lax.select(jnp.broadcast_to(self._never, np.shape(value)), _no_numbers(value), jnp.asarray(value))

    def _quotient(self, equation: Any, operands: list[Any]) -> list[Any]:
        numerator, divisor = operands
        if not _is_real(divisor):
            return _as_it_is(equation, operands)
        known = _known_reciprocal(equation)
        reciprocal = lax.integer_pow(jnp.asarray(divisor), -1) if known is None else self._hide(known)
        return [jnp.multiply(numerator, reciprocal)]

    def _gather(self, equation: Any, operands: list[Any]) -> list[Any]:
        """Take entries of a table; one that the program makes a compiler would compute again for each entry taken."""
        table, *places = operands
        outnumber = equation.outvars[0].aval.size > equation.invars[0].aval.size
        if outnumber and _is_real(table) and id(equation) in self._of_made_tables:
            table = isolated(self._never)(lambda table: table)(table)
        return _as_it_is(equation, [table, *places])

    def _while(self, equation: Any, operands: list[Any]) -> list[Any]:
        params = equation.params
        first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        of_condition, of_body, start = operands[:first], operands[first:second], operands[second:]
        return list(
            lax.while_loop(
                lambda carry: self.of(params["cond_jaxpr"], [*of_condition, *carry])[0],
                lambda carry: self.of(params["body_jaxpr"], [*of_body, *carry]),
                start,
            )
        )

    def _scan(self, equation: Any, operands: list[Any]) -> list[Any]:
        params = equation.params
        first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
        constants, start, rows = operands[:first], operands[first:second], operands[second:]

        def body(carry: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
            results = self.of(params["jaxpr"], [*constants, *carry, *row])
            return results[: len(start)], results[len(start) :]

        carry, kept = lax.scan(
            body, start, rows, length=params["length"], reverse=params["reverse"], unroll=params["unroll"]
        )
        return [*carry, *kept]

    def _cond(self, equation: Any, operands: list[Any]) -> list[Any]:
        index, *arguments = operands
        branches = [lambda *inputs, branch=branch: self.of(branch, inputs) for branch in equation.params["branches"]]
        return list(lax.switch(jnp.asarray(index, jnp.int32), branches, *arguments))


def _no_numbers(value: Any) -> Array:
    """Return what is no number, as an array like `value`; with signs in turn, lest an array of equals be a scalar.

    A sum over what a compiler knows to repeat becomes a product.
    """
    signs = np.where(np.arange(np.size(value)) % 2, -1.0, 1.0).reshape(np.shape(value))
    return jnp.asarray(np.copysign(np.nan, signs), jnp.result_type(value))


def _is_settled(equation: Any, settled: dict[Any, Any]) -> bool:
    """Say whether an equation maps real scalars to real scalars, all given as numbers in the text or in `settled`."""
    are_known = all(isinstance(atom, Literal) or atom in settled for atom in equation.invars)
    atoms = [*equation.invars, *equation.outvars]
    are_scalars = all(atom.aval.shape == () and jnp.issubdtype(atom.aval.dtype, jnp.floating) for atom in atoms)
    return bool(equation.invars) and are_known and are_scalars and _is_formula(equation)


def _is_formula(equation: Any) -> bool:
    """Say whether an equation does nothing but arithmetic that ends: no loops, and no functions of this process."""
    if equation.effects or "callback" in equation.primitive.name:
        return False
    if equation.primitive.name in _CALLS:
        return all(_is_formula(inner) for program in _entered(equation) for inner in program.jaxpr.eqns)
    return not any(_programs(equation))


def _entered(equation: Any) -> list[ClosedJaxpr]:
    """Return the programs of an equation that are rewritten, too."""
    if equation.primitive.name in _CALLS:
        return [_closed(equation.params[_CALLS[equation.primitive.name]])]
    return list(_programs(equation)) if equation.primitive.name in _REPEATED_OR_CHOSEN else []


def _programs(equation: Any) -> Iterator[ClosedJaxpr]:
    """Yield all programs that an equation has."""
    for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
        if _is_program(inner):
            yield _closed(inner)


def _arrays(program: ClosedJaxpr) -> dict[int, Any]:
    """Return the arrays of real numbers that a program and all that it calls have, by their identity."""
    literals = [atom.val for atom in _atoms(program.jaxpr) if isinstance(atom, Literal)]
    known = [value for value in [*program.consts, *literals] if not isinstance(value, jax.core.Tracer)]
    found = {id(value): value for value in known if _is_real(value) and np.ndim(value)}
    for equation in program.jaxpr.eqns:
        for inner in _entered(equation):
            found |= _arrays(inner)
    return found


def _atoms(jaxpr: Jaxpr) -> list[Any]:
    """Return all that the equations and results of a program read."""
    return [*jaxpr.outvars, *(atom for equation in jaxpr.eqns for atom in equation.invars)]


def _numbers(jaxpr: Any) -> dict[tuple[str, float], Any]:
    """Return the real numbers to be hidden: in the text of a program and of all that it calls, and reciprocals."""
    values = [atom.val for atom in _atoms(jaxpr) if isinstance(atom, Literal)]
    found = {_key(value): value for value in values if _is_real(value) and not _is_exact(value)}
    for equation in jaxpr.eqns:
        reciprocal = _known_reciprocal(equation)
        if reciprocal is not None and not _is_exact(reciprocal):
            found[_key(reciprocal)] = reciprocal
        for program in _programs(equation):
            found |= _numbers(program.jaxpr)
    return found


def _known_reciprocal(equation: Any) -> Any:
    """Return the reciprocal of the number by which an equation divides; None if none can be told beforehand."""
    if equation.primitive.name != "div" or not isinstance(equation.invars[1], Literal):
        return None
    divisor = equation.invars[1].val
    if np.ndim(divisor) or np.result_type(divisor) not in (np.float32, np.float64):
        return None
    # What is subnormal might count as 0 at run time. All else is rounded as here.
    smallest = np.finfo(divisor.dtype).tiny
    return np.reciprocal(divisor) if smallest <= abs(divisor) <= 1.0 / smallest else None


def _is_real(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.floating)


def _is_exact(number: Any) -> bool:
    """Say whether a number is left in the text: arithmetic with it is exact, or it is none to reckon with."""
    return not _is_real(number) or float(number) in _EXACT or not math.isfinite(number)


def _is_program(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr)


def _key(value: Any) -> tuple[str, float]:
    return str(value.dtype), float(value)


def _as_it_is(equation: Any, operands: list[Any]) -> list[Any]:
    names = [Var(atom.aval) for atom in equation.invars]
    part = _nothing().replace(
        invars=names, outvars=equation.outvars, eqns=[equation.replace(invars=names)], effects=equation.effects
    )
    return list(jaxpr_as_fun(ClosedJaxpr(part, []))(*operands))


@functools.cache
def _nothing() -> Jaxpr:
    """Return the program of no equation, from which others are made."""
    program: Jaxpr = jax.make_jaxpr(lambda: None)().jaxpr
    return program


def _closed(program: Any) -> ClosedJaxpr:
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, [])
