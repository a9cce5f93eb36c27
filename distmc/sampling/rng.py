"""Random keys: a function of seed, step and chain, never of a rank, a chunk or a restart."""

import jax
import jax.numpy as jnp

from distmc.types import Array


def seed_key(seed: int) -> Array:
    """Return the key of a run. The generator is named, so that no global setting can change the draws."""
    return jax.random.key(seed, impl="threefry2x32")


def chain_keys(key: Array, step: Array, num_chains: int) -> Array:
    """Return one key for each chain, (num_chains,), for one step.

    Parameters
    ----------
    key : key scalar
        Of the run.
    step : integer scalar
        Counted from the start of the run, warm-up included.
    num_chains : int
        A chain's key does not depend on how many others there are.
    """
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda chain: jax.random.fold_in(step_key, chain))(jnp.arange(num_chains))
