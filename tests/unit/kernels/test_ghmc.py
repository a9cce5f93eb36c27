"""Generalised Hamiltonian Monte Carlo: its map, what it leaves invariant, and mistakes that would show."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from distmc.kernels import ghmc
from distmc.kernels.base import DIVERGENCE_THRESHOLD, Target
from distmc.kernels.ghmc import GHMCInfo, GHMCParameters, GHMCState
from distmc.kernels.metrics import Metric
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array, NumpyArray

NUM_CHAINS = 64
FACTORS = {"diagonal": np.array([0.8, 1.3]), "dense": np.array([[0.8, 0.0], [0.5, 0.6]])}


def target_of(logdensity: Any) -> Target:
    """Return the target of a log-density of one chain's position."""
    return Target(
        logdensity_and_grad=jax.vmap(jax.value_and_grad(logdensity)), dot=lambda a, b: jnp.sum(a * b, axis=-1)
    )


def banana(position: Array) -> Array:
    """Return the log-density of a standard normal number, and of another around half its square."""
    return -0.5 * position[0] ** 2 - 0.5 * (position[1] - 0.5 * position[0] ** 2) ** 2


def banana_grad(x: NumpyArray) -> NumpyArray:
    residual = x[:, 1] - 0.5 * x[:, 0] ** 2
    return np.stack([-x[:, 0] + residual * x[:, 0], -residual], axis=1)


def parameters(
    *, step_size: float = 0.6, refreshment: float = 0.3, drift: float = 0.15, num_steps: int = 1, form: str = "diagonal"
) -> GHMCParameters:
    factor = FACTORS[form]
    inverse = 1.0 / factor if factor.ndim == 1 else np.linalg.inv(factor)
    return GHMCParameters(
        step_size=jnp.asarray(step_size),
        refreshment=jnp.asarray(refreshment),
        drift=jnp.asarray(drift),
        num_integration_steps=jnp.asarray(num_steps, jnp.int32),
        metric=Metric(jnp.asarray(factor), jnp.asarray(inverse)),
    )


# What all tests need is compiled as a whole: by itself, each operation would be compiled alone.
@functools.partial(jax.jit, static_argnames="num_chains")
def keys(step: int = 0, num_chains: int = NUM_CHAINS) -> Array:
    return chain_keys(seed_key(1), jnp.asarray(step), num_chains)


BANANA = target_of(banana)


@functools.cache
def compiled_init(target: Target) -> Any:
    return jax.jit(ghmc.build_kernel(target).init)


def state_of(target: Target, position: Any, momentum: Any, slice_: Any) -> GHMCState:
    state: GHMCState = compiled_init(target)(jnp.asarray(position))
    return state._replace(momentum=jnp.asarray(momentum), slice=jnp.asarray(slice_))


def random_state(target: Target = BANANA, num_chains: int = NUM_CHAINS) -> GHMCState:
    rng = np.random.default_rng(0)
    position, momentum = rng.normal(size=(2, num_chains, 2))
    return state_of(target, position, momentum, rng.uniform(-1.0, 1.0, num_chains))


@functools.cache
def compiled_step(target: Target) -> Any:
    return jax.jit(ghmc.build_kernel(target).step)


def take_step(
    state: GHMCState, settings: GHMCParameters, target: Target = BANANA, step: int = 0
) -> tuple[GHMCState, GHMCInfo]:
    """Return state and info after one step, as NumPy arrays."""
    result: tuple[GHMCState, GHMCInfo] = jax.tree.map(
        np.asarray, compiled_step(target)(keys(step, len(state.position)), state, settings)
    )
    return result


# The map ----------------------------------------------------------------------------------------------------------


