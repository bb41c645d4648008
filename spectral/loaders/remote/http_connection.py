"""Connections of HTTP and HTTPS that look at where they lead, and that end in time.

Python's own ``http.client`` is used, since what is decided here are the address that a name stands for at the very
moment of connecting, and the time that a whole answer may take: a server that sends one byte now and then never
exceeds the time limit of a socket.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, unquote, urlsplit

from spectral.errors import UnsafeCheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 20.0
"""How long a server may say nothing."""

LEAST_SECONDS = 45.0
LEAST_BYTES_PER_SECOND = 50_000
"""An answer may take so long, and longer the larger it is."""

_N_IDLE = 8


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes.

    Attributes
    ----------
    url : str
        The whole URL.
    must_be_public : bool
        Whether addresses of private networks, of this machine and the like are refused.
    """

    url: str
    must_be_public: bool


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _connect(host: str, port: int, *, must_be_public: bool) -> tuple[socket.socket, bool]:
    """Return a connection to one of the addresses of a name, and whether that is a public one."""
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if must_be_public:
        closed = next((address for address in found if not is_public(address)), None)
        if closed is not None:
            raise UnsafeCheckpointError(f"{host} is {closed}, an address of a private network or of this machine")
    trouble: OSError | None = None
    for address in found:
        try:
            return socket.create_connection((address, port), timeout=CONNECT_SECONDS), is_public(address)
        except OSError as error:
            trouble = error
    raise trouble or OSError(f"{host} has no address")


class _Guarded:
    """What both kinds of connection have in common."""

    is_to_public = False
    via_proxy = False
    proxy_headers: Mapping[str, str] = MappingProxyType({})

    def guard(self, target: Target) -> Any:
        def connect(place: tuple[str, int], *_: object) -> socket.socket:
            # The proxy is a machine of the user's own choice; what it connects to is for it to judge.
            connected, is_to_public = _connect(*place, must_be_public=target.must_be_public and not self.via_proxy)
            self.is_to_public = is_to_public or self.via_proxy
            connected.settimeout(SILENT_SECONDS)
            return connected

        return connect


class _Http(_Guarded, http.client.HTTPConnection):
    def __init__(self, target: Target, host: str, port: int) -> None:
        super().__init__(host, port, timeout=SILENT_SECONDS)
        self._create_connection = self.guard(target)


class _Https(_Guarded, http.client.HTTPSConnection):
    def __init__(self, target: Target, host: str, port: int) -> None:
        super().__init__(host, port, timeout=SILENT_SECONDS, context=_tls())
        self._create_connection = self.guard(target)


Connection: TypeAlias = "_Http | _Https"


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class Pool:
    """Connections that are kept for the next request to the same place; several threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str, bool], list[Connection]] = {}

    def take(self, target: Target, *, is_new: bool) -> Connection:
        """Return a connection to where a target is, used before unless ``is_new``."""
        with self._lock:
            idle = self._idle.get(_place(target), [])
            if idle and not is_new:
                return idle.pop()
        return _make(target)

    def give_back(self, target: Target, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end."""
        with self._lock:
            idle = self._idle.setdefault(_place(target), [])
            if connection.sock is not None and len(idle) < _N_IDLE:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close what is kept."""
        with self._lock:
            connections = [connection for idle in self._idle.values() for connection in idle]
            self._idle.clear()
        for connection in connections:
            connection.close()


def _place(target: Target) -> tuple[str, str, bool]:
    split = urlsplit(target.url)
    return split.scheme, split.netloc, target.must_be_public


_LOCAL_NAMES = frozenset({"localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp", "arpa"})
"""Last parts of names that mean this machine or its network."""


def _make(target: Target) -> Connection:
    split = urlsplit(target.url)
    host, is_secure = split.hostname or "", split.scheme == "https"
    port = split.port or (443 if is_secure else 80)
    kind = _Https if is_secure else _Http
    proxy = _proxy_of(split.scheme, host)
    if proxy is None:
        return kind(target, host, port)
    if target.must_be_public and not _sounds_public(host):
        raise UnsafeCheckpointError(f"{host} is a name or an address of a private network or of this machine")
    place = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    connection = kind(target, place.hostname or "", place.port or 80)
    connection.via_proxy = True
    connection.proxy_headers = _proxy_headers(place.username, place.password)
    if is_secure:
        connection.set_tunnel(host, port, dict(connection.proxy_headers))
    return connection


def _sounds_public(host: str) -> bool:
    """Tell whether a host may be public, from its name alone: behind a proxy nothing else is known."""
    name = host.rstrip(".").lower()
    if _is_ip(name):
        return is_public(name)
    try:
        # What the C library takes for an address: 127.1, 0x7f.1, 2130706433.
        return is_public(socket.inet_ntoa(socket.inet_aton(name)))
    except (OSError, UnicodeError):
        labels = name.split(".")
        return len(labels) > 1 and labels[-1] not in _LOCAL_NAMES


def _proxy_of(scheme: str, host: str) -> str | None:
    if urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(scheme)


def _proxy_headers(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    import base64

    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode('ascii')}"}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class Watchdog:
    """Ends a request that takes too long, whatever the server keeps sending."""

    def __init__(self, connection: Connection, n_bytes: int) -> None:
        self.has_bitten = False
        self._connection = connection
        self._timer = threading.Timer(LEAST_SECONDS + n_bytes / LEAST_BYTES_PER_SECOND, self._bite)
        self._timer.daemon = True

    def __enter__(self) -> Watchdog:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _bite(self) -> None:
        self.has_bitten = True
        connected = self._connection.sock
        if connected is not None:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It has ended meanwhile.
                return


def ask(connection: Connection, target: Target, begin: int, end: int) -> http.client.HTTPResponse:
    """Ask for bytes of a file and return the answer, whose body is not read yet."""
    split = urlsplit(target.url)
    # What is quoted already stays as it is; what is not, such as a letter with an accent, is.
    path = quote(split.path or "/", safe=_QUOTED)
    path += f"?{quote(split.query, safe=_QUOTED)}" if split.query else ""
    headers = {
        "Range": f"bytes={begin}-{end - 1}",
        "Accept-Encoding": "identity",
        "Accept": "*/*",
        "User-Agent": "pytest-weightwatcher",
    }
    if connection.via_proxy and split.scheme == "http":
        connection.request("GET", f"http://{split.netloc}{path}", headers={**headers, **connection.proxy_headers})
    else:
        connection.request("GET", path, headers=headers)
    return connection.getresponse()


_QUOTED = "/%:@!$&'()*+,;=~?"
