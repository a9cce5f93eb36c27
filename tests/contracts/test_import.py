"""What `import distmc` costs: no Ray, no files' libraries, no device, and little time."""

import json
import subprocess
import sys

import pytest

SLOW = ("arviz_base", "arviz_stats", "netCDF4", "ray", "xarray")
FOR_FILES = ("arviz_base", "arviz_stats", "netCDF4", "pandas", "xarray")
FOR_FILES_AND_DRAWS = ("open_run", "read_data", "summarise", "write_data")
PROBE = f"""
import json, resource, sys
import distmc
used = resource.getrusage(resource.RUSAGE_SELF)
at_import = [name for name in {SLOW!r} if name in sys.modules]
for name in set(distmc.__all__) - set({FOR_FILES_AND_DRAWS!r}):
    getattr(distmc, name)
with_names = [name for name in {SLOW!r} if name in sys.modules]
for name in {FOR_FILES_AND_DRAWS!r}:
    getattr(distmc, name)
from jax._src import xla_bridge
print(json.dumps({{
    "at_import": at_import,
    "with_names": with_names,
    "ray": "ray" in sys.modules,
    "backend": xla_bridge.backends_are_initialized(),
    "seconds": used.ru_utime + used.ru_stime,
}}))
"""


@pytest.fixture(scope="module")
def facts() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120, check=True)
    read: dict[str, object] = json.loads(done.stdout)
    return read


def test_nothing_slow_is_loaded(facts: dict[str, object]) -> None:
    assert facts["at_import"] == []
    assert facts["with_names"] == []
    assert facts["ray"] is False


def test_workers_do_not_load_what_is_for_files() -> None:
    # Each substitute for a lost worker would take most of a second longer.
    probe = f"""
import sys
import distmc.orchestration.ray_process, distmc.orchestration.ray_worker, distmc.sampling.worker
print([name for name in {FOR_FILES!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_a_workers_process_settles_its_environment_first() -> None:
    probe = """
import sys
import distmc.orchestration.ray_process
print([name for name in ("jax", "numpy", "numpyro") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_no_device_is_started(facts: dict[str, object]) -> None:
    assert facts["backend"] is False


def test_it_takes_a_moment(facts: dict[str, object]) -> None:
    # Processor time, which a busy machine does not stretch much; JAX alone would take more than this.
    seconds = facts["seconds"]
    assert isinstance(seconds, float)
    assert seconds < 1.0
