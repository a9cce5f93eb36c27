"""Log-densities of a model: priors, contributions of rows, and the plain serial sum of both.

The serial sum is the oracle: every distributed evaluation must equal it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distmc.data.blocks import MASK, BlockPlan, pack_blocks
from distmc.data.data import Data
from distmc.errors import ModelError
from distmc.model.abstract import output_of, require_real, shape_struct
from distmc.model.model import Model, Parameter
from distmc.model.transforms import Unconstrainer
from distmc.spec import Precision
from distmc.types import Array, ConstrainedParameters


def log_prior_density(model: Model, params: ConstrainedParameters) -> Array:
    """Return the log-density of all priors at the constrained parameters of one chain, a scalar.

    Priors that are `Parameter` count as 0. The Jacobian of the change to unconstrained coordinates is not part of
    it; `Unconstrainer.constrain` gives that.

    Raises
    ------
    ModelError
        If `log_prior` raises, or does not return one real number.
    """
    total = jnp.zeros((), dtype=jnp.result_type(float))
    for name, parameter in model.parameters.items():
        if not isinstance(parameter, Parameter):
            total = total + jnp.sum(parameter.log_prob(params[name]))
    if model.log_prior is None:
        return total
    output = require_real("log_prior", output_of("log_prior", model.log_prior, dict(params)), "one real number")
    if output.shape != ():
        raise ModelError(f"`log_prior` returned shape {output.shape}; it must return one number: sum its terms.")
    return total + jnp.asarray(model.log_prior(dict(params)))


def likelihood_output(
    model: Model, params: ConstrainedParameters, rows: Mapping[str, Any], constants: Mapping[str, Any]
) -> jax.ShapeDtypeStruct:
    """Return shape and type of what the log-likelihood gives for these rows, without computing it.

    Parameters
    ----------
    params, constants : mapping of array or `jax.ShapeDtypeStruct`
        Parameters of one chain, and constants.
    rows : mapping of array or `jax.ShapeDtypeStruct`, each (num_rows, ...)
        Row variables; the mask of padding is left aside.

    Returns
    -------
    output : jax.ShapeDtypeStruct
        Real; of shape (num_rows,), or () where the likelihood returns a sum.

    Raises
    ------
    ModelError
        If the log-likelihood raises, or returns anything else.
    """
    observed = _without_mask(rows)
    num_rows = next(iter(observed.values())).shape[0]
    needed = f"the ({num_rows},) contributions of its {num_rows} rows, or their sum"
    returned = output_of("log_likelihood", model.log_likelihood, dict(params), {**observed, **constants})
    output = require_real("log_likelihood", returned, needed)
    if output.shape == ():
        _require_sum_of_one_row(model, params, observed, constants)
    elif output.shape != (num_rows,):
        raise ModelError(
            f"`log_likelihood` returned shape {output.shape} for {num_rows} rows; it must return {needed}. Sum over "
            "all axes but the first, or over all."
        )
    return output


def row_contributions(
    model: Model, params: ConstrainedParameters, rows: Mapping[str, Any], constants: Mapping[str, Any]
) -> Array:
    """Return each row's contribution to the log-likelihood of one chain.

    Where the log-likelihood returns contributions it is called once. Where it returns their sum, it is mapped over
    single rows, so that padding can still be removed exactly. Works under `jax.jit`, and under `jax.vmap` over
    chains with rows that are not batched.

    Parameters
    ----------
    params : mapping of array
        Constrained parameters of one chain.
    rows : mapping of array, each (num_rows, ...)
        Row variables of one block; the mask of padding, if among them, is left aside.
    constants : mapping of array
        What goes to every row.

    Returns
    -------
    contributions : float array (num_rows,)
        Of the type that the log-likelihood computes in. Padding is not removed; see `masked_contributions`.

    Raises
    ------
    ModelError
        If the log-likelihood raises, or returns neither contributions nor a sum.
    """
    observed = _without_mask(rows)
    output = likelihood_output(model, params, observed, constants)
    # NumPy arrays cannot be indexed by traced values, which a log-likelihood may well do.
    observed, constants = jax.tree.map(jnp.asarray, (observed, dict(constants)))
    if output.shape != ():
        return jnp.asarray(model.log_likelihood(dict(params), {**observed, **constants}))

    def contribution(row: dict[str, Array]) -> Array:
        single = {name: value[None] for name, value in row.items()}
        return jnp.asarray(model.log_likelihood(dict(params), {**single, **constants}))

    return jax.vmap(contribution)(observed)


def masked_contributions(
    model: Model, params: ConstrainedParameters, block: Mapping[str, Any], constants: Mapping[str, Any]
) -> Array:
    """Return `row_contributions` of one bucket of one block with an exact zero for padding.

    Parameters
    ----------
    block : mapping of array, each (num_rows, ...)
        Row variables and the mask, as `pack_blocks` makes them, of one block.
    """
    return jnp.where(block[MASK], row_contributions(model, params, block, constants), 0)


def likelihood_dtype(precision: Precision) -> Any:
    """Return the floating-point type in which rows are evaluated."""
    return np.float32 if precision == "mixed" else np.float64


def cast_floats(tree: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Return the variables with all real ones in the given floating-point type; others stay as they are.

    This is the one place where `mixed` precision gives up digits: apply it to constrained parameters, rows and
    constants alike, because a single float64 among them would make JAX compute all in float64.
    """

    def cast(value: Any) -> Any:
        is_real = jnp.issubdtype(jnp.result_type(value), jnp.floating)
        return value.astype(dtype) if is_real and value.dtype != dtype else value

    return {name: cast(value) for name, value in tree.items()}


