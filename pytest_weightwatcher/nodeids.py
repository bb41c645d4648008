"""Names of collectors and items, safe for every place where pytest takes a node id apart.

``::`` separates nodes, a bracket begins parameters (``--lf`` and xdist look for it), and control or
direction-changing characters could rewrite a terminal. Names come from checkpoints, which are not trusted.
"""

from __future__ import annotations

import hashlib

MAX_LENGTH = 200
_ESCAPED = frozenset("[]%@\\")


def escape_name(name: str) -> str:
    """Return a name for a node id; different names stay different.

    Brackets, ``%``, ``@``, backslashes, ``::`` and characters that do not print become ``%`` and their UTF-8
    bytes in hexadecimal; a name beyond :data:`MAX_LENGTH` is cut and marked with a hash of the whole.
    """
    text = "".join(map(_escape_character, name)).replace("::", "%3A%3A") or "%"
    # A colon at either end would meet the :: between nodes.
    if text.startswith(":"):
        text = f"%3A{text[1:]}"
    if text.endswith(":"):
        text = f"{text[:-1]}%3A"
    if len(text) > MAX_LENGTH:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        text = f"{text[: MAX_LENGTH - 13]}~{digest}"
    return text


def _escape_character(character: str) -> str:
    if character not in _ESCAPED and character.isprintable():
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def printable(text: str) -> str:
    """Return text whose control characters, line breaks among them, are written out and cannot act."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )
