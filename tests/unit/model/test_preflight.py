"""What `check` and `cheap_checks` find, one defect at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from distmc.data import slabs
from distmc.data.data import Data
from distmc.errors import DataError, ModelError, SpecError, StartError
from distmc.model import probes
from distmc.model.density import cast_floats, likelihood_dtype, row_contributions
from distmc.model.double import double_precision
from distmc.model.model import Model
from distmc.model.preflight import cheap_checks, check
from distmc.model.sampler_fit import check_sampler
from distmc.model.shared import contributions_and_gradient
from distmc.model.start import starting_positions
from distmc.model.subject import Subject
from distmc.model.transforms import Unconstrainer
from distmc.samplers import LAPS, RWMH, ChEES, Slice
from distmc.spec import RunSpec

CHEAP = ["sampler", "parameters", "data", "likelihood", "finite", "starts", "every row"]
NAMES = [*CHEAP, "gradient", "rows add up", "precision"]


def with_likelihood(model, function):
    return Model(model.parameters, function, model.log_prior)


def outcomes(report):
    return {finding.name: finding.outcome for finding in report.findings}


def message_of(report, name):
    return next(finding.message for finding in report.findings if finding.name == name and finding.outcome != "ok")


def test_a_sound_model_passes_and_its_figures_are_told(linear_model, linear_data):
    with jax.enable_x64(False):
        report = check(linear_model, linear_data)
        assert jnp.ones(()).dtype == jnp.float32
    assert report.ok
    assert [finding.name for finding in report.findings] == NAMES
    assert set(outcomes(report).values()) == {"ok"}
    assert report.figures["num_rows"] == 50
    assert report.figures["num_blocks"] == 2
    assert report.figures["num_dimensions"] == 4
    assert report.figures["likelihood_form"] == "rows"
    assert report.figures["likelihood_dtype"] == "float32"
    text = str(report)
    assert text.startswith("distmc check: ready to sample")
    assert len(text.splitlines()) == 1 + len(NAMES)
    assert "50 rows in 2 blocks of 25 rows" in text


def test_a_mapping_is_data_and_bad_data_is_a_finding_of_check_but_an_error_of_cheap_checks(linear_model, linear_data):
    assert check(linear_model, dict(linear_data.rows)).ok
    bad = {"x": np.ones((3, 2)), "y": np.ones(2)}
    report = check(linear_model, bad)
    assert not report.ok
    assert "disagree in their number of rows" in message_of(report, "data")
    with pytest.raises(DataError, match="disagree in their number of rows"):
        cheap_checks(linear_model, bad)


def test_few_chains_are_warned_of_where_the_sampler_tunes_from_all_of_them(linear_model, linear_data):
    def found(sampler, num_chains):
        spec = RunSpec(sampler=sampler, num_chains=num_chains)
        return check_sampler(Subject(linear_model, linear_data, spec, None))

    ((outcome, message),) = found(LAPS(), 15)
    assert outcome == "warning"
    assert "`num_chains=15` with LAPS" in message
    assert [note[0] for note in (*found(LAPS(), 16), *found(ChEES(), 2))] == ["ok", "ok"]


def test_a_failed_essential_check_ends_the_others(linear_model, linear_data):
    model = with_likelihood(linear_model, lambda params, data: data["y"][:, None])
    report = check(model, linear_data)
    assert outcomes(report) == {
        "sampler": "ok",
        "parameters": "ok",
        "data": "ok",
        "likelihood": "failed",
        **dict.fromkeys(NAMES[NAMES.index("finite") :], "skipped"),
    }
    assert str(report).startswith("distmc check: 1 check failed")
    with pytest.raises(ModelError, match=r"returned shape \(25, 1\) for 25 rows"):
        cheap_checks(model, linear_data)


def test_an_impossible_prior_is_named(linear_model, linear_data):
    priors = {**linear_model.parameters, "odd": dist.Normal(0.0, -1.0, validate_args=False)}
    with pytest.raises(ModelError, match=r"The prior `Normal` of parameter `odd` has log-density nan at odd ="):
        cheap_checks(Model(priors, linear_model.log_likelihood), linear_data)


def test_a_log_prior_that_is_not_finite_is_named(linear_model, linear_data):
    model = Model(linear_model.parameters, linear_model.log_likelihood, lambda params: jnp.log(-params["scale"]))
    with pytest.raises(ModelError, match="`log_prior` has log-density nan"):
        cheap_checks(model, linear_data)


def test_a_row_that_is_never_finite_is_named(linear_model, linear_data):
    def likelihood(params, data):
        return jnp.where(data["row"] == 33, -jnp.inf, linear_model.log_likelihood(params, data))

    data = Data(rows={**linear_data.rows, "row": np.arange(50)})
    with pytest.raises(ModelError, match=r"finite at none of 4 starting positions, all 50 rows: .* is -inf for row 33"):
        cheap_checks(with_likelihood(linear_model, likelihood), data)


def waiting_times(num_rows, impossible=()):
    y = np.random.default_rng(0).exponential(size=num_rows)
    y[list(impossible)] = -1.0
    return Data(rows={"y": y})


def exponential_model(log_likelihood=lambda p, d: jnp.log(p["rate"]) - p["rate"] * d["y"]):
    def likelihood(params, data):
        return jnp.where(data["y"] < 0, -jnp.inf, log_likelihood(params, data))

    return Model({"rate": dist.Gamma(2.0, 1.0)}, likelihood)


@pytest.mark.parametrize("combine", [lambda rows: rows, jnp.sum], ids=["rows", "sum"])
def test_rows_are_looked_at_beyond_those_that_are_examined(combine):
    rows = exponential_model().log_likelihood
    model = Model(exponential_model().parameters, lambda params, data: combine(rows(params, data)))
    bad = [2001, 2999, 1, 7, 1500, 40]
    data = waiting_times(3001, bad)
    with double_precision(model):
        assert set(bad).isdisjoint(Subject(model, data, RunSpec(), None).row_indices)
    words = r"-inf for row 1 where chain 0 starts, at rate = .* for 6 of 3001 rows \(1, 7, 40, 1500, …\), .*\. Correct"
    with pytest.raises(StartError, match=words):
        cheap_checks(model, data)
    report = check(model, data)
    assert outcomes(report)["every row"] == "failed"
    assert outcomes(report)["starts"] == "ok"
    sound = check(model, waiting_times(3001))
    assert sound.ok
    assert "All 3001 rows are finite where chain 0 starts." in str(sound)


def test_a_row_that_raises_is_told_from_others():
    def outside(rate, y):
        if (y < 0).any():
            raise ValueError("a waiting time is negative")
        return np.log(rate)[..., None] - rate[..., None] * y

    def likelihood(params, data):
        result = jax.ShapeDtypeStruct(data["y"].shape, data["y"].dtype)
        return jax.pure_callback(outside, result, params["rate"], data["y"], vmap_method="expand_dims")

    model = Model({"rate": dist.Gamma(2.0, 1.0)}, likelihood, is_differentiable=False)
    words = r"where chain 0 starts, at \d+ rows from row \d+ on: ValueError: a waiting time is negative\. "
    with pytest.raises(ModelError, match=f"^The log-likelihood raised .* {words}"):
        cheap_checks(model, waiting_times(3001, [2001]), RunSpec(sampler=RWMH()))


@pytest.mark.parametrize("num_rows", [1, 2, 3])
def test_a_few_rows_are_every_row(num_rows):
    assert check(exponential_model(), waiting_times(num_rows)).ok
    report = check(exponential_model(), waiting_times(num_rows, [num_rows - 1]), RunSpec(precision="float64"))
    assert outcomes(report)["finite"] == "failed"


def test_every_row_is_found_in_many_slabs(monkeypatch):
    model, data = exponential_model(), waiting_times(3001, [3000, 2])
    with double_precision(model):
        in_three = Subject(model, data, RunSpec(num_chains=3), None)
        assert in_three.every_row.bad == {2: -np.inf, 3000: -np.inf}
        monkeypatch.setattr(slabs, "_MOST_NUMBERS", 50)
        in_sixty = Subject(model, data, RunSpec(num_chains=3), None)
        assert in_sixty.every_row.bad == in_three.every_row.bad
    np.testing.assert_allclose(in_sixty.every_row.examined, in_three.every_row.examined)
    np.testing.assert_allclose(in_sixty.every_row.examined, in_sixty.at_starts.contributions[0], rtol=1e-5)


def test_numbers_that_all_rows_share_have_float64_digits_as_in_a_run():
    # Some chains start where the rarer outcome has a probability that float32 takes for none.
    model = Model(
        {"chance": dist.Beta(1.0, 0.05)},
        lambda p, d: d["y"] * jnp.log(p["chance"]) + (1 - d["y"]) * jnp.log(1 - p["chance"]),
    )
    data = Data(rows={"y": np.arange(300) % 2})
    starts = np.asarray(cheap_checks(model, data).start)
    chances = 1.0 / (1.0 + np.exp(-starts))
    assert np.any((chances < 1.0) & (chances.astype(np.float32) == 1.0))


def naive_logistic(params, data):
    p = 1.0 / (1.0 + jnp.exp(-data["x"] @ params["slope"]))
    return data["y"] * jnp.log(p) + (1.0 - data["y"]) * jnp.log(1.0 - p)


@pytest.mark.parametrize(
    ("far_row", "usual_slope", "found_by"), [(0, 1.2, "finite"), (0, 0.85, "starts"), (2001, 1.2, "every row")]
)
def test_what_is_finite_in_float64_alone_is_refused_with_the_cure(far_row, usual_slope, found_by):
    x = np.full((3001, 1), 0.1)
    # Where the slope is 0.85 or more its probability is 1 in float32, but not in float64.
    x[far_row] = 20.0
    data = Data(rows={"x": x, "y": np.zeros(3001)})
    model = Model({"slope": dist.Normal(usual_slope, 0.05).expand([1]).to_event(1)}, naive_logistic)
    report = check(model, data)
    assert outcomes(report)[found_by] == "failed"
    assert 'In float64 it is finite: give `precision="float64"`' in message_of(report, found_by)
    with pytest.raises((ModelError, StartError), match="In float64 it is finite"):
        cheap_checks(model, data)
    assert cheap_checks(model, data, RunSpec(precision="float64")).warnings == ()


def bad_below(model, name, limit, value_too=True):
    """Return the model with a gradient, and a likelihood too, that is not a number where a parameter is small."""

    def likelihood(params, data):
        usual = model.log_likelihood(params, data)
        if value_too:
            return jnp.where(params[name] <= limit, jnp.nan, usual)
        # The slope of the root is infinite there, and that of the maximum zero.
        return usual + jnp.sqrt(jnp.maximum(params[name] - limit, 0.0))

    return with_likelihood(model, likelihood)


def test_starting_positions_that_are_sometimes_bad_are_refused_and_initial_values_cure_it(linear_model, linear_data):
    model = bad_below(linear_model, "intercept", 0.0)
    with pytest.raises(StartError, match=r"\d+ of 32 chains start where .*log-density nan; over all 50 rows"):
        cheap_checks(model, linear_data)
    report = check(model, linear_data)
    assert outcomes(report) == dict.fromkeys(NAMES, "ok") | {"finite": "warning", "starts": "failed"}
    assert "other `initial` values" in message_of(report, "finite")
    cured = cheap_checks(model, linear_data, initial={"intercept": 1.0})
    assert cured.warnings == ()
    np.testing.assert_array_equal(cured.start, starting_positions(linear_model, 32, 0, {"intercept": 1.0}))
    with pytest.raises(ModelError, match="finite at none"):
        cheap_checks(model, linear_data, initial={"intercept": -1.0})


@pytest.mark.parametrize("value_too", [True, False], ids=["value", "gradient alone"])
def test_every_chain_is_looked_at_however_many_there_are(linear_model, linear_data, value_too):
    intercept = np.ones(150)
    intercept[[4, 149]] = -1.0
    model = bad_below(linear_model, "intercept", 0.0, value_too)
    initial = {"intercept": intercept, "slope": np.zeros(2), "scale": 1.0}
    words = "chain 4: log-density nan, chain 149: log-density nan"
    if not value_too:
        words = r"chain 4: log-density -[\d.]+, but its gradient is not finite, .*`distmc.check` says in which"
    with pytest.raises(StartError, match=f"2 of 150 chains start where the log-density or its gradient .*{words}"):
        cheap_checks(model, linear_data, RunSpec(num_chains=150), initial=initial)
    if not value_too:
        cheap_checks(model, linear_data, RunSpec(num_chains=150, sampler=Slice()), initial=initial)
        report = check(model, linear_data, RunSpec(num_chains=150), initial=initial)
        assert "Where chain 4 starts, " in message_of(report, "gradient")
        assert "in 1 of 4 coordinates, the first `intercept`: usually a branch" in message_of(report, "gradient")


@pytest.mark.parametrize(("length", "slab"), [(3, 35), (3000, 24), (50_000, 1)])
def test_fewer_chains_are_evaluated_at_once_where_rows_are_long(length, slab):
    seen = set()

    def outside(mean, y):
        seen.add(len(mean))
        return -np.abs(y - mean[:, None])

    def likelihood(params, data):
        first = data["y"][:, 0]
        result = jax.ShapeDtypeStruct(first.shape, first.dtype)
        return jax.pure_callback(outside, result, params["mean"], first, vmap_method="expand_dims")

    model = Model({"mean": dist.Normal()}, likelihood, is_differentiable=False)
    y = np.zeros((50, length))
    y[:, 0] = np.arange(50.0)
    with double_precision(model):
        subject = Subject(model, Data(rows={"y": y}), RunSpec(sampler=RWMH(), num_chains=70), None)
        found = subject.at_starts
    assert seen == {slab}
    np.testing.assert_array_equal(found.contributions, -np.abs(np.arange(50.0) - subject.starts))
    np.testing.assert_allclose(
        found.logdensity, dist.Normal().log_prob(subject.starts[:, 0]) + found.contributions.sum(axis=1), rtol=1e-12
    )


def test_a_likelihood_that_cannot_be_mapped_over_chains_is_told_so(linear_model, linear_data):
    def outside(params, data):
        result = jax.ShapeDtypeStruct(data["y"].shape, data["y"].dtype)
        return jax.pure_callback(lambda mean, y: -np.abs(y - mean), result, params["intercept"], data["y"])

    model = Model(linear_model.parameters, outside, is_differentiable=False)
    with pytest.raises(ModelError, match=r"several chains at once: .*`vmap_method`"):
        cheap_checks(model, linear_data)

    def log_prior(params):
        return jax.pure_callback(np.negative, jax.ShapeDtypeStruct((), np.float64), params["scale"])

    model = Model(linear_model.parameters, linear_model.log_likelihood, log_prior, is_differentiable=False)
    with pytest.raises(ModelError, match=r"several chains at once: .*`vmap_method`"):
        cheap_checks(model, linear_data)


def test_a_gradient_that_cannot_be_mapped_over_chains_is_told_so(linear_model, linear_data):
    @jax.custom_vjp
    def likelihood(mean, y):
        return -0.5 * (y - mean) ** 2

    def backward(residual, cotangent):
        result = jax.ShapeDtypeStruct(residual.shape, residual.dtype)
        return jnp.sum(jax.pure_callback(np.multiply, result, residual, cotangent)), cotangent

    likelihood.defvjp(lambda mean, y: (likelihood(mean, y), y - mean), backward)
    model = Model(linear_model.parameters, lambda params, data: likelihood(params["intercept"], data["y"]))
    with pytest.raises(ModelError, match=r"gradient raised .*several chains at once: .*`vmap_method`"):
        cheap_checks(model, linear_data)


def refuse(x):
    raise ZeroDivisionError("planted")


def raising(x):
    return jax.pure_callback(refuse, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")


@jax.custom_vjp
def raising_backwards(x):
    return x


raising_backwards.defvjp(lambda x: (x, None), lambda _, cotangent: (raising(cotangent),))


@pytest.mark.parametrize(
    ("function", "is_differentiable", "what"),
    [(raising, False, "The log-density"), (raising_backwards, True, "The log-density or its gradient")],
    ids=["value", "gradient"],
)
def test_what_raises_where_chains_start_is_told_as_that(linear_model, linear_data, function, is_differentiable, what):
    def likelihood(params, data):
        return linear_model.log_likelihood(params | {"intercept": function(params["intercept"])}, data)

    model = Model(linear_model.parameters, likelihood, is_differentiable=is_differentiable)
    words = r"raised \w+ at the starting positions \(32 chains at once, all 50 rows\): ZeroDivisionError: planted\. "
    with pytest.raises(ModelError, match=f"^{what} {words}"):
        cheap_checks(model, linear_data)


def test_initial_values_for_each_chain_are_taken_and_bad_ones_refused(linear_model, linear_data):
    spec = RunSpec(num_chains=6)
    assert check(linear_model, linear_data, spec, initial={"scale": np.linspace(0.5, 2, 6)}).ok
    with pytest.raises(StartError, match="outside the support"):
        cheap_checks(linear_model, linear_data, spec, initial={"scale": -1.0})
    report = check(linear_model, linear_data, spec, initial={"scale": -1.0})
    assert "outside the support" in message_of(report, "parameters")


def wrong_custom_gradient(params, data):
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, cotangent: (x * cotangent,))
    return -square(data["y"] - params["intercept"])


BAD_GRADIENTS = {
    "stopped": (
        lambda p, d: -((d["y"] - jax.lax.stop_gradient(p["intercept"])) ** 2),
        "along parameter `intercept`",
    ),
    "custom": (wrong_custom_gradient, "along parameter `intercept`"),
    "not finite": (
        lambda p, d: d["y"] * p["intercept"] + jnp.where(d["y"] > 0, jnp.sqrt(p["scale"] * 0), 0),
        "its gradient is nan in 1 of 4 coordinates, the first `scale`",
    ),
}


@pytest.mark.parametrize("case", BAD_GRADIENTS)
def test_a_wrong_gradient_is_found(linear_model, linear_data, case):
    function, message = BAD_GRADIENTS[case]
    report = check(with_likelihood(linear_model, function), linear_data)
    assert outcomes(report)["gradient"] == "failed"
    assert message in message_of(report, "gradient")


@pytest.mark.parametrize(
    ("combine", "message"),
    [
        (lambda rows: rows - rows.mean(), "A contribution must depend on its own row alone"),
        (lambda rows: rows.mean(), "It must return the sum over rows: no mean"),
        (lambda rows: rows.sum() - 3.0, "such as a prior, which would be counted once a row"),
    ],
)
def test_rows_that_do_not_add_up_are_found(linear_model, linear_data, combine, message):
    model = with_likelihood(linear_model, lambda p, d: combine(linear_model.log_likelihood(p, d)))
    report = check(model, linear_data)
    assert outcomes(report)["rows add up"] == "failed"
    assert message in message_of(report, "rows add up")


@pytest.mark.parametrize("num_rows", [50, 3000])
def test_runs_do_not_begin_where_rows_depend_on_others(num_rows):
    def likelihood(params, data):
        y = data["y"] / data["y"].mean()
        return jnp.log(params["rate"]) - params["rate"] * y

    with pytest.raises(ModelError, match="A contribution must depend on its own row alone"):
        cheap_checks(exponential_model(likelihood), waiting_times(num_rows))
    cheap_checks(exponential_model(), waiting_times(num_rows))


def ragged_data():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 40)
    x = np.where(np.arange(9) < lengths[:, None], rng.normal(size=(40, 9)), 7.0)
    return Data(rows={"x": x, "n": lengths}, length="n")


def test_a_suspicion_that_float32_arouses_is_cleared_in_float64(monkeypatch):
    def likelihood(params, data):
        return -jnp.abs(jnp.sum(data["x"] * params["scale"], axis=1))

    asked = []
    thorough = probes.check_rows_add_up
    monkeypatch.setattr(probes, "check_rows_add_up", lambda subject: asked.append(subject) or thorough(subject))
    # Nothing agrees that well.
    monkeypatch.setattr(probes, "_SCREENING_TOLERANCE", -1.0)
    x = np.random.default_rng(0).normal(size=(600, 3))
    cheap_checks(Model({"scale": dist.HalfNormal()}, likelihood), Data(rows={"x": x}))
    assert len(asked) == 1


def test_steps_beyond_a_rows_length_are_found():
    def careful(params, data):
        terms = -((data["x"] - params["mean"]) ** 2)
        return jnp.where(jnp.arange(data["x"].shape[1]) < data["n"][:, None], terms, 0).sum(axis=1)

    def careless(params, data):
        return -((data["x"] - params["mean"]) ** 2).sum(axis=1)

    assert check(Model({"mean": dist.Normal()}, careful), ragged_data()).ok
    report = check(Model({"mean": dist.Normal()}, careless), ragged_data())
    assert "steps is" in message_of(report, "rows add up")
    assert "no step beyond a row's length" in message_of(report, "rows add up")
    with pytest.raises(ModelError, match="no step beyond a row's length"):
        cheap_checks(Model({"mean": dist.Normal()}, careless), ragged_data())


def test_a_likelihood_whose_form_depends_on_the_length_is_refused():
    def likelihood(params, data):
        terms = -((data["x"] - params["mean"]) ** 2)
        return terms.sum() if data["x"].shape[1] == 8 else terms.sum(axis=1)

    with pytest.raises(ModelError, match="it must always return the same kind"):
        cheap_checks(Model({"mean": dist.Normal()}, likelihood), ragged_data())


def rounded_likelihood(params, data):
    """Return a linear regression's contributions on a grid: there is no gradient."""
    loc = params["intercept"] + data["x"] @ params["slope"]
    return jnp.floor(4.0 * dist.Normal(loc, params["scale"]).log_prob(data["y"])) / 4.0


