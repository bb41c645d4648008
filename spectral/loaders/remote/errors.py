"""What goes wrong on the way to a file behind a URL."""

from __future__ import annotations

import errno
import re

from spectral.errors import ModelError

_QUERY = re.compile(r"\?[^\s'\"<>]*")
_USER = re.compile(r"//[^\s/@'\"]+@")
_MAX_CAUSE = 300


class RemoteReadError(ModelError, OSError):
    """A file behind a URL cannot be read.

    It is an OSError so that loaders say of it what they say of a local file that cannot be read, and a ModelError so
    that it is understood where nobody does.
    """

    def __init__(self, number: int, cause: str, filename: str) -> None:
        super().__init__(number, cause, filename)

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def unreadable(url: str, cause: object, *, is_refused: bool = False) -> RemoteReadError:
    """Return the error of a URL, as it is shown, with a cause in one line that gives no secret away.

    ``is_refused``: the server does not say whether there is such a file, as one may not read it.
    """
    return RemoteReadError(errno.EACCES if is_refused else errno.EIO, tidy(str(cause)), url)


def missing(url: str) -> FileNotFoundError:
    """Return the error of a file that is not there."""
    return FileNotFoundError(errno.ENOENT, "no such file", url)


def tidy(text: str) -> str:
    """Return one printable line without the parts of URLs that can hold a secret."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return _USER.sub("//", _QUERY.sub("?…", " ".join(line.split())))[:_MAX_CAUSE]
