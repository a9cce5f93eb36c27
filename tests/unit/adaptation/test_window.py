"""A window takes in chains that are finite and count, and keeps some of its ensembles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.adaptation.moments import covariance
from distmc.adaptation.window import Window, add_state, open_window
from distmc.kernels.base import GradientState
from distmc.types import Array

# Four ensembles of so many chains are kept.
NUM_CHAINS, NUM_KEPT = 128, 4


def state_at(step: int, num_chains: int = NUM_CHAINS) -> GradientState:
    """Return a state that tells its step: positions hold it, gradients its opposite."""
    position = step + 0.01 * np.random.default_rng(step).normal(size=(num_chains, 2))
    return GradientState(jnp.asarray(position), jnp.zeros(num_chains), jnp.asarray(-position))


class Gradientless:
    """A state of a kernel that follows no gradients."""

    def __init__(self, position: Array) -> None:
        self.position = position


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    """Return the window after each of 100 steps; the first is empty."""
    with jax.enable_x64(True):
        add = jax.jit(add_state)
        windows = [open_window(state_at(0), is_dense=False, keeps_ensembles=True)]
        for step in range(100):
            windows.append(add(windows[-1], state_at(step), jnp.ones(NUM_CHAINS).at[5].set(0.0)))
        return jax.tree.map(np.asarray, windows)


def test_kept_ensembles_are_whole_and_from_the_later_half(windows: list[Window]) -> None:
    for num_steps in range(1, 101):
        kept = windows[num_steps].ensembles
        assert kept is not None
        assert kept.grad is not None
        steps = np.round(kept.position[:, 0, 0]).astype(int)
        filled = kept.weight[:, 0] > 0.0
        assert filled.sum() == min(num_steps, NUM_KEPT)
        assert len(np.unique(steps[filled])) == filled.sum()
        # Evenly spread to within a factor of two, up to the last steps.
        spacing = max(1, num_steps // (2 * NUM_KEPT))
        assert steps[filled].min() >= num_steps // 4 - 1
        assert steps[filled].max() >= num_steps - 4 * spacing
        for step, position, grad, weight in zip(steps, kept.position, kept.grad, kept.weight, strict=True):
            if weight[0] > 0.0:
                np.testing.assert_array_equal(position, state_at(step).position)
                np.testing.assert_array_equal(grad, -position)
                assert weight.sum() == NUM_CHAINS - 1
                assert weight[5] == 0.0


def test_chains_that_are_not_finite_do_not_count() -> None:
    good = state_at(3)
    position = np.array(good.position)
    grad = np.array(good.logdensity_grad)
    grad[1, 0], grad[7, 1], position[9, 0] = np.nan, np.inf, -np.inf
    bad = good._replace(position=jnp.asarray(position), logdensity_grad=jnp.asarray(grad))
    empty = open_window(good, is_dense=True, keeps_ensembles=True)
    window = add_state(empty, bad, jnp.ones(NUM_CHAINS).at[11].set(0.0))
    others = np.delete(np.arange(NUM_CHAINS), [1, 7, 9, 11])
    assert window.grad is not None
    assert window.position.count == window.grad.count == len(others)
    np.testing.assert_allclose(covariance(window.grad), np.cov(grad[others], rowvar=False), rtol=1e-10, atol=1e-16)
    np.testing.assert_allclose(covariance(window.position), np.cov(position[others], rowvar=False), rtol=1e-9)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(window))


def test_step_without_a_finite_chain_changes_nothing_that_matters() -> None:
    state = state_at(2, 3)
    window = add_state(open_window(state, is_dense=False, keeps_ensembles=False), state, jnp.ones(3))
    lost = state._replace(logdensity_grad=jnp.full((3, 2), jnp.nan))
    after = add_state(window, lost, jnp.ones(3))
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(window), strict=True):
        np.testing.assert_array_equal(new, old)


def test_states_without_gradients_give_positions_alone() -> None:
    position = state_at(2).position
    empty = open_window(Gradientless(position), is_dense=False, keeps_ensembles=True)
    window = add_state(empty, Gradientless(position), jnp.ones(NUM_CHAINS))
    assert window.grad is None
    assert window.ensembles is not None
    assert window.ensembles.grad is None
    np.testing.assert_allclose(covariance(window.position), np.var(position, axis=0, ddof=1), rtol=1e-9)
