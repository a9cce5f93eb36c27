"""The test of invariance catches planted bugs, passes what is right, and keeps its budget of false alarms."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from distmc.kernels import hmc
from distmc.kernels.base import Kernel, Target, normal_noise, select_chains, split_keys, uniform_noise
from distmc.kernels.pull import swing
from distmc.testing import exactness, targets
from distmc.testing.cases import KERNEL_CASES, SPLIT_CASES, KernelCase, trajectory_parameters
from distmc.testing.exactness import compare, require_invariant
from distmc.testing.targets import ExactTarget
from distmc.types import Array, NumpyArray

parameters = trajectory_parameters(0.9, 3)


def planted(name: str, double: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Return what puts a double in the place of one of the names that HMC uses."""
    return lambda monkeypatch: monkeypatch.setattr(hmc, name, double)


def hurried(target: Any, state: Any, momentum: Array, settings: Any) -> Any:
    """Integrate without the last half of a kick, which makes a trajectory that cannot be walked back."""
    half = 0.5 * settings.step_size * settings.metric.factor
    end, end_momentum = integrate(target, state, momentum, settings)
    return end, end_momentum - half * end.logdensity_grad


def widening(pull: Any, time: Array, offset: Array, momentum: Array) -> tuple[Array, Array]:
    """Swing with the wrong sign in one of four places, which keeps no volume."""
    swung, turned = swing(pull, time, offset, momentum)
    return swung, turned + 2.0 * pull.frequency * jnp.sin(pull.frequency * time) * offset


integrate = hmc._integrate
BUGS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "accepts too often": planted("uniform_noise", lambda rng_keys: uniform_noise(rng_keys) ** 1.2),
    "never refreshes the momentum": planted("normal_noise", lambda rng_keys, size: jnp.ones((len(rng_keys), size))),
    "draws momenta too large": planted("normal_noise", lambda rng_keys, size: 1.1 * normal_noise(rng_keys, size)),
    "leaves out half a kick": planted("_integrate", hurried),
    "accepts everything": planted("uniform_noise", lambda rng_keys: 0.0 * uniform_noise(rng_keys)),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[bug](monkeypatch)
    case = KernelCase(name="broken HMC", build_kernel=hmc.build_kernel, parameters=parameters)
    with pytest.raises(AssertionError, match="broken HMC does not leave the target `banana` invariant"):
        require_invariant(case, targets.BANANA)


def test_swinging_out_too_far_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmc, "swing", widening)
    with pytest.raises(AssertionError, match="HMC with a pull does not leave the target `banana` invariant"):
        require_invariant(SPLIT_CASES[0], targets.BANANA)


def test_acceptance_without_kinetic_energy_is_caught() -> None:
    def build_kernel(target: Target) -> Kernel:
        return hmc.build_kernel(target._replace(dot=lambda a, b: jnp.zeros(a.shape[0])))

    case = KernelCase(name="potential energy only", build_kernel=build_kernel, parameters=parameters)
    with pytest.raises(AssertionError, match="potential energy only does not leave"):
        require_invariant(case, targets.NORMAL)


WRONG_TERMS: dict[str, Callable[[Array], Array]] = {
    "logit of a beta": lambda position: -jax.nn.log_sigmoid(position[0]) - jax.nn.log_sigmoid(-position[0]),
    "log of a gamma": lambda position: -position[1],
    "offset of the sticks": lambda position: 0.2 * position[2],
}


@pytest.mark.parametrize("name", WRONG_TERMS)
def test_wrong_jacobian_is_caught(name: str) -> None:
    def logdensity(position: Array) -> Array:
        return targets.BOUNDED.logdensity(position) + WRONG_TERMS[name](position)

    wrong = dataclasses.replace(targets.BOUNDED, logdensity=logdensity)
    with pytest.raises(AssertionError, match="HMC does not leave the target `bounded parameters` invariant"):
        require_invariant(KERNEL_CASES[0], wrong)


# Momentum that persists -----------------------------------------------------------------------------------------------


class PersistentState(NamedTuple):
    position: Array
    logdensity: Array
    logdensity_grad: Array
    momentum: Array


