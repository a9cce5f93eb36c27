"""Sends model and data to the workers."""

import contextlib
import functools
import pickle
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import ray
from ray.cloudpickle import cloudpickle

from distmc.errors import ModelError
from distmc.orchestration.executor import BuildWorker

if TYPE_CHECKING:
    from distmc.sampling.worker import WorkerTask


def ship(task: "WorkerTask", build_worker: BuildWorker) -> tuple["ray.ObjectRef[Any]", "ray.ObjectRef[Any]"]:
    """Put `task` and `build_worker` into the cluster's object store, once for all workers.

    Raises
    ------
    ModelError
        If something that belongs to the model cannot be pickled.
    """
    functions = (task.model.log_likelihood, task.model.log_prior, build_worker)
    try:
        with _pickled_by_value(functions):
            return ray.put(task), ray.put(build_worker)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ModelError(
            "The model or its data cannot be sent to the workers, because something in it does not pickle: "
            f"{error}. Open files, locks and handles of libraries have to be made inside `log_likelihood`; "
            "functions and plain arrays can come from outside."
        ) from error


@contextlib.contextmanager
def _pickled_by_value(functions: tuple[object, ...]) -> Iterator[None]:
    """Let the modules that define `functions`, and those beside them, travel as code, unless they are installed.

    A file beside the user's script exists on the node of the script only, so the workers could not import it.
    """
    own = [module for module in map(_module, functions) if module is not None]
    with contextlib.ExitStack() as stack:
        for module in (*own, *_neighbours(own)):
            if not _is_installed(module) and module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
        yield


def _module(function: object) -> ModuleType | None:
    while isinstance(function, functools.partial):
        function = function.func
    return sys.modules.get(getattr(function, "__module__", None) or "")


def _neighbours(modules: Iterable[ModuleType]) -> list[ModuleType]:
    """Return loaded modules from the directories of these modules, or from below; those of libraries have none."""
    folders = {Path(module.__file__).resolve().parent for module in modules if module.__file__ and _is_own(module)}
    others = [module for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
    return [module for module in others if not folders.isdisjoint(Path(str(module.__file__)).resolve().parents)]


def _is_installed(module: ModuleType) -> bool:
    # What is run as a script travels as code anyway.
    return module.__name__ == "__main__" or not _is_own(module)


def _is_own(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    # distmc is on every node.
    if file is None or module.__name__.partition(".")[0] == "distmc":
        return False
    return not any(file.startswith(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
