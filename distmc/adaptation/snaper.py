"""SNAPER: a criterion that looks at the one direction in which the posterior is widest.

Chains take longest to cross the posterior along its leading principal component. SNAPER is the expected squared change
of the squared distance from the mean *along that direction*, divided by the integration time. With a metric that
whitens well no direction is wider than another, and the criterion follows any; with a diagonal metric and
strong correlations it asks for trajectories that are long enough for the widest.

References
----------
Sountsov, Hoffman (2021), Focusing on difficult directions for learning HMC trajectory lengths. arXiv:2110.11576.
"""

import jax.numpy as jnp

from distmc.adaptation.pooling import Pooling, weighted_mean
from distmc.adaptation.principal import PrincipalComponent, add_step, no_component, project
from distmc.adaptation.trajectory import Trajectories, countable_ends
from distmc.kernels.base import Target
from distmc.kernels.metrics import to_whitened
from distmc.types import Array


class SNAPERCriterion:
    """log(SNAPER), the squared change divided by the length; it remembers mean and leading principal component."""

    def init(self, num_dimensions: int) -> PrincipalComponent:
        """Return what is known before the first step."""
        return no_component(num_dimensions)

    def gradient(
        self, known: PrincipalComponent, trajectories: Trajectories, target: Target, pooling: Pooling
    ) -> tuple[PrincipalComponent, Array]:
        """Estimate the gradient with respect to the logarithm of the trajectory length.

        Returns
        -------
        known : PrincipalComponent
            With this step's starting positions taken in.
        log_length_grad : float64 scalar
            For a Gaussian target in perfectly whitened coordinates it vanishes near 1.17, where tan(t) = 2 t. 0 where
            no chain counts.
        """
        position, _, metric, integration_time, weight = trajectories
        known = add_step(known, position, weight, metric, target, pooling)
        end, momentum, end_weight = countable_ends(trajectories)

        def along(offset: Array) -> Array:
            return project(offset, known.direction, target)

        start = along(to_whitened(metric, position - known.mean))
        reached = along(to_whitened(metric, end - known.mean))
        change = reached**2 - start**2
        snaper = weighted_mean(change**2, end_weight, pooling)
        growth = 4.0 * integration_time * weighted_mean(change * reached * along(momentum), end_weight, pooling)
        return known, jnp.where(snaper > 0.0, growth / jnp.where(snaper > 0.0, snaper, 1.0) - 1.0, 0.0)
