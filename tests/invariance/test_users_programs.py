"""The programs of two samplers as users' are compiled, which takes twice the time of those in test_samplers.py."""

import pytest

from distmc.samplers import NUTS
from distmc.sampling.state import to_arrays
from distmc.testing import samplers
from distmc.testing.samplers import LOW_RANK_CASE, SamplerCase

pytestmark = pytest.mark.usefixtures("compiled_for_users")


@pytest.fixture(autouse=True)
def _fewer_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three take a sum over blocks that are no single subtree.
    monkeypatch.setattr(samplers, "NUM_WORKERS", (1, 3))


def test_bits_of_a_low_rank_metric_do_not_depend_on_workers() -> None:
    samplers.check_workers(LOW_RANK_CASE)
    learned = to_arrays(samplers._run(LOW_RANK_CASE, 1)[0])
    # Where it is diagonal in the end, this would show little.
    assert [leaf for name, leaf in learned.items() if name.endswith("metric.stretch.is_needed")] == [True]


def test_bits_of_branches_do_not_depend_on_workers() -> None:
    # Not the settings of test_samplers.py, whose programs may still be at hand.
    samplers.check_workers(SamplerCase(sampler=NUTS(metric="diagonal", max_tree_depth=6)))