def called_out(params, data):
    """Return a linear regression's contributions from NumPy."""

    def outside(loc, scale, y):
        assert loc.dtype == y.dtype == np.float64
        return -0.5 * ((y - loc) / scale) ** 2 - np.log(scale)

    loc = params["intercept"] + data["x"] @ params["slope"]
    result = jax.ShapeDtypeStruct(loc.shape, loc.dtype)
    return jax.pure_callback(outside, result, loc, params["scale"], data["y"], vmap_method="sequential")


@pytest.mark.parametrize("function", [rounded_likelihood, called_out])
def test_a_model_that_is_marked_is_not_asked_for_a_gradient(linear_model, linear_data, function):
    model = Model(linear_model.parameters, function, is_differentiable=False)
    report = check(model, linear_data)
    assert report.ok, str(report)
    assert [finding.name for finding in report.findings] == NAMES
    assert "RWMH, which needs no gradient" in str(report)
    assert outcomes(report) == dict.fromkeys(NAMES, "ok") | {"gradient": "note", "precision": "note"}
    assert "says that there is none" in message_of(report, "gradient")
    assert "Rows are evaluated in float64" in message_of(report, "precision")
    assert report.figures["likelihood_dtype"] == "float64"


def test_a_likelihood_without_gradient_that_is_not_marked_is_told_the_mark(linear_model, linear_data):
    with pytest.raises(ModelError, match=r"when distmc asked JAX for its gradient: .*`is_differentiable=False`"):
        cheap_checks(with_likelihood(linear_model, called_out), linear_data)
    stopped = check(with_likelihood(linear_model, BAD_GRADIENTS["stopped"][0]), linear_data)
    assert "`is_differentiable=False`" in message_of(stopped, "gradient")


