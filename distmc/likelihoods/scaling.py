"""Scale factors that are powers of two.

The forward recursion of a hidden Markov model shrinks at every step and has to be scaled (Rabiner 1989, section V.A).
Any factor will do as long as its logarithm is accounted for. Here it is the power of two next to the current sum:
multiplying by it is exact, no division and no logarithm is computed per step, and the log-scale of a whole sequence
is one integer, which no number of steps and no size of the log-likelihood can round.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from distmc.types import Array


class _Format(NamedTuple):
    integer: type
    mantissa_bits: int
    bias: int
    target: int  # the exponent that sums are scaled to


# Sums are kept a little above one: a state is lost only when it is less likely than the others by about 2**-140
# (float32) or 2**-1150 (float64), and a product with the backward variable, which is bounded, stays finite.
_FORMATS = {
    np.dtype(np.float32): _Format(np.int32, 23, 127, 16),
    np.dtype(np.float64): _Format(np.int64, 52, 1023, 128),
}


def power_of_two(total: Array) -> tuple[Array, Array]:
    """Return the power of two that brings `total` near the target, and the exponent it takes out.

    Parameters
    ----------
    total : Array
        Sums, zero or positive, float32 or float64.

    Returns
    -------
    factor : Array
        Power of two in the type of `total`. It is finite for every input: zero stays zero, NaN stays NaN.
    exponent : Array
        int32, with ``factor == 2.0**-exponent`` exactly.
    """
    form = _FORMATS[np.dtype(total.dtype)]
    bits = lax.bitcast_convert_type(total, form.integer)
    biased = jnp.clip(2 * form.bias + form.target - (bits >> form.mantissa_bits), 1, 2 * form.bias)
    factor = lax.bitcast_convert_type((biased << form.mantissa_bits).astype(form.integer), total.dtype)
    return factor, (form.bias - biased).astype(jnp.int32)


def log_of_scaled(total: Array, exponent: Array) -> Array:
    """Return ``log(total * 2**exponent)``, in float64 where JAX has it enabled.

    The mantissa's logarithm, between zero and log 2, is taken in the type of `total`; the integer exponents are
    added before anything is rounded.
    """
    form = _FORMATS[np.dtype(total.dtype)]
    bits = lax.bitcast_convert_type(total, form.integer)
    mantissa_mask = (1 << form.mantissa_bits) - 1
    mantissa_bits = (bits & mantissa_mask) | (form.bias << form.mantissa_bits)
    mantissa = lax.bitcast_convert_type(mantissa_bits.astype(form.integer), total.dtype)
    whole = exponent + ((bits >> form.mantissa_bits) - form.bias).astype(jnp.int32)
    wide = widest_float()
    value = jnp.log(mantissa).astype(wide) + whole.astype(wide) * math.log(2.0)
    normal = (total >= np.finfo(total.dtype).tiny) & (total < jnp.inf)
    # Zero, infinity and NaN have no mantissa; their own logarithm says what they are.
    return jnp.where(normal, value, jnp.log(total).astype(wide) + exponent.astype(wide) * math.log(2.0))


def widest_float() -> np.dtype[np.floating]:
    """Return float64 where JAX has it enabled, else float32."""
    return jnp.zeros((), jnp.result_type(float)).dtype
