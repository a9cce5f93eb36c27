"""What a worker says of its machine."""

from pathlib import Path

import pytest

from distmc.orchestration import facts
from distmc.orchestration.differences import FEATURES, differences
from distmc.versions import library_versions

CPUINFO = """processor\t: 0
model name\t: Some Processor @ 2.0 GHz
flags\t\t: sse avx2  fma

processor\t: 1
model name\t: Another
flags\t\t: none
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which the system tells of its processor."""
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(facts, "_CPUINFO", file)
    return file


def test_processor_and_features_are_those_of_the_first_core(told: Path) -> None:
    told.write_text(CPUINFO)
    found = facts.machine_facts()
    assert found["processor"] == "Some Processor @ 2.0 GHz"
    assert found[FEATURES] == "avx2 fma sse"


def test_order_of_features_makes_no_difference_and_a_feature_does(told: Path) -> None:
    machines = []
    for features in ("sse avx2 fma", "fma sse avx2", "sse fma"):
        told.write_text(f"model name: One\nFeatures: {features}\n")
        machines.append(facts.machine_facts())
    assert differences(machines[:1], machines[1:2]) == ()
    assert differences(machines[2:], machines[:2]) == ("processor features without avx2",)


def test_versions_are_those_that_decide_draws(told: Path) -> None:
    found, versions = facts.machine_facts(), library_versions()
    names = set(found) - {"processor", FEATURES}
    assert names == {"python", "distmc", "jax", "jaxlib", "numpyro", "numpy"}
    assert all(found[name] == versions[name] for name in names)


def test_system_that_does_not_tell_leaves_features_unknown(told: Path) -> None:
    assert not told.exists()
    found = facts.machine_facts()
    assert found[FEATURES] == "unknown"
    assert found["processor"]
