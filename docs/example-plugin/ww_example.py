"""A worked example of a plugin for pytest-weightwatcher: a loader, a metric, a check and a section of the report.

pytest imports this module in every run, also where no checkpoint is checked: hence numpy is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_weightwatcher.plugins import Finding, LayerCheck, Metric, Section

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_weightwatcher.plugins import LayerAnalysis, LayerRecord

LARGEST = 6.0
"""How far above the root mean square of its layer the largest singular value may lie."""


@pytest.hookimpl(optionalhook=True)
def pytest_ww_load_model(path: Path) -> dict[str, NDArray[Any]] | None:
    """Open archives of numpy that end in .arrays; all others belong to somebody else."""
    if path.suffix != ".arrays":
        return None
    import numpy as np

    # Never allow_pickle: reading a checkpoint must not run code.
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


@pytest.hookimpl(optionalhook=True)
def pytest_ww_metrics() -> list[Metric]:
    """Add the excess kurtosis of the weights."""
    return [Metric(name="excess_kurtosis", function=excess_kurtosis, version="1")]


@pytest.hookimpl(optionalhook=True)
def pytest_ww_checks() -> list[LayerCheck]:
    """Add a check of the largest singular value."""
    return [
        LayerCheck(
            name="largest_direction",
            function=judge_largest,
            meaning="One direction is far stronger than the others: often a few weights are out of place.",
            action="Look at the largest weights of the layer.",
        )
    ]


@pytest.hookimpl(optionalhook=True)
def pytest_ww_report_section(result: dict[str, Any]) -> Section:
    """Append the layers with the heaviest weights."""
    rows = [
        (layer["name"], layer["metrics"].get("excess_kurtosis"))
        for model in result["models"]
        for layer in model["layers"]
    ]
    rows.sort(key=lambda row: -1e9 if row[1] is None else row[1], reverse=True)
    return Section(
        title="Heaviest weights",
        text="Excess kurtosis of the weights of each layer: 0 for a normal distribution.",
        columns=("layer", "excess kurtosis"),
        rows=rows[:5],
    )


def excess_kurtosis(layer: LayerAnalysis, slices: NDArray[Any]) -> float | None:  # noqa: ARG001  (part of the contract)
    """Return E[(x-μ)⁴]/σ⁴ - 3 over all weights of a layer, or None where these are all the same."""
    import numpy as np

    centred = slices.astype(np.float64)
    centred -= centred.mean()
    variance = float(np.mean(centred**2))
    if not variance > 0.0:
        return None
    return float(np.mean(centred**4)) / variance**2 - 3.0


def judge_largest(layer: LayerRecord, reference: LayerRecord | None) -> Finding:
    """Fail a layer whose largest singular value sticks out, unless its baseline had that, too."""
    share = ratio(layer)
    detail = f"the largest singular value is {share:.3g} times the root mean square of all, {LARGEST:g} accepted"
    if share <= LARGEST:
        return Finding(verdict="pass", value=share, limit={"max": LARGEST}, detail=detail)
    if reference is not None and ratio(reference) > LARGEST:
        return Finding(verdict="warn", value=share, limit={"max": LARGEST}, detail=f"{detail}; so in the baseline")
    return Finding(verdict="fail", value=share, limit={"max": LARGEST}, detail=detail)


def ratio(layer: LayerRecord) -> float:
    """Return σ_max / √(Σσ²/n)."""
    mean_square: float = layer.metrics["norm"] / layer.n_evals
    return float((layer.metrics["spectral_norm"] / mean_square) ** 0.5)
