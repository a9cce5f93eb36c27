"""Every kernel leaves its target exactly invariant."""

import pytest

from distmc.testing.cases import KERNEL_CASES, SPLIT_CASES, KernelCase
from distmc.testing.exactness import TARGETS, require_invariant
from distmc.testing.targets import ExactTarget


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("case", [*KERNEL_CASES, *SPLIT_CASES], ids=str)
def test_kernel_leaves_exact_draws_exact(case: KernelCase, target: ExactTarget) -> None:
    evidence = require_invariant(case, target)
    assert evidence.moved_share > 0.5
