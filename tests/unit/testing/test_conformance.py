"""Each check of a kernel refuses a kernel that breaks what it is about, in words."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from distmc.kernels import hmc
from distmc.kernels.base import Kernel, Target
from distmc.sampling.rng import chain_keys
from distmc.testing import conformance
from distmc.testing.cases import KernelCase, trajectory_parameters
from distmc.types import Array

HMC = KernelCase(name="HMC", build_kernel=hmc.build_kernel, parameters=trajectory_parameters(0.9, 2))


def with_step(change: Callable[[Kernel, Any, Any, Any], Any]) -> KernelCase:
    """Return HMC with another step, made of the right kernel and a step's arguments."""

    def build_kernel(target: Target) -> Kernel:
        kernel = hmc.build_kernel(target)
        return Kernel(kernel.init, lambda *arguments: change(kernel, *arguments))

    return dataclasses.replace(HMC, name="broken HMC", build_kernel=build_kernel)


def in_single_precision(kernel: Kernel, rng_keys: Array, state: Any, parameters: Any) -> Any:
    state, info = kernel.step(rng_keys, state, parameters)
    return state._replace(position=state.position.astype(jnp.float32)), info


def without_flag(kernel: Kernel, rng_keys: Array, state: Any, parameters: Any) -> Any:
    state, info = kernel.step(rng_keys, state, parameters)
    return state, info._replace(is_divergent=jnp.any(info.is_divergent))


def with_keys_of_its_own(kernel: Kernel, rng_keys: Array, state: Any, parameters: Any) -> Any:
    return kernel.step(chain_keys(jax.random.key(0), jnp.asarray(0), state.position.shape[0]), state, parameters)


def with_one_key_for_all(kernel: Kernel, rng_keys: Array, state: Any, parameters: Any) -> Any:
    return kernel.step(chain_keys(rng_keys[0], jnp.asarray(0), state.position.shape[0]), state, parameters)


def drawn_to_the_mean(kernel: Kernel, rng_keys: Array, state: Any, parameters: Any) -> Any:
    moved, info = kernel.step(rng_keys, state, parameters)
    return moved._replace(position=moved.position + 1e-9 * jnp.mean(state.position)), info


def always_accepting(kernel: Kernel, rng_keys: Array, state: Any, parameters: Any) -> Any:
    _, info = kernel.step(rng_keys, state, parameters)
    return kernel.init(info.proposal), info


def never_accepting(kernel: Kernel, rng_keys: Array, state: Any, parameters: Any) -> Any:
    _, info = kernel.step(rng_keys, state, parameters)
    return state, info._replace(acceptance_rate=0.5 * info.acceptance_rate)


def with_energy_that_overflows(kernel: Kernel, rng_keys: Array, state: Any, parameters: Any) -> Any:
    moved, info = kernel.step(rng_keys, state, parameters)
    return moved, info._replace(energy_error=info.energy_error - info.energy_error)


def evaluating_twice(kernel: Kernel, rng_keys: Array, state: Any, parameters: Any) -> Any:
    moved, info = kernel.step(rng_keys, state, parameters)
    return kernel.init(moved.position), info


def with_static_step_size(kernel: Kernel, rng_keys: Array, state: Any, parameters: Any) -> Any:
    return kernel.step(rng_keys, state, parameters._replace(step_size=float(parameters.step_size)))


def build_summing_itself(target: Target) -> Kernel:
    return hmc.build_kernel(target._replace(dot=lambda a, b: jnp.sum(a * b, axis=-1)))


BROKEN: dict[str, tuple[KernelCase, Callable[[KernelCase], None], str]] = {
    "state changes type": (with_step(in_single_precision), conformance.check_shapes, "a loop over steps needs both"),
    "flag for all chains": (
        with_step(without_flag),
        conformance.check_shapes,
        r"`is_divergent` of the info is bool \(\)",
    ),
    "keys unused": (with_step(with_keys_of_its_own), conformance.check_keys, "the keys are not used"),
    "one key for all": (with_step(with_one_key_for_all), conformance.check_order_of_chains, "listed in another order"),
    "chains attract": (with_step(drawn_to_the_mean), conformance.check_chains_apart, "`position` of a chain changes"),
    "accepts all": (with_step(always_accepting), conformance.check_broken_target, "`position` of the state|moves to"),
    "accepts nothing": (with_step(never_accepting), conformance.check_constant_density, "`acceptance_rate` is"),
    "not a number": (with_step(with_energy_that_overflows), conformance.check_any_position, "`energy_error` is"),
    "untold evaluation": (with_step(evaluating_twice), conformance.check_evaluations, "evaluates the target 3 times"),
    "own sums": (
        dataclasses.replace(HMC, name="broken HMC", build_kernel=build_summing_itself),
        conformance.check_inner_product,
        "`dot` leaves out starts elsewhere",
    ),
    "constant step size": (
        with_step(with_static_step_size),
        conformance.check_parameters_are_values,
        "as Python values",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_kernel_is_refused(name: str) -> None:
    case, check, words = BROKEN[name]
    with pytest.raises(AssertionError, match=f"broken HMC: .*({words})"):
        check(case)


def test_every_check_is_shown_to_fail() -> None:
    assert {check for _, check, _ in BROKEN.values()} == set(conformance.KERNEL_CHECKS)
