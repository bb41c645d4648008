"""Names of tensors: their order, and that they differ."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Container

_NUMBER = re.compile(r"([0-9]+)")


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts ``layer.2`` before ``layer.10``.

    Digit runs compare as numbers, the rest as text; runs of one value but different length (``2``, ``02``)
    still differ, so that equal keys mean equal names.
    """
    parts = _NUMBER.split(name)
    return tuple(
        # A run of more than 18 digits is no layer number; it compares as text, and int() stays cheap.
        (1, int(part), part) if index % 2 and len(part) <= 18 else (0, 0, part)
        for index, part in enumerate(parts)
    )


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose keys all differ, for ``object_pairs_hook``."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the name {key[:200]!r} appears twice")
        result[key] = value
    return result


def free_name(path: str, taken: Container[str], numbers: dict[str, int]) -> str:
    """Return a path of Keras, its layer numbered where two layers share a name.

    Parameters
    ----------
    path : str
        The path.
    taken : container of str
        What other names are.
    numbers : dict of str to int
        How far each path was numbered, kept between calls: so that a thousand of one name are not counted anew.
    """
    if path not in taken:
        return path
    layer, slash, leaf = path.rpartition("/")
    number = numbers.get(path, 0) + 1
    while f"{layer}_{number}{slash}{leaf}" in taken:
        number += 1
    numbers[path] = number
    return f"{layer}_{number}{slash}{leaf}"
