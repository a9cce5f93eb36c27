"""What `import distmc` offers: the names in `__all__`, and no others."""

import importlib
import sys
import types

import pytest

import distmc


def public_names(package: types.ModuleType) -> set[str]:
    """Return the names that a package holds without an underscore, its own modules left out."""

    def is_own_module(value: object) -> bool:
        return isinstance(value, types.ModuleType) and value.__name__.startswith(f"{package.__name__}.")

    return {name for name, value in vars(package).items() if not (name.startswith("_") or is_own_module(value))}


def test_public_names_are_exactly_what_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(distmc.__all__)) == len(distmc.__all__)
    # What is loaded at first use has to be there; `dir` would only repeat what is offered.
    for name in distmc.__all__:
        assert getattr(distmc, name) is not None
    # The one module that is offered as a name.
    assert public_names(distmc) | {"errors"} == set(distmc.__all__) == set(dir(distmc)) - {"__version__"}
    monkeypatch.setattr(distmc, "extra", sys, raising=False)
    assert public_names(distmc) - set(distmc.__all__) == {"extra"}


def test_public_names_are_sorted() -> None:
    # As ruff sorts them: constants, then classes, then functions.
    def key(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert distmc.__all__ == sorted(distmc.__all__, key=key)


def test_public_names_are_those_of_their_modules() -> None:
    for module, names in distmc._MODULES.items():
        for name in names:
            assert getattr(distmc, name) is getattr(importlib.import_module(module), name)
    assert {name for names in distmc._MODULES.values() for name in names} | {"errors"} == set(distmc.__all__)


def test_unknown_names_are_refused_as_usual() -> None:
    assert not hasattr(distmc, "no_such_name")
