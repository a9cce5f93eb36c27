"""The whole adaptive program of every sampler: the same bits on any number of workers, and nothing else is said."""

from collections.abc import Callable

import pytest

from distmc.sampling.state import to_arrays
from distmc.testing import samplers
from distmc.testing.samplers import LOW_RANK_CASE, SAMPLER_CASES, SAMPLER_CHECKS, SamplerCase

pytestmark = [pytest.mark.many_devices, pytest.mark.usefixtures("compiled_for_users")]


@pytest.mark.parametrize("check", SAMPLER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", SAMPLER_CASES, ids=str)
def test_sampler_conforms(case: SamplerCase, check: Callable[[SamplerCase], None]) -> None:
    check(case)


def test_bits_of_a_low_rank_metric_do_not_depend_on_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the reduction, all numbers of workers are tried above; each costs several seconds here.
    monkeypatch.setattr(samplers, "NUM_WORKERS", (1, 3))
    samplers.check_workers(LOW_RANK_CASE)
    learned = to_arrays(samplers._run(LOW_RANK_CASE, 1)[0])
    # Where it is diagonal in the end, this would show little.
    assert [leaf for name, leaf in learned.items() if name.endswith("metric.stretch.is_needed")] == [True]
