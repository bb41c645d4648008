"""Read files of buckets and of the Hugging Face hub by ranges of bytes, through their fsspec file systems."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spectral.errors import MissingDependencyError, ModelError
from spectral.loaders.remote.address import HUB, PROTOCOLS
from spectral.loaders.remote.answer import Answer
from spectral.loaders.remote.errors import missing, unreadable

if TYPE_CHECKING:
    from spectral.loaders.remote.address import Address

_ONE_ANSWER_BYTES = 1 << 26
"""A file system gives an answer as one object: a large tensor is asked for in pieces of this size."""


class FilesystemFiles:
    """Files of one protocol of fsspec."""

    def __init__(self, address: Address) -> None:
        self._address = address

    @cached_property
    def _filesystem(self) -> Any:
        protocol = self._address.protocol
        try:
            if protocol == HUB:
                hub: Any = import_module("huggingface_hub")
                # Without a token where the address comes from a file of the repository: it could name any model that
                # the token can read.
                token = {} if self._address.is_trusted else {"token": False}
                return hub.HfFileSystem(skip_instance_cache=True, **token)
            fsspec: Any = import_module("fsspec")
            return fsspec.filesystem(protocol, skip_instance_cache=True)
        except ImportError as error:
            raise MissingDependencyError(
                f"{self._address.shown}: {protocol}:// needs a package that is not installed: "
                f'pip install "pytest-weightwatcher[{PROTOCOLS[protocol]}]"'
            ) from error
        except Exception as error:  # whatever a file system raises when it is set up is told in one line
            raise unreadable(self._address.shown, _say(error)) from error

    def look_up(self, address: Address) -> tuple[bool, int]:
        """Return whether an address is a folder, and the size of a file.

        Raises
        ------
        FileNotFoundError, RemoteReadError
            There is nothing, or it cannot be told.
        """
        info = self._call(address, "info", _name(address))
        if not isinstance(info, dict):
            raise unreadable(address.shown, "its file system tells nothing of it")
        if info.get("type") == "directory":
            return True, 0
        size = info.get("size")
        if type(size) is not int or size < 0:
            raise unreadable(address.shown, "its file system does not say how long it is")
        return False, size

    def names(self, address: Address) -> list[str]:
        """Return the names in a folder."""
        found = self._call(address, "ls", _name(address), detail=False)
        return sorted({str(name).rstrip("/").rpartition("/")[2] for name in found} - {""})

    def read_into(self, address: Address, begin: int, view: memoryview) -> Answer:
        """Fill a view with the bytes of a file from a position on; the caller knows that they are there."""
        for at in range(0, len(view), _ONE_ANSWER_BYTES):
            piece = view[at : at + _ONE_ANSWER_BYTES]
            data = self._call_read(address, begin + at, begin + at + len(piece))
            piece[: len(data)] = data[: len(piece)]
            if len(data) != len(piece):
                raise unreadable(address.shown, f"its file system gave {len(data)} of {len(piece)} bytes")
        return Answer(len(view), -1, "")

    def _call_read(self, address: Address, begin: int, end: int) -> bytes:
        if getattr(self._filesystem, "async_impl", False):
            data = self._call(address, "cat_file", _name(address), start=begin, end=end)
        else:
            data = self._read_opened(address, begin, end)
        return bytes(data) if not isinstance(data, bytes) else data

    def _read_opened(self, address: Address, begin: int, end: int) -> Any:
        # Its own cache would read megabytes ahead for every header.
        with self._call(address, "open", _name(address), mode="rb", cache_type="none") as stream:
            try:
                stream.seek(begin)
                return stream.read(end - begin)
            except Exception as error:  # see _call
                raise self._error(address, error) from error

    def _call(self, address: Address, method: str, *args: Any, **options: Any) -> Any:
        filesystem = self._filesystem
        try:
            return getattr(filesystem, method)(*args, **options)
        except Exception as error:  # file systems raise what their clients raise: each is told in one line
            raise self._error(address, error) from error

    def _error(self, address: Address, error: Exception) -> Exception:
        if isinstance(error, (ModelError, FileNotFoundError)):
            return error if isinstance(error, ModelError) else missing(address.shown)
        return unreadable(address.shown, _say(error), is_refused=isinstance(error, PermissionError))


def _name(address: Address) -> str:
    """Return what a file system calls an address."""
    return "/".join((address.authority, *address.parts))


def _say(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"no permission ({error})" if str(error) else "no permission"
    if isinstance(error, TimeoutError):
        return "it does not answer (timeout)"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
