"""A file or folder behind a URL, with as much of ``pathlib.Path`` as the loaders use of a path.

The package ``universal_pathlib`` has more of it, and opens a file through the cache of fsspec, which
reads 5 MiB at a time, asks for the size before each, and shows URLs with their signatures. What is needed here is
less: small reads that stand together share a request, a tensor is one request, and nothing else is kept.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from bisect import bisect_right, insort
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, cast

from spectral.errors import CorruptCheckpointError
from spectral.loaders.remote.address import HTTP, Address, parse_url
from spectral.loaders.remote.errors import RemoteReadError, missing, unreadable
from spectral.loaders.remote.filesystem_files import FilesystemFiles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from spectral.loaders.remote.answer import Answer

PIECE_BYTES = 1 << 23
"""How much of a tensor is passed over at a time, each with a request of its own."""

_FIRST_BYTES = 1 << 16
"""What is read of a file with its first byte: the header of most."""

_NEAR_BYTES = 1 << 13
"""What is read elsewhere around a few bytes; each further read behind it doubles that,"""

_FAR_BYTES = 1 << 20
"""up to here."""

_DIRECT_BYTES = 1 << 18
"""A read of so much is a request of its own, and is not kept."""

_KEPT_BYTES = 1 << 24
"""What all headers of a model may take."""

_N_AT_ONCE = 8
"""Requests at a time where many places of one file are looked at."""

_MAX_READ_BYTES = 1 << 24
"""What :meth:`RemotePath.read_bytes` gives at most: it is for small files."""

_LONGEST_SUFFIX = 12


class _Files(Protocol):
    def read_into(self, address: Address, begin: int, view: memoryview) -> Answer: ...


def _files_of(address: Address) -> _Files | FilesystemFiles:
    if address.protocol not in HTTP:
        return FilesystemFiles(address)
    # Whoever reads files of this machine need not wait for the modules of HTTP and TLS.
    from spectral.loaders.remote.http_files import HttpFiles

    return HttpFiles()


@dataclass(frozen=True, slots=True)
class _Pin:
    """The state of a file that a model was opened from."""

    size: int
    tag: str = ""


class Session:
    """What the paths of one model share: connections, pieces of headers, and what files were like at first."""

    def __init__(self, address: Address, pins: dict[str, _Pin] | None = None) -> None:
        self.files = _files_of(address)
        self.pins: dict[str, _Pin] = dict(pins or {})
        self.refusals: dict[str, str] = {}
        self._kept: dict[tuple[str, int], bytes] = {}
        """(file, first byte) -> a piece, the oldest first."""
        self._begins: dict[str, list[int]] = {}
        self._n_kept = 0
        self._lock = threading.Lock()

    def size(self, address: Address) -> int:
        """Return the size of a file; over HTTP its beginning is read with it."""
        pin = self.pins.get(address.base)
        if pin is None and isinstance(self.files, FilesystemFiles):
            is_folder, size = self.files.look_up(address)
            if is_folder:
                raise IsADirectoryError(errno.EISDIR, "is a folder", address.shown)
            self._hold(address, size, "")
        elif pin is None:
            self.keep(address, 0, _FIRST_BYTES)
        return self.pins[address.base].size

    def read_into(self, address: Address, begin: int, view: memoryview) -> int:
        """Fill a view with the bytes of a file, and return how many there were."""
        if isinstance(self.files, FilesystemFiles):
            view = view[: max(0, self.size(address) - begin)]
        if not len(view):
            return 0
        answer = self.files.read_into(address, begin, view)
        if answer.size >= 0:
            self._hold(address, answer.size, answer.tag)
        if answer.whole is not None:
            self._remember(address, 0, answer.whole)
        return answer.n_read

    def kept(self, address: Address, position: int) -> memoryview | None:
        """Return what is kept of a file from a position on, if that is anything."""
        with self._lock:
            begins = self._begins.get(address.base, [])
            place = bisect_right(begins, position) - 1
            if place < 0:
                return None
            data = self._kept[address.base, begins[place]]
            offset = position - begins[place]
        return memoryview(data)[offset:] if offset < len(data) else None

    def prefetch(self, address: Address, begins: Iterable[int]) -> None:
        """Read the first bytes at many places at once, which will be asked for one after the other."""
        wanted = [begin for begin in begins if self.kept(address, begin) is None][: _KEPT_BYTES // (2 * _NEAR_BYTES)]
        if len(wanted) < 2:
            return
        with ThreadPoolExecutor(max_workers=_N_AT_ONCE) as pool:
            list(pool.map(lambda begin: self.keep(address, begin, _NEAR_BYTES), wanted))

    def keep(self, address: Address, begin: int, n_bytes: int) -> bytes:
        """Read a piece, as far as the file goes, and keep it."""
        pin = self.pins.get(address.base)
        if pin is not None:
            n_bytes = min(n_bytes, pin.size - begin)
        piece = bytearray(max(n_bytes, 0))
        n_read = self.read_into(address, begin, memoryview(piece))
        data = bytes(piece[:n_read])
        self._remember(address, begin, data)
        return data

    def _remember(self, address: Address, begin: int, data: bytes) -> None:
        if not data:
            return
        with self._lock:
            self._drop((address.base, begin))
            self._kept[address.base, begin] = data
            insort(self._begins.setdefault(address.base, []), begin)
            self._n_kept += len(data)
            while self._n_kept > max(_KEPT_BYTES, len(data)):
                self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, int]) -> None:
        data = self._kept.pop(key, None)
        if data is not None:
            self._begins[key[0]].remove(key[1])
            self._n_kept -= len(data)

    def _hold(self, address: Address, size: int, tag: str) -> None:
        """Demand that a file is what it was when it was first looked at."""
        found = _Pin(size, tag)
        with self._lock:
            pin = self.pins.setdefault(address.base, found)
        if pin.size != size or (pin.tag and tag and pin.tag != tag):
            raise unreadable(address.shown, "it was replaced by another file while it was read")


@dataclass(frozen=True, slots=True)
class RemoteStat:
    """What :func:`os.stat` would say."""

    st_mode: int
    st_size: int
    st_mtime: float = 0.0
    st_mtime_ns: int = 0
    tag: str = ""


class RemotePath:
    """A file or folder behind a URL."""

    is_remote = True
    piece_bytes = PIECE_BYTES

    __slots__ = ("_session", "address")

    def __init__(self, address: Address, session: Session | None = None) -> None:
        self.address = address
        self._session = Session(address) if session is None else session

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.address, self._session.pins)

    def __str__(self) -> str:
        return self.address.shown

    def __repr__(self) -> str:
        return f"RemotePath({self.address.shown!r})"

    def __fspath__(self) -> str:
        return self.address.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __lt__(self, other: RemotePath) -> bool:
        return self.address.url < other.address.url

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:
            raise CorruptCheckpointError(f"{self}: {str(name)[:200]!r} is not inside it")
        return RemotePath(self.address.inside(*pure.parts), self._session)

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.address.authority, *self.address.parts)

    @property
    def name(self) -> str:
        return self.parts[-1].rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def suffixes(self) -> list[str]:
        return PurePosixPath(self.name).suffixes

    @property
    def parent(self) -> RemotePath:
        above = Address(
            self.address.protocol,
            self.address.authority,
            self.address.parts[:-1],
            self.address.query,
            self.address.is_trusted,
        )
        return RemotePath(above, self._session)

    @property
    def parents(self) -> tuple[RemotePath, ...]:
        above, path = [], self
        for _ in self.address.parts:
            path = path.parent
            above.append(path)
        return tuple(above)

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def as_posix(self) -> str:
        return str(self)

    def absolute(self) -> RemotePath:
        return self

    def resolve(self, strict: bool = False) -> RemotePath:
        """Return the path: there are no links. With ``strict`` it must be there."""
        if strict and not self.exists():
            raise missing(str(self))
        return self

    def is_absolute(self) -> bool:
        return True

    def is_relative_to(self, other: object) -> bool:
        return self == other or other in self.parents

    def samefile(self, other: object) -> bool:
        return self == other

    def stat(self) -> RemoteStat:
        """Return kind and size; over HTTP, what has no suffix of a file is taken for a folder without asking."""
        files = self._session.files
        if isinstance(files, FilesystemFiles):
            pin = self._session.pins.get(self.address.base)
            is_folder, size = files.look_up(self.address) if pin is None else (False, pin.size)
            if is_folder:
                return RemoteStat(stat.S_IFDIR, 0)
        elif not self._has_name_of_file():
            return RemoteStat(stat.S_IFDIR, 0)
        size = self._session.size(self.address)
        return RemoteStat(stat.S_IFREG, size, tag=self._session.pins[self.address.base].tag)

    def exists(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        try:
            return stat.S_ISDIR(self.stat().st_mode)
        except FileNotFoundError:
            return False

    def is_file(self) -> bool:
        """Tell whether it is there and a file; buckets that do not list what they hold deny what they do not have."""
        try:
            return stat.S_ISREG(self.stat().st_mode)
        except FileNotFoundError:
            return False
        except RemoteReadError as error:
            if error.errno == errno.EACCES:
                self._session.refusals[self.name] = error.strerror or ""
                return False
            raise

    def is_symlink(self) -> bool:
        return False

    def iterdir(self) -> Iterator[RemotePath]:
        files = self._session.files
        if not isinstance(files, FilesystemFiles):
            refused = next(iter(self._session.refusals.items()), None)
            more = f", and of {refused[0]} says {refused[1]}" if refused else ""
            raise unreadable(str(self), f"a web server does not list folders: give the URL of a file{more}")
        return iter([self / name for name in files.names(self.address)])

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield what of the folder has a name of this pattern; none where the server lists nothing."""
        from fnmatch import fnmatchcase

        if "/" in pattern or "**" in pattern or not isinstance(self._session.files, FilesystemFiles):
            return iter(())
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def open(self, mode: str = "rb", buffering: int = -1) -> RemoteStream:  # noqa: ARG002 (what pathlib takes)
        """Return a stream; nothing is asked for before something is read."""
        if mode != "rb":
            raise unreadable(str(self), "it is read only, as bytes")
        return RemoteStream(self.address, self._session)

    def prefetch(self, begins: Iterable[int]) -> None:
        """Read the first bytes at many places of the file at once."""
        if self._session.size(self.address) > _FIRST_BYTES:
            self._session.prefetch(self.address, begins)

    def read_bytes(self) -> bytes:
        with self.open() as stream:
            return stream.read(_MAX_READ_BYTES)

    def _has_name_of_file(self) -> bool:
        return bool(self.address.parts) and 1 < len(self.suffix) <= _LONGEST_SUFFIX


