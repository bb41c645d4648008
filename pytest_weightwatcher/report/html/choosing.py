"""What of a result is told first and drawn whole: the layers that broke, failed, or moved furthest."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.report.html.drawable import drawable_spectrum
from pytest_weightwatcher.report.ranking import FAILURES, FINDINGS, rank_layers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Check = Mapping[str, Any]
    Model = Mapping[str, Any]
    Drawing = tuple[dict[str, Any], dict[str, Any]]

MAX_SPECTRA = 24
"""Layers of a model drawn whole: the worst ones."""

MAX_SPECTRA_IN_ALL = 60
"""Layers of all models drawn whole, at some 6 kB each."""

N_CHANGES = 5
_DISTANCES = ("regression.weights", "regression.spectrum", "regression.drift")


def largest_changes(model: Model) -> list[Check]:
    """Return a check of each of the layers that used up most of what they may move; first those that broke."""
    of_layers = [check for check in model["checks"] if check["layer"] is not None]
    broken = [check for check in of_layers if check["check"] == "integrity" and check["verdict"] in FAILURES]
    moved = sorted((check for check in of_layers if _used(check) > 0.0), key=_used, reverse=True)
    first: dict[str, Check] = {}
    for check in (*broken, *moved):
        first.setdefault(check["layer"], check)
    return list(first.values())[:N_CHANGES]


def choose_spectra(models: Sequence[Model]) -> list[list[Drawing]]:
    """Return for each model the layers to draw whole, each with its drawable spectrum, worst first.

    Models take turns, those with the worse layers first, until there are :data:`MAX_SPECTRA_IN_ALL`.

    Parameters
    ----------
    models : sequence of mapping
        ``models[]`` of a result, worst first.
    """
    drawings = [_drawings(model) for model in models]
    dealt = sorted(
        (_rank(layer), turn, place) for place, each in enumerate(drawings) for turn, (layer, _) in enumerate(each)
    )
    n_chosen = [0] * len(drawings)
    for _, _, place in dealt[:MAX_SPECTRA_IN_ALL]:
        n_chosen[place] += 1
    return [each[:n] for each, n in zip(drawings, n_chosen, strict=True)]


def _drawings(model: Model) -> list[Drawing]:
    """Return the layers of a model that matter most of those that can be drawn."""
    drawings = ((layer, drawable_spectrum(layer.get("spectrum"))) for layer in _most_interesting(model))
    return list(islice(((layer, drawn) for layer, drawn in drawings if drawn is not None), MAX_SPECTRA))


def _most_interesting(model: Model) -> list[dict[str, Any]]:
    """Return the layers worst first; among those of one verdict, what moved furthest first."""
    used: dict[str, float] = {}
    for check in model["checks"]:
        if check["layer"] is not None:
            used[check["layer"]] = max(_used(check), used.get(check["layer"], 0.0))
    return sorted(rank_layers(model), key=lambda layer: (_rank(layer), -used.get(layer["name"], 0.0)))


def _rank(layer: Mapping[str, Any]) -> int:
    return FINDINGS.index(layer["verdict"]) if layer["verdict"] in FINDINGS else len(FINDINGS)


def _used(check: Check) -> float:
    """Return which share of its limit a distance from the baseline has reached."""
    limit = (check["limit"] or {}).get("max")
    if check["check"] not in _DISTANCES or not limit or check["value"] is None:
        return 0.0
    return float(check["value"]) / float(limit)
