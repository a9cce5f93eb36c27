"""The No-U-Turn sampler for all chains in lockstep: multinomial, iterative, one leaf of every chain's tree at a time.

A tree doubles by a *branch* of as many new leaves as it has, grown at one of its two ends by the flip of a coin, until
it turns back on itself. Chains differ in the size of their trees. So the loop is not over doublings, and inside over
leaves, but over leaves alone: in every round each chain adds one leaf and then does what is due in its own tree, such
as joining a finished branch and choosing the next end. A chain waits for others only when its tree is complete, and
one evaluation of the target serves all chains.

Leaves are numbered in the order in which they are added; the start has the number 0. The tree becomes one of
``2**depth`` leaves with the leaf ``2**depth - 1``, and a new branch together with the tree that it is joined to looks
as if it had been grown in one go from the tree's far end. Hence a leaf's number tells which subtrees begin with it,
which end, and which have their middle there. For each level a chain remembers two leaves, the first one of its latest
subtree and the last one of that subtree's first half: memory for twice as many leaves as there are doublings.

A subtree turns back if the integral of the momentum from one end to the other points against the momentum at either.
That integral is the displacement in whitened coordinates. As in Stan, the first half with the first leaf of the
second, and the second half with the last leaf of the first, are looked at as well: otherwise a full turn can hide in
the gap between the halves.

References
----------
Hoffman, Gelman (2014), The No-U-Turn Sampler. arXiv:1111.4246.
Betancourt (2017), A conceptual introduction to Hamiltonian Monte Carlo, appendix A. arXiv:1701.02434.
Phan, Pradhan, Jankowiak (2019), Composable effects for flexible and accelerated probabilistic programming in
NumPyro, appendix A. arXiv:1912.11554.
Dance, Glaser, Orbanz, Adams (2025), Efficiently vectorized MCMC on modern accelerators. arXiv:2503.17405.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from distmc.kernels.base import (
    DIVERGENCE_THRESHOLD,
    GradientState,
    Kernel,
    Target,
    TreeParameters,
    is_finite,
    normal_noise,
    select_chains,
    split_keys,
)
from distmc.kernels.metrics import to_position, whiten_grad
from distmc.types import Array


class NUTSInfo(NamedTuple):
    """What happened in one step.

    Attributes
    ----------
    acceptance_rate : float64 array (num_chains,)
        Mean over the new leaves of the probability of accepting each from the start; 0 for one that is not finite.
    is_divergent, is_nonfinite : bool array (num_chains,)
        Whether a leaf with an energy error above `DIVERGENCE_THRESHOLD`, or not finite, ended the tree; whether it was
        not finite.
    energy, energy_error : float64 array (num_chains,)
        Energy of the leaf that was kept, and that minus the energy of the start.
    num_integration_steps : int32 array (num_chains,)
        Leaves that were added: evaluations of the target that the chain needed.
    tree_depth : int32 array (num_chains,)
        Doublings that were completed.
    reached_max_tree_depth : bool array (num_chains,)
        Whether the limit ended the tree, and not a turn.
    """

    acceptance_rate: Array
    is_divergent: Array
    is_nonfinite: Array
    energy: Array
    energy_error: Array
    num_integration_steps: Array
    tree_depth: Array
    reached_max_tree_depth: Array


class Leaf(NamedTuple):
    """A point of phase space, float64 arrays (num_chains, num_dimensions) in whitened coordinates.

    Attributes
    ----------
    position : array
        Displacement from the start.
    momentum : array
    grad : array
        Of the log-density.
    """

    position: Array
    momentum: Array
    grad: Array


class Marks(NamedTuple):
    """Leaves that subtrees are judged by, float64 arrays (num_levels, num_chains, num_dimensions).

    Attributes
    ----------
    position, momentum : array
        As those of `Leaf`. The first axis is the level: subtrees at level i have ``2**(i + 1)`` leaves.
    """

    position: Array
    momentum: Array


class Choice(NamedTuple):
    """A leaf chosen from several in proportion to their weights.

    Attributes
    ----------
    state : GradientState
        The chosen leaf.
    energy_error : float64 array (num_chains,)
        Its energy minus that of the start.
    log_weight : float64 array (num_chains,)
        Log of the sum of all weights; a leaf weighs ``exp(-energy_error)``.
    """

    state: GradientState
    energy_error: Array
    log_weight: Array


class Growth(NamedTuple):
    """What chains need to add their next leaves; means nothing where a tree is complete.

    Attributes
    ----------
    front, back : Leaf
        The end that grows, and the other one.
    direction : float64 array (num_chains,)
        1 where the front grows forwards in time, -1 where backwards.
    firsts, middles : Marks
        The first leaf of the latest subtree at each level, and the last leaf of that subtree's first half.
    branch : Choice
        From the leaves of the unfinished branch.
    """

    front: Leaf
    back: Leaf
    direction: Array
    firsts: Marks
    middles: Marks
    branch: Choice


class Tree(NamedTuple):
    """What the chains' trees amount to; stays where a tree is complete.

    Attributes
    ----------
    kept : Choice
        From the leaves of all finished branches.
    num_leaves, depth : int32 array (num_chains,)
        Leaves added, without the start, and finished branches.
    sum_of_rates : float64 array (num_chains,)
        Over the leaves added.
    is_growing, is_turning, is_divergent, is_nonfinite : bool array (num_chains,)
        Whether there will be another leaf; whether the tree turns back as a whole; see `NUTSInfo`.
    """

    kept: Choice
    num_leaves: Array
    depth: Array
    sum_of_rates: Array
    is_growing: Array
    is_turning: Array
    is_divergent: Array
    is_nonfinite: Array


def build_kernel(target: Target, deepest_tree: int) -> Kernel:
    """Return the kernel that leaves `target` invariant.

    Parameters
    ----------
    target : Target
        Its log-density is evaluated once in `init`, and in a step as often as the chain with the largest tree needs.
    deepest_tree : int
        Most doublings that there is memory for, from 1 to 30; each takes that of four positions of every chain. The
        limit in force is one of the parameters.

    Returns
    -------
    kernel : Kernel
        ``step`` takes one random key for each chain.
    """

    def init(position: Array) -> GradientState:
        return GradientState(position, *target.logdensity_and_grad(position))

    def step(rng_keys: Array, state: GradientState, parameters: TreeParameters) -> tuple[GradientState, NUTSInfo]:
        momentum_keys, coin_keys = split_keys(rng_keys, 2)
        momentum = normal_noise(momentum_keys, state.position.shape[1])
        start_energy = -state.logdensity + 0.5 * target.dot(momentum, momentum)
        limit = jnp.minimum(parameters.max_tree_depth, deepest_tree)

        def grow(growing: tuple[Tree, Growth]) -> tuple[Tree, Growth]:
            tree, growth = growing
            front, leaf = _integrate(target, state, growth, parameters)
            energy = -leaf.logdensity + 0.5 * target.dot(front.momentum, front.momentum)
            energy_error = jnp.where(jnp.isfinite(energy) & is_finite(leaf), energy - start_energy, jnp.inf)
            coins = _toss(coin_keys, tree.num_leaves + 1)
            growth = growth._replace(front=front)
            return _add_leaf(target, limit, tree, growth, Choice(leaf, energy_error, -energy_error), coins)

        start = Leaf(jnp.zeros_like(momentum), momentum, whiten_grad(parameters.metric, state.logdensity_grad))
        planted = _plant(state, start, deepest_tree)
        tree, _ = lax.while_loop(lambda growing: jnp.any(growing[0].is_growing), grow, planted)
        info = NUTSInfo(
            acceptance_rate=tree.sum_of_rates / tree.num_leaves,
            is_divergent=tree.is_divergent,
            is_nonfinite=tree.is_nonfinite,
            energy=start_energy + tree.kept.energy_error,
            energy_error=tree.kept.energy_error,
            num_integration_steps=tree.num_leaves,
            tree_depth=tree.depth,
            reached_max_tree_depth=(tree.depth == limit) & ~tree.is_turning,
        )
        return tree.kept.state, info

    return Kernel(init, step)


def _plant(state: GradientState, start: Leaf, num_levels: int) -> tuple[Tree, Growth]:
    """Return trees that consist of their start alone, which is a subtree's first leaf and middle at all levels."""
    num_chains = state.logdensity.shape[0]
    zero, never = jnp.zeros(num_chains, jnp.float64), jnp.zeros(num_chains, bool)
    none = jnp.zeros(num_chains, jnp.int32)
    tree = Tree(
        kept=Choice(state, zero, zero),
        num_leaves=none,
        depth=none,
        sum_of_rates=zero,
        is_growing=~never,
        is_turning=never,
        is_divergent=never,
        is_nonfinite=never,
    )
    shape = (num_levels, *start.position.shape)
    marks = Marks(jnp.broadcast_to(start.position, shape), jnp.broadcast_to(start.momentum, shape))
    # Momenta are as likely as their opposites: the first branch may grow forwards.
    growth = Growth(start, start, zero + 1.0, marks, marks, Choice(state, zero, zero - jnp.inf))
    return tree, growth


