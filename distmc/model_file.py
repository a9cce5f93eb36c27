"""A model that a user wrote into a Python file, named on the command line as ``FILE.py:MODEL``.

``MODEL`` is the name of a `distmc.Model` in that file, or of a function without arguments that returns one; without
``:MODEL`` it is ``model``. Three more names of the file are used if they are there:

``DIMS``, ``COORDS``
    Names of parameters' axes and labels along named axes, as `distmc.sample` takes them for `dims` and `coords`.
``INITIAL``
    Starting values, as `distmc.sample` takes them for `initial`, or a function (num_chains, seed) that returns them.

The directory of the file is put on Python's path, as if the file were run as a script.
"""

import dataclasses
import importlib.util
import linecache
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from distmc.errors import ModelError
from distmc.model.model import Model

DEFAULT_NAME = "model"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFile:
    """What a user's file says.

    Attributes
    ----------
    file : Path
        Where it stands.
    model : Model
        The model itself.
    dims, coords : mapping or None
        Names of axes and labels along them.
    initial : mapping, callable (num_chains, seed) -> mapping, or None
        Starting values.
    """

    file: Path
    model: Model
    dims: Mapping[str, Sequence[str]] | None
    coords: Mapping[str, Sequence[Any]] | None
    initial: Any

    def starting_values(self, num_chains: int, seed: int) -> Mapping[str, Any] | None:
        """Return starting values for this many chains, or None where the file gives none."""
        values: Mapping[str, Any] | None = self.initial(num_chains, seed) if callable(self.initial) else self.initial
        return values


def load_model_file(reference: str) -> ModelFile:
    """Run a user's file and take the model out of it.

    Parameters
    ----------
    reference : str
        ``FILE.py:MODEL`` or ``FILE.py``.

    Returns
    -------
    ModelFile

    Raises
    ------
    ModelError
        If there is no such file or name, the file raises, or the name is no model.
    """
    file, name = split_reference(reference)
    module = _run(file)
    return ModelFile(
        file=file,
        model=_model(file, module, name),
        dims=_mapping(file, module, "DIMS"),
        coords=_mapping(file, module, "COORDS"),
        initial=_initial(file, module),
    )


def split_reference(reference: str) -> tuple[Path, str]:
    """Return file and name of ``FILE.py:MODEL``."""
    stem, found, name = reference.rpartition(".py:")
    return (Path(f"{stem}.py").expanduser(), name) if found else (Path(reference).expanduser(), DEFAULT_NAME)


def location(error: BaseException, file: Path) -> str | None:
    """Return the innermost line of `file` that took part in an exception or its causes, as text; None if none did."""
    wanted, found = str(file.resolve()), None
    cause: BaseException | None = error
    while cause is not None:
        for frame in traceback.extract_tb(cause.__traceback__):
            if frame.filename == wanted and frame.lineno:
                found = _line(file, frame.lineno)
        cause = cause.__cause__
    return found


def _line(file: Path, number: int) -> str:
    return f"{file}, line {number}: {linecache.getline(str(file.resolve()), number).strip()}"


def _run(file: Path) -> ModuleType:
    path = file.resolve()
    if not path.is_file():
        raise ModelError(f"The file `{file}` does not exist; give the path of a Python file, as `FILE.py:MODEL`.")
    if path.suffix != ".py":
        raise ModelError(f"`{file}` does not end in `.py`; a model is given as `FILE.py:MODEL`.")
    # Workers get the module as code; its name must not hide an installed module of the same name here.
    name = f"distmc_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelError(_failure(file, error)) from error
    return module


def _failure(file: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(file.resolve()):
        where = _line(file, error.lineno or 1)
        return f"`{file}` is not valid Python: {error.msg}.\n  {where}"
    if isinstance(error, OSError | UnicodeDecodeError) and location(error, file) is None:
        return f"`{file}` could not be read: {error}"
    where = location(error, file) or str(file)
    return f"`{file}` raised {type(error).__name__}: {error}\n  {where}"


def _model(file: Path, module: ModuleType, name: str) -> Model:
    value = getattr(module, name, None)
    if value is None:
        there = [key for key, other in vars(module).items() if isinstance(other, Model)]
        advice = f"Models there are: {', '.join(map(repr, there))}" if there else "There is no `distmc.Model` in it"
        raise ModelError(f"`{file}` has no name `{name}`. {advice}; give one as `{file}:MODEL`.")
    made = ""
    if callable(value) and not isinstance(value, Model):
        made = " returned by the function"
        try:
            value = value()
        except Exception as error:
            raise ModelError(
                f"The function `{name}` of `{file}`, called without arguments for a model, raised "
                f"{type(error).__name__}: {error}"
            ) from error
    if not isinstance(value, Model):
        raise ModelError(
            f"What is{made} `{name}` of `{file}` is a `{type(value).__name__}`; it must be a `distmc.Model`."
        )
    return value


def _mapping(file: Path, module: ModuleType, name: str) -> Mapping[str, Any] | None:
    value = getattr(module, name, None)
    if value is not None and not isinstance(value, Mapping):
        raise ModelError(f"`{name}` of `{file}` is a `{type(value).__name__}`; it must be a mapping by parameter.")
    return value


def _initial(file: Path, module: ModuleType) -> Any:
    value = getattr(module, "INITIAL", None)
    return value if callable(value) else _mapping(file, module, "INITIAL")
