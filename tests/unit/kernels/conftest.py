"""Everything here is computed in float64, as runs are; modules of this folder can be imported."""

import pathlib
import sys
from collections.abc import Iterator

import jax
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Turn 64-bit mode on for one test."""
    with jax.enable_x64(True):
        yield
