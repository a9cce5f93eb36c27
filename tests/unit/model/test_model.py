"""What `Model` and `Parameter` accept and refuse."""

import operator
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from distmc.errors import ModelError
from distmc.model.model import Model, Parameter, shape_of, unconstrained_shape

constraints = dist.constraints


def likelihood(params, data):
    return data["y"]


def test_shapes_of_batches_and_events():
    model = Model(
        {
            "a": dist.Normal(0.0, 1.0),
            "b": dist.Dirichlet(np.ones((4, 3))),
            "c": dist.Dirichlet(np.ones((4, 3))).to_event(1),
            "d": Parameter((2, 5), constraints.ordered_vector),
            "e": Parameter(3),
        },
        likelihood,
    )
    shapes = {name: shape_of(parameter) for name, parameter in model.parameters.items()}
    assert shapes == {"a": (), "b": (4, 3), "c": (4, 3), "d": (2, 5), "e": (3,)}
    inner = {name: unconstrained_shape(name, parameter) for name, parameter in model.parameters.items()}
    assert inner == {"a": (), "b": (4, 2), "c": (4, 2), "d": (2, 5), "e": (3,)}


BAD_PARAMETERS = {
    "class": (dist.Normal, "is the class `Normal`; call it"),
    "number": (1.0, "`x` is of type `float`; give a NumPyro distribution"),
    "delta": (dist.Delta(1.0), "`Delta`, which fixes it"),
    "discrete": (dist.Poisson(3.0), "`Poisson` is discrete"),
    "discrete event": (dist.Multinomial(3, np.ones(2) / 2), "is discrete"),
    "discrete flat": (Parameter((), constraints.boolean), "is discrete"),
    "no bijection": (Parameter((3,), constraints.sphere), "cannot map from all real numbers"),
    "dependent": (Parameter((), constraints.dependent), "has no support"),
    "complex": (Parameter((), constraints.complex), "is complex"),
    "shape too small": (Parameter((), constraints.simplex), r"shape \(\), which is no shape of the support"),
    "not square": (Parameter((3, 4), constraints.corr_cholesky), r"shape \(3, 4\), which is no shape"),
    "too few axes": (Parameter((3,), constraints.positive_definite), "have 2 axes of their own"),
}


@pytest.mark.parametrize("case", BAD_PARAMETERS)
def test_a_bad_parameter_is_named_with_its_own_message(case):
    parameter, message = BAD_PARAMETERS[case]
    with pytest.raises(ModelError, match=message) as caught:
        Model({"fine": dist.Normal(), "x": parameter}, likelihood)
    assert "`x`" in str(caught.value)


BAD_MODELS = {
    "no mapping": (dict(parameters=[dist.Normal()]), "holds no parameters"),
    "empty": (dict(parameters={}), "holds no parameters"),
    "nothing to sample": (dict(parameters={"p": dist.Dirichlet(np.ones(1))}), "nothing to sample"),
    "name not text": (dict(parameters={1: dist.Normal()}), "parameter name 1 is not usable"),
    "name with slash": (dict(parameters={"a/b": dist.Normal()}), "'a/b' is not usable"),
    "name of a dimension": (dict(parameters={"chain": dist.Normal()}), "`chain` is taken"),
    "likelihood no function": (dict(log_likelihood=3), r"`log_likelihood=3` is not a function; give `fn\(params, data"),
    "likelihood of one argument": (
        dict(log_likelihood=lambda params: 0.0),
        r"`log_likelihood` has the signature `\(params\)`",
    ),
    "prior no function": (dict(log_prior=1.0), "`log_prior=1.0` is not a function"),
    "prior of two arguments": (dict(log_prior=likelihood), "`log_prior` has the signature"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_has_its_own_message(case):
    changed, message = BAD_MODELS[case]
    arguments = {"parameters": {"x": dist.Normal()}, "log_likelihood": likelihood} | changed
    with pytest.raises(ModelError, match=message):
        Model(**arguments)


@pytest.mark.parametrize("shape", [(-1,), (2.0,), ("a",)])
def test_a_bad_shape_is_refused(shape):
    with pytest.raises(ModelError, match="is not a shape"):
        Parameter(shape)


def test_a_support_must_be_a_constraint():
    with pytest.raises(ModelError, match="is not a constraint"):
        Parameter((), support="positive")


def test_no_device_arrays_are_kept_and_priors_are_unchanged():
    priors = {
        "p": dist.Dirichlet(jnp.arange(1.0, 4.0)),
        "u": dist.Uniform(jnp.zeros(2), jnp.ones(2)),
        "t": dist.TransformedDistribution(
            dist.Normal(jnp.zeros(2), 1.0), dist.transforms.AffineTransform(jnp.ones(2), 2.0)
        ),
        "f": Parameter((2,), constraints.interval(jnp.zeros(2), jnp.ones(2))),
    }
    model = Model(priors, likelihood)
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(list(model.parameters.values())[:3]))
    assert not isinstance(model.parameters["f"].support.lower_bound, jax.Array)
    for name in ("p", "u", "t"):
        value = priors[name].sample(jax.random.key(0))
        assert np.array_equal(model.parameters[name].log_prob(value), priors[name].log_prob(value))


def test_unpickling_starts_no_device():
    model = Model({"p": dist.Dirichlet(jnp.ones(3)), "u": dist.Uniform(jnp.zeros(()), 1.0)}, operator.mul)
    program = (
        "import sys, pickle, distmc.model.preflight\n"
        "model = pickle.loads(sys.stdin.buffer.read())\n"
        "assert list(model.parameters) == ['p', 'u']\n"
    )
    # With this platform JAX would fail as soon as it looked for a device.
    environment = os.environ | {"JAX_PLATFORMS": "no_such_platform"}
    finished = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(model), env=environment, capture_output=True
    )
    assert finished.returncode == 0, finished.stderr.decode()
