"""Each check of a sampler refuses a program that breaks what it is about, in words."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from distmc.adaptation.warmup import Warmup
from distmc.kernels import hmc
from distmc.kernels.base import Kernel, Target
from distmc.parallel.reduction import OrderedSum
from distmc.samplers import HMC, SAMPLERS
from distmc.sampling import algorithms, compiled
from distmc.sampling.program import Program, build_program
from distmc.testing import samplers
from distmc.testing.samplers import SAMPLER_CASES, SamplerCase

pytestmark = pytest.mark.many_devices

build_kernel = hmc.build_kernel


class LeftToRight(OrderedSum):
    """A sum that starts with the first block of each worker instead of walking the tree."""

    def _fold(self, block_value: Any, shape: Any, block_range: Any, member: Any) -> Any:
        def add_block(place: Any, total: Any) -> Any:
            return total + block_value(place)

        total = lax.fori_loop(0, block_range[1] - block_range[0], add_block, jnp.zeros(shape, jnp.float64))
        # The other subtrees are nothing, so that the worker's sum is counted once.
        return jnp.zeros((self.plan.max_nodes_per_member, *shape), jnp.float64).at[0].set(total)


def evaluating_twice(target: Target) -> Kernel:
    kernel = build_kernel(target)

    def step(rng_keys: Any, state: Any, parameters: Any) -> Any:
        moved, info = kernel.step(rng_keys, state, parameters)
        return kernel.init(moved.position), info

    return Kernel(kernel.init, step)


def restless(*arguments: Any) -> Program:
    """Return a program that goes on learning when warm-up has ended."""
    return dataclasses.replace(build_program(*arguments), num_warmup=1_000_000)


class Credulous(Warmup):
    """Pools acceptance rates without asking whether they are numbers."""

    def update(self, state: Any, step: Any, parameters: Any, before: Any, after: Any, info: Any) -> Any:
        learned = super().update(state, step, parameters, before, after, info)
        error = jnp.mean(jnp.where(info.is_nonfinite, jnp.nan, 0.0))
        return learned._replace(step_size=learned.step_size._replace(log_average=learned.step_size.log_average + error))


def test_every_sampler_takes_part() -> None:
    assert {type(case.sampler) for case in SAMPLER_CASES} == set(SAMPLERS.values())


def test_other_order_and_untold_messages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "NUM_WORKERS", (1, 3))
    monkeypatch.setattr(compiled, "OrderedSum", LeftToRight)
    monkeypatch.setattr(hmc, "build_kernel", evaluating_twice)
    case = SamplerCase(sampler=HMC(jitter=0.1))
    with pytest.raises(AssertionError, match=r"HMC: `warmup/\w+.*` first differs in draw .* in one worker but "):
        samplers.check_workers(case)
    with pytest.raises(AssertionError, match=r"`advance` on 3 workers has the collectives .*: 4}.*, not .*: 2}"):
        samplers.check_messages(case)
    # Told, the second evaluation is still not inside the loop over integration steps, but in that over steps.
    samplers.check_messages(dataclasses.replace(case, num_places=2))


def test_learning_after_warmup_and_lossy_saves_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "NUM_WORKERS", (1,))
    monkeypatch.setattr(compiled, "build_program", restless)
    case = SamplerCase(sampler=HMC(jitter=0.2))
    with pytest.raises(AssertionError, match=r"HMC: `warmup.*step_size.* of what was learned changes after warm-up"):
        samplers.check_rest_after_warmup(case)

    def rounded(state: Any) -> Any:
        as_single = {name: leaf.astype(np.float32).astype(leaf.dtype) for name, leaf in to_arrays(state).items()}
        return as_single if len(as_single) > 10 else to_arrays(state)

    to_arrays = samplers.to_arrays
    monkeypatch.setattr(samplers, "to_arrays", rounded)
    with pytest.raises(AssertionError, match=r"HMC: `.*` differs when the run is cut into three calls"):
        samplers.check_calls(case)


def test_tuning_that_one_chain_spoils_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "Warmup", Credulous)
    with pytest.raises(AssertionError, match=r"HMC: `warmup.warmup.step_size.log_average` becomes nan beside a chain"):
        samplers.check_broken_chain(SamplerCase(sampler=HMC(jitter=0.4)))
