"""Where the target pulls its chains to, learned from positions and gradients of all chains.

On a normal target gradients are linear, so that from any draw, and from the mean of many, one step along the gradient,
scaled by the covariance, leads to the middle. Chains that are still under way see it ahead of them. Where they have
arrived and draws are plenty, their mean says it better on other targets.

References
----------
Seyboldt, Carlson, Carpenter (2026), Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence.
arXiv:2603.18845.
"""

import jax.numpy as jnp

from distmc.adaptation.metric import positions_say_all
from distmc.adaptation.pooling import Pooling
from distmc.adaptation.window import Window
from distmc.kernels.base import Target
from distmc.kernels.metrics import Metric, to_position, to_whitened, whiten_grad
from distmc.kernels.pull import Pull
from distmc.types import Array

# In standard deviations, beyond the distance from the center that is usual in so many dimensions. That far out in an
# exponential tail about half of the trajectories of half the mean length are accepted, twice as far out one in ten.
_REACH = 20.0


def estimate_pull(window: Window, metric: Metric, has_arrived: Array | bool) -> Pull:
    """Return the pull at the end of a window.

    Parameters
    ----------
    window : Window
        At its end, of a kernel that follows gradients.
    metric : Metric
        Learned from it.
    has_arrived : bool scalar
        Whether chains have had the time to arrive.

    Returns
    -------
    pull : Pull
        None to speak of, with frequency 0, where the window has seen nothing or the center is not finite.
    """
    assert window.grad is not None
    mean = window.position.mean
    ahead = to_position(metric, whiten_grad(metric, window.grad.mean[None]))[0]
    center = jnp.where(positions_say_all(window, has_arrived), mean, mean + ahead)
    is_known = (window.position.count > 0.0) & jnp.all(jnp.isfinite(center))
    return Pull(jnp.where(is_known, center, 0.0), is_known.astype(jnp.float64))


def unless_out_of_reach(pull: Pull, metric: Metric, position: Array, target: Target, pooling: Pooling) -> Pull:
    """Return the pull if all chains are near enough for it, else none.

    Far out in a tail the target's force is not that of a normal distribution, whose pull grows with the distance. What
    is left to kick by is then so large that a chain there rejects every trajectory, and would never come nearer.

    Parameters
    ----------
    pull : Pull
    metric : Metric
        In force together with it.
    position : float64 array (num_chains, num_dimensions)
        Where the chains are.
    target : Target
        Gives the inner product.
    pooling : Pooling
    """
    offset = to_whitened(metric, position - pull.center)
    is_near = jnp.sqrt(target.dot(offset, offset)) <= jnp.sqrt(float(position.shape[1])) + _REACH
    share_far = pooling.mean((~is_near).astype(jnp.float64))
    return pull._replace(frequency=jnp.where(share_far > 0.0, 0.0, pull.frequency))
