"""What a user calls a model's place -> a path: of a file or folder, of the Hugging Face cache, or behind a URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from spectral.loaders.hub_cache import CACHE_PREFIX, find_snapshot, look_up, parse_cached
from spectral.loaders.remote import RemotePath, is_url, open_url


class _HiddenUrl(str):
    """A URL as it is shown, which still leads where the whole one does."""

    __slots__ = ("whole",)
    whole: str


def hide_signature(location: str) -> str:
    """Return a text that can be printed and opened: of a URL with a query, the query is not in it."""
    if not is_url(location) or "?" not in location:
        return location
    hidden = _HiddenUrl(f"{location.partition('?')[0]}?…")
    hidden.whole = location
    return hidden


def as_location(location: str | os.PathLike[str], *, folder: Path | None = None, is_trusted: bool = True) -> Path:
    """Return where a model is, without looking at it.

    Parameters
    ----------
    location : str or path-like
        A path, a URL, or ``hf-cache:organisation/model[@revision]``.
    folder : Path, optional
        What a relative path is relative to.
    is_trusted : bool
        Whether a person gave it; see :mod:`spectral.loaders.remote.address`.

    Returns
    -------
    Path
        For a URL an object that has of ``pathlib.Path`` what the loaders use.

    Raises
    ------
    ModelError
        A URL that is not followed, or a model that the cache does not hold.
    """
    if isinstance(location, RemotePath):
        return cast("Path", location)
    text = location.whole if isinstance(location, _HiddenUrl) else os.fsdecode(location)
    if is_url(text):
        return open_url(text, is_trusted=is_trusted)
    if text.startswith(CACHE_PREFIX):
        return find_snapshot(*parse_cached(text))
    return Path(text) if folder is None else folder / text


def is_remote(path: object) -> bool:
    """Tell whether a path is behind a URL."""
    return isinstance(path, RemotePath)


def is_place_elsewhere(location: str) -> bool:
    """Tell whether a location is no path: a URL, or one in the Hugging Face cache that says so."""
    return is_url(location) or location.startswith(CACHE_PREFIX)


def as_text(location: str, folder: Path) -> str:
    """Return a location so that it means the same in every folder: a URL as it is, a path as a whole one.

    What is no path there may be the name of a model in the Hugging Face cache.
    """
    if is_place_elsewhere(location):
        return location
    path = folder / location
    cached = None if os.path.lexists(path) else look_up(location)
    return str(path if cached is None else cached)


def identity(path: Path) -> str:
    """Return what two paths of one place have in common: links are followed."""
    # The name of a URL is all there is to tell it by.
    return os.fspath(path) if is_remote(path) else os.path.realpath(path)
