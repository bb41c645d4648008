"""Read files behind http:// and https:// by ranges of bytes (RFC 9110, section 14)."""

from __future__ import annotations

import http.client
import re
import threading
import time
import weakref
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from spectral.errors import UnsafeCheckpointError, UnsupportedModelError
from spectral.loaders.remote.address import HTTP
from spectral.loaders.remote.answer import Answer
from spectral.loaders.remote.errors import RemoteReadError, missing, tidy, unreadable
from spectral.loaders.remote.http_connection import Pool, Target, Watchdog, ask

if TYPE_CHECKING:
    from spectral.loaders.remote.address import Address
    from spectral.loaders.remote.http_connection import Connection

MAX_WHOLE_BYTES = 1 << 22
"""Of a server that sends whole files only, a configuration or an index is taken so, a checkpoint is not."""

_MAX_REDIRECTS = 5
_MAX_RETRIES = 6
"""Of one model in all: a server in trouble is not asked without end."""

_PAUSE_SECONDS = (0.3, 1.0)
_PIECE_BYTES = 1 << 20
_DRAINED_BYTES = 1 << 16
_MAX_SIZE = 1 << 62

_REDIRECTS = (301, 302, 303, 307, 308)
_ABSENT = (404, 410)
_FOR_A_WHILE = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19})")


class HttpFiles:
    """Files of HTTP servers; a connection is kept for the next request."""

    def __init__(self) -> None:
        self._pool = Pool()
        self._moved: dict[str, Target] = {}
        self._lock = threading.Lock()
        self._n_retries = 0
        weakref.finalize(self, self._pool.close)

    def read_into(self, address: Address, begin: int, view: memoryview) -> Answer:
        """Fill a view with the bytes of a file from a position on, as far as there are any.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        RemoteReadError
            It cannot be read; the message gives the cause.
        UnsafeCheckpointError
            The name, or a redirection, leads where this address may not.
        UnsupportedModelError
            The server sends whole files only, and this one is too large for that.
        """
        n_done, n_pauses = 0, 0
        while True:
            try:
                answer, is_complete = self._attempt(address, begin + n_done, view[n_done:])
            except _TryAgainError as error:
                n_done += error.n_read
                self._pause(address, n_pauses, error)
                n_pauses += 1
                continue
            if is_complete:
                return Answer(n_done + answer.n_read, answer.size, answer.tag, answer.whole)

    def _pause(self, address: Address, n_pauses: int, error: _TryAgainError) -> None:
        with self._lock:
            self._n_retries += 1
            is_enough = self._n_retries > _MAX_RETRIES or n_pauses >= len(_PAUSE_SECONDS)
        if is_enough:
            raise unreadable(address.shown, error) from error
        time.sleep(_PAUSE_SECONDS[n_pauses])

    def _attempt(self, address: Address, begin: int, view: memoryview) -> tuple[Answer, bool]:
        """Ask once, following redirections, first to where the last ones led."""
        first = Target(url=address.url, must_be_public=not address.is_trusted)
        with self._lock:
            target = self._moved.get(address.url, first)
        for _ in range(_MAX_REDIRECTS + 1):
            answer, moved = self._exchange(address, target, begin, view, is_first=target == first)
            if answer is not None:
                return answer, True
            if moved is None:  # What was remembered has expired.
                target = first
                continue
            target = moved
            with self._lock:
                self._moved[address.url] = target
        with self._lock:
            self._moved.pop(address.url, None)
        raise unreadable(address.shown, f"more than {_MAX_REDIRECTS} redirections")

    def _exchange(
        self, address: Address, target: Target, begin: int, view: memoryview, *, is_first: bool
    ) -> tuple[Answer | None, Target | None]:
        """Return the answer, or where it is said to be instead."""
        connection, response, dog = self._open(address, target, begin, begin + len(view))
        is_reusable = False
        try:
            with dog:
                is_reusable = _drain(response)
                if response.status in _REDIRECTS:
                    return None, _redirected(address, target, response, is_public=connection.is_to_public)
                if not is_first and response.status in (401, 403, 404, 410):
                    with self._lock:
                        self._moved.pop(address.url, None)
                    return None, None
                answer = _take(address, response, begin, view)
                is_reusable = response.isclosed() and not response.will_close
                return answer, None
        except (RemoteReadError, FileNotFoundError):
            raise
        except (OSError, http.client.HTTPException) as error:
            if dog.has_bitten or isinstance(error, TimeoutError):
                raise unreadable(address.shown, _cause(error, dog)) from error
            raise _TryAgainError(_cause(error, dog)) from error
        finally:
            if is_reusable:
                self._pool.give_back(target, connection)
            else:
                response.close()
                connection.close()

    def _open(
        self, address: Address, target: Target, begin: int, end: int
    ) -> tuple[Connection, http.client.HTTPResponse, Watchdog]:
        """Send the request; a connection that was kept may have been closed meanwhile, which one more try finds out."""
        for is_new in (False, True):
            connection = self._pool.take(target, is_new=is_new)
            was_used = connection.sock is not None
            dog = Watchdog(connection, end - begin)
            try:
                with dog:
                    return connection, ask(connection, target, begin, end), Watchdog(connection, end - begin)
            except UnsafeCheckpointError as error:
                connection.close()
                raise UnsafeCheckpointError(f"{address.shown}: not followed: {error}") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                if was_used and not dog.has_bitten:
                    continue
                raise unreadable(address.shown, _cause(error, dog)) from error
        raise AssertionError("a new connection was not used before")


