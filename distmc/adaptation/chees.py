"""ChEES: the criterion by which trajectory lengths are learned unless another is asked for.

ChEES is the expected squared change of the squared distance from the mean; a trajectory of a good length makes it
large. It is taken in whitened coordinates, where all directions count alike, and divided by the square root of the
integration time. Undivided, a few heavy-tailed coordinates draw trajectories out several times too long; divided by
the whole time, as SNAPER does, they end before a quarter period and draws stay correlated.

References
----------
Hoffman, Radul, Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in HMC, algorithm 1.
Sountsov, Hoffman (2021), Focusing on difficult directions for learning HMC trajectory lengths. arXiv:2110.11576.
"""

import jax.numpy as jnp

from distmc.adaptation.pooling import Pooling, weighted_mean
from distmc.adaptation.trajectory import Trajectories, countable_ends
from distmc.kernels.base import Target
from distmc.kernels.metrics import to_whitened
from distmc.types import Array

_PRICE_OF_TIME = 0.5


class ChEESCriterion:
    """log(ChEES / sqrt(length)); it has no memory."""

    def init(self, num_dimensions: int) -> tuple[()]:
        """Return nothing."""
        return ()

    def gradient(
        self, known: tuple[()], trajectories: Trajectories, target: Target, pooling: Pooling
    ) -> tuple[tuple[()], Array]:
        """Estimate the gradient with respect to the logarithm of the trajectory length.

        Returns
        -------
        known : tuple
            Nothing.
        log_length_grad : float64 scalar
            For a Gaussian target it vanishes near 1.39, where tan(t) = 4 t. 0 where no chain counts.
        """
        position, _, metric, integration_time, weight = trajectories
        end, momentum, end_weight = countable_ends(trajectories)
        start_offset = to_whitened(metric, position - weighted_mean(position, weight, pooling))
        end_offset = to_whitened(metric, end - weighted_mean(end, end_weight, pooling))
        change = target.dot(end_offset, end_offset) - target.dot(start_offset, start_offset)
        chees = weighted_mean(change**2, end_weight, pooling) / 4.0
        growth = integration_time * weighted_mean(change * target.dot(end_offset, momentum), end_weight, pooling)
        return known, jnp.where(chees > 0.0, growth / jnp.where(chees > 0.0, chees, 1.0) - _PRICE_OF_TIME, 0.0)