def persistent_case(*, is_flipped: bool) -> KernelCase:
    """Return HMC that keeps most of its momentum, and turns it round where a proposal is rejected, or forgets to."""

    def build_kernel(target: Target) -> Kernel:
        base = hmc.build_kernel(target)

        def init(position: Array) -> PersistentState:
            return PersistentState(*base.init(position), momentum=jnp.zeros_like(position))

        def step(rng_keys: Array, state: PersistentState, settings: Any) -> tuple[PersistentState, Any]:
            noise_keys, accept_keys = split_keys(rng_keys, 2)
            kept, fresh = jnp.sqrt(0.9), jnp.sqrt(0.1)
            momentum = kept * state.momentum + fresh * normal_noise(noise_keys, state.position.shape[1])
            start = hmc.GradientState(*state[:3])
            end, end_momentum = integrate(target, start, momentum, settings)
            gain = end.logdensity - start.logdensity
            gain += 0.5 * (target.dot(momentum, momentum) - target.dot(end_momentum, end_momentum))
            rate = jnp.exp(jnp.minimum(gain, 0.0))
            rejected = PersistentState(*start, momentum=-momentum if is_flipped else momentum)
            moved = select_chains(
                uniform_noise(accept_keys) < rate, PersistentState(*end, momentum=end_momentum), rejected
            )
            return moved, hmc.HMCInfo(rate, *[None] * 8)

        return Kernel(init, step)

    def start(kernel: Kernel, rng_keys: Array, position: Array) -> PersistentState:
        state: PersistentState = kernel.init(position)
        return state._replace(momentum=normal_noise(rng_keys, position.shape[1]))

    return KernelCase(
        name="persistent momentum",
        build_kernel=build_kernel,
        parameters=trajectory_parameters(1.2, 1),
        start=start,
        is_reversible=False,
    )


def test_missing_flip_of_a_persistent_momentum_is_caught() -> None:
    evidence = require_invariant(persistent_case(is_flipped=True), targets.BANANA, num_steps=8)
    assert 0.3 < evidence.acceptance_rate < 0.95
    with pytest.raises(AssertionError, match="persistent momentum does not leave"):
        require_invariant(persistent_case(is_flipped=False), targets.BANANA, num_steps=8)


# The procedure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", exactness.TARGETS, ids=str)
def test_draws_and_densities_of_a_target_agree(target: ExactTarget) -> None:
    normal = np.random.default_rng(0).normal(size=(200, target.num_dimensions))
    draws = target.from_normal(normal)
    np.testing.assert_allclose(target.to_normal(draws), normal, atol=1e-8)
    # Where a density is multiplied by the volume that the map from normal numbers stretches, a normal one is left.
    step = 1e-5
    shifts = np.eye(target.num_dimensions) * step
    slopes = [(target.from_normal(normal + s) - target.from_normal(normal - s)) / (2.0 * step) for s in shifts]
    log_volume = np.linalg.slogdet(np.stack(slopes, axis=2))[1]
    with jax.enable_x64(True):
        logdensity = np.asarray(jax.jit(target.target.logdensity_and_grad)(draws)[0])
    constant = logdensity + log_volume - stats.norm.logpdf(normal).sum(axis=1)
    np.testing.assert_allclose(constant, constant[0], atol=1e-5)


def refreshed(rng: np.random.Generator, before: NumpyArray) -> NumpyArray:
    """Return where an exact, reversible kernel could have gone."""
    return 0.6 * before + 0.8 * rng.normal(size=before.shape)


def test_comparisons_of_what_is_right_are_uniform() -> None:
    rng = np.random.default_rng(0)
    rounds = []
    for _ in range(150):
        before = rng.normal(size=(500, 2))
        rounds.append(compare(before, refreshed(rng, before), is_reversible=True))
    for name in rounds[0]:
        assert stats.kstest([p_values[name] for p_values in rounds], "uniform").pvalue > 1e-4, name


def test_irreversible_steps_are_told_from_reversible_ones() -> None:
    before = np.random.default_rng(0).normal(size=(4000, 2))
    turned = before @ np.array([[0.8, 0.6], [-0.6, 0.8]])
    assert min(compare(before, turned, is_reversible=False).values()) > 1e-3
    assert compare(before, turned, is_reversible=True)["reversal of 0 and 1"] < 1e-12


def test_doubt_is_settled_with_more_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def gather(p_value: float) -> Callable[..., exactness.Evidence]:
        def gathered(*arguments: Any, num_chains: int, **settings: Any) -> exactness.Evidence:
            asked.append(num_chains)
            return exactness.Evidence(p_values={"mean of 0": p_value}, acceptance_rate=0.8, moved_share=1.0)

        return gathered

    case = KERNEL_CASES[0]
    for p_value, rounds in ((0.5, 1), (0.01, 4), (1e-4, 3), (1e-5, 2), (1e-7, 1)):
        asked.clear()
        monkeypatch.setattr(exactness, "gather_evidence", gather(p_value))
        if p_value in (0.5,):
            require_invariant(case, targets.NORMAL, num_chains=100)
        else:
            with pytest.raises(AssertionError, match="does not leave"):
                require_invariant(case, targets.NORMAL, num_chains=100)
        assert asked == [100, 400, 400, 400][:rounds]


def test_kernel_that_stands_still_is_refused() -> None:
    def build_kernel(target: Target) -> Kernel:
        kernel = hmc.build_kernel(target)
        return Kernel(kernel.init, lambda keys, state, settings: (state, kernel.step(keys, state, settings)[1]))

    case = KernelCase(name="lazy", build_kernel=build_kernel, parameters=parameters)
    with pytest.raises(AssertionError, match="lazy moves no chain"):
        require_invariant(case, targets.NORMAL, num_chains=100, num_steps=1)
