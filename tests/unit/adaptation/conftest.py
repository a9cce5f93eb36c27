"""Everything here is computed in float64, as runs are."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Turn 64-bit mode on for one test."""
    with jax.enable_x64(True):
        yield
