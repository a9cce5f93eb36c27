"""Unconstrained coordinates: inverse of each other, with the log-determinant that the numerical Jacobian has."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from distmc.errors import ModelError
from distmc.model.model import Model, Parameter
from distmc.model.transforms import Unconstrainer

constraints = dist.constraints


def all_of(value):
    return value.reshape(-1)


def all_but_last(value):
    return value[..., :-1].reshape(-1)


def lower(value):
    return value[..., *np.tril_indices(value.shape[-1])].reshape(-1)


def strictly_lower(value):
    return value[..., *np.tril_indices(value.shape[-1], -1)].reshape(-1)


def in_zero_sum_basis(value):
    """Return coordinates in an orthonormal basis of the vectors that sum to zero."""
    size = value.shape[-1]
    basis = np.linalg.svd(np.eye(size) - 1 / size)[0][:, :-1]
    return (value @ basis).reshape(-1)


# Constraint, shape, and the free coordinates of a value on the support.
CASES = {
    "real": (constraints.real, (2,), all_of),
    "real vector": (constraints.real_vector, (3,), all_of),
    "real matrix": (constraints.real_matrix, (2, 2), all_of),
    "independent": (constraints.independent(constraints.positive, 1), (3,), all_of),
    "positive": (constraints.positive, (), all_of),
    "nonnegative": (constraints.nonnegative, (2,), all_of),
    "greater than": (constraints.greater_than(2.0), (2,), all_of),
    "greater or equal": (constraints.greater_than_eq(-1.0), (2,), all_of),
    "less than": (constraints.less_than(2.0), (2,), all_of),
    "less or equal": (constraints.less_than_eq(np.array([1.0, 2.0])), (2,), all_of),
    "unit interval": (constraints.unit_interval, (2,), all_of),
    "interval": (constraints.interval(np.array([-1.0, 0.0]), np.array([1.0, 9.0])), (2,), all_of),
    "open interval": (constraints.open_interval(-1.0, 3.0), (), all_of),
    "circular": (constraints.circular, (2,), all_of),
    "softplus positive": (constraints.softplus_positive, (2,), all_of),
    "l1 ball": (constraints.l1_ball, (3,), all_of),
    "ordered": (constraints.ordered_vector, (3,), all_of),
    "positive ordered": (constraints.positive_ordered_vector, (2, 3), all_of),
    "simplex": (constraints.simplex, (4,), all_but_last),
    "batch of simplexes": (constraints.simplex, (2, 3), all_but_last),
    "independent simplexes": (constraints.independent(constraints.simplex, 1), (2, 3), all_but_last),
    "zero sum": (constraints.zero_sum(1), (4,), in_zero_sum_basis),
    "lower cholesky": (constraints.lower_cholesky, (3, 3), lower),
    "scaled unit lower cholesky": (constraints.scaled_unit_lower_cholesky, (3, 3), lower),
    "softplus lower cholesky": (constraints.softplus_lower_cholesky, (2, 2), lower),
    "positive definite": (constraints.positive_definite, (3, 3), lower),
    "positive semidefinite": (constraints.positive_semidefinite, (2, 2), lower),
    "correlation cholesky": (constraints.corr_cholesky, (3, 3), strictly_lower),
    "batch of correlation cholesky": (constraints.corr_cholesky, (2, 3, 3), strictly_lower),
    "correlation matrix": (constraints.corr_matrix, (3, 3), strictly_lower),
    "concatenated": (constraints.cat([constraints.positive, constraints.unit_interval], 0, [1, 2]), (3,), all_of),
}


def unconstrainer_of(support, shape):
    return Unconstrainer(Model({"x": Parameter(shape, support)}, lambda params, data: 0.0))


@pytest.mark.parametrize("case", CASES)
def test_log_determinant_equals_the_jacobian_and_the_map_has_an_inverse(case):
    support, shape, free = CASES[case]
    unconstrainer = unconstrainer_of(support, shape)

    # One program for all that is asked: compiling each operation by itself takes three times as long.
    @jax.jit
    def there_and_back(flat):
        params, log_abs_det = unconstrainer.constrain(flat)
        jacobian = jax.jacfwd(lambda flat: free(unconstrainer.constrain(flat)[0]["x"]))(flat)
        # Behind a barrier, so that no map is cancelled against its inverse.
        kept = jax.lax.optimization_barrier(params)
        return params["x"], log_abs_det, jnp.all(support(kept["x"])), jacobian, unconstrainer.unconstrain(kept)

    for seed in (0, 1):
        flat = jnp.asarray(np.random.default_rng(seed).uniform(-1.5, 1.5, unconstrainer.num_dimensions))
        x, log_abs_det, is_inside, jacobian, back = there_and_back(flat)
        assert x.shape == shape
        assert x.dtype == jnp.float64
        assert bool(is_inside)
        assert jacobian.shape == (len(flat), len(flat))
        assert log_abs_det.shape == ()
        np.testing.assert_allclose(log_abs_det, np.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(back, flat, rtol=1e-6, atol=1e-6)


def test_every_bijection_of_numpyro_is_among_the_cases():
    covered = {type(support) for support, _, _ in CASES.values()}
    registered = set(dist.transforms.biject_to._registry)
    assert registered - covered <= {type(constraints.complex)}


def test_density_after_the_change_of_variables_integrates_to_one():
    unconstrainer = Unconstrainer(Model({"p": dist.Beta(2.0, 3.0)}, lambda params, data: 0.0))

    @jax.jit
    def density(grid):
        params, log_abs_det = jax.vmap(unconstrainer.constrain)(grid)
        return jnp.exp(dist.Beta(2.0, 3.0).log_prob(params["p"]) + log_abs_det)

    grid = np.linspace(-30, 30, 20_001)[:, None]
    assert float(np.sum(density(grid)) * 60 / 20_000) == pytest.approx(1.0, abs=1e-8)


def test_coordinates_follow_the_order_of_parameters():
    model = Model(
        {"z": dist.Normal(), "a": dist.Dirichlet(np.ones((2, 3))), "m": dist.LogNormal().expand([2])},
        lambda params, data: 0.0,
    )
    unconstrainer = Unconstrainer(model)
    assert unconstrainer.num_dimensions == 7
    assert unconstrainer.num_constrained == 9
    assert unconstrainer.shapes == {"z": (), "a": (2, 3), "m": (2,)}
    assert unconstrainer.coordinate_names == ("z", "a[0,0]", "a[0,1]", "a[1,0]", "a[1,1]", "m[0]", "m[1]")
    flat = jnp.arange(7.0)
    params, _ = unconstrainer.constrain(flat)
    assert float(params["z"]) == 0.0
    np.testing.assert_allclose(params["m"], np.exp([5.0, 6.0]))


def test_chains_are_mapped_over():
    unconstrainer = unconstrainer_of(constraints.simplex, (3,))
    flat = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)))
    params, log_abs_det = jax.jit(jax.vmap(unconstrainer.constrain))(flat)
    assert params["x"].shape == (5, 3)
    assert log_abs_det.shape == (5,)


@pytest.mark.parametrize("params", [{}, {"x": np.ones(2)}])
def test_unconstraining_wants_every_parameter_in_its_shape(params):
    with pytest.raises(ModelError, match=r"Parameter `x` was given .*; a value has the shape \(3,\)"):
        unconstrainer_of(constraints.simplex, (3,)).unconstrain(params)
