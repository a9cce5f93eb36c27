"""The generator that programs are compiled with is JAX's own, number for number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.sampling.rng import THREEFRY, chain_keys, seed_key

SEEDS = (0, 1, 2**31 + 5, 2**40 + 7)


def both(seed: int) -> tuple[jax.Array, jax.Array]:
    key = seed_key(seed)
    return key, jax.random.wrap_key_data(jax.random.key_data(key), impl=THREEFRY)


def same(theirs: jax.Array, ours: jax.Array) -> None:
    np.testing.assert_array_equal(jax.random.key_data(theirs), jax.random.key_data(ours))


# Compiled as a whole: by itself, each operation would be compiled alone.
@jax.jit
def derived_keys(key: jax.Array) -> list[jax.Array]:
    return [
        chain_keys(key, jnp.asarray(7), 5),
        *(jax.random.fold_in(key, data) for data in (0, 1, 2**32 - 1)),
        *(jax.random.split(key, shape) for shape in ((1,), (4,), (2, 3))),
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_are_those_of_jax(seed: int) -> None:
    with jax.enable_x64(True):
        theirs, ours = both(seed)
        same(theirs, jax.random.key(seed, impl=THREEFRY))
        for one, other in zip(derived_keys(theirs), derived_keys(ours), strict=True):
            same(one, other)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (9, 11)])
def test_bits_are_those_of_jax(dtype: type, shape: tuple[int, ...]) -> None:
    with jax.enable_x64(True):
        for seed in SEEDS:
            theirs, ours = both(seed)
            np.testing.assert_array_equal(jax.random.bits(theirs, shape, dtype), jax.random.bits(ours, shape, dtype))


def test_numbers_are_those_of_jax() -> None:
    with jax.enable_x64(True):
        theirs, ours = (jax.random.split(key, 6) for key in both(3))
        for draw in (jax.random.normal, jax.random.uniform, jax.random.exponential):
            one = jax.vmap(lambda key, draw=draw: draw(key, (4,), jnp.float64))
            np.testing.assert_array_equal(one(theirs), one(ours))
        np.testing.assert_array_equal(
            *(jax.vmap(lambda key: jax.random.randint(key, (4,), 0, 9, jnp.int32))(keys) for keys in (theirs, ours))
        )