def test_a_prior_without_gradient_is_told_from_the_likelihood(linear_model, linear_data):
    def log_prior(params):
        return -jax.lax.while_loop(lambda x: x > 1.0, lambda x: x / 2.0, params["scale"])

    model = Model(linear_model.parameters, linear_model.log_likelihood, log_prior)
    with pytest.raises(ModelError, match=r"^`log_prior` or a prior raised .* for its gradient: .* `distmc.RWMH\(\)`"):
        cheap_checks(model, linear_data)


def test_a_sampler_that_follows_gradients_is_refused_for_a_marked_model(linear_model, linear_data):
    model = Model(linear_model.parameters, linear_model.log_likelihood, is_differentiable=False)
    report = check(model, linear_data, RunSpec())
    assert not report.ok
    assert "`distmc.RWMH()` or `distmc.Slice()`" in message_of(report, "sampler")
    assert set(outcomes(report).values()) == {"failed", "skipped"}
    with pytest.raises(SpecError, match="`ChEES` follows the gradient"):
        cheap_checks(model, linear_data, RunSpec())


def test_a_sampler_that_leaves_the_gradient_unused_is_worth_a_note(linear_model, linear_data):
    report = check(linear_model, linear_data, RunSpec(sampler=Slice()))
    assert report.ok
    assert outcomes(report)["sampler"] == "note"
    assert "usually needs far fewer evaluations" in message_of(report, "sampler")


