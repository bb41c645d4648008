"""The rows of ``WeightWatcher.distances``: those of the core, filled as weightwatcher fills them."""

from __future__ import annotations

import logging
import math
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral.dropin_frames import identities
from spectral.loaders.protocol import LayerType

if TYPE_CHECKING:
    from spectral.analysis import Description
    from spectral.dropin_layers import LayerTable
    from spectral.model_distances import Distances, LayerDistance
    from spectral.weights import MatrixSpec

_LOGGER = logging.getLogger("spectral.weightwatcher")


def averages_and_rows(
    found: Distances, first: Description, second: Description, table: LayerTable, *, keep_all: bool = False
) -> tuple[float, float, list[dict[str, Any]]]:
    """Return mean ΔW, mean Δb, and the rows.

    Parameters
    ----------
    found : Distances
        Of the core; with the method ``raw`` for whole tensors, whose distance every slice has.
    first, second : Description
        What was compared, in slices where these are asked for.
    table : LayerTable
        The layers of the first model.
    keep_all : bool
        Report the biases of convolutions, too, which weightwatcher does not read.

    Returns
    -------
    mean_w, mean_b : float
        Over the rows that have a number; NaN where none has.
    rows : list of dict
        One per matrix of the first model, then one, without a number, per matrix that only the second has.
    """
    waiting: dict[str, deque[LayerDistance]] = defaultdict(deque)
    for layer in found.layers:
        waiting[layer.name].append(layer)
    biased = {info.name for source in (first.source, second.source) for info in source.tensors()}
    rows = []
    for spec, identity in zip(first.matrices, identities(first, table), strict=True):
        of_layer = waiting[spec.name]
        layer = of_layer[0] if found.method == "raw" else of_layer.popleft()
        has_bias = (keep_all or spec.layer_type is LayerType.DENSE) and _bias_name(spec.tensor) in biased
        rows.append(_row(found.method, layer, spec, identity, has_bias=has_bias and found.method == "raw"))
    rows += [
        _lonely_row(found.method, spec.name)
        for spec in {spec.name: spec for spec in second.matrices}.values()
        if any(layer.layer_id is None for layer in waiting[spec.name])
    ]
    return _mean([row["delta_W"] for row in rows]), _mean([row["delta_b"] for row in rows]), rows


def _row(
    method: str, layer: LayerDistance, spec: MatrixSpec, identity: dict[str, Any], *, has_bias: bool
) -> dict[str, Any]:
    if layer.reason:
        _LOGGER.warning("distances: layer %d, %s, has no number: %s", spec.index, spec.name, layer.reason)
    sizes = spec.shape if method == "raw" else (spec.N, spec.M)
    delta_b = (math.nan if layer.delta_b is None else layer.delta_b) if has_bias else 0.0
    return {
        "layer_id": spec.index,
        "method": method,
        "name": identity["name"],
        "delta_W": math.nan if layer.delta_W is None else layer.delta_W,
        "delta_b": delta_b if layer.delta_W is not None else math.nan,
        "M": min(sizes),
        "N": max(sizes),
        # A shape of one dimension is a bare number there.
        "b_shape": "unknown" if layer.b_shape is None or not has_bias else layer.b_shape[0],
        **({} if spec.slice_id is None else {"slice_id": spec.slice_id}),
        "longname": identity["longname"],
    }


def _lonely_row(method: str, name: str) -> dict[str, Any]:
    _LOGGER.warning("distances: %s is only in the second model", name)
    numbers = dict.fromkeys(("layer_id", "delta_W", "delta_b", "M", "N"), math.nan)
    return {**numbers, "method": method, "name": name.rpartition(".")[2], "b_shape": "unknown", "longname": name}


def _bias_name(tensor: str) -> str:
    path, dot, last = tensor.rpartition(".")
    return f"{path}{dot}{last.replace('weight', 'bias').replace('kernel', 'bias')}"


def _mean(values: list[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return float(np.mean(kept)) if kept else math.nan
