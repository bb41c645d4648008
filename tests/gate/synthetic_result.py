"""Results without a run: plain data from whole numbers and simple fractions, the same bytes on every platform.

``hostile_result()`` is small and has every verdict and every kind of hostile name: the golden files are drawn from it.
``large_result()`` is as large as a model of 1,000 matrices: what the benchmarks time. ``make_result`` builds others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

VERDICTS = ("pass", "skipped", "waived", "inconclusive", "warn", "fail", "error")

LONG_NAME = "x" * 10_000

HOSTILE_NAMES = (
    "encoder.0.query",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "::error::pwned",
    "a|b|c",
    "\u202egnihton.\u05e9\u05dc\u05d5\u05dd.\u0645\u0631\u062d\u0628\u0627",
    "rocket.\U0001f680.\U0001f469\u200d\U0001f4bb",
    LONG_NAME,
    "`tick` **bold** [link](https://example.invalid) @everyone #1 {0}",
    "line\nbreak\r\nagain\x1b[31m",
    "{{ 7 * 7 }}${{ github.token }}$(touch pwned)",
    "head",
)
"""Twelve names of layers, eleven of which try something."""

_PLANNED = (
    "pass",
    "fail",
    "warn",
    "error",
    "inconclusive",
    "skipped",
    "waived",
    "fail",
    "pass",
    "warn",
    "fail",
    "pass",
)
"""Verdict of the most telling check of each of the twelve layers."""

_MEANING = "A high alpha means a flat spectrum; the layer has usually learned little."
_ACTION = "Look at the layer's training (learning rate, frozen or not)."


def spread(index: int, low: float, high: float) -> float:
    """Return a number between two others that looks scattered, with six digits."""
    return round(low + (high - low) * (index * 37 % 101) / 101, 6)


def make_layer(name: str, index: int, *, is_fitted: bool = True, n_evals: int = 0) -> dict[str, Any]:
    """Return one layer; with ``n_evals``, a sketch of its spectrum, too."""
    alpha = spread(index, 1.6, 8.4)
    metrics: dict[str, Any] = {
        "D": spread(index, 0.01, 0.2),
        "alpha": alpha if is_fitted else None,
        "effective_rank": spread(index, 20.0, 400.0),
        "log_norm": spread(index, 1.0, 4.0),
        "num_evals": 384,
        "sigma": spread(index, 0.1, 0.9) if is_fitted else None,
        "spectral_norm": spread(index, 1.0, 60.0),
        "stable_rank": spread(index, 2.0, 40.0),
        "xmin": 1.0 if is_fitted else None,
    }
    layer: dict[str, Any] = {
        "name": name,
        "type": "dense",
        "shape": [1536, 384],
        "dtype": "float32",
        "N": 1536,
        "M": 384,
        "rf": 1,
        "index": index,
        "hash": f"{index:064x}",
        "reused": False,
        "baseline_name": name,
        "unchanged": index % 3 == 0,
        "metrics": metrics,
        "reason": None if is_fitted else "too few eigenvalues for a fit",
    }
    if n_evals:
        layer["spectrum"] = make_spectrum(alpha, n_evals)
    return layer


def make_spectrum(alpha: float, n: int) -> dict[str, Any]:
    """Return the sketch of a spectrum."""
    return {
        "evals": [round(0.01 * (place + 1) ** 2, 6) for place in range(n)],
        "weights": [1 + place % 3 for place in range(n)],
        "tail": {"xmin": 1.0, "xmax": round(0.01 * n**2, 6), "alpha": alpha, "n": n // 2},
        "bulk": {"min": 0.01, "max": 1.0},
        "permuted": [round(0.01 * (place + 1), 6) for place in range(n)],
        "trap_edge": None,
    }


def make_check(
    path: str, layer: str | None, check: str, verdict: str, *, place: str | None = None, index: int = 0, **changes: Any
) -> dict[str, Any]:
    """Return one check; its value goes with its verdict, ``place`` stands for the layer in its id."""
    is_regression = check.startswith("regression.")
    is_finding = verdict in ("warn", "fail", "error")
    limit = {"max": 0.03} if is_regression else {"min": 2.0, "max": 6.0}
    top = limit["max"]
    value = {
        "pass": spread(index, 0.4 * top, 0.9 * top),
        "warn": round(1.05 * top, 6),
        "waived": round(1.2 * top, 6),
        "fail": round(spread(index, 1.1, 3.0) * top, 6),
    }.get(verdict)
    found: dict[str, Any] = {
        "id": "::".join(part for part in ("ww.yaml", path, layer if place is None else place, check) if part),
        "layer": layer,
        "check": check,
        "verdict": verdict,
        "value": value,
        "limit": None if value is None else limit,
        "baseline": 0.0 if is_regression and value is not None else None,
        "detail": f"{check} {'has no value' if value is None else f'{value:g}'}, accepted up to {top:g}",
        "resolution": "changes of 0.001 and more are seen",
        "meaning": _MEANING if is_finding else None,
        "action": _ACTION if is_finding else None,
        "line": 7 if check == "alpha" else None,
        "rule": {"increase": 0.03, "decrease": None, "severity": "fail"} if is_regression else None,
    }
    return {**found, **changes}


def make_model(
    path: str, layers: Sequence[dict[str, Any]], checks: Sequence[dict[str, Any]], **changes: Any
) -> dict[str, Any]:
    """Return one model with its layers and checks."""
    found: dict[str, Any] = {
        "path": path,
        "config": "ww.yaml",
        "line": None,
        "baseline": "good.ww.json",
        "baseline_path": "accepted/good.ww.json",
        "profile": "finetune",
        "question": "Has any layer's health become worse?",
        "n_planned": len(checks),
        "n_reused": 0,
        "notes": [],
        "waivers": [],
        "coverage": 0.97,
        "options": {"fit": "PL", "min_evals": 50, "seed": 0, "exclude": []},
        "summary": {"alpha": 4.2, "log_norm": 2.3},
        "layers": list(layers),
        "unanalysed": [],
        "checks": list(checks),
    }
    return {**found, **changes}


def make_result(models: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return the result that holds some models; counts and outcome are theirs."""
    counts = Counter(check["verdict"] for model in models for check in model["checks"])
    counts["error"] += len(changes.get("lost", ()))
    n_checks = sum(len(model["checks"]) for model in models)
    outcome = next((verdict for verdict in ("error", "fail", "warn", "pass") if counts[verdict]), "inconclusive")
    found: dict[str, Any] = {
        "format": 1,
        "tool": {"name": "pytest-weightwatcher", "version": "0.0.0"},
        "outcome": outcome,
        "counts": {verdict: counts[verdict] for verdict in VERDICTS},
        "options": {"fail_on": "fail", "seed": None},
        "n_planned": n_checks,
        "n_reported": n_checks,
        "lost": [],
        "models": list(models),
    }
    return {**found, **changes}


