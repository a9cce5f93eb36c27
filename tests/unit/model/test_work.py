"""The share of work in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.model.work import float64_share

SINGLE = np.ones(100, np.float32)
DOUBLE = np.ones(100)


def share(function, *arguments):
    return float64_share(jax.make_jaxpr(function)(*arguments))


@pytest.mark.parametrize(("value", "expected"), [(SINGLE, 0.0), (DOUBLE, 1.0), (np.ones(100, np.int32), 0.0)])
def test_programs_of_one_type(value, expected):
    assert share(lambda x: x * x + x, value) == expected


def test_half_and_half_also_inside_other_programs():
    def both(x, y):
        return jnp.multiply(x, x), jnp.multiply(y, y)

    assert share(both, SINGLE, DOUBLE) == 0.5
    assert share(jax.jit(both), SINGLE, DOUBLE) == 0.5


def test_rounds_of_a_scan_and_terms_of_a_product_count():
    def scanned(x, y):
        return jax.lax.scan(lambda carry, _: (carry * carry, None), x, None, length=9)[0], y * y

    assert share(scanned, SINGLE, DOUBLE) == pytest.approx(0.1)

    def product(x, y):
        return x @ x, y * y

    assert share(product, np.ones((10, 10), np.float32), DOUBLE) == pytest.approx(100 / 1100)


def test_a_gradient_of_its_own_is_looked_into():
    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, cotangent: (2 * x * cotangent,))
    assert share(square, DOUBLE) == 1.0


def test_a_program_without_reals_has_no_share():
    assert share(lambda x: x, np.int32(1)) == 0.0
