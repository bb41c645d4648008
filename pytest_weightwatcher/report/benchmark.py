"""Numbers over time, as the custom JSON of github-action-benchmark; of all of them, smaller is better."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.checks import ALPHA, REGRESSION, SPECTRUM, WEIGHTS
from pytest_weightwatcher.report.names import plain_name
from pytest_weightwatcher.report.ranking import FAILURES, FINDINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Check = Mapping[str, Any]
    Entry = dict[str, Any]

PREFIX = "checkpoint gate"


def render_benchmark(result: Mapping[str, Any]) -> str:
    """Render a result for ``tool: customSmallerIsBetter`` of github-action-benchmark.

    Parameters
    ----------
    result : mapping
        The result of a run; it is not changed.

    Returns
    -------
    str
        JSON text: for each model, the checks that fail and that warn, the layers whose alpha lies outside its limit,
        and, beside a baseline, the largest change of the weights and the largest displacement of a spectrum. A number
        that does not exist is left out.
    """
    entries = [entry for model in result["models"] for entry in _entries(model)]
    lost = [_entry("all models", "checks without a verdict", "checks", len(result["lost"]))]
    return json.dumps([*entries, *lost], indent=1, allow_nan=False) + "\n"


def _entries(model: Mapping[str, Any]) -> Iterator[Entry]:
    path, checks = plain_name(model["path"]), model["checks"]
    yield _entry(path, "checks that fail", "checks", sum(check["verdict"] in FAILURES for check in checks))
    yield _entry(path, "checks that warn", "checks", sum(check["verdict"] == "warn" for check in checks))
    outside = [check for check in checks if check["check"] == ALPHA and check["verdict"] in FINDINGS]
    yield _entry(path, "alpha outside its limit", "layers", len(outside))
    for quantity, name in ((WEIGHTS, "largest change of the weights"), (SPECTRUM, "largest displacement")):
        largest = _largest(checks, REGRESSION + quantity)
        if largest is not None:
            layer = largest["layer"]
            extra = "of the model as a whole" if layer is None else f"of {plain_name(layer)}"
            yield _entry(path, name, "relative", largest["value"], extra)


def _entry(path: str, what: str, unit: str, value: float, extra: str | None = None) -> Entry:
    entry: Entry = {"name": f"{PREFIX}, {path}: {what}", "unit": unit, "value": value}
    return entry if extra is None else {**entry, "extra": extra}


def _largest(checks: Sequence[Check], name: str) -> Check | None:
    given = [check for check in checks if check["check"] == name and check["value"] is not None]
    return max(given, key=lambda check: check["value"], default=None)