def hostile_result() -> dict[str, Any]:
    """Return a result of two models: twelve layers with hostile names and every verdict, and one that passes."""
    path = "out/<b>|model`.safetensors"
    layers, checks = [], [make_check(path, None, "coverage", "pass", limit={"min": 0.9}, value=0.97)]
    for index, (name, verdict) in enumerate(zip(HOSTILE_NAMES, _PLANNED, strict=True)):
        if verdict != "error":
            is_fitted = verdict not in ("skipped", "inconclusive")
            layers.append(make_layer(name, index, is_fitted=is_fitted, n_evals=8 if index == 0 else 0))
        detail = {"detail": f"{name} is as its name says"} if index in (1, 7) else {}
        checks.append(make_check(path, name, "alpha", verdict, place=f"layer{index}", index=index, **detail))
        if verdict in ("pass", "fail"):
            checks.append(make_check(path, name, "regression.spectrum", verdict, place=f"layer{index}", index=index))
    waiver = {"match": "rocket*", "check": "alpha", "reason": "ties to #12 | <i>", "owner": "@ana"}
    unanalysed = {"name": "<b>bias</b>", "shape": [384], "dtype": "float32", "reason": "a vector has no spectrum"}
    first = make_model(
        path,
        layers,
        checks,
        notes=["the baseline was recorded by version 0.0.0"],
        waivers=[{**waiver, "expires": "2099-03-01", "n_used": 1}],
        unanalysed=[unanalysed],
    )
    good = "out/good.safetensors"
    second = make_model(
        good,
        [make_layer(name, index) for index, name in enumerate(("encoder.0", "encoder.1"))],
        [make_check(good, name, "regression.spectrum", "pass", index=5) for name in ("encoder.0", "encoder.1")],
    )
    section = {
        "plugin": "example",
        "title": "A section of <a> plugin",
        "text": "One paragraph.\n\nAnother | one.",
        "columns": ["what", "how | much"],
        "rows": [["<td>", 1.5], ["none", None]],
    }
    return make_result([first, second], lost=["ww.yaml::m::<lost>::alpha"], sections=[section], n_planned=30)


def large_result(n_layers: int = 1000, n_checks: int = 8, *, n_failing: int = 300, n_evals: int = 0) -> dict[str, Any]:
    """Return the result of one model of many layers, some of which fail every check but the first.

    Parameters
    ----------
    n_layers, n_checks : int
        Layers, and checks of each.
    n_failing : int
        Layers with findings.
    n_evals : int
        Eigenvalues in the sketch of each spectrum; 0 for none.
    """
    path = "out/large.safetensors"
    names = ("alpha", *(f"regression.{name}" for name in ("spectrum", "weights", "alpha", "drift", "norm", "noise")))
    layers, checks = [], []
    for index in range(n_layers):
        name = f"model.layers.{index // 7}.block.{index % 7}.projection"
        layers.append(make_layer(name, index, n_evals=n_evals))
        for place in range(n_checks):
            check = names[place] if place < len(names) else f"regression.metric_{place}"
            verdict = "fail" if place and index % n_layers < n_failing else "pass"
            checks.append(make_check(path, name, check, verdict, index=index + place))
    return make_result([make_model(path, layers, checks)])
