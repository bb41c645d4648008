"""What the plugins of a run add to the gate: asked for once, checked, and frozen."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.checks import (
    EXTRA_METRICS,
    INTEGRITY,
    LAYER_CHECKS,
    MODEL_CHECKS,
    PAIRED_QUANTITIES,
    REGRESSION_METRICS,
    WAIVERS,
)
from pytest_weightwatcher.errors import ExtensionError
from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.plugins import LayerCheck, Metric, Section
from spectral.errors import ModelError, SpectralError
from spectral.loaders.locations import is_remote
from spectral.loaders.protocol import TensorInfo, TensorSource, as_little_endian
from spectral.matrix_tests import NOISE_METRICS, TRAP_METRICS
from spectral.metrics import LAYER_METRICS
from spectral.pipeline import NoMeasure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pytest
    from numpy.typing import NDArray

    from spectral.layer_analysis import LayerAnalysis
    from spectral.weights import WeightMatrix

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_LARGEST = 1e300
_TAKEN = frozenset(
    (
        *LAYER_METRICS,
        *LAYER_CHECKS,
        *EXTRA_METRICS,
        *MODEL_CHECKS,
        *PAIRED_QUANTITIES,
        *REGRESSION_METRICS,
        *NOISE_METRICS,
        *TRAP_METRICS,
        INTEGRITY,
        WAIVERS,
        "profile",
        "ratchet",
        "sv_max",
        "xmax",
        "num_evals",
    )
)
"""Names that mean something to the gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginMeasure:
    """A metric of a plugin, as the pipeline measures it; whatever goes wrong names it.

    Attributes
    ----------
    plugin : str
        Name of the plugin.
    metric : Metric
        What it computes.
    """

    plugin: str
    metric: Metric

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.metric.name

    def __call__(self, layer: LayerAnalysis, matrix: WeightMatrix) -> float | int | NoMeasure:
        """Return the number, or why there is none."""
        what = f"metric {self.name!r} of plugin {self.plugin}"
        try:
            value: object = self.metric.function(layer, matrix.slices)
        except Exception as error:  # whatever a plugin raises is named with it, and never a pass
            return NoMeasure(reason=f"{what} failed: {_say(error)}", is_error=True)
        if value is None:
            return NoMeasure(reason=f"{what} is not defined for this layer", is_error=False)
        number = _as_number(value)
        if number is None:
            return NoMeasure(reason=f"{what} gave {repr(value)[:80]}, which is no finite number", is_error=True)
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginCheck:
    """A check of a plugin.

    Attributes
    ----------
    plugin : str
        Name of the plugin.
    check : LayerCheck
        What it judges.
    """

    plugin: str
    check: LayerCheck


@dataclass(frozen=True, kw_only=True)
class Extensions:
    """What the plugins of a run add.

    Attributes
    ----------
    measures : tuple of PluginMeasure
        Metrics, in the order of their names.
    checks : mapping of str to PluginCheck
        Name -> check, in the order of their names.
    open_with : callable
        What the plugins make of a path; the path itself where none of them knows it.
    """

    measures: tuple[PluginMeasure, ...] = ()
    checks: Mapping[str, PluginCheck] = field(default_factory=lambda: MappingProxyType({}))
    open_with: Callable[[Path], object] = field(default=lambda path: path, repr=False)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return tuple(measure.name for measure in self.measures)

    @property
    def versions(self) -> dict[str, str]:
        """Metric -> its version, for baselines."""
        return {measure.name: measure.metric.version for measure in self.measures}


NO_EXTENSIONS = Extensions()


def collect_extensions(config: pytest.Config) -> Extensions:
    """Ask the plugins of a session what they add.

    Raises
    ------
    ExtensionError
        A plugin failed or gave something else than it should, or two use one name.
    """
    taken = dict.fromkeys(_TAKEN, "the gate")
    measures = [
        PluginMeasure(plugin=plugin, metric=metric)
        for plugin, metric in _listed(config, "pytest_ww_metrics", Metric)
        if _claim(taken, plugin, metric)
    ]
    for measure in measures:
        if not isinstance(measure.metric.version, str):
            raise ExtensionError(f"plugin {measure.plugin}: metric {measure.name!r}: the version must be text")
    checks = {
        check.name: PluginCheck(plugin=plugin, check=check)
        for plugin, check in _listed(config, "pytest_ww_checks", LayerCheck)
        if _claim(taken, plugin, check)
    }
    return Extensions(
        measures=tuple(sorted(measures, key=lambda measure: measure.name)),
        checks=MappingProxyType(dict(sorted(checks.items()))),
        open_with=lambda path: _open(config, path),
    )


