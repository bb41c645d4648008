"""The data frames of the drop-in class: the columns of ``weightwatcher`` 0.7.7, in its order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from spectral.convolution_operator import GRID
from spectral.intra import IntraSource
from spectral.loaders.protocol import LayerType
from spectral.metrics import SUMMARY_METRICS
from spectral.stacking import StackedSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from spectral.analysis import Analysis, Description
    from spectral.dropin_layers import LayerTable
    from spectral.options import AnalysisOptions
    from spectral.weights import MatrixSpec

MARCHENKO_PASTUR = ("num_spikes", "sigma_mp", "mp_softrank", "W_scale", "bulk_max", "bulk_min")
VECTORS = tuple(
    f"{part}_{moment}_{measure}"
    for measure in ("vec_entropy", "loc_ratio", "part_ratio")
    for part in ("bulk", "tail")
    for moment in ("mean", "var")
)
TWIN = (
    "max_rand_eval",
    "rand_distance",
    "ww_softrank",
    "ww_maxdist",
    "rand_num_spikes",
    "num_traps",
    "rand_sigma_mp",
    "rand_mp_softrank",
    "rand_W_scale",
    "rand_bulk_max",
    "rand_bulk_min",
)
_LEAD = ("layer_id", "name")
_DISTANCE_LEAD = ("method", "layer_id", "name", "delta_W", "delta_b", "M", "N", "b_shape")

DET_X = ("detX_num", "num_ERG_spikes", "ERG_gap", "detX_val", "detX_val_unrescaled")
COLUMNS = (
    "has_esd",
    "num_evals",
    "sv_max",
    "sv_min",
    "rank_loss",
    "weak_rank_loss",
    "lambda_max",
    "alpha",
    "xmin",
    "xmax",
    "D",
    "sigma",
    "num_pl_spikes",
    "status",
    "warning",
    "norm",
    "log_norm",
    "spectral_norm",
    "log_spectral_norm",
    "alpha_weighted",
    "log_alpha_norm",
    "stable_rank",
    "matrix_rank",
    "entropy",
)


def metric_columns(options: AnalysisOptions) -> tuple[str, ...]:
    """Return the columns behind those of identity."""
    return (
        *COLUMNS,
        *(("Lambda",) if options.has_cutoff else ()),
        *(("num_fingers", "raw_alpha") if options.clips_fingers else ()),
        *(MARCHENKO_PASTUR if options.mp_fit else ()),
        *(VECTORS if options.vectors else ()),
        *(TWIN if options.randomize else ()),
        *(DET_X if options.detX else ()),
    )


def details_frame(analysis: Analysis, table: LayerTable) -> pd.DataFrame:
    """Return one row per matrix. A number that does not exist is NaN, never -1.

    Counts are integers, or floats in a column where one does not exist.
    """
    description = analysis.description
    columns = metric_columns(description.options)
    rows = []
    for layer, identity in zip(analysis.layers, identities(description, table), strict=True):
        found: dict[str, Any] = {
            **layer.metrics,
            "has_esd": True,
            "status": "success" if layer.status == "success" else "failed",
            "warning": layer.warning,
        }
        rows.append({**identity, **{name: found.get(name, math.nan) for name in columns}})
    return _frame(rows, _LEAD)


def description_frame(description: Description, table: LayerTable) -> pd.DataFrame:
    """Return one row per matrix: its identity and ``num_evals``."""
    pairs = zip(identities(description, table), description.matrices, strict=True)
    is_operator = description.options.conv2d_fft
    return _frame([{**identity, "num_evals": _n_evals(spec, is_operator)} for identity, spec in pairs], _LEAD)


def summary_of(details: pd.DataFrame | None) -> dict[str, float]:
    """Return the means of the columns that are there; NaN, a number that does not exist, enters none."""
    if details is None:
        return {}
    return {name: float(details[name].mean()) for name in SUMMARY_METRICS if name in details.columns}


def identities(description: Description, table: LayerTable) -> list[dict[str, Any]]:
    """Return who each matrix is: the leading columns."""
    source, options = description.source, description.options
    if isinstance(source, IntraSource):
        pairs = {pair.name: pair for pair in source.pairs}
        # A product stands in the row of its second layer; the blank at the end of its name is parity.
        return [
            {
                **_identity(pairs[spec.name].second, table, sizes=spec),
                "name": f"{spec.name} ",
                "Xflag": True,
            }
            for spec in description.matrices
        ]
    if isinstance(source, StackedSource):
        longname = _identity(source.specs[0], table)["longname"]
        return [{**_identity(spec, table), "longname": longname} for spec in description.matrices]
    is_adapter = any(_is_product(layer.tensor) for layer in table.layers)
    rows = []
    for spec in description.matrices:
        row = _identity(spec, table)
        if is_adapter:
            row["peft"] = _is_product(spec.tensor)
        if not options.pool:
            row["slice_id"] = spec.slice_id
        rows.append(row)
    return rows


def distance_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows of two models' distances, by ``layer_id``."""
    return _frame(list(rows), _DISTANCE_LEAD).set_index("layer_id")


def _frame(rows: Sequence[Mapping[str, Any]], lead: Sequence[str]) -> pd.DataFrame:
    """Put the leading columns first and the others in the order of their names, as there; no rows, no columns."""
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    if frame.empty:
        return pd.DataFrame(columns=list(lead)) if "method" in lead else frame
    return frame[[*lead, *sorted(set(frame.columns).difference(lead))]]


def _n_evals(spec: MatrixSpec, is_operator: bool) -> int:
    if not is_operator or spec.layer_type is not LayerType.CONV2D:
        return spec.n_evals
    return spec.M * math.prod(max(GRID, spec.part.fold[axis]) for axis in spec.part.slice_axes)


def _is_product(tensor: str | None) -> bool:
    return tensor is not None and ("lora_BA" in tensor or "lora_W_plus_AB" in tensor)


def _identity(spec: MatrixSpec, table: LayerTable, *, sizes: MatrixSpec | None = None) -> dict[str, Any]:
    layer = table.by_tensor.get(spec.tensor)
    # A part of a weight (a gate, a projection) has a name of its own, beside that of its layer.
    is_whole = layer is not None and not spec.part.name
    sizes = sizes or spec
    return {
        "layer_id": spec.index,
        "name": layer.name if layer is not None and is_whole else spec.name.rpartition(".")[2],
        "longname": layer.longname if layer is not None and is_whole else spec.name,
        "layer_type": spec.layer_type.value,
        "N": sizes.N,
        "M": sizes.M,
        "rf": spec.rf,
        "Q": sizes.Q,
    }