def textbook(state: GHMCState, settings: GHMCParameters, num_steps: int) -> tuple[Any, ...]:
    """Take integration steps without noise in NumPy; return position, momentum, slice, rates, errors and energies."""
    factor = np.asarray(settings.metric.factor)
    factor = np.diag(factor) if factor.ndim == 1 else factor
    step_size, drift = float(settings.step_size), float(settings.drift)
    x, v, u = (np.array(part) for part in (state.position, state.momentum, state.slice))

    def energy(x: NumpyArray, v: NumpyArray) -> NumpyArray:
        return 0.5 * (x[:, 0] ** 2 + (x[:, 1] - 0.5 * x[:, 0] ** 2) ** 2 + v[:, 0] ** 2 + v[:, 1] ** 2)

    rates, errors = [], []
    for _ in range(num_steps):
        u = u + drift
        u = np.where(u >= 1.0, u - 2.0, u)
        half = v + 0.5 * step_size * banana_grad(x) @ factor
        end = x + step_size * half @ factor.T
        end_v = half + 0.5 * step_size * banana_grad(end) @ factor
        before, after = energy(x, v), energy(end, end_v)
        ratio = np.exp(before - after)
        accepted = np.abs(u) < ratio
        rates.append(np.minimum(ratio, 1.0))
        errors.append(after - before)
        kept = np.where(accepted, after, before)
        x = np.where(accepted[:, None], end, x)
        v = np.where(accepted[:, None], end_v, -v)
        u = np.where(accepted, u / ratio, u)
    return x, v, u, np.mean(rates, axis=0), np.max(errors, axis=0), kept


@pytest.mark.parametrize("form", FACTORS)
def test_steps_without_noise_are_those_of_the_textbook(form: str) -> None:
    settings = parameters(step_size=0.9, refreshment=0.0, num_steps=7, form=form)
    state, info = take_step(random_state(), settings)
    found = (state.position, state.momentum, state.slice, info.acceptance_rate, info.energy_error, info.energy)
    for one, other in zip(found, textbook(random_state(), settings, 7), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    assert np.all(np.abs(state.slice) <= 1.0)
    # Chains that never turned, or never went on, would have tested little.
    assert 0.3 < info.acceptance_rate.mean() < 0.9
    again = compiled_init(BANANA)(jnp.asarray(state.position))
    np.testing.assert_allclose(state.logdensity, again.logdensity, rtol=1e-12)
    np.testing.assert_allclose(state.logdensity_grad, again.logdensity_grad, rtol=1e-12)


@pytest.mark.parametrize("form", FACTORS)
def test_step_is_reversible_and_keeps_the_joint_volume(form: str) -> None:
    settings = parameters(refreshment=0.0, drift=0.0, form=form)

    def move(phase: Array) -> Array:
        state = state_of(BANANA, phase[None, :2], phase[None, 2:4], phase[4:])
        end = ghmc.build_kernel(BANANA).step(keys(0, 1), state, settings)[0]
        return jnp.concatenate([end.position[0], end.momentum[0], end.slice])

    @jax.jit
    def with_jacobian(phase: Array) -> tuple[Array, Array]:
        return move(phase), jax.jacfwd(move)(phase)

    flip = np.array([1.0, 1.0, -1.0, -1.0, 1.0])
    for slice_, is_accepted in ((0.2, True), (0.999, False)):
        at = np.array([0.9, -0.7, 1.4, 0.8, slice_])
        end, jacobian = jax.device_get(with_jacobian(at))
        assert bool(np.any(end[:2] != at[:2])) is is_accepted
        # Turned round, a chain walks back; one that was rejected has turned by itself.
        np.testing.assert_allclose(with_jacobian(end * flip)[0] * flip, at, atol=1e-12)
        # The joint density of position, momentum and slice changes by as much as volume does, so that mass stays.
        lost = -banana(end[:2]) + banana(at[:2]) + 0.5 * (end[2:4] @ end[2:4] - at[2:4] @ at[2:4])
        np.testing.assert_allclose(np.abs(np.linalg.det(jacobian)), np.exp(lost), rtol=1e-9)


def test_noise_replaces_a_share_of_the_momentum() -> None:
    flat = target_of(lambda position: 0.0 * jnp.sum(position))
    start = random_state(flat, 20_000)
    state, info = take_step(start, parameters(refreshment=0.36), flat)
    noise = (state.momentum - 0.8 * np.asarray(start.momentum)) / 0.6
    assert np.all(info.acceptance_rate == 1.0)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise.ravel(), np.ravel(start.momentum))[0, 1]) < 4.0 / np.sqrt(noise.size)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 4.0 / np.sqrt(len(noise))
    # Every integration step has noise of its own.
    long, _ = take_step(start, parameters(refreshment=0.36, num_steps=3), flat)
    noise = (long.momentum - 0.8**3 * np.asarray(start.momentum)) / np.sqrt(1.0 - 0.8**6)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3


