"""Write files so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import glob
import hashlib
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


_MAX_NAME = 80
_TEMPORARY = ".tmp"


def _temporary_prefix(path: Path) -> str:
    return f".{path.name[:_MAX_NAME]}."


def write_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text through a temporary file in the same folder, which is created where it is missing.

    Raises
    ------
    OSError
        The target cannot be written; the old file, if any, is as it was.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        # A pipe or a device: there is nothing to replace.
        path.write_text(text, encoding="utf-8")
        return
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_temporary_prefix(path), suffix=_TEMPORARY)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else _default_mode())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class FileChangedError(Exception):
    """A file is no longer what it was when it was read."""


class FileInUseError(Exception):
    """Another process is replacing the file.

    Attributes
    ----------
    lock : Path
        The file that says so.
    """

    def __init__(self, lock: Path) -> None:
        super().__init__(str(lock))
        self.lock = lock


def replace_unchanged(path: Path, text: str, *, expected: str | None) -> bool:
    """Write UTF-8 text atomically over a file, unless somebody else has changed that since it was read.

    A file beside the target is the lock of all writers. The system holds it for this process, so that a writer that was
    killed holds nothing; what it left behind is cleared away.

    Parameters
    ----------
    path : Path
        The target.
    text : str
        Its new content.
    expected : str or None
        SHA-256 of its content as it was read; None where it did not exist.

    Returns
    -------
    bool
        False where the file holds this very text already, and nothing was written.

    Raises
    ------
    FileChangedError
        The target holds something else; it is as it was.
    FileInUseError
        Another writer is at work.
    OSError
        The target cannot be written; it is as it was.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f".{path.name[:_MAX_NAME]}.lock")):
        for left in path.parent.glob(f"{glob.escape(_temporary_prefix(path))}*{_TEMPORARY}"):
            left.unlink(missing_ok=True)
        content = path.read_bytes() if path.exists() else None
        if content == text.encode("utf-8"):
            return False
        found = None if content is None else hashlib.sha256(content).hexdigest()
        if found != expected:
            raise FileChangedError(str(path))
        write_atomically(path, text)
    return True


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold a lock file, and take it away afterwards.

    Raises
    ------
    FileInUseError
        Another process holds it.
    """
    descriptor = _take(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


if sys.platform == "win32":

    def _take(lock: Path) -> int:
        """Return the lock file, opened by this process alone; a writer that was killed leaves it to the user."""
        try:
            return os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError as error:
            raise FileInUseError(lock) from error

else:
    import fcntl

    def _take(lock: Path) -> int:
        """Return the lock file, opened and held."""
        while True:
            descriptor = os.open(lock, os.O_CREAT | os.O_WRONLY, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The writer before may have taken the file away between our two calls: then this lock is nobody's.
                if lock.exists() and os.path.samestat(lock.stat(), os.fstat(descriptor)):
                    return descriptor
            except BlockingIOError as error:
                os.close(descriptor)
                raise FileInUseError(lock) from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a path stays in a folder once links and ``..`` are resolved."""
    return path.resolve().is_relative_to(folder.resolve())


def _default_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
