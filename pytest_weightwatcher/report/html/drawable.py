"""What of a result can be drawn: a file from elsewhere may pass the schema and yet hold numbers that no picture has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_LEAST, _LARGEST = 1e-150, 1e150
"""Ratios of numbers between these are numbers."""

_STEEPEST, _DECADES = 1000.0, 150.0


def is_drawable(value: object) -> bool:
    """Tell whether a value is a number that has a place on an axis."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # A whole number may be too large for a float; NaN is below nothing.
    return is_number and abs(value) < _LARGEST  # type: ignore[arg-type]  # a number


def drawable_spectrum(spectrum: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a spectrum of which every part can be drawn; parts that cannot are left out, and None is for all of it.

    Parameters
    ----------
    spectrum : mapping or None
        ``layers[].spectrum`` of a result.
    """
    if not spectrum:
        return None
    evals, weights = list(spectrum["evals"]), list(spectrum["weights"])
    if not evals or len(evals) != len(weights) or not _has_place(evals[0]):
        return None
    if not all(is_drawable(value) for value in (*evals, *weights)):
        return None
    before = spectrum.get("before")
    has_before = before is not None and len(before) == len(evals) and all(map(is_drawable, before))
    tail, bulk = spectrum.get("tail"), spectrum.get("bulk")
    edge = spectrum.get("trap_edge")
    return {
        "evals": evals,
        "weights": weights,
        "before": list(before) if before is not None and has_before else None,
        "tail": tail if _has_tail(tail) else None,
        "bulk": bulk if bulk and all(is_drawable(bulk.get(side)) for side in ("min", "max")) else None,
        "permuted": [value for value in spectrum.get("permuted") or () if _has_place(value)],
        "trap_edge": edge if _has_place(edge) else None,
    }


def _has_tail(tail: Mapping[str, Any] | None) -> bool:
    if not tail or not all(is_drawable(tail.get(name)) for name in ("xmin", "xmax", "alpha", "n")):
        return False
    if not (_LEAST < tail["xmin"] < tail["xmax"] and tail["n"] > 0 and abs(tail["alpha"]) < _STEEPEST):
        return False
    # Each of them may have its place, and what they make together none.
    growth: float = (1.0 - tail["alpha"]) * math.log10(tail["xmax"] / tail["xmin"])
    return bool(math.log10(tail["n"]) + growth < _DECADES)


def _has_place(value: object) -> bool:
    """Tell whether a value has a place on a logarithmic axis."""
    return is_drawable(value) and value > _LEAST  # type: ignore[operator]  # a number
