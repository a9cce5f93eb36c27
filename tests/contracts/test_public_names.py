"""What `import distmc` gives, and what it leaves alone."""

import importlib
import subprocess
import sys

import distmc


def test_public_names_are_all_there() -> None:
    assert len(set(distmc.__all__)) == len(distmc.__all__)
    assert set(distmc.__all__) <= set(dir(distmc))
    for name in distmc.__all__:
        assert getattr(distmc, name) is not None


def test_public_names_are_those_of_their_modules() -> None:
    for module, names in distmc._MODULES.items():
        for name in names:
            assert getattr(distmc, name) is getattr(importlib.import_module(module), name)
    assert {name for names in distmc._MODULES.values() for name in names} | {"errors"} == set(distmc.__all__)


def test_unknown_names_are_refused_as_usual() -> None:
    assert not hasattr(distmc, "no_such_name")


def test_import_loads_neither_ray_nor_devices() -> None:
    code = (
        "import sys, distmc; distmc.sample; distmc.Model; distmc.Ray; "
        "from jax._src import xla_bridge; print('ray' in sys.modules, xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]
