"""The form of every kernel: shapes, keys, chains apart from each other, finite states, evaluations."""

from collections.abc import Callable

import pytest

from distmc.testing.cases import KERNEL_CASES, KernelCase
from distmc.testing.conformance import KERNEL_CHECKS


@pytest.mark.parametrize("check", KERNEL_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
def test_kernel_conforms(case: KernelCase, check: Callable[[KernelCase], None]) -> None:
    check(case)
