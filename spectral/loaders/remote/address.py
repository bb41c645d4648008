"""Locations of checkpoints that are URLs: which are read, and what one may reach that a file of the repository names.

A URL that a person gives, on a command line or in a call, may lead anywhere. One in a ``ww.yaml`` comes with a pull
request: there it is ``https://`` or ``hf://``, is read without credentials, and does not lead into the network of the
machine that runs the checks. What the environment variable WW_TRUSTED_URLS begins with is as good as given by a person.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from spectral.errors import UnsafeCheckpointError, UnsupportedModelError
from spectral.loaders.remote.errors import tidy

TRUSTED_URLS = "WW_TRUSTED_URLS"
"""Name of the environment variable: beginnings of URLs, separated by spaces."""

HTTP = ("http", "https")
HUB = "hf"

PROTOCOLS: dict[str, str] = {
    "https": "",
    "http": "",
    HUB: "hub",
    "s3": "s3",
    "gs": "gcs",
    "az": "azure",
    "memory": "remote",
}
"""Protocol -> the extra that has what it needs."""

_ALIASES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_OF_FILES = ("file", "local")

_OPEN_TO_ALL = ("https", HUB)
"""What a ww.yaml may name."""

_URL = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.\-]+)(?:::|://)")
_FOLDED = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.\-]+):/(?=[^/])")
"""What pathlib makes of a URL."""

_HUB = re.compile(
    r"(?P<repository>[\w.\-]+/[\w.\-]+?)(?:@(?P<revision>refs/(?:convert|pr)/[\w.\-]+|[^/@]+))?(?:/(?P<inside>.*))?",
    re.ASCII,
)
_IPV6 = re.compile(r"//\[[0-9A-Fa-f:.]*\]")
_MAX_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, taken apart.

    Attributes
    ----------
    protocol : str
        One of :data:`PROTOCOLS`.
    authority : str
        Host and port, bucket, or ``organisation/model@revision``.
    parts : tuple of str
        The names behind it.
    query : str
        What follows a question mark; it may hold a signature, and is never shown.
    is_trusted : bool
        Whether a person gave it, or WW_TRUSTED_URLS.
    """

    protocol: str
    authority: str
    parts: tuple[str, ...] = ()
    query: str = ""
    is_trusted: bool = True

    @property
    def base(self) -> str:
        """The URL without its query."""
        return f"{self.protocol}://{'/'.join((self.authority, *self.parts))}"

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.base}?{self.query}" if self.query else self.base

    @property
    def shown(self) -> str:
        """The URL as messages and reports have it."""
        return f"{self.base}?…" if self.query else self.base

    def inside(self, *parts: str) -> Address:
        """Return the address of a file below this one; a signature for the folder holds for it, too."""
        return replace(self, parts=(*self.parts, *parts))


def is_url(text: str) -> bool:
    """Tell whether a location is a URL, of a kind that is read or not; the name of a file is none."""
    folded = _FOLDED.match(text)
    return _URL.match(text) is not None or (folded is not None and _canonical(folded["protocol"]) in PROTOCOLS)


