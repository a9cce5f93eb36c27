"""Writing a file so that it is either wholly there or not there at all."""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from distmc.errors import DistmcError, RunDirectoryError

_PREFIX, _SUFFIX = ".", ".partial"
_RAYS_COPIES = "working_dir_files"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; when the block ends well, its content becomes `path` in one step.

    The content is flushed to the disk before it is renamed, and the directory after, so that a power cut leaves
    either the old file or the new one. When the block fails, the temporary file is removed and `path` is as before.

    Parameters
    ----------
    path : Path
        The file to write; its directory exists.

    Yields
    ------
    Path
        A name in the same directory, for the block to write to.

    Raises
    ------
    RunDirectoryError
        If the file system or the netCDF library refuses; names the file and the cause.
    """
    temporary = path.with_name(f"{_PREFIX}{path.name}{_SUFFIX}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_directory(path.parent)
    except DistmcError:
        raise
    # The netCDF library reports a full disk, like most of its troubles, as a RuntimeError without a reason.
    except (OSError, RuntimeError) as error:
        raise RunDirectoryError(_write_failure(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, encoded as UTF-8, in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file if it is there.

    Raises
    ------
    RunDirectoryError
        If the file system refuses.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"`{path}` could not be removed: {describe(error)}.") from error


def set_aside(paths: Sequence[Path], folder: Path) -> None:
    """Move files into `folder`, which is made if need be and on the same file system, in the order given.

    Raises
    ------
    RunDirectoryError
        If the file system refuses.
    """
    for path in paths:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.replace(folder / path.name)
        except OSError as error:
            raise RunDirectoryError(f"`{path}` could not be moved to `{folder}`: {describe(error)}.") from error


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return `path` as one of a mounted file system.

    Raises
    ------
    RunDirectoryError
        If it is no path, or a web address.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
        raise RunDirectoryError(f"{path!r} is not a path; give that of a directory.")
    text = os.fspath(path)
    if "://" in text:
        raise RunDirectoryError(
            f"`{text}` is a web address; a run is written to a directory of a mounted file system, so that files can "
            "be renamed in one step. Give a local path and copy the directory afterwards."
        )
    return Path(text).expanduser()


def doubt_about(path: str | os.PathLike[str]) -> str:
    """Return a warning if `path` lies in a folder that Ray made for a job and will delete, else nothing."""
    absolute = Path(path).expanduser().absolute()
    if _RAYS_COPIES not in absolute.parts:
        return ""
    return (
        f"`{os.fspath(path)}` lies in the copy of the working directory that Ray made for this job on node "
        f"{socket.gethostname()}: `{absolute}`. Ray deletes such copies after the job. Give an absolute path on a disk "
        "that stays."
    )


def describe(error: BaseException) -> str:
    """Return the cause of an error in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip(".") or type(error).__name__


def unreadable(path: Path, error: OSError) -> RunDirectoryError:
    """Return the error for a file or directory of which nothing is known, as the system does not give its content."""
    return RunDirectoryError(
        f"`{path}` could not be read: {describe(error)}. Nothing was changed. Give access to it, or bring it or its "
        "file system back, and try again."
    )


def flush_directory(path: Path) -> None:
    """Make the names in a directory durable.

    Raises
    ------
    RunDirectoryError
        If the file system refuses.
    """
    try:
        _flush_directory(path)
    except OSError as error:
        raise RunDirectoryError(f"The directory `{path}` could not be written: {describe(error)}.") from error


def _flush_to_disk(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a directory as a file and needs no such flush.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_failure(path: Path, error: BaseException) -> str:
    message = f"`{path}` could not be written: {describe(error)}."
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        message += f" The file system has {free / 2**20:,.0f} MiB free."
    return message + " What was written before is untouched; make room or give access, then run again."
