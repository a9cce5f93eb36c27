"""Versions of the libraries that decide draws. Asking imports none of them: workers start without those for files."""

import importlib.metadata
import platform

_LIBRARIES = ("distmc", "jax", "jaxlib", "numpyro", "numpy", "ray", "netCDF4", "xarray")


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide draws, without importing them."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "unknown"
    return versions