def test_chains_at_rest_draw_momentum_and_slice_and_others_keep_theirs() -> None:
    start = jax.device_get(random_state(BANANA, 20_000))
    at_rest = np.arange(20_000) % 2 == 0
    momentum = np.where(at_rest[:, None], 0.0, start.momentum)
    drawn = jax.device_get(jax.jit(ghmc.draw_if_missing)(keys(0, 20_000), start._replace(momentum=momentum)))
    assert stats.kstest(np.ravel(drawn.momentum[::2]), "norm").pvalue > 1e-3
    assert stats.kstest(np.asarray(drawn.slice[::2]), "uniform", args=(-1.0, 2.0)).pvalue > 1e-3
    np.testing.assert_array_equal(drawn.momentum[1::2], start.momentum[1::2])
    np.testing.assert_array_equal(drawn.slice[1::2], start.slice[1::2])
    first = compiled_init(BANANA)(start.position)
    assert not np.any(first.momentum)
    assert np.all(np.any(take_step(first, parameters(refreshment=0.0))[0].momentum != 0.0, axis=1))


# What is left invariant ----------------------------------------------------------------------------------------------


CORRELATION = 0.8
CORRELATED = target_of(
    lambda x: -0.5 * (x[0] ** 2 + x[1] ** 2 - 2.0 * CORRELATION * x[0] * x[1]) / (1 - CORRELATION**2)
)


def bend(normal: NumpyArray) -> NumpyArray:
    return np.stack([normal[:, 0], normal[:, 1] + 0.5 * normal[:, 0] ** 2], axis=1)


def straighten(position: NumpyArray) -> NumpyArray:
    return np.stack([position[:, 0], position[:, 1] - 0.5 * position[:, 0] ** 2], axis=1)


def correlate(normal: NumpyArray) -> NumpyArray:
    other = CORRELATION * normal[:, 0] + np.sqrt(1.0 - CORRELATION**2) * normal[:, 1]
    return np.stack([normal[:, 0], other], axis=1)


def decorrelate(position: NumpyArray) -> NumpyArray:
    other = (position[:, 1] - CORRELATION * position[:, 0]) / np.sqrt(1.0 - CORRELATION**2)
    return np.stack([position[:, 0], other], axis=1)


TARGETS: dict[str, tuple[Target, Callable[..., Any], Callable[..., Any], float]] = {
    "banana": (BANANA, bend, straighten, 0.9),
    "correlated": (CORRELATED, correlate, decorrelate, 0.5),
}


def smallest_p(name: str, num_chains: int = 20_000) -> float:
    """Start from exact draws, take steps, and return the least p-value that the ends are exact draws, too.

    Positions are mapped to numbers that are standard normal and independent under the target, as momenta are.
    """
    target, to_position, to_normal, step_size = TARGETS[name]
    rng = np.random.default_rng(3)
    normal, momentum = rng.normal(size=(2, num_chains, 2))
    start = state_of(target, to_position(normal), momentum, rng.uniform(-1.0, 1.0, num_chains))
    settings = parameters(step_size=step_size, refreshment=0.2, drift=0.1, num_steps=12)
    # Compiled anew each time: tests replace parts of the kernel.
    state, info = jax.jit(ghmc.build_kernel(target).step)(keys(0, num_chains), start, settings)
    assert 0.6 < info.acceptance_rate.mean() < 0.95
    ends = np.concatenate([to_normal(np.asarray(state.position)), np.asarray(state.momentum)], axis=1)
    tests = [stats.kstest(one, "norm").pvalue for one in ends.T]
    tests += [stats.kstest(one**2, "chi2", args=(1,)).pvalue for one in ends.T]
    tests += [stats.pearsonr(ends[:, one], ends[:, other]).pvalue for one in range(4) for other in range(one)]
    tests.append(stats.kstest(np.asarray(state.slice), "uniform", args=(-1.0, 2.0)).pvalue)
    return float(min(tests))


