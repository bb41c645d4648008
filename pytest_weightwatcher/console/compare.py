"""``ww-gate compare``: how far checkpoints are from a base of the same architecture, layer by layer."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.console.cells import format_value
from pytest_weightwatcher.console.describe import options_payload
from pytest_weightwatcher.console.document import Document, Section, Table, as_value, document_payload
from pytest_weightwatcher.console.flags import FLAGS, chosen_options
from pytest_weightwatcher.console.paired_layers import PAIRED_COLUMNS, paired_metrics
from pytest_weightwatcher.console.rows import (
    IDENTITY,
    Row,
    counted,
    make_view,
    plain_row,
    reason_lines,
    shape_of,
    spec_payload,
)
from spectral.alignment import shapes_of
from spectral.analysis import analyze, describe
from spectral.description import describe_as
from spectral.errors import ModelMismatchError
from spectral.model_comparison import compare_models
from spectral.model_distances import distances, pair_matrices
from spectral.options import AnalysisOptions
from spectral.pairing import pair_models
from spectral.subspaces import INTRUDER_COSINE

if TYPE_CHECKING:
    import argparse

    from pytest_weightwatcher.console.progress import ProgressLine
    from pytest_weightwatcher.console.rows import View
    from spectral.analysis import Description
    from spectral.layer_analysis import LayerAnalysis

_IDENTITY = ("layer_id", "longname", "base_tensor", "layer_type", "N", "M", "rf")
SELECTION = tuple(flag.option for flag in FLAGS if flag.group == "selection")
"""The options of an analysis that this command takes."""

_DISTANCES = ("delta_W", "delta_b")
_DIRECTIONS = (
    "relative_change",
    "left_overlap",
    "right_overlap",
    "num_intruders",
    "min_left_cosine",
    "min_right_cosine",
    "relative_gap",
    "k",
)
COLUMNS = (*_IDENTITY, *_DISTANCES, *_DIRECTIONS, *PAIRED_COLUMNS, "reason")
_SHOWN = (
    "layer_id",
    "longname",
    "relative_change",
    "displacement",
    "alpha_sigmas",
    "num_intruders",
    "left_overlap",
    "right_overlap",
    "stable_rank_rel",
    "spectral_norm_rel",
    "alpha_base",
    "alpha_paired",
    "delta_W",
    "delta_b",
    "effective_rank_rel",
    "norm_rel",
    "matrix_rank_change",
    "relative_gap",
    "k",
)
_SUMMARY = (
    "delta_W",
    "delta_b",
    "relative_change",
    "displacement",
    "left_overlap",
    "right_overlap",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """The matrices that a model and its base share, in one order, and what cannot be compared."""

    model: Description
    base: Description
    alone: tuple[tuple[str, str], ...]


def compare_with_base(arguments: argparse.Namespace, line: ProgressLine) -> Document:
    """Carry out ``compare``.

    A MODEL is what has changed, BASE what it was: changes are those from the base to the model.

    Raises
    ------
    ModelMismatchError
        A model is of another architecture than the base, or shares no layer with it; the message names layers.
    """
    options = AnalysisOptions(**chosen_options(arguments))
    view = make_view(arguments, COLUMNS)
    base = describe(arguments.base)
    pairs = [_pair(model, base, options) for model in arguments.models]
    found: list[dict[str, Any]] = []
    sections: list[Section] = []
    for path, pair in zip(arguments.models, pairs, strict=True):
        rows = _rows(pair, arguments, line, path)
        found.append(_payload(path, pair, rows, view))
        sections.append(_section(arguments, path, pair, rows, view))
    chosen = {
        "base": arguments.base,
        "method": arguments.method,
        "directions": arguments.directions,
        **{name: value for name, value in options_payload(options).items() if name in SELECTION},
    }
    return Document(payload=document_payload("compare", chosen, found), sections=tuple(sections))


def _pair(path: str, full_base: Description, options: AnalysisOptions) -> _Pair:
    """Pair the matrices of a model with those of the base; the filters speak of the model's layers."""
    original = shapes_of(full_base.source)
    full = describe_as(describe(path), original)
    pairs, alone = pair_matrices(full, full_base, pair_models(full.source, full_base.source))
    # The filters are applied to pairs, so that what they leave out is not listed as missing in the base.
    wanted = {spec.index for spec in describe_as(describe(path, options), original).matrices}
    kept = [(spec, partner) for spec, partner in pairs if spec.index in wanted]
    if not kept:
        raise ModelMismatchError(f"{path} and {full_base.source.label}: no layer among those chosen is in both")
    return _Pair(
        model=replace(full, matrices=tuple(spec for spec, _ in kept), options=options),
        base=replace(full_base, matrices=tuple(partner for _, partner in kept), options=options),
        alone=tuple((name, reason) for name, spec, reason in alone if spec is None or spec.index in wanted),
    )