def _integrate(
    target: Target, origin: GradientState, growth: Growth, parameters: TreeParameters
) -> tuple[Leaf, GradientState]:
    """Take one leapfrog step from the fronts; return the new ones, in whitened coordinates and as states."""
    step_size = (growth.direction * parameters.step_size)[:, None]
    momentum = growth.front.momentum + 0.5 * step_size * growth.front.grad
    whitened = growth.front.position + step_size * momentum
    position = origin.position + to_position(parameters.metric, whitened)
    state = GradientState(position, *target.logdensity_and_grad(position))
    grad = whiten_grad(parameters.metric, state.logdensity_grad)
    return Leaf(whitened, momentum + 0.5 * step_size * grad, grad), state


def _toss(coin_keys: Array, number: Array) -> tuple[Array, Array, Array]:
    """Return three numbers on [0, 1) for the leaf of a `number`, each (num_chains,)."""

    def toss(key: Array, number: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, number), (3,), jnp.float64)

    leaf, branch, end = jnp.unstack(jax.vmap(toss)(coin_keys, number), axis=1)
    return leaf, branch, end


def _add_leaf(
    target: Target, limit: Array, tree: Tree, growth: Growth, leaf: Choice, coins: tuple[Array, Array, Array]
) -> tuple[Tree, Growth]:
    """Add the fronts as leaves to all trees that grow, and do what is due then.

    A branch that turns back within itself, or diverges, is cut off with all its leaves: none of them could have
    grown this tree.
    """
    leaf_coin, branch_coin, end_coin = coins
    number = tree.num_leaves + 1
    is_branch_turning, is_tree_turning = _find_turns(target, growth, number, tree.depth)
    is_divergent = leaf.energy_error > DIVERGENCE_THRESHOLD
    is_cut_off = is_branch_turning | is_divergent
    is_branch_finished = (number & (number + 1) == 0) & ~is_cut_off

    branch = _join(growth.branch, leaf, leaf_coin, _log_share(growth.branch, leaf))
    joined = _join(tree.kept, branch, branch_coin, _log_preference(tree.kept, branch))
    is_turning = tree.is_turning | is_tree_turning
    depth = tree.depth + is_branch_finished
    is_complete = is_branch_finished & (is_turning | (depth == limit))
    grown = Tree(
        kept=select_chains(is_branch_finished, joined, tree.kept),
        num_leaves=number,
        depth=depth,
        sum_of_rates=tree.sum_of_rates + jnp.exp(-jnp.maximum(leaf.energy_error, 0.0)),
        is_growing=~(is_cut_off | is_complete),
        is_turning=is_turning,
        is_divergent=is_divergent,
        is_nonfinite=jnp.isinf(leaf.energy_error),
    )
    emptied = branch._replace(log_weight=jnp.where(is_branch_finished, -jnp.inf, branch.log_weight))
    is_other_end = is_branch_finished & (end_coin < 0.5)
    return select_chains(tree.is_growing, grown, tree), _move_on(growth._replace(branch=emptied), number, is_other_end)


