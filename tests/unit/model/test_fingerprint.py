"""A model's fingerprint: stable between processes, and different whenever the computation is."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.extend import core

from distmc.data.data import Data
from distmc.model.fingerprint import fingerprint
from distmc.model.model import Model, Parameter

DATA = Data(rows={"y": np.arange(4.0)}, constants={"k": np.arange(3)})


def build(
    *,
    table=None,
    factor=1.0,
    backward=2.0,
    prior=None,
    names=("a", "b"),
    flat=None,
    log_prior=None,
    branch=2.0,
    is_differentiable=True,
):
    """Build a model that holds constants in all the places where a traced program can keep them."""
    values = np.arange(4000.0) if table is None else table

    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (square(x), x), lambda x, cotangent: (backward * x * cotangent,))

    @jax.jit
    def looked_up(index):
        return jnp.asarray(values)[index]

    def log_likelihood(params, data):
        first, second = params[names[0]], params[names[1]]
        walk, _ = jax.lax.scan(lambda carry, step: (carry * factor + step, None), first, jnp.arange(3.0))
        branched = jax.lax.cond(first > 0, lambda x: x, lambda x: branch * x, first)
        return square(data["y"] - first) * second + walk + branched + looked_up(data["k"][0])

    priors = {names[0]: prior or dist.Normal(0.0, 1.0), names[1]: flat or Parameter((), dist.constraints.positive)}
    return Model(priors, log_likelihood, log_prior, is_differentiable)


def student():
    """Build a model with a prior of three parameters, which NumPyro keeps in an order that the hash seed decides."""
    return build(prior=dist.StudentT(3.0, 0.5, 2.0))


def test_equal_models_have_equal_fingerprints_in_any_mode():
    with jax.enable_x64(False):
        outside = fingerprint(build(), DATA)
        assert jnp.ones(()).dtype == jnp.float32
    assert outside == fingerprint(build(), DATA)
    assert len(outside) == 64


def changed_table():
    table = np.arange(4000.0)
    table[2000] += 1e-9
    return table


CHANGES = {
    "a closed-over array": lambda: build(table=changed_table()),
    "a number in a loop": lambda: build(factor=1.0 + 1e-12),
    "a number in a branch": lambda: build(branch=3.0),
    "a gradient of its own": lambda: build(backward=2.5),
    "a prior's parameter": lambda: build(prior=dist.Normal(0.0, 2.0)),
    "a prior's kind": lambda: build(prior=dist.StudentT(3.0)),
    "flat in place of a prior": lambda: build(prior=Parameter(())),
    "a support": lambda: build(flat=Parameter((), dist.constraints.real)),
    "a bound": lambda: build(flat=Parameter((), dist.constraints.greater_than(1.0))),
    "a name": lambda: build(names=("a", "c")),
    "the mark that there is no gradient": lambda: build(is_differentiable=False),
    "an extra prior": lambda: build(log_prior=lambda params: -params["b"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_shows(change):
    assert fingerprint(CHANGES[change](), DATA) != fingerprint(build(), DATA)


def test_addresses_of_objects_do_not_show():
    # Operations carry objects as settings, some of which print as their address.
    labelled = core.Primitive("labelled")
    labelled.def_abstract_eval(lambda x, *, label: x)

    def build_labelled(label):
        return build(log_prior=lambda params: labelled.bind(params["b"], label=label))

    first, second = object(), object()
    assert fingerprint(build_labelled(first), DATA) == fingerprint(build_labelled(second), DATA)
    assert fingerprint(build_labelled("kept"), DATA) != fingerprint(build_labelled("other"), DATA)


def test_a_gradient_that_is_not_used_does_not_show_and_is_not_asked_for():
    def marked(backward):
        return fingerprint(build(backward=backward, is_differentiable=False), DATA)

    assert marked(2.0) == marked(2.5)

    def build_calling_out():
        def outside(x):
            return np.asarray(x)

        def log_likelihood(params, data):
            result = jax.ShapeDtypeStruct(data["y"].shape, data["y"].dtype)
            return jax.pure_callback(outside, result, data["y"] * params["a"], vmap_method="broadcast_all")

        return Model({"a": dist.Normal(0.0, 1.0)}, log_likelihood, is_differentiable=False)

    assert fingerprint(build_calling_out(), DATA) == fingerprint(build_calling_out(), DATA)


def test_the_order_of_parameters_shows():
    model = build()
    turned = Model(dict(reversed(model.parameters.items())), model.log_likelihood)
    assert fingerprint(turned, DATA) != fingerprint(model, DATA)


def test_shapes_of_variables_show_but_not_their_number_of_rows_or_values():
    model = build()
    longer = Data(rows={"y": np.ones(9)}, constants={"k": np.zeros(3, int)})
    assert fingerprint(model, longer) == fingerprint(model, DATA)
    wider = Data(rows={"y": np.ones(4)}, constants={"k": np.zeros(5, int)})
    assert fingerprint(model, wider) != fingerprint(model, DATA)


def test_a_process_in_a_terminal_agrees():
    # There JAX writes programs in colours.
    devices = f"import jax; jax.config.update('jax_num_cpu_devices', {jax.config.jax_num_cpu_devices})"
    told = "print(chr(27) in str(jax.make_jaxpr(jax.numpy.sin)(1.0)), fingerprint(student(), DATA))"
    program = f"{devices}; from test_fingerprint import DATA, student, fingerprint; {told}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1", "TERM": "xterm"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    here, there = os.openpty()
    subprocess.run([sys.executable, "-c", program], env=environment, stdout=there, check=True)
    is_coloured, found = os.read(here, 1000).decode().split()
    os.close(here)
    os.close(there)
    assert is_coloured == "True"
    with jax.enable_x64(False):
        assert found == fingerprint(student(), DATA)


def test_a_new_process_with_another_hash_seed_agrees():
    # The model's own constants are computed by JAX, whose last bits depend on how many devices it was started with.
    devices = f"import jax; jax.config.update('jax_num_cpu_devices', {jax.config.jax_num_cpu_devices})"
    program = f"{devices}; from test_fingerprint import DATA, student, fingerprint; print(fingerprint(student(), DATA))"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    seen = set()
    for hash_seed in ("1", "2", "4711"):
        finished = subprocess.run(
            [sys.executable, "-c", program],
            env=environment | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(finished.stdout.strip())
    with jax.enable_x64(False):
        seen.add(fingerprint(student(), DATA))
    assert len(seen) == 1
