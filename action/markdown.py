"""Markdown that stays inside its budget, and names that cannot act in it."""

from __future__ import annotations

import re

_CUT = "\n\nCut here: {n} more lines. The full report is in the artifact and in the job summary.\n"
_RESERVE = 400
_SPECIAL = re.compile(r"[^A-Za-z0-9 /-]")
_DETAILS = re.compile(r"</?details>")
_TAG = re.compile(r"<(?!/?(?:details|summary|code|sub|pre|b)>)")
_REACHING = re.compile(
    r"://|www\.|@|&(?:#0*(?:64|35)|#x0*(?:40|23)|commat|num);?|(?<!&)#(?=[0-9])|\bGH-(?=[0-9])", re.IGNORECASE
)
_GAP = "&#8203;"
"""A space without width. An entity in place of the @ would not do: GitHub looks for mentions after it has read them."""

_MAX_TEXT = 2000


def shorten(text: str, limit: int) -> str:
    """Return the first lines of a Markdown text that fit, with what was cut said.

    Parameters
    ----------
    text : str
        Markdown in which only ``<details>`` stays open over lines.
    limit : int
        Bytes of the result, in UTF-8.
    """
    if len(text.encode()) <= limit:
        return text
    kept: list[str] = []
    n_bytes, n_open = 0, 0
    lines = text.split("\n")
    for line in lines:
        n_bytes += len(line.encode()) + 1
        if n_bytes > limit - _RESERVE - len("\n</details>") * max(0, n_open):
            break
        n_open += sum(-1 if tag.startswith("</") else 1 for tag in _DETAILS.findall(line))
        kept.append(line)
    return "\n".join(kept) + "\n\n</details>" * max(0, n_open) + _CUT.format(n=len(lines) - len(kept))


def entities(text: str) -> str:
    """Return text with every character that Markdown or HTML could read as a mark made an entity."""
    shown = text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
    clean = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in shown)
    return _SPECIAL.sub(lambda match: f"&#{ord(match.group())};", clean)


def code(text: str) -> str:
    """Return an untrusted name as inline code."""
    return f"<code>{entities(text)}</code>"


def neutralise(text: str) -> str:
    """Return foreign Markdown without what could reach beyond itself: mentions, links, images, comments, other tags.

    The plugin's own reports have none of these, so that they come out as they were.
    """
    without_tags = _TAG.sub("&lt;", text)
    without_links = without_tags.replace("](", "]&#40;").replace("![", "!&#91;").replace("]:", "]&#58;")
    return _REACHING.sub(_kept_apart, without_links)


def _kept_apart(match: re.Match[str]) -> str:
    """Return what reaches out with a gap in it: behind an entity, which stays whole, else behind the first sign."""
    found = match.group()
    return f"{found}{_GAP}" if found.startswith("&") else f"{found[0]}{_GAP}{found[1:]}"
