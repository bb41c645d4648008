"""Collectors and items: ww.yaml :: model :: matrix :: check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_weightwatcher.errors import GateError
from pytest_weightwatcher.nodeids import escape_name, printable
from spectral.errors import SpectralError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_weightwatcher.gate import Check
    from pytest_weightwatcher.planning import CheckedModel
    from pytest_weightwatcher.session import GateSession
    from pytest_weightwatcher.verdict import Judgement
    from spectral.weights import MatrixSpec


class CheckFailedError(Exception):
    """A check that fails the run; pytest shows its text without a traceback."""


class ConfigFile(pytest.File):
    """A ww.yaml, or the place where one would be."""

    gate: GateSession
    had_usage_error = False

    @classmethod
    def make(cls, parent: pytest.Collector, path: Path, gate: GateSession) -> ConfigFile:
        """Create the collector of one ww.yaml."""
        node: ConfigFile = cls.from_parent(parent, path=path)
        node.gate = gate
        return node

    def collect(self) -> Iterator[pytest.Collector]:
        try:
            models = self.gate.models_of(self.path)
        except (GateError, SpectralError) as error:
            self.had_usage_error = True
            raise self.CollectError(printable(str(error))) from error
        for model in models:
            yield ModelCollector.make(self, model, self.gate)


class ModelCollector(pytest.Collector):
    """One checkpoint."""

    gate: GateSession
    model: CheckedModel

    @classmethod
    def make(cls, parent: pytest.Collector, model: CheckedModel, gate: GateSession) -> ModelCollector:
        """Create the collector of one model."""
        node: ModelCollector = cls.from_parent(parent, name=escape_name(model.name))
        node.model, node.gate = model, gate
        return node

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        from pytest_weightwatcher.gate import model_checks

        for check in model_checks(self.model):
            yield CheckItem.make(self, check, self.gate)
        for spec in self.model.description.matrices:
            yield MatrixCollector.make_matrix(self, self.model, spec, self.gate)


class MatrixCollector(pytest.Collector):
    """One weight matrix."""

    gate: GateSession
    model: CheckedModel
    spec: MatrixSpec

    @classmethod
    def make_matrix(
        cls, parent: pytest.Collector, model: CheckedModel, spec: MatrixSpec, gate: GateSession
    ) -> MatrixCollector:
        """Create the collector of one matrix."""
        node: MatrixCollector = cls.from_parent(parent, name=escape_name(spec.name))
        node.model, node.spec, node.gate = model, spec, gate
        return node

    def collect(self) -> Iterator[pytest.Item]:
        from pytest_weightwatcher.gate import layer_checks

        for check in layer_checks(self.model, self.spec):
            yield CheckItem.make(self, check, self.gate)


class CheckItem(pytest.Item):
    """One check of one matrix, or of a model as a whole."""

    gate: GateSession
    check: Check
    judgement: Judgement | None = None
    config_path: Path
    stable_id: str

    @classmethod
    def make(cls, parent: pytest.Collector, check: Check, gate: GateSession) -> CheckItem:
        """Create the item of one check, marked ``ww``."""
        config_path = parent.path
        # Where there is no ww.yaml, hooks of conftest files and --nf need a path that exists.
        path = config_path if config_path.exists() else config_path.parent
        node: CheckItem = cls.from_parent(parent, name=check.name, path=path)
        node.config_path = config_path
        # xdist's loadgroup appends to node ids later; reports and results keep this one.
        node.check, node.gate, node.stable_id = check, gate, node.nodeid
        node.add_marker("ww")
        if gate.has_xdist:
            node.add_marker(pytest.mark.xdist_group(name=f"ww-{gate.group_of(check)}"))
        return node

    def runtest(self) -> None:
        judgement = self.gate.judge(self.check)
        self.judgement = judgement
        self.user_properties[:] = self._properties(judgement)
        if self.gate.is_enforced(self.check, judgement):
            raise CheckFailedError(self.gate.format_failure(self.check, judgement))
        if str(judgement.verdict) in ("skipped", "inconclusive"):
            pytest.skip(f"{judgement.verdict}: {judgement.detail}")

    @staticmethod
    def _properties(judgement: Judgement) -> list[tuple[str, object]]:
        """Return what JUnit shows of the check; set anew each time, so that a rerun does not repeat it."""
        properties: list[tuple[str, object]] = [("ww_verdict", str(judgement.verdict))]
        if judgement.value is not None:
            properties.append((f"ww_{judgement.check}", judgement.value))
        limit = judgement.limit or {}
        properties += [(f"ww_limit_{side}", limit[side]) for side in ("min", "max") if limit.get(side) is not None]
        if judgement.baseline is not None:
            properties.append(("ww_baseline", judgement.baseline))
        return properties

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, CheckFailedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        layer = f": {escape_name(self.check.spec.name)}" if self.check.spec else ""
        line = self.check.line - 1 if self.check.line is not None else 0
        return self.config_path, line, f"{escape_name(self.check.model.name)}{layer} {self.check.name}"