@pytest.mark.parametrize("name", TARGETS)
def test_target_is_left_invariant(name: str) -> None:
    # The least of fifteen.
    assert smallest_p(name) > 1e-3 / 15


def without_flip(target: Target, state: GHMCState, *rest: Any) -> Any:
    moved, tally = MOVE(target, state, *rest)
    is_rejected = jnp.all(moved.position == state.position, axis=1)
    return moved._replace(momentum=jnp.where(is_rejected[:, None], state.momentum, moved.momentum)), tally


def without_new_slice(target: Target, state: GHMCState, *rest: Any) -> Any:
    moved, tally = MOVE(target, state, *rest)
    return moved._replace(slice=state.slice), tally


def with_the_inverse_slice(target: Target, state: GHMCState, *rest: Any) -> Any:
    moved, tally = MOVE(target, state, *rest)
    changed = jnp.clip(state.slice**2 / jnp.where(moved.slice == 0.0, 1.0, moved.slice), -1.0, 1.0)
    return moved._replace(slice=changed), tally


def accepting_all(target: Target, state: GHMCState, *rest: Any) -> Any:
    return MOVE(target, state._replace(slice=0.0 * state.slice), *rest)


def with_too_much_noise(rng_keys: Array, state: GHMCState, settings: GHMCParameters) -> GHMCState:
    refreshed = REFRESH(rng_keys, state, settings)
    kept = jnp.sqrt(1.0 - settings.refreshment) * state.momentum
    return refreshed._replace(momentum=kept + jnp.sqrt(2.0) * (refreshed.momentum - kept))


def with_the_wrong_share(rng_keys: Array, state: GHMCState, settings: GHMCParameters) -> GHMCState:
    refreshed = REFRESH(rng_keys, state, settings)
    lost = (jnp.sqrt(1.0 - settings.refreshment) - (1.0 - settings.refreshment)) * state.momentum
    return refreshed._replace(momentum=refreshed.momentum - lost)


MOVE, REFRESH = ghmc._move, ghmc._refresh
BUGS: dict[str, tuple[str, Callable[..., Any]]] = {
    "no flip on rejection": ("_move", without_flip),
    "slice not updated": ("_move", without_new_slice),
    "slice updated the wrong way": ("_move", with_the_inverse_slice),
    "every move accepted": ("_move", accepting_all),
    "noise of twice the variance": ("_refresh", with_too_much_noise),
    "momentum scaled by its share, not the root": ("_refresh", with_the_wrong_share),
}


