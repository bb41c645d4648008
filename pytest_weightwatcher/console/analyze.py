"""``ww-gate analyze``: the spectrum of every layer of checkpoints, its norms, ranks, fits and tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.console.cells import format_value
from pytest_weightwatcher.console.describe import (
    coverage_line,
    model_payload,
    open_descriptions,
    options_payload,
)
from pytest_weightwatcher.console.document import Document, Section, Table, as_json, document_payload
from pytest_weightwatcher.console.flags import chosen_options
from pytest_weightwatcher.console.rows import (
    Row,
    counted,
    make_view,
    plain_row,
    spec_payload,
    unanalysed_lines,
)
from pytest_weightwatcher.console.traps import TrapsOfModel, trap_lines, trap_payload, trap_tables
from spectral.analysis import Analysis, analyze
from spectral.columns import METRICS_BY_OPTION
from spectral.errors import ModelError
from spectral.options import AnalysisOptions
from spectral.trap_report import describe_traps

if TYPE_CHECKING:
    import argparse

    from pytest_weightwatcher.console.progress import ProgressLine
    from pytest_weightwatcher.console.rows import View
    from spectral.analysis import Description

NOTE = "note"
"""What is remarkable about the fit of a layer, in one word."""

_RUN_WIDE = {"noise_test": ("noise_p_value_run",), "traps": ("num_tw_traps", "trap_p_value_run")}
"""Option -> the columns over the whole run that people want to see first."""

_MOST_TELLING = ("alpha", NOTE)
_ALSO_TELLING = (
    "sigma",
    "D",
    "stable_rank",
    "num_evals",
    "N",
    "M",
    "layer_type",
    "log_norm",
    "log_spectral_norm",
    "alpha_weighted",
    "log_alpha_norm",
    "effective_rank",
    "alpha_hill",
    "Q",
    "rf",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Analysed:
    """One model: its analysis, its traps, and a row per layer."""

    path: str
    analysis: Analysis
    traps: TrapsOfModel
    rows: list[Row]


def analyze_models(arguments: argparse.Namespace, line: ProgressLine) -> Document:
    """Carry out ``analyze``.

    Raises
    ------
    ModelError
        A model has no weight matrix: nothing analysed is no result.
    """
    options = AnalysisOptions(**chosen_options(arguments))
    descriptions = open_descriptions(arguments, options)
    view = make_view(arguments, _columns(descriptions[0]))
    for path, description in zip(arguments.models, descriptions, strict=True):
        if not description.matrices:
            raise ModelError(f"{path}: holds no weight matrix that can be analysed; describe tells why")
    found = [
        _analyse(path, description, arguments.jobs, line)
        for path, description in zip(arguments.models, descriptions, strict=True)
    ]
    models = [_payload(arguments, model, view) for model in found]
    return Document(
        payload=document_payload("analyze", options_payload(options), models),
        sections=tuple(_section(model, view) for model in found),
    )


def _analyse(path: str, description: Description, n_workers: int | None, line: ProgressLine) -> _Analysed:
    line.begin(Path(path).name, len(description.matrices))
    analysis = analyze(description, n_workers=n_workers, progress=line)
    traps: TrapsOfModel = {}
    if description.options.traps:
        line.begin(f"{Path(path).name}: traps", sum(bool(number) for number in analysis.n_traps))
        traps = describe_traps(analysis, n_workers=n_workers, progress=line)
    return _Analysed(path=path, analysis=analysis, traps=traps, rows=_rows(analysis))


def _columns(description: Description) -> tuple[str, ...]:
    """Return the columns that an analysis will have, before it is made."""
    names = [str(name) for name in Analysis(description=description, layers=()).details.columns]
    return tuple(name for name in names if name != "name")


def _shown(options: AnalysisOptions) -> tuple[str, ...]:
    """Return the columns for people, the most telling first: what they asked for comes before what is always there."""
    run_wide = [name for option, names in _RUN_WIDE.items() if getattr(options, option) for name in names]
    asked = [name for option, names in METRICS_BY_OPTION.items() if getattr(options, option) for name in names]
    slices = () if options.pool else ("slice_id",)
    return ("layer_id", "longname", *slices, *_MOST_TELLING, *run_wide, *asked, *_ALSO_TELLING)


def _rows(analysis: Analysis) -> list[Row]:
    """Return a row per layer; whole numbers stay whole where a layer without one has made the column a float's."""
    rows = []
    for position, (row, layer) in enumerate(zip(analysis.details.to_dict("records"), analysis.layers, strict=True)):
        note = layer.warning or ("" if layer.status == "success" else layer.status)
        counts: Row = {"num_tw_traps": analysis.n_traps[position]} if analysis.description.options.traps else {}
        metrics = plain_row(dict(layer.metrics))
        rows.append({**plain_row(row), **metrics, **counts, NOTE: note})
    return rows


def _payload(arguments: argparse.Namespace, model: _Analysed, view: View) -> dict[str, Any]:
    return {
        **model_payload(arguments, model.path, model.analysis.description),
        "summary": {name: as_json(value) for name, value in model.analysis.summary.items()},
        "layers": [_layer_payload(model, place) for place in view.order(model.rows)],
    }


def _layer_payload(model: _Analysed, place: int) -> dict[str, Any]:
    layer, row, options = model.analysis.layers[place], model.rows[place], model.analysis.description.options
    run_wide = [name for names in _RUN_WIDE.values() for name in names if name in row]
    metrics = {name: as_json(value) for name, value in layer.metrics.items()}
    return {
        **spec_payload(layer.spec),
        "hash": layer.content_hash,
        "metrics": {**metrics, **{name: row[name] for name in run_wide}},
        "status": layer.status,
        "warning": layer.warning or None,
        "reason": layer.reason,
        "reasons": dict(layer.reasons),
        **({"traps": trap_payload(model.traps.get(place, ()), layer.spec, options)} if options.traps else {}),
    }


def _section(model: _Analysed, view: View) -> Section:
    description = model.analysis.description
    table = Table(columns=_columns(description), rows=tuple(model.rows), shown=_shown(description.options))
    n_unanalysed = len(description.unanalysed)
    return Section(
        model=model.path,
        before=(coverage_line(description),),
        layers=view.narrow(table),
        after=(
            *view.note(len(model.rows)),
            *_summary_lines(model.analysis),
            *trap_lines(model.analysis),
            *trap_tables(model.analysis, model.traps),
            *_missing_table(model.rows),
            *unanalysed_lines(description.unanalysed),
        ),
        warning=f"{counted(n_unanalysed, 'tensor')} not analysed: see describe" if n_unanalysed else "",
    )


def _summary_lines(analysis: Analysis) -> tuple[str, ...]:
    min_evals = analysis.description.options.min_evals
    entering = [layer for layer in analysis.layers if layer.spec.n_evals >= min_evals]
    n_fitted = sum("alpha" in layer.metrics for layer in entering)
    if not analysis.summary:
        return ("No layer enters the means.",)
    means = ", ".join(f"{name} {format_value(value)}" for name, value in analysis.summary.items())
    return (f"Means over {counted(len(entering), 'layer')} ({n_fitted} with a fit): {means}.",)


def _missing_table(rows: list[Row]) -> tuple[Table, ...]:
    """Return the layers that lack a fit, or a test that was asked for, with the reasons."""
    missing = tuple(row for row in rows if row["reason"])
    if not missing:
        return ()
    title = f"Incomplete: {counted(len(missing), 'layer')}"
    return (Table(title=title, columns=("layer_id", "longname", NOTE, "reason"), rows=missing, must_fit=False),)
