"""What a model computes, as one hash, so that a run is never continued with another model by accident.

A model's functions have no name that could be trusted, so the hash is taken over the programs that JAX traces
from them: the priors, the map to the supports, and the log-likelihood with its gradient, together with the values
of every array that they close over.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.extend import core

from distmc.data.data import Data
from distmc.data.facts import combine
from distmc.model.abstract import shape_struct
from distmc.model.density import log_prior_density, row_contributions
from distmc.model.model import Model, Parameter
from distmc.model.transforms import Unconstrainer

# Traced with this many rows: the number says nothing about the model, and one row hides what depends on it.
_NUM_ROWS = 2

# Settings of an operation may print as the address of an object, which no two processes share; versions of JAX differ
# in whether they hide it.
_ADDRESS = re.compile(r"(?: at)? 0x[0-9a-fA-F]+")


def fingerprint(model: Model, data: Data) -> str:
    """Return a SHA-256 of what the model computes on data of these names, types and shapes, as hexadecimal text.

    Stable between processes and machines; comparable under the same versions of JAX and NumPyro, whose traced
    programs it hashes. Changes with the parameters' names, order, shapes, supports and priors, with what
    `log_likelihood` and `log_prior` compute, with the value of any array they close over, and with
    `is_differentiable`. The data's values have a fingerprint of their own, `Data.fingerprint`. Of a function that is
    called with ``jax.pure_callback`` only the name is seen, not what it computes.

    Parameters
    ----------
    model : Model
        The model.
    data : Data
        Gives names, types and shapes of the variables; the number of rows does not matter.

    Raises
    ------
    ModelError
        If one of the model's functions cannot be traced.
    """
    return combine(facts(model, data))


def facts(model: Model, data: Data) -> dict[str, str]:
    """Return what the fingerprint is taken of, part by part, so that two models can be told apart in words.

    Returns
    -------
    facts : dict of str
        By the name of the part: words where there are some, ``sha256:...`` where only a hash can say it.
    """
    with jax.enable_x64(True):
        unconstrainer = Unconstrainer(model)
        params = {name: shape_struct(shape, jnp.float64) for name, shape in unconstrainer.shapes.items()}
        found = {"the parameters": ", ".join(model.parameters)}
        for name, parameter in model.parameters.items():
            found[f"`{name}`"] = f"{_kind(parameter)} of shape {unconstrainer.shapes[name]}"
            found[f"the support of `{name}`"] = _of_support(unconstrainer, name)
            if not isinstance(parameter, Parameter):
                found[f"the prior of `{name}`"] = _of_programs((parameter.log_prob, params[name]))
        found["the priors together with `log_prior`"] = _of_programs(
            (lambda params: log_prior_density(model, params), params)
        )
        found["`is_differentiable`"] = str(model.is_differentiable)
        found["`log_likelihood`, or an array that it uses,"] = _of_likelihood(model, data, params)
    return found


def _kind(parameter: Any) -> str:
    """Return the name of a prior, looking into those that only give another one a shape."""
    while isinstance(parameter, dist.ExpandedDistribution | dist.Independent):
        parameter = parameter.base_dist
    return "flat" if isinstance(parameter, Parameter) else type(parameter).__name__


def _of_support(unconstrainer: Unconstrainer, name: str) -> str:
    flat = shape_struct(unconstrainer.unconstrained_shapes[name], jnp.float64)
    return _of_programs((lambda flat: unconstrainer.constrain_one(name, flat), flat))


def _of_likelihood(model: Model, data: Data, params: dict[str, Any]) -> str:
    rows = {name: shape_struct((_NUM_ROWS, *array.shape[1:]), array.dtype) for name, array in data.rows.items()}
    constants = {name: shape_struct(array.shape, array.dtype) for name, array in (data.constants or {}).items()}

    def log_likelihood(params: Any, rows: Any, constants: Any) -> Any:
        return jnp.sum(row_contributions(model, params, rows, constants))

    # The gradient is part of the model where a function brings its own, as `jax.custom_vjp` allows.
    computed = jax.value_and_grad(log_likelihood) if model.is_differentiable else log_likelihood
    return _of_programs((computed, params, rows, constants))


def _of_programs(*calls: tuple[Any, ...]) -> str:
    """Return a hash of functions, each with the shapes of its arguments."""
    digest = hashlib.sha256()
    for function, *arguments in calls:
        _add_program(digest, function, *arguments)
    return f"sha256:{digest.hexdigest()}"


def _add_program(digest: "hashlib._Hash", function: Callable[..., Any], *arguments: Any) -> None:
    closed = jax.make_jaxpr(function)(*arguments)
    # In a terminal JAX would colour the text.
    text = closed.pretty_print(use_color=False)
    digest.update(_ADDRESS.sub("", text).encode())
    for value in _array_values(closed):
        digest.update(f"{value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())


def _array_values(part: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the values of all arrays inside a program, in the order of the program, sub-programs included."""
    if isinstance(part, core.ClosedJaxpr):
        for constant in part.consts:
            yield np.asarray(constant)
        yield from _array_values(part.jaxpr)
    elif isinstance(part, core.Jaxpr):
        for equation in part.eqns:
            yield from _literal_values(equation.invars)
            for _, setting in sorted(equation.params.items()):
                yield from _array_values(setting)
        yield from _literal_values(part.outvars)
    elif isinstance(part, tuple | list):
        for item in part:
            yield from _array_values(item)
    elif isinstance(part, np.ndarray | jax.Array):
        yield np.asarray(part)


def _literal_values(operands: Any) -> Iterator[np.ndarray[Any, Any]]:
    for operand in operands:
        if isinstance(operand, core.Literal):
            yield np.asarray(operand.val)