def _restore(address: Address, pins: dict[str, _Pin]) -> RemotePath:
    return RemotePath(address, Session(address, pins))


class RemoteStream(io.RawIOBase):
    """The bytes of a file behind a URL: small reads come out of pieces that are kept, large ones straight."""

    def __init__(self, address: Address, session: Session) -> None:
        super().__init__()
        self._address = address
        self._session = session
        self._position = 0
        self._next = -1
        self._ahead = _NEAR_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        position = offset + (self._session.size(self._address) if base is None else base)
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._session.size(self._address) - self._position)
        data = bytearray(left if size is None or size < 0 else min(size, left))
        n_read = self.readinto(data)
        return bytes(data) if n_read == len(data) else bytes(data[:n_read])

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the file goes."""
        view = memoryview(buffer).cast("B")
        n_done = 0
        while n_done < len(view):
            n_read = self._read_some(view[n_done:])
            if not n_read:
                break
            n_done += n_read
            self._position += n_read
        return n_done

    def _read_some(self, view: memoryview) -> int:
        kept = self._session.kept(self._address, self._position)
        if kept is not None:
            n_read = min(len(kept), len(view))
            view[:n_read] = kept[:n_read]
            return n_read
        if len(view) >= _DIRECT_BYTES:
            return self._session.read_into(self._address, self._position, view)
        begin = self._position
        self._ahead = min(2 * self._ahead, _FAR_BYTES) if begin == self._next else _NEAR_BYTES
        n_wanted = max(len(view), _FIRST_BYTES if begin == 0 else self._ahead)
        piece = self._session.keep(self._address, begin, n_wanted)
        self._next = begin + len(piece)
        n_read = min(len(piece), len(view))
        view[:n_read] = piece[:n_read]
        return n_read


def open_url(text: str, *, is_trusted: bool = True) -> Path:
    """Return the path of a URL, in a session of its own.

    Raises
    ------
    UnsupportedModelError, UnsafeCheckpointError
        See :func:`spectral.loaders.remote.address.parse_url`.
    """
    # What loaders use of a path, this one has; mypy is told so here, once.
    return cast("Path", RemotePath(parse_url(text, is_trusted=is_trusted)))
