import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distmc.spec import RunSpec
from distmc.storage import Layout, RunDirectory, RunRecord

NUM_CHAINS, NUM_WARMUP, NUM_DRAWS = 3, 10, 16


@pytest.fixture
def record() -> RunRecord:
    return RunRecord(
        spec=RunSpec(num_chains=NUM_CHAINS, num_warmup=NUM_WARMUP, num_draws=NUM_DRAWS, seed=7),
        model_fingerprint="a" * 64,
        data_fingerprint="b" * 64,
        layout=Layout(
            shapes={"rate": (), "transition": (2, 2), "emission": (2, 3)},
            dims={"emission": ("state", "phone")},
            coords={"phone": ("a", "e", "o")},
        ),
    )


@pytest.fixture
def run(tmp_path: Path, record: RunRecord) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs" / "words", record)


@pytest.fixture
def chain_of_steps(record: RunRecord) -> dict[str, Any]:
    """Return all steps of a run by group, before they are cut into chunks."""
    rng = np.random.default_rng(1)
    sample = (NUM_CHAINS, NUM_WARMUP + NUM_DRAWS)
    return {
        "draws": {name: rng.normal(size=(*sample, *shape)) for name, shape in record.layout.shapes.items()},
        "stats": {
            "logdensity": rng.normal(size=sample) - 1e7,
            "acceptance_rate": rng.uniform(size=sample),
            "step_size": np.full(sample, 0.25),
            "num_integration_steps": rng.integers(1, 9, size=sample),
            "is_divergent": rng.uniform(size=sample) < 0.2,
            "energy": rng.normal(size=sample),
            "energy_error": rng.normal(size=sample),
        },
    }


@pytest.fixture
def write_steps(chain_of_steps: dict[str, Any]) -> Callable[..., None]:
    """Return a function that writes the steps between the given boundaries, one chunk each; chunk 0 is empty."""

    def write(run: RunDirectory, *boundaries: int) -> None:
        edges = (0, 0, *boundaries)
        for chunk, (first, last) in enumerate(itertools.pairwise(edges)):
            run.write_chunk(
                chunk=chunk,
                phase="start" if chunk == 0 else "warmup" if last <= NUM_WARMUP else "draws",
                first_step=first,
                draws={name: array[:, first:last] for name, array in chain_of_steps["draws"].items()},
                stats={name: array[:, first:last] for name, array in chain_of_steps["stats"].items()},
                seconds=0.5 * (last - first),
            )

    return write
