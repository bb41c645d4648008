"""Untrusted names for machine forms: short, on one line, and without a character that could be a mark anywhere."""

from __future__ import annotations

import hashlib

from pytest_weightwatcher.nodeids import escape_name, printable

MAX_TEXT = 1000
_HARMLESS = frozenset(" ._-/:+=,()~")


def plain_name(name: str) -> str:
    """Return a name of letters, digits and harmless signs; different names stay different.

    Everything else becomes ``%`` and its UTF-8 bytes in hexadecimal; a long name is cut and marked with a hash.
    """
    escaped = escape_name(name)
    text = "".join(character if _is_harmless(character) else _escaped(character) for character in escaped)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 13]}~{digest(name)[:12]}"


def shortened(text: str, length: int = MAX_TEXT) -> str:
    """Return the beginning of a text on one line, without control characters."""
    shown = text if len(text) <= length else f"{text[: length - 1]}…"
    if shown.isprintable():
        return shown
    shown = printable(shown)
    return shown if len(shown) <= 2 * length else f"{shown[: 2 * length]}…"


def digest(text: str) -> str:
    """Return a hash of a text, the same on every platform and in every run."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_harmless(character: str) -> bool:
    return character.isalnum() or character in _HARMLESS or character == "%"


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
