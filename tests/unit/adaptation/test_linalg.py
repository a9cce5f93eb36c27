"""Factorisations by our own loops equal those of the library."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.linalg import cholesky, inverse_root, invert_lower, orthonormal_columns


def definite(size: int, condition: float = 1e2) -> Any:
    """Return a random symmetric matrix whose eigenvalues lie between 1 / condition and 1."""
    axes = np.linalg.qr(np.random.default_rng(size).normal(size=(size, size)))[0]
    return axes * np.logspace(-np.log10(condition), 0.0, size) @ axes.T


@pytest.mark.parametrize("size", [1, 2, 17])
def test_triangular_factor_and_its_inverse(size: int) -> None:
    matrix = definite(size)
    factor = jax.jit(cholesky)(jnp.asarray(matrix))
    np.testing.assert_allclose(factor, np.linalg.cholesky(matrix), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        jax.jit(invert_lower)(factor), np.linalg.inv(np.linalg.cholesky(matrix)), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e10])
@pytest.mark.parametrize("size", [1, 17])
def test_inverse_root_undoes_the_matrix_when_used_twice(size: int, condition: float) -> None:
    matrix = 7.0 * definite(size, condition)
    root = jax.jit(inverse_root)(jnp.asarray(matrix))
    np.testing.assert_array_equal(root, root.T)
    np.testing.assert_allclose(root @ matrix @ root, np.eye(size), atol=1e-15 * condition + 1e-9)


@pytest.mark.parametrize("broken", [[[1.0, 0.0], [0.0, -1.0]], [[np.nan, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_inverse_root_ends_where_there_is_none(broken: Any) -> None:
    root = jax.jit(inverse_root)(jnp.asarray(broken))
    assert not np.all(np.isfinite(root)) or not np.allclose(root @ np.array(broken) @ root, np.eye(2))


def test_columns_become_orthonormal_and_span_the_same() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 4)) * [1e-8, 1.0, 1e8, 1.0]
    basis = np.asarray(jax.jit(orthonormal_columns)(jnp.asarray(vectors)))
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(basis @ (basis.T @ vectors), vectors, rtol=1e-9)


def test_columns_that_add_nothing_become_zero() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 9))
    vectors = np.stack([first, second, first - 3.0 * second, np.zeros(9), first], axis=1)
    basis = np.asarray(jax.jit(orthonormal_columns)(jnp.asarray(vectors)))
    np.testing.assert_allclose(basis.T @ basis, np.diag([1.0, 1.0, 0.0, 0.0, 0.0]), atol=1e-14)