def _find_turns(target: Target, growth: Growth, number: Array, depth: Array) -> tuple[Array, Array]:
    """Tell the chains (num_chains,) whose branch turns back within itself, and those whose tree does as a whole.

    The front is the leaf of a `number`; the branch that it belongs to makes the tree one of level `depth`.
    """
    half, whole = _sizes(growth)
    is_end = (number + 1) % whole == 0
    is_far_enough = is_end | (number % whole == half)
    since_first = is_far_enough & _is_turning(target, growth.firsts, growth)
    since_middle = is_end & _is_turning(target, growth.middles, growth)
    turns = since_first | since_middle
    is_tree = half == jnp.left_shift(1, depth)
    return jnp.any(turns & ~is_tree, axis=0), jnp.any(turns & is_tree, axis=0)


def _is_turning(target: Target, marks: Marks, growth: Growth) -> Array:
    """Tell, for each level and chain, whether the way from the mark to the front points back at either end."""
    way = growth.direction[:, None] * (growth.front.position - marks.position)
    at_mark = jax.vmap(target.dot)(marks.momentum, way)
    at_front = jax.vmap(target.dot, in_axes=(None, 0))(growth.front.momentum, way)
    return (at_mark <= 0.0) | (at_front <= 0.0)


def _move_on(growth: Growth, number: Array, is_other_end: Array) -> Growth:
    """Choose the end to grow at, where that is due, and mark the front of the `number` at the levels that need it."""
    half, whole = _sizes(growth)
    front = select_chains(is_other_end, growth.back, growth.front)
    back = select_chains(is_other_end, growth.front, growth.back)
    # With the next branch the tree will be a subtree of its own level; it begins at the far end of the tree.
    firsts = _mark(growth.firsts, number + 1 == half, back)
    return growth._replace(
        front=front,
        back=back,
        direction=jnp.where(is_other_end, -growth.direction, growth.direction),
        firsts=_mark(firsts, number % whole == 0, front),
        middles=_mark(growth.middles, (number + 1) % whole == half, front),
    )


