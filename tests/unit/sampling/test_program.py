"""How many steps a call may take."""

import jax.numpy as jnp
import pytest

from distmc.kernels.base import Target
from distmc.sampling.program import build_program
from distmc.spec import RunSpec

TARGET = Target(lambda position: (position[:, 0], position), lambda a, b: jnp.sum(a * b, axis=-1))


@pytest.mark.parametrize(
    ("num_chains", "num_dimensions", "capacity"), [(4, 3, 512), (64, 1000, 131), (1024, 10_000, 1)]
)
def test_calls_are_bounded_by_steps_and_by_memory(num_chains: int, num_dimensions: int, capacity: int) -> None:
    assert build_program(RunSpec(num_chains=num_chains), TARGET, num_dimensions).capacity == capacity