def test_a_sum_is_told_to_be_evaluated_row_by_row(linear_model, linear_data):
    model = with_likelihood(linear_model, lambda p, d: linear_model.log_likelihood(p, d).sum())
    report = check(model, linear_data)
    assert report.ok
    assert outcomes(report)["likelihood"] == "note"
    assert "row by row" in message_of(report, "likelihood")
    assert report.figures["likelihood_form"] == "sum"


def test_double_precision_inside_mixed_is_noted_but_adding_in_it_is_not(linear_model, linear_data):
    def promoted(params, data):
        return linear_model.log_likelihood(params | {"slope": params["slope"] + np.zeros(2)}, data)

    def added(params, data):
        return linear_model.log_likelihood(params, data).astype(jnp.float64)

    noted = check(with_likelihood(linear_model, promoted), linear_data)
    assert outcomes(noted)["likelihood"] == "note"
    assert "of its work in float64" in message_of(noted, "likelihood")
    assert outcomes(check(with_likelihood(linear_model, added), linear_data))["likelihood"] == "ok"
    double = check(with_likelihood(linear_model, promoted), linear_data, RunSpec(precision="float64"))
    assert outcomes(double)["likelihood"] == "ok"


def test_distributions_that_always_compute_in_float64_are_noted(linear_priors, linear_data):
    def poisson(params, data):
        return dist.Poisson(jnp.exp(params["intercept"] + data["x"] @ params["slope"])).log_prob(data["count"])

    counts = Data(rows={"x": linear_data.rows["x"], "count": np.arange(50) % 4})
    report = check(Model(linear_priors, poisson), counts)
    assert "`Poisson`" in message_of(report, "likelihood")
    assert "whatever they are given" in message_of(report, "likelihood")


