"""Who writes a run: a file that is locked while its process lives.

The system lets go of a lock when the process ends, however it ends. So a run that still says that it goes on, but
whose lock nobody holds, was cut off. Its file is removed only once the run says what became of it: a missing file tells
nothing, as it may not be made yet, or not be seen yet on another machine.
"""

import contextlib
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from distmc.errors import RunDirectoryError
from distmc.storage.files import describe

try:
    import fcntl
except ImportError:  # Windows has other locks, which distmc does without.
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def writing(file: Path, is_over: Callable[[], bool]) -> Iterator[None]:
    """Hold the lock while the context lasts, and remove its file afterwards if the run is over.

    Parameters
    ----------
    file : Path
        The file to lock; made if need be.
    is_over : callable () -> bool
        Says whether the run itself tells that nobody writes it any more. It cannot where the disk was too full to say
        so; then the file stays, as that of a process that was killed.

    Raises
    ------
    RunDirectoryError
        If another process holds the lock, or the file cannot be written.
    """
    try:
        opened = file.open("a+", encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(f"`{file}` could not be written: {describe(error)}.") from error
    with opened:
        _lock(opened, file)
        _sign(opened, file)
        try:
            yield
        finally:
            if is_over():
                with contextlib.suppress(OSError):
                    file.unlink()


def _sign(opened: TextIO, file: Path) -> None:
    """Write this machine's name; warn where the file was left by a process that this machine cannot see."""
    opened.seek(0)
    host = opened.read()
    if host == socket.gethostname():
        # Nothing to write, for which a full disk would have no room.
        return
    try:
        opened.truncate(0)
        opened.write(socket.gethostname())
        opened.flush()
    except OSError as error:
        raise RunDirectoryError(f"`{file}` could not be written: {describe(error)}.") from error
    if host:
        warnings.warn(
            f"`{file.parent}` was last written by a process on {host}, which did not say that it ended. Make sure that "
            "it has: two processes must not write the same run.",
            stacklevel=5,
        )


def is_abandoned(file: Path) -> bool:
    """Say whether the process that held the lock is certainly gone.

    Not every network file system tells one machine of another's locks, so only the machine of the writer is believed.
    """
    try:
        with file.open(encoding="utf-8") as opened:
            if fcntl is None or opened.read() != socket.gethostname():
                return False
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _lock(opened: TextIO, file: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunDirectoryError(
            f"Another process is writing to `{file.parent}`; wait until it has ended, or give another path."
        ) from error
    except OSError:
        # A file system without locks: nobody will believe one here.
        pass