def serial_logdensity(
    model: Model, data: Data, plan: BlockPlan, precision: Precision = "float64"
) -> Callable[[Array], Array]:
    """Build the log-density of a model in one process: slow, readable, and what all others must equal.

    Parameters
    ----------
    model, data : Model, Data
        What is sampled.
    plan : BlockPlan
        Division of the rows; it changes the order of the sum, not its value.
    precision : {"float64", "mixed"}
        Type in which rows are evaluated; they are always added in float64.

    Returns
    -------
    logdensity : callable
        From (num_dimensions,) unconstrained coordinates to a scalar: priors, log-likelihood of all rows, and the
        logarithm of the Jacobian. Call it under ``jax.enable_x64(True)``.
    """
    unconstrainer = Unconstrainer(model)
    dtype = likelihood_dtype(precision)
    constants = cast_floats(data.constants or {}, dtype)
    packed = [cast_floats(bucket, dtype) for bucket in pack_blocks(data, plan, 0, plan.num_blocks)]

    def logdensity(flat: Array) -> Array:
        params, log_abs_det = unconstrainer.constrain(flat)
        total = log_prior_density(model, params) + log_abs_det
        params = cast_floats(params, dtype)

        def block_sum(block: dict[str, Array]) -> Array:
            return jnp.sum(masked_contributions(model, params, block, constants), dtype=jnp.float64)

        for bucket in packed:
            total = total + jnp.sum(jax.lax.map(block_sum, bucket))
        return total

    return logdensity


def _without_mask(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rows.items() if name != MASK}


def _require_sum_of_one_row(
    model: Model, params: ConstrainedParameters, rows: Mapping[str, Any], constants: Mapping[str, Any]
) -> None:
    single = {name: shape_struct((1, *value.shape[1:]), value.dtype) for name, value in rows.items()}
    returned = output_of("log_likelihood", model.log_likelihood, dict(params), {**single, **constants})
    output = require_real("log_likelihood", returned, "a sum also when it is given a single row")
    if output.shape != ():
        raise ModelError(
            f"`log_likelihood` returned one number for many rows but shape {output.shape} for a single row; a sum is "
            "evaluated row by row, so that padding can be removed, and must then be one number too."
        )
