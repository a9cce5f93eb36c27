"""Random-walk Metropolis for all chains in lockstep, without gradients.

A proposal is the position plus Gaussian noise in whitened coordinates of the metric, accepted by Metropolis' rule. A
random walk needs about three proposals a dimension for one independent draw, so a step takes several of them,
the same number for all chains, and no chain waits for another.

References
----------
Roberts, Gelman, Gilks (1997), Weak convergence and optimal scaling of random walk Metropolis algorithms.
doi:10.1214/aoap/1034625254.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from distmc.kernels.base import (
    Kernel,
    PlainState,
    StepParameters,
    Target,
    is_finite,
    keys_at,
    loop_count,
    normal_noise,
    select_chains,
    split_keys,
    uniform_noise,
)
from distmc.kernels.metrics import to_position
from distmc.types import Array


class RWMHInfo(NamedTuple):
    """What happened in one step.

    Attributes
    ----------
    acceptance_rate : float64 array (num_chains,)
        Mean over the step's proposals of the probability of accepting; 0 for those that are not finite.
    is_divergent : bool array (num_chains,)
        Never: there is no trajectory that could diverge.
    is_nonfinite : bool array (num_chains,)
        Whether a proposal had no finite log-density; outside of a support that is as it should be.
    num_integration_steps : int32 scalar
        Evaluations of the target.
    """

    acceptance_rate: Array
    is_divergent: Array
    is_nonfinite: Array
    num_integration_steps: Array


class _Walk(NamedTuple):
    """A step under way: where the chains are, their summed acceptance rates, and whether all was finite."""

    state: PlainState
    total_rate: Array
    is_nonfinite: Array


def build_kernel(target: Target, num_proposals: int) -> Kernel:
    """Return the kernel that leaves `target` invariant.

    Parameters
    ----------
    target : Target
        Its log-density is evaluated once in `init` and once for each proposal.
    num_proposals : int
        Proposals in one step, at least 1.

    Returns
    -------
    kernel : Kernel
        ``step`` takes one random key for each chain and `StepParameters`, whose step size is the standard deviation
        of the noise in whitened coordinates.
    """

    def init(position: Array) -> PlainState:
        return PlainState(position, target.logdensity(position))

    def step(rng_keys: Array, state: PlainState, parameters: StepParameters) -> tuple[PlainState, RWMHInfo]:
        def propose(place: Array, walk: _Walk) -> _Walk:
            noise_keys, accept_keys = split_keys(keys_at(rng_keys, place), 2)
            noise = normal_noise(noise_keys, state.position.shape[1])
            position = walk.state.position + to_position(parameters.metric, parameters.step_size * noise)
            proposal = PlainState(position, target.logdensity(position))
            rate = acceptance_rate(walk.state, proposal)
            is_accepted = uniform_noise(accept_keys) < rate
            return _Walk(
                state=select_chains(is_accepted, proposal, walk.state),
                total_rate=walk.total_rate + rate,
                is_nonfinite=walk.is_nonfinite | ~is_finite(proposal),
            )

        nothing = jnp.zeros_like(state.logdensity)
        count = loop_count(num_proposals, parameters.step_size)
        end = lax.fori_loop(0, count, propose, _Walk(state, nothing, nothing > 0.0))
        info = RWMHInfo(
            acceptance_rate=end.total_rate / num_proposals,
            is_divergent=nothing > 0.0,
            is_nonfinite=end.is_nonfinite,
            num_integration_steps=count,
        )
        return end.state, info

    return Kernel(init, step)


def acceptance_rate(state: PlainState, proposal: PlainState) -> Array:
    """Return the probability (num_chains,) of accepting a proposal by symmetric noise; 0 where it is not finite."""
    log_ratio = jnp.where(is_finite(proposal), proposal.logdensity - state.logdensity, -jnp.inf)
    return jnp.exp(jnp.minimum(log_ratio, 0.0))