def _rows(pair: _Pair, arguments: argparse.Namespace, line: ProgressLine, path: str) -> list[Row]:
    """Make every comparison, one row per layer."""
    n_workers, n_layers = arguments.jobs, len(pair.model.matrices)
    name, base_name = Path(path).name, Path(arguments.base).name
    line.begin(f"{name}: spectra", n_layers)
    layers = analyze(pair.model, n_workers=n_workers, progress=line).layers
    line.begin(f"{base_name}: spectra of the base", n_layers)
    bases = analyze(pair.base, n_workers=n_workers, progress=line).layers
    line.begin(f"{name}: distances", n_layers)
    apart = distances(pair.model, pair.base, method=arguments.method, n_workers=n_workers, progress=line)
    line.begin(f"{name}: directions", n_layers)
    turned = compare_models(pair.model, pair.base, k=arguments.directions, n_workers=n_workers, progress=line)
    by_id = {found.layer_id: found for found in apart.layers}
    directions = {row["layer_id"]: row for row in turned.details.to_dict("records")}
    rows = []
    for spec, partner, layer, base in zip(pair.model.matrices, pair.base.matrices, layers, bases, strict=True):
        distance, direction = by_id[spec.index], plain_row(directions[spec.index])
        rows.append(
            {
                **{column: value for column, value in shape_of(spec).items() if column in COLUMNS},
                "base_tensor": partner.tensor,
                "delta_W": distance.delta_W,
                "delta_b": distance.delta_b,
                **{column: direction[column] for column in _DIRECTIONS},
                **{column: as_value(value) for column, value in paired_metrics(layer, base).items()},
                "reason": _reason(layer, base) or direction["reason"] or distance.reason or None,
            }
        )
    return rows


def _reason(layer: LayerAnalysis, base: LayerAnalysis) -> str:
    """Return why one of the two has no spectrum or no fit."""
    if layer.reason == base.reason:
        return f"in both: {layer.reason}" if layer.reason else ""
    texts = (layer.reason, f"in the base: {base.reason}" if base.reason else None)
    return "; ".join(text for text in texts if text)


def _payload(path: str, pair: _Pair, rows: list[Row], view: View) -> dict[str, Any]:
    names = [*_DISTANCES, *_DIRECTIONS, *PAIRED_COLUMNS]
    return {
        "path": path,
        "summary": _summary(rows),
        "layers": [
            {
                **spec_payload(pair.model.matrices[place]),
                "base_tensor": rows[place]["base_tensor"],
                "metrics": {name: rows[place][name] for name in names if rows[place].get(name) is not None},
                "reason": rows[place]["reason"],
            }
            for place in view.order(rows)
        ],
        "not_compared": [{"name": name, "reason": reason} for name, reason in pair.alone],
    }


def _summary(rows: list[Row]) -> dict[str, float]:
    """Return the mean of each measure over the layers that have it."""
    means = {}
    for name in _SUMMARY:
        values = [value for row in rows if isinstance(value := row.get(name), (int, float))]
        if values:
            means[name] = statistics.fmean(values)
    return means


def _section(arguments: argparse.Namespace, path: str, pair: _Pair, rows: list[Row], view: View) -> Section:
    is_renamed = any(spec.tensor != row["base_tensor"] for spec, row in zip(pair.model.matrices, rows, strict=True))
    renamed = ("base_tensor",) if is_renamed else ()
    means = ", ".join(f"{name} {format_value(value)}" for name, value in _summary(rows).items())
    return Section(
        model=path,
        before=(f"Compared with {arguments.base}: {counted(len(rows), 'layer')}; delta_W: {arguments.method}.",),
        layers=view.narrow(Table(columns=COLUMNS, rows=tuple(rows), shown=(*_SHOWN, *renamed))),
        after=(
            *view.note(len(rows)),
            f"Means: {means}." if means else "No layer has a number to average.",
            _intruder_line(rows, arguments.directions),
            *_missing_table(rows),
            *reason_lines("Not compared", pair.alone),
        ),
        warning=f"not compared: {counted(len(pair.alone), 'tensor')}, listed in the table and in json"
        if pair.alone
        else "",
    )


def _intruder_line(rows: list[Row], directions: int) -> str:
    counts = [count for row in rows if isinstance(count := row["num_intruders"], int) and count]
    total, layers = sum(counts), len(counts)
    where = f" in {counted(layers, 'layer')}" if layers else ""
    return (
        f"Intruder dimensions among the {directions} leading directions of each layer: {total}{where} (cosine to every "
        f"direction of the base below {INTRUDER_COSINE:g})."
    )


def _missing_table(rows: list[Row]) -> tuple[Table, ...]:
    missing = tuple(row for row in rows if row["reason"])
    if not missing:
        return ()
    title = f"Incomplete: {counted(len(missing), 'layer')}"
    return (Table(title=title, columns=(*IDENTITY, "reason"), rows=missing, must_fit=False),)
