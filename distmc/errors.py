"""What can go wrong, as a tree.

::

    DistmcError
    ├── InputError (ValueError)         something given to distmc cannot be used; nothing was started
    │   ├── SpecError                   a count, name or option
    │   ├── ModelError                  parameters, supports, the log-likelihood
    │   ├── DataError                   rows, constants, files of data
    │   └── StartError                  where chains start: not finite, or outside the support
    ├── RunDirectoryError (OSError)     a run directory that is missing, taken, unreadable, or of another model
    │   └── DamagedFileError            a file of it was read, and its content is not what was written
    ├── CapacityError (RuntimeError)    the cluster cannot give the workers that were asked for
    ├── WorkerError (RuntimeError)      a worker failed; names rank, node and the root cause
    │   └── DriftError                  replicas that must be identical were not
    └── Interrupted (RuntimeError)      stopped on request; what was committed is kept

Every class pickles with all that it knows, so that an error survives the way from a worker to the driver.
Messages say what was given, what is needed, why, and what to do. `exit_code` is what the command line returns.
"""

from typing import ClassVar


class DistmcError(Exception):
    """Base of all errors that distmc raises on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(DistmcError, ValueError):
    """Something given to distmc cannot be used; raised before any worker starts."""

    exit_code = 2


class SpecError(InputError):
    """A count, a name or an option is outside what is possible."""


class ModelError(InputError):
    """The parameters, their supports or the log-likelihood do not fit together."""


class DataError(InputError):
    """The rows or constants cannot be used as data."""


class StartError(InputError):
    """One chain or more would start outside the support, or where log-density or gradient is not finite."""


class RunDirectoryError(DistmcError, OSError):
    """A run directory is missing, already taken, damaged, or belongs to another model or other data."""

    exit_code = 3


class DamagedFileError(RunDirectoryError):
    """A file of a run was read, and its content is not what was written; a file that cannot be read is no such."""


class CapacityError(DistmcError, RuntimeError):
    """The cluster cannot give the workers that were asked for."""

    exit_code = 4


class WorkerError(DistmcError, RuntimeError):
    """A worker failed.

    Parameters
    ----------
    message : str
        The whole story in words, root cause first.
    rank : int or None
        Rank of the worker in which the root cause happened.
    node : str or None
        Address of its node.
    remote_traceback : str
        Traceback of the root cause as text; empty when the process died without one.
    """

    exit_code = 5

    def __init__(
        self, message: str, rank: int | None = None, node: str | None = None, remote_traceback: str = ""
    ) -> None:
        super().__init__(message, rank, node, remote_traceback)
        self.message = message
        self.rank = rank
        self.node = node
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        """Return the message alone."""
        return self.message


class DriftError(WorkerError):
    """Replicas that must be identical to the bit were not."""

    exit_code = 6


class Interrupted(DistmcError, RuntimeError):
    """Stopped on request; every committed draw is kept."""

    exit_code = 130
