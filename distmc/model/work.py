"""How much of a program's arithmetic is done in double precision, read off its trace."""

import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from jax.extend import core


def float64_share(program: core.ClosedJaxpr) -> float:
    """Return the share of floating-point work that a traced program does in float64.

    Work is counted as numbers produced, times the length of the sum for a matrix product and the number of rounds
    for a `scan`; a `while` loop counts as one round. Meant to tell a likelihood that computes in float64 from one that
    computes in float32 and only adds in float64.
    """
    double, total = _work(program.jaxpr)
    return double / total if total else 0.0


def _work(jaxpr: core.Jaxpr) -> tuple[float, float]:
    double = total = 0.0
    for equation in jaxpr.eqns:
        inner = [_work(part) for setting in equation.params.values() for part in _programs(setting)]
        if inner:
            rounds = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            double += rounds * sum(part[0] for part in inner)
            total += rounds * sum(part[1] for part in inner)
            continue
        outputs: list[Any] = [variable.aval for variable in equation.outvars]
        for output in outputs:
            if jnp.issubdtype(output.dtype, jnp.floating):
                work = math.prod(output.shape) * _sum_length(equation)
                total += work
                double += work * (output.dtype.itemsize > 4)
    return double, total


def _programs(setting: Any) -> Iterator[core.Jaxpr]:
    if isinstance(setting, core.ClosedJaxpr):
        yield setting.jaxpr
    elif isinstance(setting, core.Jaxpr):
        yield setting
    elif isinstance(setting, tuple | list):
        for item in setting:
            yield from _programs(item)


def _sum_length(equation: Any) -> int:
    if equation.primitive.name != "dot_general":
        return 1
    (contracted, _), _ = equation.params["dimension_numbers"]
    return math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
