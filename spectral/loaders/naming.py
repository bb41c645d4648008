"""Order of tensor names."""

from __future__ import annotations

import re

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