def _mark(marks: Marks, is_marked: Array, leaf: Leaf) -> Marks:
    """Replace the marks of levels and chains where `is_marked` (num_levels, num_chains) holds."""
    condition = is_marked[..., None]
    return Marks(
        jnp.where(condition, leaf.position, marks.position), jnp.where(condition, leaf.momentum, marks.momentum)
    )


def _sizes(growth: Growth) -> tuple[Array, Array]:
    """Return the leaves in half a subtree and in a whole one at each level, both (num_levels, 1)."""
    half = jnp.left_shift(1, jnp.arange(growth.firsts.position.shape[0], dtype=jnp.int32)[:, None])
    return half, 2 * half


def _join(chosen: Choice, other: Choice, coin: Array, log_probability: Array) -> Choice:
    """Choose from the leaves of both; those of `other` with a probability."""
    joined: Choice = select_chains(coin < jnp.exp(log_probability), other, chosen)
    return joined._replace(log_weight=jnp.logaddexp(chosen.log_weight, other.log_weight))


def _log_share(branch: Choice, leaf: Choice) -> Array:
    """Log of the probability that makes every leaf of a branch as likely as its weight says."""
    return leaf.log_weight - jnp.logaddexp(branch.log_weight, leaf.log_weight)


def _log_preference(kept: Choice, branch: Choice) -> Array:
    """Log of the probability of leaving the old tree for the new branch, which prefers what is far away."""
    return jnp.minimum(branch.log_weight - kept.log_weight, 0.0)
