"""What plugins are made of: the types that the hooks of :mod:`pytest_weightwatcher.hookspec` take and give.

The one place to import them from. Importing it imports nothing heavy; the records of layers are loaded when asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_weightwatcher.records import LayerRecord
    from spectral.layer_analysis import LayerAnalysis
    from spectral.loaders.protocol import TensorInfo, TensorSource

__all__ = [
    "Cell",
    "Finding",
    "LayerAnalysis",
    "LayerCheck",
    "LayerRecord",
    "Metric",
    "Section",
    "TensorInfo",
    "TensorSource",
]

Cell = str | int | float | bool | None
"""What may stand in a table."""

FindingVerdict = Literal["pass", "warn", "fail", "inconclusive", "skipped"]

_LAZY = {
    "LayerAnalysis": "spectral.layer_analysis",
    "LayerRecord": "pytest_weightwatcher.records",
    "TensorInfo": "spectral.loaders.protocol",
    "TensorSource": "spectral.loaders.protocol",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that a plugin computes of every weight matrix.

    Attributes
    ----------
    name : str
        What it is called in ww.yaml, reports and baselines: letters, digits and underscores, unknown to the gate.
    function : callable
        Called with (layer, slices): the LayerAnalysis of the matrix, and its weights as a read-only array of shape
        (n_slices, rows, columns) in their stored type (of a convolution several slices, else one). Returns an int or a
        float, or None where the metric is not defined for this layer. It runs in a thread, for several layers at once,
        and must depend on its arguments alone.
    version : str
        Recorded in baselines. Raise it whenever the function gives other numbers: what was recorded with another one
        is neither reused nor compared.
    """

    name: str
    function: Callable[[LayerAnalysis, NDArray[Any]], float | int | None]
    version: str = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a :class:`LayerCheck` says of one layer.

    Attributes
    ----------
    verdict : {"pass", "warn", "fail", "inconclusive", "skipped"}
        Before waivers and the policy of ww.yaml.
    detail : str
        One sentence: what was found.
    value : float, optional
        The number that decided. One that is not finite never passes.
    limit : mapping of str to float, optional
        Its bounds: ``min``, ``max`` or both.

    Raises
    ------
    ValueError
        The verdict is none, the detail is empty, or it passes with a value that is not finite.
    """

    verdict: FindingVerdict
    detail: str
    value: float | None = None
    limit: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.verdict not in get_args(FindingVerdict):
            raise ValueError(f"the verdict must be one of {', '.join(get_args(FindingVerdict))}, got {self.verdict!r}")
        if not isinstance(self.detail, str) or not self.detail:
            raise ValueError(f"the detail must be a sentence, got {self.detail!r}")
        if self.value is not None:
            # Numpy's numbers are none that JSON takes.
            object.__setattr__(self, "value", float(self.value))
        if self.verdict == "pass" and self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a value of {self.value} cannot pass")
        if self.limit is None:
            return
        if not set(self.limit) <= {"min", "max"}:
            raise ValueError(f"a limit has min and max, got {', '.join(map(str, self.limit))}")
        object.__setattr__(self, "limit", {name: float(bound) for name, bound in self.limit.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCheck:
    """A check that a plugin makes of every weight matrix; one pytest item for each.

    Attributes
    ----------
    name : str
        As that of a :class:`Metric`; also the end of its node ids.
    function : callable
        Called with (layer, reference): the LayerRecord of the matrix, and that of its baseline or None. Returns a
        :class:`Finding`. It must depend on its arguments alone.
    meaning : str
        What a finding usually means.
    action : str
        What to do about it.
    """

    name: str
    function: Callable[[LayerRecord, LayerRecord | None], Finding]
    meaning: str = ""
    action: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of the reports: a paragraph or several, and perhaps a table. Plain text: no mark in it has an effect.

    Attributes
    ----------
    title : str
        Its heading.
    text : str
        Paragraphs, with empty lines between them.
    columns : sequence of str
        Heads of the table.
    rows : sequence of sequences of Cell
        Each as long as ``columns``.

    Raises
    ------
    ValueError
        There is no title, or a row is not as long as the columns.
    """

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.title, str) or not self.title.strip():
            raise ValueError(f"a section needs a title, got {self.title!r}")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells under {len(self.columns)} columns")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
