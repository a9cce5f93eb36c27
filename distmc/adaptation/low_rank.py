"""Few directions in which a target differs most from a diagonal metric, found in kept draws.

Positions spread furthest along the widest directions of the target, gradients along the narrowest. The leading
directions of both, after the coordinates have been scaled, span the subspace in which a low-rank metric is dense.

References
----------
Seyboldt, Carlson, Carpenter (2026), Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence.
arXiv:2603.18845.
Halko, Martinsson, Tropp (2011), Finding structure with randomness, algorithm 4.4. arXiv:0909.4061.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from distmc.adaptation.linalg import orthonormal_columns
from distmc.adaptation.window import Window
from distmc.types import Array

_ITERATIONS = 8


class Subspace(NamedTuple):
    """A subspace, and how the target spreads in it.

    Attributes
    ----------
    basis : float64 array (num_dimensions, size)
        Orthonormal columns, some of them zero where draws span less.
    spread : float64 array (size, size)
        Covariance of scaled positions.
    grad_spread : float64 array (size, size) or None
        Covariance of scaled gradients.
    count : float64 scalar
        Draws that both are made of.
    """

    basis: Array
    spread: Array
    grad_spread: Array | None
    count: Array  # type: ignore[assignment]


def leading_subspace(window: Window, scale: Array, grad_scale: Array, rank: int) -> Subspace:
    """Find the directions along which scaled positions and scaled gradients spread most.

    Parameters
    ----------
    window : Window
        With kept ensembles.
    scale, grad_scale : float64 array (num_dimensions,)
        What positions and gradients are multiplied by; 0 for coordinates that take no part.
    rank : int
        Directions that positions have, and as many more for gradients.
    """
    kept = window.ensembles
    assert kept is not None
    count = jnp.sum(kept.weight)

    def standardised(vectors: Array, mean: Array, scale: Array) -> Array:
        rows = kept.weight[:, :, None] * (vectors - mean) * scale / jnp.sqrt(jnp.maximum(count, 1.0))
        return rows.reshape(-1, scale.size)

    samples, scales = [standardised(kept.position, window.position.mean, scale)], [scale]
    if kept.grad is not None and window.grad is not None:
        samples.append(standardised(kept.grad, window.grad.mean, grad_scale))
        scales.append(grad_scale)
    leading = jax.vmap(lambda rows: _leading_directions(rows, rank))(jnp.stack(samples))
    basis = orthonormal_columns(jnp.concatenate(list(leading), axis=1))
    # Where columns are zero the target counts as standard normal, and along coordinates that take no part.
    unused = jnp.diag(1.0 - jnp.sum(basis**2, axis=0))

    def spread_of(rows: Array, scale: Array) -> Array:
        along, absent = rows @ basis, jnp.where(scale[:, None] == 0.0, basis, 0.0)
        return along.T @ along + absent.T @ absent + unused

    spread, *others = [spread_of(rows, scale) for rows, scale in zip(samples, scales, strict=True)]
    return Subspace(basis, spread, others[0] if others else None, count)


def _leading_directions(rows: Array, rank: int) -> Array:
    """Return an orthonormal basis (num_dimensions, rank) close to the leading singular vectors of (count, dimensions).

    Iteration begins with sums of rows under signs of a Walsh matrix, which are exact numbers, unlike random ones.
    """
    row, column = jnp.arange(rows.shape[0])[:, None], jnp.arange(1, rank + 1)[None, :]
    signs = 1.0 - 2.0 * (lax.population_count(row & column) & 1).astype(rows.dtype)

    def improve(_: Array, basis: Array) -> Array:
        return orthonormal_columns(rows.T @ (rows @ basis))

    basis: Array = lax.fori_loop(0, _ITERATIONS, improve, orthonormal_columns(rows.T @ signs))
    return basis
