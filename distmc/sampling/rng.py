"""Random keys: a function of seed, step and chain, never of a rank, a chunk or a restart.

The generator is JAX's Threefry, number for number. On CPUs JAX compiles it to a loop of many small kernels, which would
take longer than the gradient of a small model; where few numbers are drawn at a time, `THREEFRY` has the same written
out, which becomes a single kernel.

References
----------
Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3. doi:10.1145/2063384.2063405.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl, threefry2x32_p

from distmc.types import Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_ROUNDS_OF_FOUR = 5
# Of so many at a time the loop costs little, and what is done with them is not slowed down by standing in one kernel.
_MANY = 64


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


def _hash(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Return the two words of Threefry-2x32 with 20 rounds for counters of two words, all uint32."""
    if low.size >= _MANY:
        x, y = threefry2x32_p.bind(key[0], key[1], high, low)
        return x, y
    schedule = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x, y = high + schedule[0], low + schedule[1]
    for number in range(_ROUNDS_OF_FOUR):
        for distance in _ROTATIONS[number % 2]:
            x = x + y
            y = x ^ (y << np.uint32(distance) | lax.shift_right_logical(y, np.uint32(32 - distance)))
        x = x + schedule[(number + 1) % 3]
        y = y + schedule[(number + 2) % 3] + np.uint32(number + 1)
    return x, y


def _numbered(key: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Hash the numbers of the places of an array with fewer than 2**32 of them."""
    low = lax.iota(np.uint32, math.prod(shape)).reshape(shape)
    return _hash(key, jnp.zeros_like(low), low)


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.stack(_numbered(key, shape), axis=-1)


def _fold_in(key: Array, data: Array | int) -> Array:
    return jnp.stack(_hash(key, jnp.uint32(0), jnp.asarray(data, np.uint32)))


def _random_bits(key: Array, bit_width: int, shape: tuple[int, ...]) -> Array:
    high, low = _numbered(key, shape)
    if bit_width == 64:
        return high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
    return (high ^ low).astype(f"uint{bit_width}")


def _seed(seed: Array) -> Array:
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


THREEFRY = define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in, name="threefry2x32 unrolled"
)
"""For `jax.random.wrap_key_data` where programs are compiled."""
