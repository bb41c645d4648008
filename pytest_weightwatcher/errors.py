"""Errors of the gate. Each becomes a ``pytest.UsageError`` (exit code 4) at the edge of the plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class GateError(Exception):
    """Base class of the errors the gate raises on purpose."""


@dataclass
class ConfigError(GateError, ValueError):
    """A ww.yaml that cannot be used.

    Attributes
    ----------
    path : Path
        The file.
    line : int or None
        Line, from 1.
    key : str
        Dotted path of the offending entry, or empty.
    problem : str
        What is wrong.
    """

    path: Path
    line: int | None
    key: str
    problem: str

    def __str__(self) -> str:
        place = str(self.path) if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.key}: {self.problem}" if self.key else f"{place}: {self.problem}"


class BaselineError(GateError, ValueError):
    """A baseline that cannot be read, written or used for this model."""


class CalibrationError(GateError, ValueError):
    """Checkpoints from which no limit can be learned."""


class ReportError(GateError, ValueError):
    """A report that cannot be written where it was asked for."""


class WrongSpectralPackageError(GateError, ImportError):
    """The name ``spectral`` belongs to another distribution in this environment."""


class ExtensionError(GateError, ValueError):
    """A plugin of the gate failed, or gave something else than its hook asks for; the message names it."""
