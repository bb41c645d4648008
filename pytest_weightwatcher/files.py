"""Write files so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


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
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".tmp")
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

    As git does with its index: a file beside the target, made only where there is none, is the lock of all writers.

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
        Another writer is at work, or has died at it.
    OSError
        The target cannot be written; it is as it was.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name[:80]}.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError as error:
        raise FileInUseError(lock) from error
    try:
        content = path.read_bytes() if path.exists() else None
        if content == text.encode("utf-8"):
            return False
        found = None if content is None else hashlib.sha256(content).hexdigest()
        if found != expected:
            raise FileChangedError(str(path))
        write_atomically(path, text)
    finally:
        lock.unlink(missing_ok=True)
    return True


def is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a path stays in a folder once links and ``..`` are resolved."""
    return path.resolve().is_relative_to(folder.resolve())


def _default_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
