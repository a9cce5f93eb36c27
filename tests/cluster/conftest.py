"""Lets the test modules of this folder, and the processes they start, import `faulty`."""

import os
import pathlib
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(scope="package", autouse=True)
def unoptimised() -> Iterator[None]:
    """Let workers and drivers spend less time on compiling what they run for a few seconds."""
    with pytest.MonkeyPatch.context() as patch:
        flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {flags}")
        yield
