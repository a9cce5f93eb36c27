"""One step of the No-U-Turn sampler for all chains."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recursive_nuts
from kernel_targets import BAD_VALUES, BROKEN, EXACT_TARGETS, banana, smallest_pvalue, target_of

from distmc.kernels import nuts
from distmc.kernels.base import GradientState, Target, TreeParameters, normal_noise, split_keys
from distmc.kernels.metrics import Metric
from distmc.kernels.nuts import NUTSInfo, build_kernel
from distmc.sampling.rng import chain_keys, seed_key
from distmc.types import Array, NumpyArray

NUM_CHAINS, NUM_DIMENSIONS = 40, 2
DEEPEST_TREE = 6
DENSE = np.array([[0.8, 0.0], [0.5, 0.6]])

Step = Callable[[Array, Any, TreeParameters], tuple[GradientState, NUTSInfo]]


def banana_grad(position: NumpyArray) -> NumpyArray:
    x, y = position
    return np.array([-x + 2.0 * x * (y - x**2), -(y - x**2) - 0.4 * y**3])


def parameters(step_size: float = 0.3, max_tree_depth: int = DEEPEST_TREE) -> TreeParameters:
    metric = Metric(jnp.asarray(DENSE), jnp.asarray(np.linalg.inv(DENSE)))
    return TreeParameters(jnp.asarray(step_size), jnp.asarray(max_tree_depth, jnp.int32), metric)


@jax.jit
def keys(step: int = 0) -> Array:
    return chain_keys(seed_key(1), jnp.asarray(step), NUM_CHAINS)


def starting_positions() -> NumpyArray:
    return np.random.default_rng(0).normal(size=(NUM_CHAINS, NUM_DIMENSIONS))


def compile_step(target: Target) -> Step:
    """Return one step from given positions, to NumPy arrays."""
    kernel = build_kernel(target, DEEPEST_TREE)
    compiled = jax.jit(lambda rng_keys, position, settings: kernel.step(rng_keys, kernel.init(position), settings))

    def step(rng_keys: Array, position: Any, settings: TreeParameters) -> tuple[GradientState, NUTSInfo]:
        result: tuple[GradientState, NUTSInfo] = jax.tree.map(
            np.asarray, compiled(rng_keys, jnp.asarray(position), settings)
        )
        return result

    return step


@pytest.fixture(scope="module")
def banana_step() -> Step:
    with jax.enable_x64(True):
        return compile_step(target_of(banana))


@pytest.fixture(scope="module")
def flat_step() -> Step:
    with jax.enable_x64(True):
        return compile_step(target_of(lambda position: 0.0 * jnp.sum(position) - 3.0))


# The same trees as a recursion ----------------------------------------------------------------------------------------


@jax.jit
def random_numbers(rng_keys: Array) -> tuple[Array, Array]:
    """Return the momenta (num_chains, num_dimensions) of a step and its coins (num_chains, leaves, 3)."""
    momentum_keys, coin_keys = split_keys(rng_keys, 2)

    def toss(key: Array, number: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, number), (3,), jnp.float64)

    over_leaves = jax.vmap(toss, in_axes=(None, 0))
    coins = jax.vmap(over_leaves, in_axes=(0, None))(coin_keys, jnp.arange(1 << DEEPEST_TREE))
    return normal_noise(momentum_keys, NUM_DIMENSIONS), coins


def recursive_step(position: NumpyArray, rng_keys: Array, settings: TreeParameters) -> list[recursive_nuts.Outcome]:
    """Take the same step by recursion, chain by chain."""
    factor = np.asarray(settings.metric.factor)
    problem = recursive_nuts.Problem(
        logdensity=lambda at: float(-0.5 * at[0] ** 2 - 0.5 * (at[1] - at[0] ** 2) ** 2 - 0.1 * at[1] ** 4),
        grad=banana_grad,
        covariance=factor @ factor.T,
        step_size=float(settings.step_size),
    )
    momentum, coins = jax.device_get(random_numbers(rng_keys))
    return [
        recursive_nuts.step(
            problem,
            position[chain],
            np.linalg.solve(factor.T, momentum[chain]),
            lambda number, chain=chain: coins[chain, number],
            int(settings.max_tree_depth),
        )
        for chain in range(NUM_CHAINS)
    ]


@pytest.mark.parametrize(("step_size", "max_tree_depth"), [(0.9, 6), (0.2, 6), (0.05, 6), (0.1, 3), (0.5, 1)])
def test_trees_are_those_of_the_recursion(banana_step: Step, step_size: float, max_tree_depth: int) -> None:
    settings = parameters(step_size, max_tree_depth)
    depths: list[int] = []
    for step in range(8):
        position = 0.7 * np.random.default_rng(step).normal(size=(NUM_CHAINS, NUM_DIMENSIONS))
        state, info = banana_step(keys(step), position, settings)
        expected = recursive_step(position, keys(step), settings)
        for name in ("num_integration_steps", "tree_depth", "reached_max_tree_depth", "is_divergent"):
            np.testing.assert_array_equal(getattr(info, name), [getattr(outcome, name) for outcome in expected], name)
        for name in ("energy_error", "acceptance_rate"):
            wanted = [getattr(outcome, name) for outcome in expected]
            np.testing.assert_allclose(getattr(info, name), wanted, rtol=1e-7, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(state.position, [outcome.position for outcome in expected], rtol=1e-7, atol=1e-9)
        depths += info.tree_depth.tolist()
    # Trees of several sizes were compared, unless the limit or the step size cuts all of them short.
    assert len(set(depths)) > 1 or max_tree_depth == 1


def test_pairs_of_a_subtree_are_judged_the_same_in_either_direction() -> None:
    # Were they not, a tree that has been grown from one of its leaves could not have been grown from another.
    pairs = set(recursive_nuts.pairs(0, 15))
    assert {(15 - late, 15 - early) for early, late in pairs} == pairs


# Exactness ------------------------------------------------------------------------------------------------------------


def pvalue(name: str, step_size: float) -> float:
    exact, metric = EXACT_TARGETS[name], Metric(jnp.ones(3), jnp.ones(3))
    settings = TreeParameters(jnp.asarray(step_size), jnp.asarray(4, jnp.int32), metric)
    return smallest_pvalue(build_kernel(exact.target, 4), exact, settings, num_chains=8000, num_steps=6)


# The step sizes give acceptance rates near 0.7, so that weights of leaves differ.
@pytest.mark.parametrize(("name", "step_size"), [("correlated", 0.75), ("twisted", 0.5)])
def test_exact_draws_stay_exact(name: str, step_size: float) -> None:
    assert pvalue(name, step_size) > 1e-3


def uniform_among_leaves(branch: nuts.Choice, leaf: nuts.Choice) -> Array:
    return jnp.full_like(leaf.log_weight, -jnp.log(2.0))


def preference_within_branches(branch: nuts.Choice, leaf: nuts.Choice) -> Array:
    return jnp.minimum(leaf.log_weight - branch.log_weight, 0.0)


def half_the_weight(kept: nuts.Choice, branch: nuts.Choice) -> Array:
    return jnp.minimum(branch.log_weight - kept.log_weight - jnp.log(2.0), 0.0)


def trees_judged_without_their_branches(*arguments: Any, judge: Any = nuts._find_turns) -> tuple[Array, Array]:
    is_branch_turning, is_tree_turning = judge(*arguments)
    return jnp.zeros_like(is_branch_turning), is_tree_turning


@pytest.mark.parametrize(
    ("place", "bug", "name", "step_size"),
    [
        ("_log_share", uniform_among_leaves, "correlated", 0.75),
        ("_log_share", preference_within_branches, "twisted", 0.5),
        ("_log_preference", half_the_weight, "correlated", 0.75),
        ("_find_turns", trees_judged_without_their_branches, "correlated", 0.75),
    ],
)
def test_wrong_weights_and_trees_are_noticed(
    place: str, bug: Any, name: str, step_size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nuts, place, bug)
    assert pvalue(name, step_size) < 1e-6


def test_trees_that_never_turn_back_are_wasteful_and_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    # A check that is missing everywhere costs evaluations, which no test of exactness can notice.
    monkeypatch.setattr(nuts, "_is_turning", lambda target, marks, growth: jnp.zeros(marks.position.shape[:2], bool))
    assert pvalue("correlated", 0.75) > 1e-3


# What a step tells, and what it costs ---------------------------------------------------------------------------------


def test_state_holds_density_and_gradient_of_its_position(banana_step: Step) -> None:
    position = starting_positions()
    state, info = banana_step(keys(), position, parameters())
    again = build_kernel(target_of(banana), DEEPEST_TREE).init(jnp.asarray(state.position))
    assert np.sum(np.any(state.position != position, axis=1)) > NUM_CHAINS // 2
    np.testing.assert_allclose(state.logdensity, again.logdensity, rtol=1e-12)
    np.testing.assert_allclose(state.logdensity_grad, again.logdensity_grad, rtol=1e-10, atol=1e-12)
    momentum, _ = jax.device_get(random_numbers(keys()))
    start = -np.asarray(jax.vmap(banana)(position)) + 0.5 * np.sum(momentum**2, axis=1)
    np.testing.assert_allclose(info.energy - info.energy_error, start, rtol=1e-12)


def test_constant_density_is_followed_to_the_limit(flat_step: Step) -> None:
    for max_tree_depth in (1, 4):
        _, info = flat_step(keys(), starting_positions(), parameters(2.0, max_tree_depth))
        np.testing.assert_array_equal(info.num_integration_steps, 2**max_tree_depth - 1)
        np.testing.assert_array_equal(info.tree_depth, max_tree_depth)
        np.testing.assert_array_equal(info.acceptance_rate, 1.0)
        assert info.reached_max_tree_depth.all()


def test_full_turn_does_not_hide_between_the_halves_of_a_tree() -> None:
    # Every leaf goes on by 0.97 radians: 2.9 along a tree of four, short of a half turn, and 6.8 along one of eight.
    step_size = 2.0 * np.sin(0.97 / 2.0)
    num_dimensions = 200
    kernel = build_kernel(target_of(lambda position: -0.5 * jnp.sum(position**2)), DEEPEST_TREE)
    metric = Metric(jnp.ones(num_dimensions), jnp.ones(num_dimensions))
    settings = TreeParameters(jnp.asarray(step_size), jnp.asarray(DEEPEST_TREE, jnp.int32), metric)
    position = jnp.asarray(np.random.default_rng(0).normal(size=(NUM_CHAINS, num_dimensions)))
    _, info = jax.jit(lambda: kernel.step(keys(), kernel.init(position), settings))()
    assert np.max(info.num_integration_steps) == 7


def test_limit_beyond_the_memory_is_the_memory(flat_step: Step) -> None:
    _, info = flat_step(keys(), starting_positions(), parameters(2.0, DEEPEST_TREE + 3))
    np.testing.assert_array_equal(info.tree_depth, DEEPEST_TREE)


def test_chains_may_be_listed_in_any_order(banana_step: Step) -> None:
    order = np.random.default_rng(3).permutation(NUM_CHAINS)
    position = starting_positions()
    state, info = banana_step(keys(), position, parameters(0.1))
    permuted, permuted_info = banana_step(keys()[order], position[order], parameters(0.1))
    assert len(set(info.num_integration_steps.tolist())) > 2
    for new, old in zip((*permuted, *permuted_info), (*state, *info), strict=True):
        np.testing.assert_array_equal(new, old[order])


def test_leaf_that_is_not_finite_ends_the_tree_of_its_chain_alone() -> None:
    step = compile_step(BROKEN)
    good = starting_positions()
    expected = step(keys(), good, parameters())
    assert not expected[1].is_nonfinite.any()
    is_bad = np.arange(NUM_CHAINS) == 2
    for kind in range(len(BAD_VALUES)):
        mixed = good.copy()
        mixed[2] = [100.0 * (kind + 1), 0.0]
        state, info = step(keys(), mixed, parameters())
        np.testing.assert_array_equal(info.is_nonfinite, is_bad)
        np.testing.assert_array_equal(info.is_divergent, is_bad)
        assert info.acceptance_rate[2] == info.energy_error[2] == info.tree_depth[2] == 0.0
        assert info.num_integration_steps[2] == 1
        assert np.isfinite(info.energy[2])
        np.testing.assert_array_equal(state.position[2], mixed[2])
        for new, old in zip((*state, *info), (*expected[0], *expected[1]), strict=True):
            assert new[~is_bad].tobytes() == old[~is_bad].tobytes()


def test_divergent_branch_is_left_out() -> None:
    step = compile_step(target_of(lambda position: -0.5 * jnp.sum((position / 0.01) ** 2)))
    position = 0.01 * starting_positions()
    state, info = step(keys(), position, parameters(1.0))
    assert info.is_divergent.all()
    assert not info.is_nonfinite.any()
    np.testing.assert_array_equal(state.position, position)
    np.testing.assert_array_equal(info.energy_error, 0.0)


def test_target_is_evaluated_once_for_each_leaf_of_the_largest_tree_and_compiled_once() -> None:
    calls, traces = [], []

    def logdensity_and_grad(position: Array) -> tuple[Array, Array]:
        traces.append(position)
        jax.debug.callback(lambda: calls.append(1))
        return jax.vmap(jax.value_and_grad(banana))(position)

    kernel = build_kernel(Target(logdensity_and_grad, lambda a, b: jnp.sum(a * b, axis=-1)), DEEPEST_TREE)
    state = kernel.init(jnp.asarray(starting_positions()))
    jax.effects_barrier()
    step = jax.jit(kernel.step)
    traces.clear()
    for number, (step_size, max_tree_depth) in enumerate([(0.05, 6), (0.5, 6), (0.05, 3)]):
        calls.clear()
        state, info = step(keys(number), state, parameters(step_size, max_tree_depth))
        jax.effects_barrier()
        assert len(calls) == np.max(info.num_integration_steps)
    assert len(traces) == 1