def report_sections(config: pytest.Config, result: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the sections of the plugins as plain data, and what went wrong."""
    sections, problems = [], []
    for plugin, call in _implementations(config, "pytest_ww_report_section"):
        try:
            for section in _one(call(result=copy.deepcopy(result))):
                _check_kind(plugin, "pytest_ww_report_section", section, Section)
                sections.append(_section_payload(plugin, section))
        except ExtensionError as error:
            problems.append(str(error))
        except Exception as error:  # whatever a plugin raises is named with it, and never a pass
            problems.append(f"plugin {plugin}: pytest_ww_report_section failed: {_say(error)}")
    return sorted(sections, key=lambda section: str(section["plugin"])), problems


def _open(config: pytest.Config, path: Path) -> object:
    # A plugin reads files of this machine.
    if is_remote(path) or not path.exists():
        return path
    for plugin, call in _implementations(config, "pytest_ww_load_model"):
        try:
            found = call(path=path)
            if found is None:
                continue
            if isinstance(found, Mapping):
                return dict(found)
            if isinstance(found, TensorSource):
                return _GuardedSource(plugin, path, found)
        except SpectralError:
            raise
        except Exception as error:  # whatever a plugin raises is named with it, and never a pass
            raise ExtensionError(f"{path}: plugin {plugin}: pytest_ww_load_model failed: {_say(error)}") from error
        raise ExtensionError(
            f"{path}: plugin {plugin}: pytest_ww_load_model gave a {type(found).__name__}, expected a TensorSource, a "
            "mapping of arrays or None"
        )
    return path


class _GuardedSource:
    """A source of a plugin, held to the contract: what it announces is what it gives, and its errors name it."""

    def __init__(self, plugin: str, path: Path, source: TensorSource) -> None:
        self._plugin, self._path, self._source = plugin, path, source
        self._infos = {info.name: info for info in self._checked(tuple(source.tensors()))}

    @property
    def label(self) -> str:
        return str(self._path)

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self._infos.values())

    def load(self, name: str) -> NDArray[Any]:
        import numpy as np

        info = self._infos[name]
        if info.refusal is not None:
            raise ModelError(f"{self._path}: tensor {name!r}: {info.refusal}")
        try:
            values = self._source.load(name)
        except (ModelError, MemoryError):
            raise
        except Exception as error:  # whatever a plugin raises is named with it, and never a pass
            raise ModelError(f"{self._path}: tensor {name!r}: plugin {self._plugin} failed: {_say(error)}") from error
        if not isinstance(values, np.ndarray) or (values.shape, values.dtype.name) != (info.shape, info.dtype):
            given = f"{values.dtype.name} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            announced = f"{info.dtype} {info.shape}"
            raise ModelError(
                f"{self._path}: tensor {name!r}: plugin {self._plugin} announced {announced}, gave {given}"
            )
        return as_little_endian(values)

    def _checked(self, infos: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
        where = f"{self._path}: plugin {self._plugin}"
        if not infos or not all(isinstance(info, TensorInfo) for info in infos):
            raise ExtensionError(f"{where}: its source has no tensors, or something else in their place")
        names = [info.name for info in infos]
        if len(set(names)) < len(names):
            raise ExtensionError(f"{where}: several tensors have one name")
        if any("\ud800" <= character <= "\udfff" for name in names for character in name):
            raise ExtensionError(f"{where}: the name of a tensor is not valid Unicode")
        return infos


def _implementations(config: pytest.Config, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Return each plugin that implements a hook, in the order in which pluggy calls them, as a call of it alone."""
    found = [each for each in getattr(config.hook, hook).get_hookimpls() if not (each.wrapper or each.hookwrapper)]
    for implementation in reversed(found):
        others = [each.plugin for each in found if each.plugin is not implementation.plugin]
        yield _plugin_name(implementation), config.pluginmanager.subset_hook_caller(hook, others)


def _plugin_name(implementation: Any) -> str:
    # A conftest.py is registered by its whole path, which differs from machine to machine.
    name = str(implementation.plugin_name)
    return "conftest.py" if name.endswith("conftest.py") else name


def _listed(config: pytest.Config, hook: str, kind: type) -> Iterator[tuple[str, Any]]:
    for plugin, call in _implementations(config, hook):
        try:
            given = [each for answer in call() for each in answer]
        except Exception as error:  # whatever a plugin raises is named with it, and never a pass
            raise ExtensionError(f"plugin {plugin}: {hook} failed: {_say(error)}") from error
        for each in given:
            _check_kind(plugin, hook, each, kind)
            yield plugin, each


def _one(answers: Iterable[Any]) -> list[Any]:
    return [answer for answer in answers if answer is not None]


def _check_kind(plugin: str, hook: str, given: object, kind: type) -> None:
    if not isinstance(given, kind):
        raise ExtensionError(f"plugin {plugin}: {hook} gave a {type(given).__name__}, expected a {kind.__name__}")


def _claim(taken: dict[str, str], plugin: str, given: Metric | LayerCheck) -> bool:
    name, kind = given.name, type(given).__name__
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ExtensionError(
            f"plugin {plugin}: {kind} {str(name)[:80]!r}: a name is a letter, then letters, digits and underscores, at "
            "most 64 in all"
        )
    if name in taken:
        raise ExtensionError(f"plugin {plugin}: {kind} {name!r}: the name belongs to {taken[name]} already")
    if not callable(given.function):
        raise ExtensionError(f"plugin {plugin}: {kind} {name!r}: the function cannot be called")
    taken[name] = f"plugin {plugin}"
    return True


def _section_payload(plugin: str, section: Section) -> dict[str, Any]:
    return {
        "plugin": plugin,
        "title": section.title,
        "text": str(section.text),
        "columns": [str(column) for column in section.columns],
        "rows": [[_as_cell(cell) for cell in row] for row in section.rows],
    }


def _as_cell(cell: object) -> str | int | float | bool | None:
    if cell is None or isinstance(cell, (bool, str)):
        return cell
    number = _as_number(cell)
    # JSON has no NaN; whatever is no number is told as text.
    return number if number is not None else None if isinstance(cell, float) else str(cell)


def _as_number(value: object) -> float | int | None:
    """Return a finite number as one of Python's own, or None."""
    import numpy as np

    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    number = int(value) if isinstance(value, (int, np.integer)) else float(value)
    return number if abs(number) < _LARGEST and math.isfinite(number) else None


def _say(error: BaseException) -> str:
    text = printable(str(error).strip())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
