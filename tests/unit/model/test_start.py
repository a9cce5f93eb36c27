"""Where chains start: from the prior, from given values, always from the seed alone."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from distmc.errors import StartError
from distmc.model.model import Model, Parameter
from distmc.model.start import require_finite_starts, starting_positions
from distmc.model.transforms import Unconstrainer

constraints = dist.constraints
MODEL = Model(
    {
        "mean": dist.Normal(3.0, 2.0),
        "weights": dist.Dirichlet(np.ones(3)),
        "flat": Parameter((2,), constraints.positive),
        "improper": dist.ImproperUniform(constraints.real, (), ()),
    },
    lambda params, data: data["y"],
)


def constrained(positions):
    return jax.vmap(Unconstrainer(MODEL).constrain)(jnp.asarray(positions))[0]


def test_positions_are_finite_float64_numpy_arrays_whatever_the_mode_of_the_caller():
    inside = starting_positions(MODEL, 5, 0)
    with jax.enable_x64(False):
        outside = starting_positions(MODEL, 5, 0)
        assert jnp.ones(()).dtype == jnp.float32
    assert type(outside) is np.ndarray
    assert outside.dtype == np.float64
    assert outside.shape == (5, 6)
    assert np.isfinite(outside).all()
    assert np.array_equal(inside, outside)


def test_a_chain_starts_the_same_however_many_chains_there_are():
    many, few = starting_positions(MODEL, 7, 3), starting_positions(MODEL, 2, 3)
    assert np.array_equal(many[:2], few)
    assert len(np.unique(many[:, 0])) == 7


def test_seeds_differ():
    assert not np.intersect1d(starting_positions(MODEL, 4, 0), starting_positions(MODEL, 4, 1)).size


def test_draws_are_from_the_prior_and_flat_ones_from_minus_two_to_two():
    positions = starting_positions(MODEL, 4000, 0)
    drawn = constrained(positions)
    # Standard errors: 2 / sqrt(4000) for the mean, sqrt(1/18) / sqrt(4000) for a weight.
    assert abs(np.mean(drawn["mean"]) - 3.0) < 5 * 2.0 / np.sqrt(4000)
    assert abs(np.std(drawn["mean"]) - 2.0) < 5 * 2.0 / np.sqrt(2 * 4000)
    assert np.all(np.abs(np.mean(drawn["weights"], axis=0) - 1 / 3) < 5 * np.sqrt(1 / 18 / 4000))
    for coordinate in (3, 4, 5):
        assert positions[:, coordinate].min() == pytest.approx(-2.0, abs=0.02)
        assert positions[:, coordinate].max() == pytest.approx(2.0, abs=0.02)


def test_a_draw_on_the_boundary_of_its_support_is_replaced():
    model = Model({"x": dist.LogNormal(-800.0, 1.0)}, lambda params, data: data["y"])
    positions = starting_positions(model, 20, 0)
    assert np.abs(positions).max() <= 2.0
    assert len(np.unique(positions)) == 20


def test_given_values_are_used_and_the_others_drawn_as_before():
    drawn = starting_positions(MODEL, 3, 0)
    given = starting_positions(MODEL, 3, 0, {"weights": [0.2, 0.3, 0.5], "mean": [1.0, 2.0, 4.0]})
    np.testing.assert_allclose(constrained(given)["weights"], np.tile([0.2, 0.3, 0.5], (3, 1)), rtol=1e-12)
    np.testing.assert_allclose(given[:, 0], [1.0, 2.0, 4.0])
    assert np.array_equal(given[:, 3:], drawn[:, 3:])


def test_values_for_each_chain():
    values = np.array([[0.5, 1.0], [2.0, 3.0]])
    np.testing.assert_allclose(np.exp(starting_positions(MODEL, 2, 0, {"flat": values})[:, 3:5]), values)


BAD = {
    "no mapping": ([1.0], "`initial` is of type `list`"),
    "unknown name": ({"men": 1.0}, r"`initial` names \['men'\], but the model's parameters are `mean`"),
    "shape": ({"weights": [0.5, 0.5]}, r"has shape \(2,\); give \(3,\) for all chains alike, or \(2, 3\)"),
    "chains": ({"mean": [1.0, 2.0, 3.0]}, r"has shape \(3,\); give \(\) for all chains alike, or \(2,\)"),
    "text": ({"mean": "a"}, "cannot be read as an array"),
    "outside": ({"flat": [[1.0, 1.0], [1.0, -1.0]]}, r"`initial\['flat'\]` lies outside.*chain 1 was given"),
    "not a simplex": ({"weights": [0.5, 0.5, 0.5]}, "lies outside the support"),
    "boundary": ({"weights": [0.0, 0.5, 0.5]}, "lies on the boundary of the support"),
    "nan": ({"mean": np.nan}, "lies outside the support"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_starting_values_have_their_own_message(case):
    initial, message = BAD[case]
    with pytest.raises(StartError, match=message):
        starting_positions(MODEL, 2, 0, initial)


def test_a_gradient_that_is_not_finite_is_explained_where_nobody_else_does():
    logdensity, gradient = np.zeros(3), np.zeros((3, 2))
    gradient[1, 0] = np.nan
    with pytest.raises(
        StartError, match=r"^1 of 3 chains .*chain 1: .* not finite: usually a branch that is not taken"
    ):
        require_finite_starts(logdensity, gradient)
    with pytest.raises(StartError, match=r"over 9 rows.* not finite: `distmc.check` says in which coordinates"):
        require_finite_starts(logdensity, gradient, "over 9 rows")
    with pytest.raises(StartError) as caught:
        require_finite_starts(np.full(3, -np.inf), gradient)
    assert "Where only the gradient" not in str(caught.value)
