"""``ww-gate describe``: what checkpoints hold, from their headers alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.console.document import Document, Section, Table, as_json, document_payload
from pytest_weightwatcher.console.flags import chosen_options
from pytest_weightwatcher.console.rows import (
    Row,
    counted,
    make_view,
    percent,
    shape_of,
    spec_payload,
    unanalysed_payload,
)
from spectral.analysis import describe
from spectral.options import AnalysisOptions

if TYPE_CHECKING:
    import argparse

    from pytest_weightwatcher.console.rows import View
    from spectral.analysis import Description
    from spectral.weights import MatrixSpec, UnanalysedTensor

COLUMNS = (
    "layer_id",
    "longname",
    "layer_type",
    "shape",
    "dtype",
    "N",
    "M",
    "rf",
    "Q",
    "num_evals",
    "tensor",
    "slice_id",
    "status",
    "reason",
)
_FIRST = ("layer_id", "longname", "layer_type", "shape", "num_evals")
_THEN = ("dtype", "N", "M", "Q")
_TENSOR_COLUMNS = ("tensor", "part", "shape", "dtype", "reason")


def describe_models(arguments: argparse.Namespace) -> Document:
    """Carry out ``describe``."""
    view = make_view(arguments, COLUMNS)
    options = AnalysisOptions(**chosen_options(arguments))
    descriptions = open_descriptions(arguments, options)
    models = [
        _payload(arguments, path, description, view)
        for path, description in zip(arguments.models, descriptions, strict=True)
    ]
    return Document(
        payload=document_payload("describe", options_payload(options), models),
        sections=tuple(
            _section(path, description, view) for path, description in zip(arguments.models, descriptions, strict=True)
        ),
    )


def open_descriptions(arguments: argparse.Namespace, options: AnalysisOptions) -> list[Description]:
    """Describe every model of a command line, before anything is computed.

    Raises
    ------
    ModelError, OptionError
        A model cannot be used, or an option does not fit it; the message names it.
    """
    return [
        describe(model, options, base_model=arguments.base_model, peft=arguments.peft) for model in arguments.models
    ]


def options_payload(options: AnalysisOptions) -> dict[str, Any]:
    """Return all options as plain data."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}


def model_payload(arguments: argparse.Namespace, path: str, description: Description) -> dict[str, Any]:
    """Return what every command says of a model."""
    return {
        "path": path,
        "base_model": arguments.base_model,
        "peft": arguments.peft,
        "coverage": as_json(description.coverage),
        "unanalysed": unanalysed_payload(description.unanalysed),
    }


def coverage_line(description: Description) -> str:
    """Return how much of a model is analysed."""
    matrices = counted(len(description.matrices), "matrix", "matrices")
    return f"{matrices}, {percent(description.coverage)} of the parameters analysed."


def _payload(arguments: argparse.Namespace, path: str, description: Description, view: View) -> dict[str, Any]:
    rows = _rows(description)
    layers = [
        {
            **spec_payload(description.matrices[place]),
            "Q": description.matrices[place].Q,
            "num_evals": description.matrices[place].n_evals,
            "reason": rows[place]["reason"],
        }
        for place in view.order(rows)
    ]
    return {**model_payload(arguments, path, description), "layers": layers}


def _section(path: str, description: Description, view: View) -> Section:
    rows = _rows(description)
    others = tuple(_unanalysed_row(tensor) for tensor in description.unanalysed)
    n_small = sum(row["reason"] is not None for row in rows)
    after: list[str | Table] = list(view.note(len(rows)))
    if n_small:
        min_evals = description.options.min_evals
        after.append(f"Not to be fitted: {counted(n_small, 'layer')} with fewer than {min_evals} eigenvalues.")
    if others:
        title = f"Not analysed: {counted(len(others), 'tensor')}"
        columns = tuple(name for name in _TENSOR_COLUMNS if any(row[name] is not None for row in others))
        after.append(Table(title=title, columns=columns, rows=others, must_fit=False))
    return Section(
        model=path,
        before=(coverage_line(description),),
        layers=view.narrow(Table(columns=COLUMNS, rows=tuple(rows), shown=_shown(rows))),
        others=others,
        after=tuple(after),
    )


def _shown(rows: list[Row]) -> tuple[str, ...]:
    """Return the columns that tell something of these layers."""
    has_slices = any(row["slice_id"] is not None for row in rows)
    has_fields = any(row["rf"] != 1 for row in rows)
    has_small = any(row["reason"] is not None for row in rows)
    extra = (("slice_id", has_slices), ("status", has_small), ("rf", has_fields))
    return (*_FIRST, *(name for name, tells in extra if tells), *_THEN)


def _rows(description: Description) -> list[Row]:
    return [_row(spec, description.options.min_evals) for spec in description.matrices]


def _row(spec: MatrixSpec, min_evals: int) -> Row:
    is_small = spec.n_evals < min_evals
    reason = f"{spec.n_evals} eigenvalues, fewer than min_evals = {min_evals}" if is_small else None
    return {**shape_of(spec), "status": "not fitted" if is_small else "fitted", "reason": reason}


def _unanalysed_row(tensor: UnanalysedTensor) -> Row:
    return {
        "longname": tensor.name,
        "tensor": tensor.name,
        "part": tensor.part or None,
        "shape": tensor.shape,
        "dtype": tensor.dtype,
        "status": "not analysed",
        "reason": tensor.reason,
    }
