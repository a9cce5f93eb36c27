"""The form of every kernel: shapes, keys, chains apart from each other, finite states, evaluations."""

import importlib
import pkgutil
from collections.abc import Callable

import pytest

from distmc import kernels
from distmc.testing.cases import KERNEL_CASES, SPLIT_CASES, UNADJUSTED_CASES, KernelCase
from distmc.testing.conformance import KERNEL_CHECKS

# These climb to a mode or stand still; there is no target that they would leave invariant.
CLIMBS = {"lbfgs", "points"}


@pytest.mark.parametrize("check", KERNEL_CHECKS, ids=lambda check: check.__name__)
# Of those with a pull the second differs from the first in numbers alone, not in form.
@pytest.mark.parametrize("case", [*KERNEL_CASES, SPLIT_CASES[0], *UNADJUSTED_CASES], ids=str)
def test_kernel_conforms(case: KernelCase, check: Callable[[KernelCase], None]) -> None:
    check(case)


def test_every_kernel_is_proved() -> None:
    modules = {module.name: importlib.import_module(f"distmc.kernels.{module.name}") for module in _modules()}
    built = {name for name, module in modules.items() if hasattr(module, "build_kernel")}
    proved = {
        getattr(case.build_kernel, "func", case.build_kernel).__module__.rpartition(".")[2] for case in KERNEL_CASES
    }
    assert built - CLIMBS == proved


def _modules() -> list[pkgutil.ModuleInfo]:
    return list(pkgutil.iter_modules(kernels.__path__))
