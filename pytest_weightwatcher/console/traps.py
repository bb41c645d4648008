"""Correlation traps: how many, how sure over the whole run, and the elements that carry each."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_weightwatcher.console.cells import format_cell
from pytest_weightwatcher.console.document import Table, as_json
from pytest_weightwatcher.console.rows import counted
from spectral.places import name_place, stored_index

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_weightwatcher.console.rows import Row
    from spectral.analysis import Analysis
    from spectral.options import AnalysisOptions
    from spectral.trap_details import Trap, TrapElement
    from spectral.weights import MatrixSpec

TrapsOfModel: TypeAlias = "Mapping[int, tuple[Trap, ...]]"
"""Position of a layer -> its traps."""

MIN_SHARE = 0.01
"""Elements with a smaller share of their trap are left to JSON, but for the heaviest of each."""

_MEASURES = (
    "eigenvalue",
    "p_value",
    "share_top5",
    "share_top10",
    "inverse_participation_ratio",
    "mean_share",
    "overlap",
)


def trap_lines(analysis: Analysis) -> tuple[str, ...]:
    """Return how many traps a model has, at the false-alarm rate of the whole run."""
    options = analysis.description.options
    if not options.traps:
        return ()
    adjusted = analysis.trap_p_values.adjusted
    if not adjusted:
        return ("Correlation traps: no layer could be tested.",)
    counts = [number for number in analysis.n_traps if number]
    found = f"{sum(counts)} in {counted(len(counts), 'layer')}" if counts else "none"
    rate, least = f"{100 * options.false_alarm_rate:g}%", format_cell("p_value", min(adjusted.values()))
    tested = f"{counted(len(adjusted), 'layer')} tested"
    return (f"Correlation traps: {found}; {tested} at a run-wide false-alarm rate of {rate}, least p {least}.",)


def trap_tables(analysis: Analysis, traps: TrapsOfModel) -> tuple[Table, ...]:
    """Return a table of the traps and one of the elements that carry them."""
    if not traps:
        return ()
    has_places = are_values_stored(analysis.description.options)
    rows: list[Row] = []
    elements: list[Row] = []
    for place, number, trap in _numbered(traps):
        spec = analysis.layers[place].spec
        which: Row = {"layer_id": spec.index, "longname": spec.name, "trap": number, "slice": trap.slice_id}
        rows.append({**which, "cause": trap.cause, **{name: getattr(trap, name) for name in _MEASURES}})
        elements.extend(
            {**which, **asdict(element), "place": _place(spec, trap, element) if has_places else None}
            for rank, element in enumerate(trap.elements)
            if rank == 0 or element.share >= MIN_SHARE
        )
    columns = ("layer_id", "longname", "trap", "slice", "cause", *_MEASURES)
    shown = ("layer_id", "longname", "trap", "cause", "eigenvalue", "p_value", "share_top10", "share_top5", "overlap")
    places = ("layer_id", "longname", "trap", "slice", "row", "column", "place", "value", "share")
    has_slices = any(row["slice"] for row in rows)
    where = ("place",) if has_places else ("row", "column", *_slice(has_slices))
    shown_places = ("layer_id", *(() if has_places else ("longname",)), "trap", *where, "value", "share")
    return (
        Table(title="Traps", columns=columns, rows=tuple(rows), shown=(*shown, *_MEASURES, *_slice(has_slices))),
        Table(
            title=f"Elements that carry them ({100 * MIN_SHARE:g}% of their trap or more; json has the others)",
            columns=places,
            rows=tuple(elements),
            shown=shown_places,
        ),
    )


def trap_payload(traps: tuple[Trap, ...], spec: MatrixSpec, options: AnalysisOptions) -> list[dict[str, Any]]:
    """Return the traps of one layer as plain data; ``index`` is that of an element in the stored tensor."""
    has_places = are_values_stored(options)
    return [
        {
            "slice": trap.slice_id,
            "cause": trap.cause,
            **{name: as_json(getattr(trap, name)) for name in _MEASURES},
            "elements": [
                {
                    **{name: as_json(value) for name, value in asdict(element).items()},
                    "index": list(_index(spec, trap, element)) if has_places else None,
                }
                for element in trap.elements
            ],
        }
        for trap in traps
    ]


def are_values_stored(options: AnalysisOptions) -> bool:
    """Tell whether the elements of the matrices are values of the checkpoint, and not made from several of them."""
    return not (options.fft or options.stacked or options.intra)


def _place(spec: MatrixSpec, trap: Trap, element: TrapElement) -> str:
    return name_place(spec, slice_id=trap.slice_id, row=element.row, column=element.column)


def _index(spec: MatrixSpec, trap: Trap, element: TrapElement) -> tuple[int, ...]:
    return stored_index(spec, slice_id=trap.slice_id, row=element.row, column=element.column)


def _slice(has_slices: bool) -> tuple[str, ...]:
    return ("slice",) if has_slices else ()


def _numbered(traps: TrapsOfModel) -> list[tuple[int, int, Trap]]:
    """Return (position, number of the trap in its layer from 1, trap)."""
    return [(place, number, trap) for place, found in traps.items() for number, trap in enumerate(found, start=1)]
