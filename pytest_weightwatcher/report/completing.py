"""What older versions did not write, set to its default, so that every renderer finds every key."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.report.totals import VERDICTS, count_verdicts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

_STAY_ABSENT = frozenset({"spectrum", "plugin", "index", "unchanged", "merged", "sections", "n_planned", "n_reported"})
"""Keys that a result has only where there is something to say."""


def complete_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a valid result with every key that this version writes; the keys it has keep their order.

    Parameters
    ----------
    result : mapping
        One that :class:`~pytest_weightwatcher.report.model.Result` accepts; it is not changed.
    """
    from pytest_weightwatcher.report.model import Merged, Model, Result, RunOptions, Section

    found = _with(result, _defaults(Result))
    found["options"] = _with(found["options"], _defaults(RunOptions))
    found["models"] = [_complete_model(_with(model, _defaults(Model))) for model in found["models"]]
    if found.get("sections"):
        found["sections"] = [_with(section, _defaults(Section)) for section in found["sections"]]
    if found.get("merged"):
        found["merged"] = _with(found["merged"], _defaults(Merged))
    counted = count_verdicts(found["models"], found["lost"])
    n_reported = sum(len(model["checks"]) for model in found["models"])
    found["counts"] = {verdict: found["counts"].get(verdict, counted[verdict]) for verdict in VERDICTS}
    for key in ("n_planned", "n_reported"):
        if found.get(key) is None:
            found[key] = n_reported
    return found


def _complete_model(model: dict[str, Any]) -> dict[str, Any]:
    from pytest_weightwatcher.report.model import Check, Layer, Waiver

    for key, part in (("layers", Layer), ("checks", Check), ("waivers", Waiver)):
        defaults = _defaults(part)
        model[key] = [_with(entry, defaults) for entry in model[key]]
    return model


def _defaults(part: type[BaseModel]) -> dict[str, Any]:
    return {
        name: field.default
        for name, field in part.model_fields.items()
        if not field.is_required() and name not in _STAY_ABSENT
    }


def _with(entry: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, **{name: copy(value) for name, value in defaults.items() if name not in entry}}
