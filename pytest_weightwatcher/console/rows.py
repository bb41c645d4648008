"""Layers and tensors as rows of tables and as plain data, and the choice of columns and rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.console.cells import HEADINGS, heading
from pytest_weightwatcher.console.document import Table, as_value
from pytest_weightwatcher.nodeids import printable
from spectral.errors import OptionError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from pytest_weightwatcher.console.document import Value
    from spectral.weights import MatrixSpec, UnanalysedTensor

Row = dict[str, "Value"]

IDENTITY = ("layer_id", "longname")
"""What every table of layers begins with."""

DESCENDING = ":desc"

N_NAMED = 3
"""Tensors that a summary names for each reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Which layers and columns people asked for.

    Attributes
    ----------
    columns : tuple of str, optional
        None: a choice that fits.
    sort : str, optional
        Column that the layers are ordered by; None: as in the model.
    is_descending : bool
        The largest first.
    top : int, optional
        Only so many of them.
    """

    columns: tuple[str, ...] | None = None
    sort: str | None = None
    is_descending: bool = False
    top: int | None = None

    def order(self, rows: Sequence[Mapping[str, Value]]) -> list[int]:
        """Return the positions of the rows that are shown, in their order; rows without a value come last."""
        places = list(range(len(rows)))
        if self.sort is not None:
            sort = self.sort
            present = [place for place in places if rows[place].get(sort) is not None]
            absent = [place for place in places if rows[place].get(sort) is None]
            present.sort(key=lambda place: _sort_key(rows[place][sort]), reverse=self.is_descending)
            places = present + absent
        return places[: self.top]

    def narrow(self, table: Table) -> Table:
        """Return the table with the columns and rows that were asked for."""
        rows = tuple(table.rows[place] for place in self.order(table.rows))
        if self.columns is None:
            return replace(table, rows=rows)
        columns = tuple(dict.fromkeys((*IDENTITY, *self.columns)))
        return replace(table, rows=rows, columns=columns, shown=columns, must_fit=False)

    def note(self, n_rows: int) -> tuple[str, ...]:
        """Return what a reader of the table must know: not all rows are there."""
        if self.top is None or self.top >= n_rows:
            return ()
        order = f" by {heading(self.sort)}" if self.sort is not None else ""
        return (f"Shown: {self.top} of {n_rows} layers{order}.",)


def make_view(arguments: argparse.Namespace, known: Sequence[str]) -> View:
    """Read ``--columns``, ``--sort`` and ``--top`` for a table that has the columns ``known``.

    Raises
    ------
    OptionError
        A column does not exist, or columns are asked of JSON.
    """
    if arguments.columns is not None and arguments.format == "json":
        raise OptionError("--columns does not go with json, which always has all of them")
    columns = arguments.columns
    if columns == ("all",):
        columns = tuple(known)
    elif columns is not None:
        columns = tuple(_column(name, known, "--columns") for name in columns)
    sort = arguments.sort
    return View(
        columns=columns,
        sort=None if sort is None else _column(sort.removesuffix(DESCENDING), known, "--sort"),
        is_descending=sort is not None and sort.endswith(DESCENDING),
        top=arguments.top,
    )


def shape_of(spec: MatrixSpec) -> Row:
    """Return what the header of a matrix says, under the names of the columns."""
    return {
        "layer_id": spec.index,
        "longname": spec.name,
        "layer_type": spec.layer_type.value,
        "shape": spec.shape,
        "dtype": spec.dtype,
        "N": spec.N,
        "M": spec.M,
        "rf": spec.rf,
        "Q": spec.Q,
        "num_evals": spec.n_evals,
        "tensor": spec.tensor,
        "slice_id": spec.slice_id,
    }


def spec_payload(spec: MatrixSpec) -> dict[str, Any]:
    """Return the same as plain data, under the names of the gate's result."""
    return {
        "id": spec.index,
        "name": spec.name,
        "tensor": spec.tensor,
        "type": spec.layer_type.value,
        "shape": list(spec.shape),
        "dtype": spec.dtype,
        "N": spec.N,
        "M": spec.M,
        "rf": spec.rf,
        **({} if spec.slice_id is None else {"slice_id": spec.slice_id}),
    }


def unanalysed_payload(tensors: Sequence[UnanalysedTensor]) -> list[dict[str, Any]]:
    """Return the tensors without a spectrum as plain data."""
    return [
        {
            "name": tensor.name,
            "part": tensor.part,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype,
            "reason": tensor.reason,
        }
        for tensor in tensors
    ]


def unanalysed_lines(tensors: Sequence[UnanalysedTensor]) -> tuple[str, ...]:
    """Return why tensors have no spectrum."""
    named = [(f"{tensor.name} ({tensor.part})" if tensor.part else tensor.name, tensor.reason) for tensor in tensors]
    return reason_lines("Not analysed", named)


def reason_lines(title: str, named: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return one line for each reason, with the first of the tensors it is about."""
    if not named:
        return ()
    by_reason: dict[str, list[str]] = {}
    for name, reason in named:
        by_reason.setdefault(reason, []).append(name)
    lines = [f"- {reason}: {_first_few(names)}" for reason, names in by_reason.items()]
    return (f"{title}: {counted(len(named), 'tensor')}.", *lines)


def percent(share: float) -> str:
    """Return a share with one digit, never rounded up to the whole."""
    return f"{math.floor(1000 * share) / 10:.1f}%"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def plain_row(row: Mapping[Any, Any]) -> Row:
    """Return a row of a data frame as plain values."""
    return {str(name): as_value(value) for name, value in row.items()}


def _first_few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - N_NAMED} more" if len(names) > N_NAMED else ""
    return ", ".join(names[:N_NAMED]) + rest


def _column(name: str, known: Sequence[str], flag: str) -> str:
    by_heading = {shown: column for column, shown in HEADINGS.items()}
    column = name if name in known else by_heading.get(name, name)
    if column in known:
        return column
    close = get_close_matches(name, [*known, *by_heading], n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
    raise OptionError(f"{flag}: no column {printable(name)[:100]!r}{hint}")


def _sort_key(value: Value) -> tuple[int, Any]:
    """Numbers before texts before shapes, so that any column can be ordered."""
    if isinstance(value, (int, float)):
        return 0, value
    return (1, value) if isinstance(value, str) else (2, value)