def parse_url(text: str, *, is_trusted: bool = True) -> Address:
    """Take a URL apart.

    Parameters
    ----------
    text : str
        The URL.
    is_trusted : bool
        Whether a person gave it.

    Raises
    ------
    UnsupportedModelError
        A protocol that is not read, or no URL of its kind.
    UnsafeCheckpointError
        It holds a password, leads out of its folder, chains protocols, or leads where a file of the repository may not.
    """
    shown = tidy(text[:200])
    if len(text) > _MAX_LENGTH or not text.isprintable() or "\\" in text or " " in text:
        raise UnsupportedModelError(f"{shown}: no URL: too long, or with characters that no URL has")
    if "::" in _IPV6.sub("//", text.partition("?")[0]):
        raise UnsafeCheckpointError(f"{shown}: chained protocols (::) are not followed: name the file itself")
    found = _URL.match(text) or _FOLDED.match(text)
    assert found is not None, "whoever asks has seen to it"
    protocol = _canonical(found["protocol"])
    if protocol in _OF_FILES:
        raise UnsafeCheckpointError(f"{shown}: {protocol}:// is not followed: give the path itself")
    if protocol not in PROTOCOLS:
        known = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise UnsupportedModelError(f"{shown}: {protocol}:// is not read; known are {known}")
    rest = text[found.end() :]
    address = _parse_http(protocol, rest, shown) if protocol in HTTP else _parse_named(protocol, rest, shown)
    if any(part in ("..", ".") for name in (address.authority, *address.parts) for part in unquote(name).split("/")):
        raise UnsafeCheckpointError(f"{shown}: the URL has a step '..' or '.', which could lead elsewhere")
    address = replace(address, is_trusted=is_trusted or is_listed(address.url))
    if not address.is_trusted and protocol not in _OPEN_TO_ALL:
        raise UnsafeCheckpointError(
            f"{address.shown}: a file of the repository may name https:// and hf:// only, as {protocol}:// may reach "
            f"what this machine alone may read; name it on the command line, or list it in {TRUSTED_URLS}"
        )
    return address


def is_listed(url: str) -> bool:
    """Tell whether WW_TRUSTED_URLS lists a URL or a folder above it."""
    for listed in os.environ.get(TRUSTED_URLS, "").split():
        rest = url[len(listed) :]
        # "https://host" is no beginning of "https://host.elsewhere".
        if _URL.match(listed) and url.startswith(listed) and (not rest or listed.endswith("/") or rest[0] in "/?@"):
            return True
    return False


def _canonical(protocol: str) -> str:
    lower = protocol.lower()
    return _ALIASES.get(lower, lower)


def _parse_http(protocol: str, rest: str, shown: str) -> Address:
    try:
        split = urlsplit(f"{protocol}://{rest}")
        host, port, has_user = split.hostname, split.port, split.username is not None
    except ValueError as error:
        raise UnsupportedModelError(f"{shown}: no URL: {error}") from error
    if has_user:
        raise UnsafeCheckpointError(
            f"{shown}: user and password in a URL would end up in logs: use a signed URL, or s3://, gs://, az:// or "
            "hf:// with the credentials of the environment"
        )
    if not host or split.fragment:
        raise UnsupportedModelError(f"{shown}: no URL of a file: it has no host, or a part behind '#'")
    host = f"[{host}]" if ":" in host else host
    return Address(
        protocol=protocol,
        authority=host if port is None else f"{host}:{port}",
        parts=tuple(part for part in split.path.split("/") if part),
        query=split.query,
    )


def _parse_named(protocol: str, rest: str, shown: str) -> Address:
    """Take apart what is no URL of HTTP: a bucket and a key, a model of the hub, a name in memory."""
    if "@" in rest.partition("/")[0] or ("?" in rest or "#" in rest):
        raise UnsafeCheckpointError(f"{shown}: {protocol}:// takes no user, '?' or '#'")
    if protocol != HUB:
        named = [part for part in rest.split("/") if part]
        if not named:
            raise UnsupportedModelError(f"{shown}: names no file")
        return Address(protocol=protocol, authority=named[0], parts=tuple(named[1:]))
    found = _HUB.fullmatch(rest.rstrip("/"))
    if found is None or rest.startswith(("datasets/", "spaces/", "buckets/")):
        raise UnsupportedModelError(f"{shown}: expected hf://organisation/model[@revision][/file]")
    # A slash in a revision is no step of the path.
    revision = (found["revision"] or "").replace("/", "%2F")
    return Address(
        protocol=protocol,
        authority=found["repository"] + (f"@{revision}" if revision else ""),
        parts=tuple(part for part in (found["inside"] or "").split("/") if part),
    )
