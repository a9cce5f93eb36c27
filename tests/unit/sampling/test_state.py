"""The state of a run as named arrays, and its hash."""

from typing import Any

import numpy as np
import pytest

from distmc.sampling.state import digest, from_arrays, to_arrays
from distmc.sampling.worker import Worker


@pytest.fixture(scope="module")
def arrays(compiled_worker: Worker) -> dict[str, Any]:
    compiled_worker.start()
    return {name: leaf.copy() for name, leaf in compiled_worker.collect().state.items()}


def test_named_arrays_make_the_same_state_again(compiled_worker: Worker, arrays: dict[str, Any]) -> None:
    state = from_arrays(arrays, compiled_worker._program.state)
    assert type(state) is type(compiled_worker._program.state)
    assert digest(to_arrays(state)) == digest(arrays)
    assert {"step", "kernel.position", "warmup.metric.factor"} <= set(arrays)


def test_missing_leaf_is_named(compiled_worker: Worker, arrays: dict[str, Any]) -> None:
    del (fewer := dict(arrays))["kernel.logdensity"]
    with pytest.raises(KeyError, match=r"kernel\.logdensity"):
        from_arrays(fewer, compiled_worker._program.state)


def test_digest_changes_with_any_bit(arrays: dict[str, Any]) -> None:
    before = digest(arrays)
    for name, leaf in arrays.items():
        changed = leaf.copy()
        # The lowest bit of the last number.
        changed.reshape(-1)[-1:].view(np.uint8)[0] ^= 1
        assert digest(arrays | {name: changed}) != before, name
    assert digest(arrays) == before


def test_digest_tells_signs_of_zero_types_and_shapes_apart() -> None:
    zeros = np.zeros(4)
    others = [-zeros, zeros.astype(np.float32), zeros.astype(np.int64), zeros.reshape(2, 2), np.zeros(3)]
    assert len({digest({"a": array}) for array in [zeros, *others]}) == 6
    assert digest({"a": zeros}) != digest({"b": zeros})
    assert digest({"a": np.arange(6.0).reshape(2, 3).T}) == digest({"a": np.arange(6.0).reshape(2, 3).T.copy()})
