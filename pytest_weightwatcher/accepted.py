"""The accepted state a test compares a model with, as the fixture ``ww_baseline`` gives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_weightwatcher.baseline import Baseline
    from pytest_weightwatcher.config import Config


@dataclass(frozen=True, kw_only=True)
class AcceptedState:
    """A baseline, and by what a run compares models with it.

    Attributes
    ----------
    path : Path
        The baseline file, or the accepted checkpoint.
    recorded : Baseline or None
        Its content, where it is a file.
    config : Config
        Limits in force: profile and seed are those of the marker, the options or ww.yaml.
    """

    path: Path
    recorded: Baseline | None = field(default=None, repr=False)
    config: Config = field(repr=False)

    @cached_property
    def metrics(self) -> Mapping[str, Mapping[str, float | int]]:
        """Layer name -> its metrics; those of a checkpoint are computed when first asked for."""
        if self.recorded is not None:
            return MappingProxyType({name: entry.record.metrics for name, entry in self.recorded.entries.items()})
        from pytest_weightwatcher.planning import gate_options
        from spectral.analysis import analyze

        layers = analyze(self.path, gate_options(self.config)).layers
        return MappingProxyType({layer.name: layer.metrics for layer in layers})
