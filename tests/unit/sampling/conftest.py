"""One small run that the tests of this folder take steps of; it is compiled once a module."""

from typing import Any

import numpy as np
import numpyro.distributions as dist
import pytest

from distmc.data.data import Data
from distmc.model.model import Model
from distmc.samplers import ChEES
from distmc.sampling.worker import Worker, WorkerTask
from distmc.spec import RunSpec

NUM_CHAINS = 4


def log_likelihood(params: dict[str, Any], data: dict[str, Any]) -> Any:
    return dist.Bernoulli(logits=params["intercept"] + data["x"] @ params["slope"]).log_prob(data["y"])


@pytest.fixture(scope="session")
def task() -> WorkerTask:
    """Return a logistic regression of 60 rows in 8 blocks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = rng.random(60) < 1.0 / (1.0 + np.exp(-x @ [1.0, -1.0]))
    model = Model(
        {"intercept": dist.Normal(0.0, 2.0), "slope": dist.Normal(0.0, 1.0).expand([2]).to_event(1)}, log_likelihood
    )
    spec = RunSpec(
        sampler=ChEES(max_integration_steps=50), num_chains=NUM_CHAINS, num_warmup=40, num_draws=30, num_blocks=8
    )
    return WorkerTask(spec=spec, model=model, data=Data(rows={"x": x, "y": y}), start=rng.normal(size=(NUM_CHAINS, 3)))


@pytest.fixture(scope="module")
def compiled_worker(task: WorkerTask) -> Worker:
    """Return a worker that is ready to start, compiled as its module asks for."""
    worker = Worker(task, 0, 1)
    worker.load()
    report = worker.compile()
    assert report.rank == 0
    assert report.seconds > 0.0
    return worker


@pytest.fixture
def worker(compiled_worker: Worker) -> Worker:
    """Return a worker that has just started."""
    compiled_worker.start()
    return compiled_worker
