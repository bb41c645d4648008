"""What a command found: plain data for JSON, and sections of tables for everything else. No renderer computes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Value: TypeAlias = "str | bool | int | float | tuple[int, ...] | None"
"""A cell: text (not trusted), a number, a shape, or None where there is none."""

DOCUMENT_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns.

    Attributes
    ----------
    title : str
        What the rows are; empty for the layers of the section.
    columns : tuple of str
        All columns, in their order; those of CSV.
    rows : tuple of mapping
        Column -> value; an absent column is empty.
    shown : tuple of str, optional
        The columns that people want to see, the most important ones first; None: all. One that is not among
        ``columns`` is for people only.
    must_fit : bool
        Where a terminal is too narrow, the least important columns are left out (and named).
    """

    title: str = ""
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Value], ...]
    shown: tuple[str, ...] | None = None
    must_fit: bool = True

    def in_order(self, shown: Collection[str]) -> list[str]:
        """Return some of the columns in the order of the table, those for people only last."""
        return [
            *(name for name in self.columns if name in shown),
            *(name for name in shown if name not in self.columns),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One model.

    Attributes
    ----------
    model : str
        Its path as given.
    layers : Table
        The table of its layers: all that CSV holds.
    others : tuple of mapping
        Rows of tensors that are no layers, for CSV, which has one table only.
    before, after : tuple of str and Table
        What is said before and after it.
    warning : str
        What CSV cannot say; empty for nothing.
    """

    model: str
    layers: Table
    others: tuple[Mapping[str, Value], ...] = ()
    before: tuple[str | Table, ...] = ()
    after: tuple[str | Table, ...] = ()
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The result of one command, for every renderer.

    Attributes
    ----------
    payload : dict
        All of it, as plain data without NaN.
    sections : tuple of Section
        One per model.
    verbatim : str
        What people may copy, after all sections: it is not wrapped. For a table only.
    """

    payload: dict[str, Any] = field(repr=False)
    sections: tuple[Section, ...]
    verbatim: str = ""


def document_payload(command: str, options: Mapping[str, Any], models: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the frame of every JSON document."""
    from spectral import __version__

    return {
        "format": DOCUMENT_FORMAT,
        "tool": {"name": "pytest-weightwatcher", "version": __version__},
        "command": command,
        "options": dict(options),
        "models": models,
    }


def as_value(value: Any) -> Value:
    """Return what a data frame or a record holds as a plain value; a number that does not exist is None."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(int(size) for size in value)
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, (bool, int)):
        return plain
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else None
    return None  # pandas.NA


def as_json(value: Any) -> Any:
    """Return a value that strict JSON can hold."""
    found = as_value(value)
    return list(found) if isinstance(found, tuple) else found
