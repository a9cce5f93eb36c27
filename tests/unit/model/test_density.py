"""Log-densities: contributions of rows however the likelihood returns them, exact masks, and the serial oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from distmc.data.blocks import MASK, pack_blocks, plan_blocks
from distmc.data.data import Data
from distmc.errors import ModelError
from distmc.model.density import (
    cast_floats,
    likelihood_dtype,
    likelihood_output,
    log_prior_density,
    masked_contributions,
    row_contributions,
    serial_logdensity,
)
from distmc.model.model import Model, Parameter
from distmc.model.transforms import Unconstrainer

PARAMS = {"intercept": jnp.float32(0.3), "slope": jnp.array([0.5, -1.0], jnp.float32), "scale": jnp.float32(0.8)}


def with_likelihood(model, function):
    return Model(model.parameters, function, model.log_prior)


def contributions_of(model, params, rows, constants):
    """Return what rows contribute, compiled as one program: each operation by itself takes longer."""
    return jax.jit(lambda params: row_contributions(model, params, rows, constants))(params)


def test_prior_density_is_the_sum_of_priors_and_the_extra_term(linear_model):
    priors = {**linear_model.parameters, "flat": Parameter((2,)), "batch": dist.Dirichlet(np.full((2, 3), 2.0))}
    model = Model(priors, linear_model.log_likelihood, lambda params: -params["scale"])
    params = {**PARAMS, "flat": jnp.ones(2), "batch": jnp.array([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])}

    @jax.jit
    def expected():
        return (
            dist.Normal(0, 5).log_prob(0.3)
            + dist.Normal(0, 1).log_prob(jnp.array([0.5, -1.0])).sum()
            + dist.HalfNormal(1).log_prob(0.8)
            + dist.Dirichlet(np.full(3, 2.0)).log_prob(params["batch"]).sum()
            - 0.8
        )

    actual = jax.jit(lambda params: log_prior_density(model, params))(params)
    assert actual.shape == ()
    np.testing.assert_allclose(actual, expected(), rtol=1e-6)


@pytest.mark.parametrize(
    ("log_prior", "message"),
    [
        (lambda params: params["slope"], r"`log_prior` returned shape \(2,\).*sum its terms"),
        (lambda params: None, "`log_prior` returned `None`"),
        (lambda params: 1, "`log_prior` returned type `int64`"),
        (lambda params: params["slop"], "`log_prior` raised KeyError"),
    ],
)
def test_a_bad_log_prior_has_its_own_message(linear_model, log_prior, message):
    model = Model(linear_model.parameters, linear_model.log_likelihood, log_prior)
    with pytest.raises(ModelError, match=message):
        log_prior_density(model, PARAMS)


def test_contributions_call_the_likelihood_once_for_all_rows(linear_model, linear_data):
    sizes = []

    def likelihood(params, data):
        sizes.append(data["y"].shape)
        return linear_model.log_likelihood(params, data)

    result = contributions_of(with_likelihood(linear_model, likelihood), PARAMS, linear_data.rows, {})
    np.testing.assert_allclose(result, jax.jit(linear_model.log_likelihood)(PARAMS, linear_data.rows), rtol=1e-12)
    assert set(sizes) == {(50,)}


def test_a_sum_is_taken_apart_into_rows(linear_model, linear_data):
    model = with_likelihood(linear_model, lambda params, data: linear_model.log_likelihood(params, data).sum())
    expected = contributions_of(linear_model, PARAMS, linear_data.rows, {})
    np.testing.assert_allclose(contributions_of(model, PARAMS, linear_data.rows, {}), expected, rtol=1e-12)


@pytest.mark.parametrize("as_sum", [False, True])
def test_contributions_under_jit_and_vmap_over_chains_keep_float32(linear_model, linear_data, as_sum):
    model = linear_model
    if as_sum:
        model = with_likelihood(model, lambda params, data: linear_model.log_likelihood(params, data).sum())
    rows = cast_floats(linear_data.rows, np.float32)
    chains = {
        name: np.stack([value, value * 1.5, value * 2]) for name, value in jax.tree.map(np.asarray, PARAMS).items()
    }
    result = jax.jit(jax.vmap(lambda params: row_contributions(model, params, rows, {})))(chains)
    assert result.shape == (3, 50)
    assert result.dtype == jnp.float32
    result, chains = jax.tree.map(np.asarray, (result, chains))
    for chain in range(3):
        params = {name: value[chain] for name, value in chains.items()}
        np.testing.assert_allclose(result[chain], jax.jit(linear_model.log_likelihood)(params, rows), rtol=1e-4)


def test_the_likelihood_sees_rows_and_constants_but_no_mask_and_can_index_by_traced_values(linear_model):
    seen = {}

    def likelihood(params, data):
        seen.update(data)
        state = jnp.argmax(params["slope"])
        return data["table"][state] + data["y"][jnp.array([1, 0])] * params["scale"]

    rows = {"y": np.array([1.0, 2.0]), MASK: np.array([True, False])}
    result = contributions_of(with_likelihood(linear_model, likelihood), PARAMS, rows, {"table": np.array([5.0, 7.0])})
    assert set(seen) == {"y", "table"}
    np.testing.assert_allclose(result, [6.6, 5.8], rtol=1e-6)


def test_one_row_as_a_vector_and_as_a_sum(linear_model, linear_data):
    rows = {name: value[:1] for name, value in linear_data.rows.items()}
    assert likelihood_output(linear_model, PARAMS, rows, {}).shape == (1,)
    summed = with_likelihood(linear_model, lambda params, data: linear_model.log_likelihood(params, data).sum())
    assert likelihood_output(summed, PARAMS, rows, {}).shape == ()
    assert contributions_of(summed, PARAMS, rows, {}).shape == (1,)


def raising(params, data):
    raise RuntimeError("no such thing\nsecond line")


BAD_LIKELIHOODS = {
    "column": (lambda p, d: d["y"][:, None], r"shape \(50, 1\) for 50 rows; it must return the \(50,\) contributions"),
    "other length": (lambda p, d: d["y"][:7], r"shape \(7,\) for 50 rows"),
    "nothing": (lambda p, d: None, "returned `None`.*Is a `return` missing"),
    "tuple": (lambda p, d: (d["y"], 1.0), "returned a `tuple`; it must return one array"),
    "integers": (lambda p, d: jnp.round(d["y"]).astype(int), "type `int64`.*real number"),
    "complex": (lambda p, d: d["y"] + 1j, "type `complex128`"),
    "booleans": (lambda p, d: d["y"] > 0, "type `bool`"),
    "raises": (raising, r"`log_likelihood` raised RuntimeError .*: no such thing\. It was given"),
    "unknown name": (lambda p, d: p["slops"], "raised KeyError.*'slops'. This name is not among"),
    "python if": (lambda p, d: d["y"] if p["scale"] > 1 else -d["y"], r"TracerBoolConversionError.*jnp\.where"),
    "numpy function": (lambda p, d: np.exp(d["y"]) * p["scale"], r"TracerArrayConversionError.*jax\.numpy"),
    "sum, but not of one row": (
        lambda p, d: d["y"].sum() if len(d["y"]) > 1 else d["y"],
        r"one number for many rows but shape \(1,\) for a single row",
    ),
}


@pytest.mark.parametrize("case", BAD_LIKELIHOODS)
def test_a_bad_likelihood_has_its_own_message(linear_model, linear_data, case):
    function, message = BAD_LIKELIHOODS[case]
    with pytest.raises(ModelError, match=message):
        row_contributions(with_likelihood(linear_model, function), PARAMS, linear_data.rows, {})


def test_an_exception_is_chained_and_shapes_are_told(linear_model, linear_data):
    with pytest.raises(ModelError) as caught:
        row_contributions(with_likelihood(linear_model, raising), PARAMS, linear_data.rows, {"k": np.int8(1)})
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "{intercept: float32[], scale: float32[], slope: float32[2]}" in str(caught.value)
    assert "x: float64[50, 2]" in str(caught.value)
    assert "k: int8[]" in str(caught.value)


def test_padding_adds_exactly_nothing_to_value_and_gradient(linear_model, linear_data):
    plan = plan_blocks(linear_data, 16)
    (packed,) = pack_blocks(linear_data, plan, 0, 16)
    params = cast_floats(PARAMS, np.float64)

    @jax.jit
    @jax.value_and_grad
    def total(params, block):
        return masked_contributions(linear_model, params, block, {}).sum()

    empty = {name: value[15] for name, value in packed.items()}
    assert not empty[MASK].any()
    value, gradient = total(params, empty)
    assert float(value) == 0.0
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))
    partly = {name: value[12] for name, value in packed.items()}
    assert 0 < partly[MASK].sum() < len(partly[MASK])
    real = {name: value[partly[MASK]] for name, value in partly.items()}
    gradients = (total(params, block)[1] for block in (partly, real))
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_casting_changes_reals_only():
    tree = {"a": np.ones(2), "b": np.ones(2, np.int8), "c": np.array([True]), "d": jnp.ones((), jnp.float32)}
    cast = cast_floats(tree, likelihood_dtype("mixed"))
    assert {name: str(value.dtype) for name, value in cast.items()} == {
        "a": "float32",
        "b": "int8",
        "c": "bool",
        "d": "float32",
    }
    assert cast_floats(tree, likelihood_dtype("float64"))["d"].dtype == np.float64


def by_hand(model, data):
    def logdensity(flat):
        params, log_abs_det = Unconstrainer(model).constrain(flat)
        rows = {name: jnp.asarray(value) for name, value in data.rows.items()}
        return log_prior_density(model, params) + log_abs_det + model.log_likelihood(params, rows).sum()

    return logdensity


@pytest.mark.parametrize("num_blocks", [1, 2, 16, 64])
def test_the_oracle_equals_the_plain_formula(linear_model, linear_data, num_blocks):
    logdensity = serial_logdensity(linear_model, linear_data, plan_blocks(linear_data, num_blocks))
    flat = jnp.asarray(np.random.default_rng(1).normal(size=4))
    value, gradient = jax.jit(jax.value_and_grad(logdensity))(flat)
    expected_value, expected_gradient = jax.jit(jax.value_and_grad(by_hand(linear_model, linear_data)))(flat)
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10)


def test_mixed_precision_is_close_to_but_not_float64(linear_model, linear_data):
    plan = plan_blocks(linear_data)
    flat = jnp.asarray(np.random.default_rng(1).normal(size=4))
    exact, mixed = (
        jax.jit(serial_logdensity(linear_model, linear_data, plan, precision))(flat)
        for precision in ("float64", "mixed")
    )
    assert mixed.dtype == jnp.float64
    assert 0 < abs(float(mixed - exact)) < 1e-4 * abs(float(exact))


def test_ragged_rows_give_the_same_sum_in_any_buckets():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 10, 80)
    data = Data(rows={"x": rng.normal(size=(80, 9)), "n": lengths}, length="n")

    def likelihood(params, data):
        steps = jnp.arange(data["x"].shape[1])
        terms = dist.Normal(params["mean"], 1.0).log_prob(data["x"])
        return jnp.where(steps < data["n"][:, None], terms, 0).sum(axis=1)

    model = Model({"mean": dist.Normal()}, likelihood)
    flat = jnp.array([0.4])
    expected = jax.jit(by_hand(model, data))(flat)
    for num_blocks in (1, 4, 32):
        plan = plan_blocks(data, num_blocks)
        np.testing.assert_allclose(jax.jit(serial_logdensity(model, data, plan))(flat), expected, rtol=1e-12)