def test_large_padding_is_a_warning(linear_model, linear_data):
    report = check(linear_model, linear_data, RunSpec(num_blocks=128))
    assert report.ok
    assert report.figures["num_blocks"] == 128
    assert outcomes(report)["data"] == "warning"
    assert "61% of the work is padding. Fewer blocks" in message_of(report, "data")


def test_only_some_rows_of_large_data_are_evaluated(linear_model):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 2))
    data = Data(rows={"x": x, "y": x @ [1.0, 2.0] + rng.normal(size=5000)})
    report = check(linear_model, data)
    assert report.ok
    assert "of 5000 rows" in next(finding.message for finding in report.findings if finding.name == "gradient")


@pytest.mark.parametrize(("offset", "is_precise"), [(1.0, True), (1e3, True), (1e4, False)])
def test_precision_is_judged_as_the_whole_data_would(linear_priors, linear_model, offset, is_precise):
    model = Model({**linear_priors, "intercept": dist.Normal(offset, 5.0)}, linear_model.log_likelihood)
    data = many_rows(offset)
    report = check(model, data)
    assert report.ok
    assert (outcomes(report)["precision"] == "ok") is is_precise
    estimated = report.figures["precision_error"]
    true = true_precision_error(model, data, {"intercept": offset, "slope": np.array([1.0, 2.0]), "scale": 1.0})
    assert true / 3 < estimated < 3 * true


