"""Correlation traps: how many, how sure over the whole run, and the elements that carry each."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_weightwatcher.console.cells import format_value
from pytest_weightwatcher.console.document import Table, as_json
from pytest_weightwatcher.console.rows import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_weightwatcher.console.rows import Row
    from spectral.analysis import Analysis
    from spectral.trap_details import Trap

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
    rate, least = f"{100 * options.false_alarm_rate:g}%", format_value(min(adjusted.values()))
    tested = f"{counted(len(adjusted), 'layer')} tested"
    return (f"Correlation traps: {found}; {tested} at a run-wide false-alarm rate of {rate}, least p {least}.",)


def trap_tables(analysis: Analysis, traps: TrapsOfModel) -> tuple[Table, ...]:
    """Return a table of the traps and one of the elements that carry them."""
    if not traps:
        return ()
    rows: list[Row] = []
    elements: list[Row] = []
    for place, number, trap in _numbered(traps):
        spec = analysis.layers[place].spec
        which: Row = {"layer_id": spec.index, "longname": spec.name, "trap": number, "slice": trap.slice_id}
        rows.append({**which, "cause": trap.cause, **{name: getattr(trap, name) for name in _MEASURES}})
        elements.extend(
            {**which, **asdict(element)}
            for rank, element in enumerate(trap.elements)
            if rank == 0 or element.share >= MIN_SHARE
        )
    columns = ("layer_id", "longname", "trap", "slice", "cause", *_MEASURES)
    shown = ("layer_id", "longname", "trap", "cause", "eigenvalue", "p_value", "share_top10", "share_top5", "overlap")
    places = ("layer_id", "longname", "trap", "slice", "row", "column", "value", "share")
    shown_places = ("layer_id", "longname", "trap", "row", "column", "value", "share")
    has_slices = any(row["slice"] for row in rows)
    return (
        Table(title="Traps", columns=columns, rows=tuple(rows), shown=(*shown, *_MEASURES, *_slice(has_slices))),
        Table(
            title=f"Elements that carry them ({100 * MIN_SHARE:g}% of their trap or more; json has the others)",
            columns=places,
            rows=tuple(elements),
            shown=(*shown_places, *_slice(has_slices)),
        ),
    )


def trap_payload(traps: tuple[Trap, ...]) -> list[dict[str, Any]]:
    """Return the traps of one layer as plain data."""
    return [
        {
            "slice": trap.slice_id,
            "cause": trap.cause,
            **{name: as_json(getattr(trap, name)) for name in _MEASURES},
            "elements": [
                {name: as_json(value) for name, value in asdict(element).items()} for element in trap.elements
            ],
        }
        for trap in traps
    ]


def _slice(has_slices: bool) -> tuple[str, ...]:
    return ("slice",) if has_slices else ()


def _numbered(traps: TrapsOfModel) -> list[tuple[int, int, Trap]]:
    """Return (position, number of the trap in its layer from 1, trap)."""
    return [(place, number, trap) for place, found in traps.items() for number, trap in enumerate(found, start=1)]
