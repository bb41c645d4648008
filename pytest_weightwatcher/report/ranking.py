"""The order in which reports show things: worst first. Reads verdicts, makes none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORST_FIRST = ("error", "fail", "warn", "inconclusive", "waived", "skipped", "pass")


def findings_of(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the checks of a model that somebody should look at, worst first, then in the order of the model."""
    findings = [check for check in model["checks"] if check["verdict"] in ("error", "fail", "warn")]
    return sorted(findings, key=lambda check: _WORST_FIRST.index(check["verdict"]))


def rank_layers(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the layers of a model with their worst verdict, worst first, then in the order of the model."""
    worst: dict[str, int] = {}
    for check in model["checks"]:
        rank = _WORST_FIRST.index(check["verdict"])
        worst[check["layer"]] = min(rank, worst.get(check["layer"], len(_WORST_FIRST) - 1))
    rows = [
        {**layer, "verdict": _WORST_FIRST[worst.get(layer["name"], len(_WORST_FIRST) - 1)]} for layer in model["layers"]
    ]
    return sorted(rows, key=lambda row: _WORST_FIRST.index(row["verdict"]))
