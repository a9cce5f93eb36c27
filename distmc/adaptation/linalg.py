"""Factorisations of symmetric matrices, written as loops of elementwise arithmetic and products.

Those of the linear algebra library give other last bits for another number of threads. These run a handful of times
in a run, once for each window of warm-up.
"""

import jax.numpy as jnp
from jax import lax

from distmc.types import Array

_ROOT_TOLERANCE = 1e-7
_MOST_ROOT_STEPS = 60
_DEPENDENT = 1e-9


def cholesky(matrix: Array) -> Array:
    """Return the lower Cholesky factor of a symmetric positive definite matrix, column by column."""
    rows = jnp.arange(matrix.shape[0])

    def eliminate(column: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        remaining, factor = carry
        entries = jnp.where(rows >= column, remaining[:, column], 0.0) / jnp.sqrt(remaining[column, column])
        return remaining - jnp.outer(entries, entries), factor.at[:, column].set(entries)

    factor: Array = lax.fori_loop(0, matrix.shape[0], eliminate, (matrix, jnp.zeros_like(matrix)))[1]
    return factor


def invert_lower(factor: Array) -> Array:
    """Return the inverse of a lower triangular matrix, row by row."""
    identity = jnp.eye(factor.shape[0], dtype=factor.dtype)

    def substitute(row: Array, inverse: Array) -> Array:
        # Rows of the inverse from here on are still zero, so the whole row of the factor may take part.
        return inverse.at[row].set((identity[row] - factor[row] @ inverse) / factor[row, row])

    inverse: Array = lax.fori_loop(0, factor.shape[0], substitute, jnp.zeros_like(factor))
    return inverse


def inverse_root(matrix: Array) -> Array:
    """Return the inverse square root of a symmetric positive definite matrix, by products alone.

    References
    ----------
    Higham (2008), Functions of Matrices, section 6.7: the coupled Newton-Schulz iteration.
    """
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    # No eigenvalue is larger, so that those of the scaled matrix lie between 0 and 1.
    bound = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))

    def is_unfinished(carry: tuple[Array, Array, Array, Array]) -> Array:
        count, _, _, error = carry
        return (count < _MOST_ROOT_STEPS) & (error > _ROOT_TOLERANCE)

    def improve(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        count, root, inverse, _ = carry
        error = identity - inverse @ root
        correction = identity + 0.5 * error
        return count + 1, root @ correction, correction @ inverse, jnp.sqrt(jnp.sum(error**2))

    start = (jnp.zeros((), jnp.int32), matrix / bound, identity, jnp.full((), jnp.inf, matrix.dtype))
    inverse = lax.while_loop(is_unfinished, improve, start)[2]
    return 0.5 * (inverse + inverse.T) / jnp.sqrt(bound)


def orthonormal_columns(vectors: Array) -> Array:
    """Return an orthonormal basis of what the columns (size, count) span; columns that add nothing become zero."""

    def clean(column: Array, basis: Array) -> Array:
        vector = basis[:, column]
        before = jnp.sqrt(jnp.sum(vector**2))
        others = jnp.where(jnp.arange(basis.shape[1]) < column, basis, 0.0)
        # Once is not enough where little is left, twice is (Giraud, Langou, Rozložník 2005).
        for _ in range(2):
            vector = vector - others @ (vector @ others)
        left = jnp.sqrt(jnp.sum(vector**2))
        is_new = left > _DEPENDENT * before
        return basis.at[:, column].set(jnp.where(is_new, vector / jnp.where(is_new, left, 1.0), 0.0))

    basis: Array = lax.fori_loop(0, vectors.shape[1], clean, vectors)
    return basis
