from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

NUM_CHAINS, NUM_DRAWS = 8, 250

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture
def draws() -> Arrays:
    """Return independent draws, as a perfect sampler would make them."""
    rng = np.random.default_rng(5)
    sample = (NUM_CHAINS, NUM_DRAWS)
    return {"rate": np.exp(rng.normal(size=sample)), "slope": rng.normal(size=(*sample, 2, 3))}


@pytest.fixture
def stats(draws: Arrays) -> Arrays:
    rng = np.random.default_rng(6)
    sample = (NUM_CHAINS, NUM_DRAWS)
    return {
        "lp": -1e7 - 0.5 * rng.chisquare(10, size=sample),
        "acceptance_rate": rng.uniform(0.6, 1.0, size=sample),
        "diverging": np.zeros(sample, bool),
    }


@pytest.fixture
def as_tree() -> Callable[..., xr.DataTree]:
    def build(posterior: Arrays, stats: Arrays | None = None, seconds: float = 10.0) -> xr.DataTree:
        groups = {"posterior": xr.Dataset({name: as_array(name, values) for name, values in posterior.items()})}
        if stats is not None:
            groups["sample_stats"] = xr.Dataset({name: as_array(name, values) for name, values in stats.items()})
        tree = xr.DataTree.from_dict(groups)
        tree.attrs["sampling_time"] = seconds
        return tree

    return build


def as_array(name: str, values: np.ndarray[Any, Any]) -> xr.DataArray:
    dims = ["chain", "draw", *(f"{name}_dim_{axis}" for axis in range(values.ndim - 2))]
    return xr.DataArray(values, dims=dims, coords={dim: np.arange(size) for dim, size in zip(dims, values.shape)})  # noqa: B905
