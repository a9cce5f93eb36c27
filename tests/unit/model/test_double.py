"""64-bit mode reaches the threads in which a model's functions out of JAX run, and ends where it should."""

import threading

import jax
import numpyro.distributions as dist
import pytest

from distmc.model.double import double_precision
from distmc.model.model import Model


def model(is_differentiable):
    priors = {"mean": dist.Normal(0.0, 1.0)}
    return Model(priors, lambda params, data: params["mean"] * data["y"], is_differentiable=is_differentiable)


def mode_of_another_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(jax.config.jax_enable_x64))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("is_differentiable", [True, False])
def test_other_threads_are_reached_where_a_model_may_call_out(is_differentiable):
    with jax.enable_x64(False):
        assert not mode_of_another_thread()
        with double_precision(model(is_differentiable)):
            assert jax.config.jax_enable_x64
            assert mode_of_another_thread() is not is_differentiable
        assert not jax.config.jax_enable_x64
        assert not mode_of_another_thread()


def test_settings_are_put_back_after_an_error_and_kept_where_they_were_on():
    with pytest.raises(ZeroDivisionError), double_precision(model(False)):
        _ = 1 / 0
    assert not mode_of_another_thread()
    jax.config.update("jax_enable_x64", True)
    try:
        with double_precision(model(False)):
            pass
        assert mode_of_another_thread()
    finally:
        jax.config.update("jax_enable_x64", False)