def _drain(response: http.client.HTTPResponse) -> bool:
    """Read the text that comes with what is no file, where it is short; tell whether the connection is free again."""
    if response.status not in (200, 206) and response.length is not None and response.length <= _DRAINED_BYTES:
        response.read()
    return response.isclosed() and not response.will_close


class _TryAgainError(Exception):
    """A request failed in a way that may pass."""

    def __init__(self, cause: str, n_read: int = 0) -> None:
        super().__init__(cause)
        self.n_read = n_read


def _cause(error: BaseException, dog: Watchdog) -> str:
    if dog.has_bitten:
        return "the server is too slow: the answer did not end in time"
    if isinstance(error, TimeoutError):
        return "the server does not answer (timeout)"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the connection failed: {tidy(text)}"


def _redirected(address: Address, target: Target, response: http.client.HTTPResponse, *, is_public: bool) -> Target:
    """Return where an answer leads, if it may."""
    place = response.headers.get("Location", "")
    url = urljoin(target.url, place) if place.isprintable() else ""
    try:
        split = urlsplit(url)
        is_sound = split.scheme in HTTP and bool(split.hostname) and split.username is None and split.port != 0
    except ValueError:
        is_sound = False
    if not is_sound or " " in url:
        raise UnsafeCheckpointError(f"{address.shown}: its server leads to {tidy(place)[:100]!r}, not followed")
    if urlsplit(target.url).scheme == "https" and split.scheme != "https":
        raise UnsafeCheckpointError(f"{address.shown}: its server leads from https:// to http://, not followed")
    # A server of the internet has no business to send anybody into a private network.
    return Target(url=url, must_be_public=target.must_be_public or is_public)


def _take(address: Address, response: http.client.HTTPResponse, begin: int, view: memoryview) -> Answer:
    """Put what an answer holds into a view."""
    status, url = response.status, address.shown
    if status in _ABSENT:
        raise missing(url)
    if status == 416:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if found is None or int(found[3]) > begin:
            raise unreadable(url, "the server has no such range of bytes, and does not say how long the file is")
        return Answer(0, int(found[3]), response.headers.get("ETag", ""))
    if status not in (200, 206):
        cause = f"HTTP {status} {tidy(response.reason or '')[:60]}".strip()
        if status in _FOR_A_WHILE:
            raise _TryAgainError(cause)
        if status in (401, 403):
            raise unreadable(url, f"{cause}: no permission", is_refused=True)
        raise unreadable(url, cause)
    coding = response.headers.get("Content-Encoding", "identity").lower()
    if coding not in ("", "identity"):
        raise unreadable(url, f"the server packs the file ({tidy(coding)[:40]}), so that ranges mean nothing")
    return _take_whole(url, response, begin, view) if status == 200 else _take_part(url, response, begin, view)


def _take_part(url: str, response: http.client.HTTPResponse, begin: int, view: memoryview) -> Answer:
    given = response.headers.get("Content-Range", "").strip()
    found = _CONTENT_RANGE.fullmatch(given)
    if found is None or found[1] is None:
        raise unreadable(url, f"the server sends a part of the file without saying which ({tidy(given)[:60]!r})")
    first, last, size = (int(number) for number in found.groups())
    expected = min(begin + len(view), size)
    if first != begin or last + 1 != expected or size > _MAX_SIZE:
        raise unreadable(
            url, f"the server was asked for bytes {begin} to {expected} and sends {first} to {last + 1} of {size}"
        )
    _read_body(url, response, view[: expected - begin], size)
    return Answer(expected - begin, size, _strong_tag(response))


def _take_whole(url: str, response: http.client.HTTPResponse, begin: int, view: memoryview) -> Answer:
    """Take a file that is sent as a whole: all of it was asked for, or it is small."""
    said = response.headers.get("Content-Length", "")
    size = int(said) if said.isascii() and said.isdigit() and len(said) < 19 else None
    if size is not None and begin == 0 and size <= len(view):
        _read_body(url, response, view[:size], size)
        return Answer(size, size, _strong_tag(response))
    whole = b"" if size is not None and size > MAX_WHOLE_BYTES else response.read(MAX_WHOLE_BYTES + 1)
    if (size or 0) > MAX_WHOLE_BYTES or len(whole) > MAX_WHOLE_BYTES:
        much = f"all {size} bytes" if size is not None else "all of it"
        raise UnsupportedModelError(
            f"{url}: its server sends whole files only (no byte ranges), and {much} would have to be downloaded for "
            "every part that is read: download the file, and give its path"
        )
    if size is not None and len(whole) != size:
        raise _TryAgainError(f"the answer ended after {len(whole)} of {size} bytes")
    part = whole[begin : begin + len(view)]
    view[: len(part)] = part
    return Answer(len(part), len(whole), _strong_tag(response), whole)


def _read_body(url: str, response: http.client.HTTPResponse, view: memoryview, size: int) -> None:
    n_done = 0
    while n_done < len(view):
        n_read = response.readinto(view[n_done : n_done + _PIECE_BYTES])
        if not n_read:
            raise _short(n_done, len(view))
        n_done += n_read
    # The last piece of a chunked answer, after which the connection is free again; more than was said is a lie.
    if not response.isclosed() and response.read(1):
        raise unreadable(url, f"the server sends more than the {len(view)} bytes that it announces of {size}")


def _short(n_read: int, n_bytes: int) -> _TryAgainError:
    return _TryAgainError(f"the answer ended after {n_read} of {n_bytes} bytes", n_read)


def _strong_tag(response: http.client.HTTPResponse) -> str:
    tag = response.headers.get("ETag", "")
    # A weak one may differ between the machines behind one name.
    return "" if tag.startswith("W/") else tag[:200]
