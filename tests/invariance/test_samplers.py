"""The whole adaptive program of every sampler: the same bits on any number of workers, and nothing else is said."""

from collections.abc import Callable

import pytest

from distmc.testing.samplers import SAMPLER_CASES, SAMPLER_CHECKS, SamplerCase


@pytest.mark.parametrize("check", SAMPLER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", SAMPLER_CASES, ids=str)
def test_sampler_conforms(case: SamplerCase, check: Callable[[SamplerCase], None]) -> None:
    check(case)
