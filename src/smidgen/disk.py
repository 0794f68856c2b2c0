"""Files that are written whole or not at all, and folders that one run has for itself."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from smidgen.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone_in", "remove_torn", "replace_file"]


def replace_file(path: str | os.PathLike[str], write_to: Callable[[Path], object]) -> None:
    """Makes a file under a temporary name beside ``path``, then renames it: whatever happens, nothing that was at
    ``path`` is lost, and nothing half-written is found there.

    Raises:
        InputError: it cannot be written, and why.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        write_to(Path(name))
        with open(name, "rb") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, until this one ends, however it ends; where the system has no such locks, not.

    Raises:
        InputError: another run is in it.
    """
    if fcntl is None:
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None
    try:
        with suppress(OSError):  # of network file systems without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{folder}: another run is at work in it; wait for that, or give another folder"
                ) from None
        yield
    finally:
        os.close(handle)


def remove_torn(path: Path) -> None:
    """Removes what a kill has left of a file while it was written; for those who are the only one to write it."""
    for torn in path.parent.glob(f".{path.name}.*"):
        torn.unlink(missing_ok=True)
