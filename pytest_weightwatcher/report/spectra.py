"""What reports draw of a spectrum, as plain data: computed once, so that no renderer computes a number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.records import rounded
from spectral.paired import sketch_counts

if TYPE_CHECKING:
    from pytest_weightwatcher.records import LayerRecord
    from spectral.weights import MatrixSpec


def spectrum_payload(
    record: LayerRecord, spec: MatrixSpec, before: LayerRecord | None, n_traps: int = 0
) -> dict[str, Any] | None:
    """Return the drawing of a layer's spectrum; None where it has none.

    Parameters
    ----------
    record : LayerRecord
        The layer.
    spec : MatrixSpec
        Its shape.
    before : LayerRecord or None
        The baseline's, where there is one.
    n_traps : int
        How many eigenvalues of the permuted matrix are traps, at the false-alarm rate of the run.

    Returns
    -------
    dict or None
        ``evals``, eigenvalues λ of WᵀW, largest first: the 32 largest, then squares of mean singular values of equal
        blocks; ``weights``, for how many each stands; ``before``, those of the baseline where the layer changed;
        ``tail``, the fitted power law; ``bulk``, where noise of the same variance would lie; ``permuted``, the largest
        eigenvalues of the permuted matrix; ``trap_edge``, the least of those that are traps.
    """
    if not record.sketch:
        return None
    has_changed = before is not None and before.content_hash != record.content_hash and before.sketch
    return {
        "evals": _squares(record.sketch),
        "weights": sketch_counts(record.n_evals).tolist(),
        "before": _squares(before.sketch) if has_changed and before is not None else None,
        "tail": _tail(record),
        "bulk": _bulk(record, spec),
        "permuted": None if record.traps is None else list(record.traps.eigenvalues),
        "trap_edge": _trap_edge(record, n_traps),
    }


def _trap_edge(record: LayerRecord, n_traps: int) -> float | None:
    eigenvalues = () if record.traps is None else record.traps.eigenvalues
    return eigenvalues[min(n_traps, len(eigenvalues)) - 1] if n_traps and eigenvalues else None


def _squares(sketch: tuple[float, ...]) -> list[float]:
    return [rounded(value * value) for value in sketch]


def _tail(record: LayerRecord) -> dict[str, float | int] | None:
    metrics = record.metrics
    if any(name not in metrics for name in ("alpha", "xmin", "num_pl_spikes")):
        return None
    largest = metrics.get("xmax", metrics["spectral_norm"])
    return {"alpha": metrics["alpha"], "xmin": metrics["xmin"], "xmax": largest, "n": metrics["num_pl_spikes"]}


def _bulk(record: LayerRecord, spec: MatrixSpec) -> dict[str, float]:
    """Return the edges of the Marchenko-Pastur law: fitted where that was asked for, else those of the same variance.

    Of an N x M matrix of independent elements of variance σ², the eigenvalues of WᵀW lie in σ²(√N ± √M)² (Marchenko
    and Pastur, Math. USSR Sbornik 1, 1967).
    """
    if "bulk_max" in record.metrics and "bulk_min" in record.metrics:
        return {"min": float(record.metrics["bulk_min"]), "max": float(record.metrics["bulk_max"])}
    variance = record.norm / (spec.n_slices * spec.N * spec.M)
    low, high = ((math.sqrt(spec.N) + sign * math.sqrt(spec.M)) ** 2 for sign in (-1.0, 1.0))
    return {"min": rounded(variance * low), "max": rounded(variance * high)}
