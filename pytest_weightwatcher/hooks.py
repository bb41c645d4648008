"""Hooks of a session in which the gate takes part; registered when it begins to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_weightwatcher.collection import CheckItem, ConfigFile
from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.plugin import PAYLOAD_ATTRIBUTE, USAGE_ERROR_ATTRIBUTE
from pytest_weightwatcher.report.terminal import header_line, write_summary

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_weightwatcher.session import GateSession


class GateHooks:
    """Delegates to a :class:`~pytest_weightwatcher.session.GateSession`."""

    def __init__(self, gate: GateSession) -> None:
        self._gate = gate
        self._selected: list[str] = []

    def pytest_report_header(self) -> str:
        return header_line(self._gate)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        self._selected = self._gate.take_virtual_arguments(session.config)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        if isinstance(collector, ConfigFile) and collector.had_usage_error:
            report.__dict__[USAGE_ERROR_ATTRIBUTE] = True
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        self._add_main_file(session, items)
        if self._gate.options.explain:
            others = [item for item in items if not self._is_explained(item)]
            if others:
                items[:] = [item for item in items if self._is_explained(item)]
                config.hook.pytest_deselected(items=others)

    def _is_explained(self, item: pytest.Item) -> bool:
        return isinstance(item, CheckItem) and self._gate.is_explained(item.stable_id)

    def _add_main_file(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        main = self._gate.main_path
        if not self._gate.options.is_active or any(
            isinstance(item, CheckItem) and item.config_path == main for item in items
        ):
            return
        # There is no ww.yaml for pytest to collect, or it lies where pytest was told not to look.
        node = ConfigFile.make(session, main, self._gate)
        made = list(session.genitems(node))
        if self._selected:
            chosen = [item for item in made if _is_selected(item, node.nodeid, self._selected)]
            if not chosen and not self._gate.is_worker:
                raise pytest.UsageError(f"not found: {self._selected[0]} (no such check; see --collect-only)")
            made = chosen
        items.extend(made)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._gate.options.explain and not self._gate.is_worker:
            unknown = self._gate.unknown_explanations(
                item.stable_id for item in session.items if isinstance(item, CheckItem)
            )
            if unknown:
                raise pytest.UsageError(f"--ww-explain {printable(unknown)}: no such check; see --collect-only")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        if not session.config.option.collectonly and not self._gate.is_worker:
            self._gate.prefetch([item for item in session.items if isinstance(item, CheckItem)])
            reporter = session.config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                self._gate.watch(reporter)

    def pytest_internalerror(self) -> None:
        self._gate.close()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "call" and isinstance(item, CheckItem) and item.judgement is not None:
            report.__dict__[PAYLOAD_ATTRIBUTE] = self._gate.payload_of(item)
            if item.config.pluginmanager.hasplugin("html"):
                report.__dict__["extras"] = [*getattr(report, "extras", ()), *self._gate.pictures_of(item)]
            if report.skipped:
                # -rs shows where a skip was raised: for the reader that is the rule, not our own code.
                path, line, title = item.reportinfo()
                report.longrepr = (str(path), (line or 0) + 1, f"{title}: {item.judgement.detail}")
        return report

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        payload: dict[str, Any] | None = getattr(report, PAYLOAD_ATTRIBUTE, None)
        if payload is None or report.when != "call" or report.outcome not in ("passed", "skipped"):
            return None
        verdict = payload["check"]["verdict"]
        if verdict == "inconclusive":
            return "inconclusive", "i", "INCONCLUSIVE"
        if verdict == "waived":
            return "waived", "v", "WAIVED"
        if verdict in ("warn", "fail", "error"):
            return "warned", "w", "WARN" if verdict == "warn" else f"{verdict.upper()} (not enforced)"
        return None

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._gate.close()
        if self._gate.is_worker:
            return
        if session.config.option.collectonly:
            if self._gate.had_usage_error:
                session.exitstatus = pytest.ExitCode.USAGE_ERROR
            return
        self._gate.finish(is_interrupted=session.exitstatus == pytest.ExitCode.INTERRUPTED)
        session.exitstatus = self._gate.exit_status(session.exitstatus)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._gate.result is not None and self._gate.results.n_checks:
            write_summary(terminalreporter, self._gate, self._gate.result)

    def pytest_unconfigure(self) -> None:
        self._gate.close()


def _is_selected(item: pytest.Item, root: str, selected: list[str]) -> bool:
    """Tell whether an item lies at or below one of the selected node ids (given without their file part)."""
    return any(
        item.nodeid == f"{root}::{wanted}" or item.nodeid.startswith(f"{root}::{wanted}::") or not wanted
        for wanted in selected
    )