@pytest.mark.parametrize("bug", BUGS)
def test_mistakes_do_not_pass(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, broken = BUGS[bug]
    monkeypatch.setattr(ghmc, name, broken)
    assert smallest_p("banana") < 1e-9


# What is not finite, and what it costs -------------------------------------------------------------------------------


BAD_VALUES = (np.nan, -np.inf, np.inf, 0.0, 0.0)
BAD_GRADIENTS = (0.0, 0.0, 0.0, np.nan, np.inf)


def broken_beside_centers(position: Array) -> tuple[Array, Array]:
    """Return a standard normal log-density; far out it is 0 and, except at every hundred, broken in its own way."""
    distance = position[:, 0]
    kind = jnp.clip(jnp.round(distance / 100.0).astype(int) - 1, 0, len(BAD_VALUES) - 1)
    is_far = distance > 50.0
    is_bad = is_far & (distance % 100.0 != 0.0)
    logdensity = jnp.where(is_far, 0.0, -0.5 * jnp.sum(position**2, axis=1))
    grad = jnp.where(is_far[:, None], 0.0, -position)
    return (
        jnp.where(is_bad, jnp.asarray(BAD_VALUES)[kind], logdensity),
        jnp.where(is_bad[:, None], jnp.asarray(BAD_GRADIENTS)[kind, None], grad),
    )


def test_ends_that_are_not_finite_are_rejected_in_their_chain_alone() -> None:
    target = Target(broken_beside_centers, lambda a, b: jnp.sum(a * b, axis=-1))
    good = jax.device_get(random_state(target, 8))
    settings = parameters(refreshment=0.0, num_steps=3)
    expected, expected_info = take_step(good, settings, target)
    assert not expected_info.is_nonfinite.any()
    for kind in range(len(BAD_VALUES)):
        position = good.position.copy()
        position[2] = [100.0 * (kind + 1), 0.0]
        mixed = state_of(target, position, good.momentum, good.slice)
        state, info = take_step(mixed, settings, target)
        is_bad = np.arange(8) == 2
        np.testing.assert_array_equal(info.is_nonfinite, is_bad)
        np.testing.assert_array_equal(info.is_divergent, is_bad)
        assert info.acceptance_rate[2] == 0.0
        assert info.energy_error[2] == np.inf
        np.testing.assert_array_equal(state.position[2], mixed.position[2])
        np.testing.assert_array_equal(state.momentum[2], -mixed.momentum[2])
        assert all(np.all(np.isfinite(leaf)) for leaf in (*state, info.energy))
        for new, old in zip((*state, info.energy), (*expected, expected_info.energy), strict=True):
            assert new[~is_bad].tobytes() == old[~is_bad].tobytes()


def test_large_energy_error_is_divergent_but_finite() -> None:
    narrow = target_of(lambda position: -0.5 * jnp.sum((position / 0.01) ** 2))
    start = random_state(narrow)
    state, info = take_step(start, parameters(num_steps=2, refreshment=0.0), narrow)
    assert np.all(info.energy_error > DIVERGENCE_THRESHOLD)
    assert info.is_divergent.all()
    assert not info.is_nonfinite.any()
    np.testing.assert_array_equal(state.position, start.position)


def test_one_evaluation_for_each_integration_step_and_nothing_is_compiled_again() -> None:
    calls, traces = [], []

    def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
        traces.append(1)
        jax.debug.callback(lambda: calls.append(1))
        return -0.5 * jnp.sum(position**2, axis=1), -position

    kernel = ghmc.build_kernel(Target(logdensity_and_grad, lambda a, b: jnp.sum(a * b, axis=-1)))
    step = jax.jit(kernel.step)
    state = kernel.init(random_state().position)
    jax.effects_barrier()
    assert len(calls) == len(traces) == 1
    for num_steps in (1, 6):
        calls.clear()
        state, info = step(keys(), state, parameters(num_steps=num_steps, refreshment=0.1 * num_steps))
        jax.effects_barrier()
        assert len(calls) == int(info.num_integration_steps) == num_steps
    assert len(traces) == 2
    assert step._cache_size() == 1


def test_chains_may_be_listed_in_any_order() -> None:
    order = np.random.default_rng(0).permutation(NUM_CHAINS)
    start = random_state()
    settings = parameters(num_steps=4)
    state, info = compiled_step(BANANA)(keys(), start, settings)
    shuffled = jax.tree.map(lambda leaf: leaf[order], start)
    permuted, permuted_info = compiled_step(BANANA)(keys()[order], shuffled, settings)
    for new, old in zip((*permuted, permuted_info.energy), (*state, info.energy), strict=True):
        np.testing.assert_array_equal(new, old[order])
