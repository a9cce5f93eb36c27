"""What a user's function returns, found out without computing it, and what to say when it raises."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from distmc.errors import ModelError

_TRACEBACK = "Traceback (most recent call last):"


def shape_struct(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Return an array without values."""
    return jax.ShapeDtypeStruct(shape, dtype)


def abstract(tree: Any) -> Any:
    """Return a tree of arrays without their values."""
    return jax.tree.map(lambda leaf: shape_struct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def output_of(what: str, function: Callable[..., Any], *arguments: Mapping[str, Any]) -> Any:
    """Return shape and type of a user function's result.

    Raises
    ------
    ModelError
        If the function raises, with the shapes that it was given; chained to its exception.
    """
    shapes = abstract(arguments)
    try:
        return jax.eval_shape(lambda given: function(*given), shapes)
    except Exception as error:
        given = " and ".join(describe(argument) for argument in shapes)
        raise ModelError(
            f"`{what}` raised {type(error).__name__} while distmc traced it to find the shape of its result: "
            f"{first_line(error)}{_advice(error)} It was given {given}."
        ) from error


def require_real(what: str, output: Any, needed: str) -> jax.ShapeDtypeStruct:
    """Return `output` if it is one array of real numbers.

    Raises
    ------
    ModelError
        For nothing, several values, or values that are not floating-point.
    """
    if output is None:
        raise ModelError(f"`{what}` returned `None`; it must return {needed}. Is a `return` missing?")
    if not isinstance(output, jax.ShapeDtypeStruct):
        raise ModelError(f"`{what}` returned a `{type(output).__name__}`; it must return one array: {needed}.")
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise ModelError(
            f"`{what}` returned type `{output.dtype}`; it must return {needed}, of a floating-point type, because a "
            "log-density is a real number."
        )
    return output


def describe(variables: Mapping[str, Any]) -> str:
    """Return names, types and shapes in words, such as ``{word: int8[782, 6]}``."""
    return "{" + ", ".join(f"{name}: {x.dtype}{list(x.shape)}" for name, x in variables.items()) + "}"


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message as a sentence.

    What a function outside of JAX has raised comes as a traceback; its first line that is not indented counts there.
    """
    lines = str(error).strip().splitlines()
    if lines and lines[0].endswith(_TRACEBACK):
        lines = [line for line in lines[1:] if not line.startswith(" ")]
    text = next(iter(lines), "no message")
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _advice(error: Exception) -> str:
    if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError):
        return " Values are not known while JAX traces a function: use `jnp.where`, `jax.lax.cond` and `jax.numpy`."
    if isinstance(error, KeyError):
        return " This name is not among what it is given."
    return ""


def raised(what: str, where: str, error: Exception) -> ModelError:
    """Return the error of a model that raises where it is evaluated."""
    return ModelError(
        f"{what} raised {type(error).__name__} {where}: {first_line(error)} Usually a function that the model calls "
        "outside of JAX does that, or a derivative that it defines itself."
    )
