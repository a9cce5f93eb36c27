"""The state of a run as named arrays, and its hash."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distmc.errors import RunDirectoryError
from distmc.sampling.state import digest, from_arrays, to_arrays
from distmc.sampling.worker import Worker


@pytest.fixture(scope="module")
def arrays(compiled_worker: Worker) -> dict[str, Any]:
    compiled_worker.start()
    return {name: leaf.copy() for name, leaf in compiled_worker.collect(0).state.items()}


def test_named_arrays_make_the_same_state_again(compiled_worker: Worker, arrays: dict[str, Any]) -> None:
    state = from_arrays(arrays, compiled_worker._program.state)
    assert type(state) is type(compiled_worker._program.state)
    assert digest(to_arrays(state)) == digest(arrays)
    assert {"step", "kernel.position", "warmup.warmup.metric.factor"} <= set(arrays)


Change = Callable[[np.ndarray], np.ndarray]
UNFIT: dict[str, tuple[Change | None, str]] = {
    "missing": (None, r"is not there, but this run needs float64 of shape \(\d+,\)"),
    "another chain": (lambda leaf: np.append(leaf, 0.0), r"is float64 of shape \(\d+,\), but this run needs float64"),
    "another axis": (lambda leaf: leaf[:, None], r"is float64 of shape \(\d+, 1\), but"),
    "rounded": (lambda leaf: leaf.astype(np.float32), r"is float32 of shape \(\d+,\), but"),
}


@pytest.mark.parametrize(("change", "words"), UNFIT.values(), ids=UNFIT)
def test_state_of_another_run_is_refused_with_the_name_of_the_leaf(
    compiled_worker: Worker, arrays: dict[str, Any], change: Change | None, words: str
) -> None:
    changed = dict(arrays)
    leaf = changed.pop("kernel.logdensity")
    if change is not None:
        changed["kernel.logdensity"] = change(leaf)
    with pytest.raises(RunDirectoryError, match=rf"`kernel\.logdensity` of the saved state {words}"):
        from_arrays(changed, compiled_worker._program.state)


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
