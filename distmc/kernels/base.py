"""What a kernel is, and what it is given to explore.

A kernel moves all chains at once by one step. It is two pure functions over arrays whose first axis is the
chain: ``init(position) -> state`` and ``step(rng_keys, state, parameters) -> (state, info)``. The state is what
the next step needs, the info what a person or an adaptation wants to see, the parameters what adaptation makes.
Where the chains' log-density comes from, over how many devices, is not visible here.
"""

from collections.abc import Callable
from typing import NamedTuple

from distmc.types import Array


class Target(NamedTuple):
    """The distribution that a kernel explores.

    Attributes
    ----------
    logdensity_and_grad : callable
        From positions (num_chains, num_dimensions) to log-densities (num_chains,) and gradients
        (num_chains, num_dimensions).
    dot : callable
        Inner product over all of a chain's coordinates: two arrays (num_chains, num_dimensions) to (num_chains,).
    """

    logdensity_and_grad: Callable[[Array], tuple[Array, Array]]
    dot: Callable[[Array, Array], Array]
