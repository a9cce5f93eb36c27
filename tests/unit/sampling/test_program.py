"""How many steps a call may take, and programs of settings that no other test runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.kernels.base import Target
from distmc.samplers import HMC
from distmc.sampling.program import Program, build_program
from distmc.sampling.rng import seed_key
from distmc.spec import RunSpec

pytestmark = pytest.mark.usefixtures("quick_compilation")

TARGET = Target(lambda position: (position[:, 0], position), lambda a, b: jnp.sum(a * b, axis=-1))


@pytest.mark.parametrize(
    ("num_chains", "num_dimensions", "capacity"), [(4, 3, 512), (64, 1000, 131), (1024, 10_000, 1)]
)
def test_calls_are_bounded_by_steps_and_by_memory(num_chains: int, num_dimensions: int, capacity: int) -> None:
    assert build_program(RunSpec(num_chains=num_chains), TARGET, num_dimensions).capacity == capacity


def test_without_jitter_all_trajectories_have_one_length() -> None:
    normal = Target(lambda x: (-0.5 * jnp.sum((x / 3.0) ** 2, axis=1), -x / 9.0), TARGET.dot)
    spec = RunSpec(sampler=HMC(jitter=0.0), num_chains=8, num_warmup=60, num_draws=20)
    with jax.enable_x64(True):
        program = build_program(spec, normal, 3)
        start = jax.jit(program.start)(np.random.default_rng(0).normal(size=(8, 3)))
        advance = jax.jit(functools.partial(Program.advance, program))
        _, trace = jax.device_get(advance(seed_key(0), start, np.int32(80)))
    count, size = (trace.statistics[name][:80].reshape(80, -1)[:, 0] for name in ("num_integration_steps", "step_size"))
    # Until the first metric, lengths mean nothing.
    np.testing.assert_array_equal(count[:20], 16)
    np.testing.assert_allclose((count * size)[20:], HMC().trajectory_length, rtol=1e-12)
    # A pull makes of a normal target's trajectory a single step.
    np.testing.assert_array_equal(count[60:], 1)
