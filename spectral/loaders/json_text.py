"""JSON of headers, indices and configurations, which may have been made to fill memory."""

from __future__ import annotations

import json
from typing import Any

from spectral.loaders.naming import unique_keys

MAX_CONTAINERS = 1_000_000
"""Objects and lists in a text; a tensor of a header takes three."""

MAX_VALUES = 5_000_000
"""Values in a text, counted by their commas."""


def parse_json(text: bytes) -> Any:
    """Return the value of a JSON text, the names in every object of which differ.

    Parameters
    ----------
    text : bytes
        In UTF-8, and of a length that may be read.

    Raises
    ------
    ValueError
        It is not valid, names something twice, nests too deeply, or holds more than :data:`MAX_CONTAINERS` objects and
        lists or :data:`MAX_VALUES` values, each of which would take many times its bytes of memory.
    """
    if text.count(b"{") + text.count(b"[") > MAX_CONTAINERS or text.count(b",") > MAX_VALUES:
        raise ValueError("it holds more objects, lists or values than any checkpoint has")
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