def test_what_rows_have_in_common_counts_once_for_each(linear_priors, linear_model):
    # A function with a gradient of its own is evaluated in float32, and its rounding shared by all rows.
    def softened(params, data):
        return linear_model.log_likelihood(params | {"scale": jax.nn.softplus(params["scale"])}, data)

    model = Model({**linear_priors, "scale": dist.Normal()}, softened)
    data = many_rows(0.0)
    estimated = check(model, data).figures["precision_error"]
    own = check(linear_model, data).figures["precision_error"]
    scale = np.log(np.expm1(1.0))
    true = true_precision_error(model, data, {"intercept": 0.0, "slope": np.array([1.0, 2.0]), "scale": scale})
    assert estimated > 5 * own
    assert true / 3 < estimated < 3 * true


def many_rows(offset):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 2))
    return Data(rows={"x": x, "y": offset + x @ [1.0, 2.0] + rng.normal(size=20_000)})


def true_precision_error(model, data, centre):
    """Return the root mean square error of differences over all rows between points of the posterior."""
    unconstrainer = Unconstrainer(model)
    mode = np.asarray(unconstrainer.unconstrain(centre))

    def log_likelihood(flat, precision):
        rows = cast_floats(data.rows, likelihood_dtype(precision))
        params, _ = unconstrainer.constrain(flat)
        return contributions_and_gradient(functools.partial(row_contributions, model), params, rows, {}, precision)[1]

    double, mixed = (jax.jit(functools.partial(log_likelihood, precision=p)) for p in ("float64", "mixed"))
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(30):
        one, other = mode + rng.normal(size=(2, 4)) / np.sqrt(data.num_rows)
        errors.append(float((mixed(one) - mixed(other)) - (double(one) - double(other))))
    return np.sqrt(np.mean(np.square(errors)))
