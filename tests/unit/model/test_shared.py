"""Rows in float32, and what all of them share in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax
from jax.extend.core import primitives
from jax.scipy import linalg, special

from distmc.likelihoods import hmm
from distmc.model import shared
from distmc.model.density import row_contributions
from distmc.model.model import Model
from distmc.model.shared import MOVABLE, contributions_and_gradient, divide

pytestmark = pytest.mark.usefixtures("optimised")

NUM_ROWS = 20_000
A = np.array([0.3, 0.8])
ONES = {"x": np.ones(4, np.float32)}
SQUARE = np.array([[2.0, 0.3], [0.3, 1.0]], np.float32)


def reals_in(dtype, tree):
    """Return all reals in one type."""
    return jax.tree.map(lambda x: np.asarray(x, dtype) if np.asarray(x).dtype.kind == "f" else x, tree)


def compiled(contributions, rows=ONES, constants=None):
    """Return sums and gradients under `mixed` and under `float64` precision, of the same rows, as one function."""
    single = reals_in(np.float32, (rows, constants or {}))
    double = reals_in(np.float64, single)

    @jax.jit
    def both(params):
        return [
            contributions_and_gradient(contributions, params, *inputs, precision)[1:]
            for inputs, precision in ((single, "mixed"), (double, "float64"))
        ]

    return lambda params: jax.tree.map(np.asarray, both(reals_in(np.float64, params)))


def both(contributions, params, rows=ONES, constants=None):
    return compiled(contributions, rows, constants)(params)


def require_close(contributions, params, rows=ONES, constants=None, *, rtol):
    (value, grad), (exact, exact_grad) = both(contributions, params, rows, constants)
    assert value.dtype == np.float64
    np.testing.assert_allclose(value, exact, rtol=rtol)
    for name in params:
        assert grad[name].dtype == np.float64
        np.testing.assert_allclose(grad[name], exact_grad[name], rtol=100 * rtol, atol=100 * rtol)


def handed(contributions, params, rows=ONES, constants=None):
    """Return what is evaluated in float64 and handed to rows."""
    divided = divide(contributions, params, *reals_in(np.float32, (rows, constants or {})))
    return divided.shared(jax.tree.map(jnp.asarray, params))


# Each returns something of A, and all operations that are moved occur.
OPERATIONS = {
    "elementary": lambda a: jnp.exp(-a) * jnp.log(a) + jnp.sqrt(a) / jnp.tanh(a) - jnp.abs(a - 0.5) + a**3 + a**a,
    "powers": lambda a: jnp.exp2(a) + jnp.expm1(a) + jnp.log1p(a) + jnp.cbrt(a) + lax.rsqrt(a) + jnp.square(a),
    "circular": lambda a: jnp.sin(a) + jnp.cos(a) + jnp.tan(a) + lax.asin(a) + lax.acos(a) + jnp.arctan(a),
    "two angles": lambda a: jnp.arctan2(a, a[::-1] + 1),
    "hyperbolic": lambda a: lax.sinh(a) + lax.cosh(a) + lax.asinh(a) + lax.acosh(a + 1) + lax.atanh(a),
    "errors": lambda a: lax.erf(a) + lax.erfc(a) + lax.erf_inv(a) + jax.nn.sigmoid(a),
    "gamma": lambda a: special.gammaln(a) + special.digamma(a) + special.gammainc(2.5, a) + special.gammaincc(2.5, a),
    "beta": lambda a: special.betainc(2.0, 3.0, a),
    "sums": lambda a: jnp.sum(a) + jnp.prod(a) + jnp.max(a) * jnp.min(a) + jnp.cumsum(a) + jnp.cumprod(a),
    "cumulative": lambda a: lax.cummax(a) + lax.cummin(a) + lax.cumlogsumexp(a),
    "products": lambda a: jnp.dot(a, a) + SQUARE @ a + jnp.outer(a, a).T[0],
    "shapes": lambda a: jnp.concatenate([a, a[:1]]).reshape(3, 1)[::-1].squeeze()[1:] + jnp.pad(a, (0, 1))[1],
    "choices": lambda a: jnp.where((a > 0.5) | (a <= 0.1), a, a[::-1]) + jnp.clip(a, 0.375, 0.625) + jnp.sign(a) * a,
    "comparisons": lambda a: jnp.where(jnp.isfinite(a) & ~(a >= 1) & (a != 0.4) & (a == a) & (a < 1), jnp.array(a), 0),
    "conditions": lambda a: jnp.where(jnp.any(a > 0.5) & jnp.all(a > 0.1), a, 0.0),
    "indices": lambda a: a[np.array([1, 0])] + jnp.zeros(2, a.dtype).at[1:].set(a[:1]) + lax.dynamic_slice(a, [1], [1]),
    "clamped": lambda a: lax.clamp(a - 0.1, a, 1 - a) + lax.stop_gradient(a) * a + jnp.maximum(a, 0.5) * lax.pow(a, 2),
    "log-sum-exp": lambda a: jax.nn.logsumexp(a) + jax.nn.log_softmax(a),
    "factors": lambda a: jnp.linalg.cholesky(SQUARE * a[0]),
    "solves": lambda a: linalg.solve_triangular(SQUARE * a, a, lower=True),
}


def of_shared(operation):
    return lambda params, rows, constants: rows["x"] * jnp.sum(operation(params["a"]))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_parameters_alone_is_evaluated_in_float64(name):
    # The sum is linear in the one number that rows are handed, so nothing but float32 arithmetic could show.
    require_close(of_shared(OPERATIONS[name]), {"a": A}, rtol=1e-13)


def test_operations_are_those_of_jax_and_all_are_tried():
    known = {getattr(primitives, name).name for name in dir(primitives) if name.endswith("_p")}
    assert known >= MOVABLE, "JAX no longer knows these operations; look for their new names"
    tried = set()
    for operation in OPERATIONS.values():
        tried |= set(re.findall(r"= ([\w-]+)", str(jax.make_jaxpr(operation)(A))))
    assert tried >= MOVABLE


def normal(params, rows, constants):
    return dist.Normal(params["slope"] * rows["x"], params["scale"]).log_prob(rows["y"])


def normal_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=NUM_ROWS).astype(np.float32)
    return {"x": x, "y": (0.3 * x + 1.7 * rng.normal(size=NUM_ROWS)).astype(np.float32)}


def spread_of_errors(contributions, rows):
    """Return how much the error changes from one position to the next."""
    evaluate, errors = compiled(contributions, rows), []
    for scale in np.linspace(1.6, 1.8, 8):
        (value, _), (exact, _) = evaluate({"slope": 0.31, "scale": scale})
        errors.append(value - exact)
    return np.std(errors)


def quotient(params, rows, constants):
    standardised = (rows["y"] - params["slope"] * rows["x"]) / params["scale"]
    return -0.5 * standardised**2 - jnp.log(params["scale"])


@pytest.mark.parametrize("contributions", [normal, quotient])
def test_rows_share_no_rounding(contributions, monkeypatch):
    rows = normal_rows()
    # Noise: each row is rounded by about 1e-7 on its own account.
    assert spread_of_errors(contributions, rows) < 5e-7 * np.sqrt(NUM_ROWS)
    monkeypatch.setattr(shared, "MOVABLE", frozenset())
    assert spread_of_errors(contributions, rows) > 1e-8 * NUM_ROWS


def test_rows_that_are_divided_by_the_same_number_share_its_reciprocal():
    # Some programs are compiled to multiply by it, others not; written as a product it is corrected in all of them.
    reals, _ = handed(quotient, {"slope": np.float64(0.31), "scale": np.float64(1.7)}, normal_rows())
    assert 1 / 1.7 in [float(value) for value in reals]


def test_rows_that_are_divided_by_a_number_or_by_rows_stay_as_written():
    def likelihood(params, rows, constants):
        return params["a"][0] * rows["x"] / 3.0 + rows["x"] / (rows["x"] + 2.0) + constants["c"] * rows["x"] / 7

    require_close(likelihood, {"a": A}, constants={"c": np.array(0.5)}, rtol=1e-7)
    reals, _ = handed(likelihood, {"a": A}, constants={"c": np.array(0.5)})
    assert [float(value) for value in reals] == [0.3]


def test_integers_are_divided_as_they_were():
    def thirds(params, rows, constants):
        count = jnp.floor(params["a"][0] * 100).astype(jnp.int32)
        return rows["x"] * params["a"][1] * (rows["count"] // count + lax.div(rows["count"], count))

    require_close(thirds, {"a": A}, ONES | {"count": np.array([100, 7, 31, 95], np.int32)}, rtol=1e-7)


def test_compiled_functions_are_read_as_well_and_may_be_called_twice():
    log_of = jax.jit(lambda value: jnp.log(jax.jit(lambda x: 2.0 * x)(value)))

    def twice(params, rows, constants):
        return rows["x"] * log_of(params["a"][0]) + log_of(params["a"][1])

    reals, _ = handed(twice, {"a": A})
    assert sorted(float(value.squeeze()) for value in reals) == pytest.approx(sorted(np.log(2 * A)), rel=1e-15)


def test_what_is_repeated_for_every_row_is_repeated_there():
    def repeated(params, rows, constants):
        return jnp.log(jnp.full(4, params["a"][0])) * rows["x"]

    (real,), _ = handed(repeated, {"a": A})
    assert real.size == 1
    require_close(repeated, {"a": A}, rtol=1e-7)


def test_a_table_of_parameters_is_not_repeated_but_made():
    def table(params, rows, constants):
        return jnp.log(jnp.outer(params["a"], params["a"]))[rows["i"], rows["i"]]

    rows = {"i": np.array([0, 1, 1, 0])}
    (real,), _ = handed(table, {"a": A}, rows)
    assert real.shape == (2, 2)
    require_close(table, {"a": A}, rows, rtol=1e-13)


def test_constants_are_shared_and_what_follows_from_them_alone_stays_as_written():
    weights = np.array([0.25, 0.5], np.float32)

    def likelihood(params, rows, constants):
        level = jnp.sum(jnp.log(params["a"] * constants["c"] + weights))
        return rows["x"] * level + jnp.exp(constants["c"][0]) * jnp.arange(4)

    (real,), _ = handed(likelihood, {"a": A}, constants={"c": np.array([1.5, 0.75])})
    assert float(real) == pytest.approx(np.sum(np.log(A * [1.5, 0.75] + weights)), rel=1e-15)
    require_close(likelihood, {"a": A}, constants={"c": np.array([1.5, 0.75])}, rtol=1e-7)


@pytest.mark.parametrize("precision", ["mixed", "float64"])
def test_arrays_that_a_likelihood_closes_over_stand_behind_a_barrier(precision):
    weights = np.array([0.25, 0.5], np.float32)

    @jax.jit
    def likelihood(params, rows, constants):
        return rows["x"] * jnp.sum(jnp.log(weights) * params["a"])

    def evaluate(params):
        return contributions_and_gradient(likelihood, params, ONES, {}, precision)[1]

    text = str(jax.make_jaxpr(evaluate)({"a": A}))
    found = [re.search(pattern, text) for pattern in (r"(\w+):f32\[2\] = opt\w*_barrier", r"= log (\w+)")]
    hidden, logarithm = (match[1] for match in found if match)
    assert hidden == logarithm


def test_integers_and_booleans_of_parameters_are_handed_as_they_are():
    def likelihood(params, rows, constants):
        column = jnp.floor(3 * params["a"][0]).astype(jnp.int32)
        return jnp.where(params["a"] > 0.5, rows["table"][:, :2], rows["table"][:, 1:])[:, 0] + rows["table"][:, column]

    rows = {"table": np.arange(12, dtype=np.float32).reshape(4, 3)}
    _, others = handed(likelihood, {"a": A}, rows)
    assert [other.dtype for other in others] == [np.bool_]
    require_close(likelihood, {"a": A}, rows, rtol=1e-13)


def loops(params, rows, constants):
    grown = lax.fori_loop(0, 3, lambda _, a: a * (1 + 0.1 * a), params["a"])
    paths, _ = lax.scan(lambda carry, a: (carry * a, None), rows["x"] * grown[0], grown)
    halved = lax.while_loop(lambda a: a > 0.2, lambda a: a / 2, lax.stop_gradient(params["a"][1]))
    # A loop without a gradient must not be asked for one.
    return paths + lax.cond(params["a"][0] > 0.5, jnp.sin, jnp.cos, params["a"][1] * halved) * rows["x"]


def softened(params, rows, constants):
    return jax.nn.softplus(params["a"][0]) * rows["x"] + jax.nn.softmax(params["a"])[rows["i"]]


@pytest.mark.parametrize("contributions", [loops, softened])
def test_loops_and_gradients_of_their_own_run_as_written(contributions):
    require_close(contributions, {"a": A}, ONES | {"i": np.array([0, 1, 1, 0])}, rtol=3e-7)


@pytest.mark.parametrize("lengths", [None, np.array([3, 1, 2], np.int32)])
def test_a_hidden_markov_model_keeps_its_gradient(lengths):
    params = {"transition": np.array([[0.7, 0.3], [0.4, 0.6]]), "emission": np.array([[0.5, 0.5], [0.1, 0.9]])}
    rows = {"symbols": np.array([[0, 1, 1], [1, 0, 0], [1, 1, 0]], np.int8)}

    def likelihood(params, rows, constants):
        initial = params["transition"][0] / 1.5
        return hmm.categorical(initial, params["transition"], params["emission"], rows["symbols"], lengths)

    require_close(likelihood, params, rows, rtol=3e-8)


def test_a_likelihood_that_returns_a_sum_is_mapped_over_rows_and_divided_all_the_same():
    model = Model(
        {"slope": dist.Normal(), "scale": dist.HalfNormal()},
        lambda params, data: jnp.sum(normal(params, data, {})),
    )

    def contributions(params, rows, constants):
        return row_contributions(model, params, rows, constants)

    assert spread_of_errors(contributions, normal_rows()) < 5e-7 * np.sqrt(NUM_ROWS)


def test_likelihoods_that_compute_in_float64_are_handed_float64():
    def poisson(params, rows, constants):
        return dist.Poisson(params["a"][0]).log_prob(rows["count"])

    require_close(poisson, {"a": A}, {"count": np.array([0, 3, 2, 5])}, rtol=1e-15)


def test_parameters_that_are_not_used_have_no_slope():
    (value, grad), _ = both(lambda params, rows, constants: rows["x"] * params["a"][0], {"a": A, "b": np.float64(2.0)})
    assert value == pytest.approx(4 * 0.3, rel=1e-15)
    assert grad["b"] == 0.0
    (value, grad), _ = both(lambda params, rows, constants: rows["x"], {"a": A})
    assert value == 4.0
    np.testing.assert_array_equal(grad["a"], 0.0)


@pytest.mark.parametrize(
    ("of_shared", "is_finite"),
    [
        # Not a number, or infinite, where no row looks.
        (lambda a, x: jnp.where(x > 0, a[0] * x, jnp.log(-a[1])), True),
        (lambda a, x: jnp.where(x > 0, a[0] * x, jnp.log(jnp.array([0.0, 1.0], a.dtype) * a)[0]), True),
        (lambda a, x: a[0] * x + jax.nn.logsumexp(jnp.where(a > 0.5, a, -jnp.inf)), True),
        # Too large or too small for float32, but not for what rows need.
        (lambda a, x: jnp.log(jnp.exp(1000 * a[0]) * jnp.exp(-1000 * a[0] - 1)) * x, True),
        # Where it matters, it shows.
        (lambda a, x: jnp.log(-a[1]) * x, False),
        (lambda a, x: a[0] * x - jnp.log(jnp.array([0.0, 1.0], a.dtype) * a)[0], False),
    ],
)
def test_shared_values_that_are_not_finite(of_shared, is_finite):
    (value, _), (exact, _) = both(lambda params, rows, constants: of_shared(params["a"], rows["x"]), {"a": A})
    assert np.isfinite(value) == is_finite
    np.testing.assert_allclose(value, exact, rtol=1e-7)


def test_float64_is_the_plain_sum_to_the_last_bit():
    rows = jax.tree.map(np.float64, normal_rows())
    params = {"slope": jnp.asarray(0.31), "scale": jnp.asarray(1.7)}
    _, value, grad = jax.jit(lambda p: contributions_and_gradient(normal, p, rows, {}, "float64"))(params)
    plain = jax.jit(jax.value_and_grad(lambda p: jnp.sum(normal(p, rows, {}))))
    expected, expected_grad = plain(params)
    assert value == expected
    assert grad == expected_grad
