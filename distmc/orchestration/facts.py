"""What a machine is, as far as it may decide the last bits of a draw."""

import platform
from pathlib import Path

from distmc.orchestration.differences import FEATURES, UNKNOWN
from distmc.versions import library_versions

_CPUINFO = Path("/proc/cpuinfo")
_LIBRARIES = ("python", "distmc", "jax", "jaxlib", "numpyro", "numpy")


def machine_facts() -> dict[str, str]:
    """Return the processor, what it can do, and the versions of libraries, by name."""
    versions = library_versions()
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        FEATURES: " ".join(sorted((_cpuinfo("flags") or _cpuinfo("Features")).split())) or UNKNOWN,
        **{name: versions[name] for name in _LIBRARIES},
    }


def _cpuinfo(name: str) -> str:
    """Return a field of the first core; empty where the system does not tell."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in text.splitlines() if line.partition(":")[0].strip() == name)
    return next(found, "")
