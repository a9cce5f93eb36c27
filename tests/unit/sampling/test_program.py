"""How many steps a call may take, and programs of settings that no other test runs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distmc.kernels.base import Target
from distmc.samplers import HMC, SNAPER, ChEES
from distmc.sampling.program import Program, build_program
from distmc.sampling.rng import seed_key
from distmc.spec import RunSpec
from distmc.types import NumpyArray

TARGET = Target(lambda position: (position[:, 0], position), lambda a, b: jnp.sum(a * b, axis=-1))


@pytest.mark.parametrize(
    ("num_chains", "num_dimensions", "capacity"), [(4, 3, 512), (64, 1000, 131), (1024, 10_000, 1)]
)
def test_calls_are_bounded_by_steps_and_by_memory(num_chains: int, num_dimensions: int, capacity: int) -> None:
    assert build_program(RunSpec(num_chains=num_chains), TARGET, num_dimensions).capacity == capacity


def trajectories_without_jitter(sampler: HMC | ChEES | SNAPER) -> tuple[NumpyArray, NumpyArray]:
    """Return numbers of integration steps, and lengths, in 60 steps of warm-up and 20 others on a normal target."""
    normal = Target(lambda x: (-0.5 * jnp.sum((x / 3.0) ** 2, axis=1), -x / 9.0), TARGET.dot)
    spec = RunSpec(sampler=dataclasses.replace(sampler, jitter=0.0), num_chains=8, num_warmup=60, num_draws=20)
    with jax.enable_x64(True):
        program = build_program(spec, normal, 3)
        start = jax.jit(program.start)(np.random.default_rng(0).normal(size=(8, 3)))
        advance = jax.jit(functools.partial(Program.advance, program))
        _, trace = jax.device_get(advance(seed_key(0), start, np.int32(80)))
    count, size = (trace.statistics[name][:80].reshape(80, -1)[:, 0] for name in ("num_integration_steps", "step_size"))
    return count, count * size


def test_without_jitter_all_trajectories_have_one_length() -> None:
    count, length = trajectories_without_jitter(HMC())
    # Until the first metric, lengths mean nothing.
    np.testing.assert_array_equal(count[:20], 16)
    np.testing.assert_allclose(length[20:], HMC().trajectory_length, rtol=1e-12)
    # A pull makes of a normal target's trajectory a single step.
    np.testing.assert_array_equal(count[60:], 1)


@pytest.mark.parametrize("kind", [ChEES, SNAPER])
def test_learned_lengths_keep_to_their_lower_limit(kind: type[ChEES] | type[SNAPER]) -> None:
    # Both criteria would have them shorter on a normal target.
    _, length = trajectories_without_jitter(kind(min_trajectory_length=2.5))
    np.testing.assert_allclose(length[20:].min(), 2.5, rtol=1e-12)
    assert length[-1] < 2.6
