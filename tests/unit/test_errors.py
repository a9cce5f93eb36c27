import inspect
import pickle

import pytest
from ray import cloudpickle

from distmc import errors
from distmc.errors import DamagedFileError, DistmcError, DriftError, InputError, RunDirectoryError, WorkerError

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, DistmcError)]
STORY = "Worker 2 of 4 died; `hang_timeout_seconds` had nothing to do with it."


def _example(kind: type[DistmcError]) -> DistmcError:
    if issubclass(kind, WorkerError):
        return kind(STORY, rank=2, node="10.0.0.7", remote_traceback="Traceback: …")
    return kind(STORY)


def _facts(error: DistmcError) -> tuple[object, ...]:
    return type(error), str(error), error.args, vars(error), error.exit_code


@pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
@pytest.mark.parametrize("kind", CLASSES)
def test_errors_survive_the_way_from_a_worker(kind: type[DistmcError], pickler: object) -> None:
    error = _example(kind)
    error.add_note("In worker 2.")
    copy = pickle.loads(pickler.dumps(error))  # type: ignore[attr-defined]
    assert _facts(copy) == _facts(error)
    assert str(copy) == STORY
    assert copy.__notes__ == ["In worker 2."]


def test_a_worker_error_tells_where() -> None:
    copy = pickle.loads(pickle.dumps(_example(DriftError)))
    assert (copy.rank, copy.node, copy.remote_traceback) == (2, "10.0.0.7", "Traceback: …")
    bare = pickle.loads(pickle.dumps(WorkerError(STORY)))
    assert (bare.rank, bare.node, bare.remote_traceback) == (None, None, "")


def test_the_command_line_tells_kinds_apart() -> None:
    codes = {kind: kind.exit_code for kind in CLASSES if not issubclass(kind, InputError | DamagedFileError)}
    assert len(set(codes.values())) == len(codes)
    assert DamagedFileError.exit_code == RunDirectoryError.exit_code
    assert {kind.exit_code for kind in CLASSES if issubclass(kind, InputError)} == {2}


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(RunDirectoryError, OSError)
    assert all(
        issubclass(kind, RuntimeError) for kind in (errors.CapacityError, errors.WorkerError, errors.Interrupted)
    )
