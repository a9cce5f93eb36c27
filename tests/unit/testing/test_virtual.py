"""A run's program on several devices of one process."""

from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

from distmc.data.data import Data
from distmc.model.model import Model
from distmc.parallel.mesh import to_host
from distmc.samplers import HMC
from distmc.spec import RunSpec
from distmc.testing.virtual import VirtualRun, compile_run, count_collectives

pytestmark = pytest.mark.many_devices


def log_likelihood(params: dict[str, Any], data: dict[str, Any]) -> Any:
    return dist.Normal(params["mean"], data["noise"]).log_prob(data["y"])


MODEL = Model({"mean": dist.Normal(0.0, 1.0)}, log_likelihood)
SPEC = RunSpec(sampler=HMC(), num_chains=4, num_warmup=20, num_draws=20, num_blocks=4)


def data(shift: float, num_rows: int = 12) -> Data:
    return Data(rows={"y": np.linspace(-1.0, 1.0, num_rows) + shift}, constants={"noise": 1.0})


@pytest.fixture(scope="module")
def run() -> VirtualRun:
    return compile_run(SPEC, MODEL, data(0.0), num_workers=2)


def test_rows_are_values(run: VirtualRun) -> None:
    means = []
    for shift in (-1.0, 1.0):
        state = run.start(data(shift), np.zeros((4, 1)))
        # More steps than one call takes.
        _, trace = run.advance(data(shift), state, 600)
        assert trace.position.shape == (600, 4, 1)
        means.append(np.mean(trace.position[100:]))
    # Of a standard normal prior and twelve observations with noise 1.
    np.testing.assert_allclose(means, [-12.0 / 13.0, 12.0 / 13.0], atol=0.1)


def test_seed_of_the_specification_is_the_default(run: VirtualRun) -> None:
    start = to_host(run.start(data(0.0), np.zeros((4, 1))))
    ends = [np.asarray(run.advance(data(0.0), start, 40, seed)[1].position) for seed in (None, 0, 1)]
    assert np.array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])


def test_data_of_another_shape_are_refused(run: VirtualRun) -> None:
    with pytest.raises(ValueError, match="data of the same number of rows"):
        run.start(data(0.0, num_rows=13), np.zeros((4, 1)))


def test_too_few_devices_are_told() -> None:
    missing = len(jax.devices()) + 1
    with pytest.raises(RuntimeError, match=f'"jax_num_cpu_devices", {missing}'):
        compile_run(SPEC, MODEL, data(0.0), num_workers=missing)


def test_messages_are_counted_once() -> None:
    text = (
        "%a = f64[2] all-reduce-start(%x)\n%b = f64[2] all-reduce-done(%a)\n"
        "%c = f64[2] collective-permute(%b), channel_id=1\n%all-reduce.3 = f64[2] add(%c, %c)"
    )
    assert count_collectives(text) == {"collective-permute": 1, "all-reduce": 1}
