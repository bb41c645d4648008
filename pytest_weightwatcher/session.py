"""The state of the gate during one pytest session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_weightwatcher.errors import BaselineError, GateError
from pytest_weightwatcher.files import write_atomically
from pytest_weightwatcher.options import CONFIG_NAME

if TYPE_CHECKING:
    from pytest_weightwatcher.collection import CheckItem
    from pytest_weightwatcher.config import Config
    from pytest_weightwatcher.gate import Check, CheckedModel
    from pytest_weightwatcher.report.result import ResultBuilder
    from pytest_weightwatcher.settings import GateOptions, ReportTarget
    from pytest_weightwatcher.verdict import Judgement
    from spectral.analysis import Analysis


class GateSession:
    """Plans at the start, judges items as they run, collects results, writes reports at the end.

    Parameters
    ----------
    config : pytest.Config
        The session's configuration.
    options : GateOptions
        Options of the plugin in force.
    """

    def __init__(self, config: pytest.Config, options: GateOptions) -> None:
        from pytest_weightwatcher.gate import Gate
        from pytest_weightwatcher.report.result import ResultBuilder

        self.options = options
        self.has_xdist = config.pluginmanager.hasplugin("xdist")
        self.is_worker = hasattr(config, "workerinput")
        self.invocation_folder = config.invocation_params.dir
        self.main_path = options.config or self._find_main_config(config)
        self._gate = Gate(n_jobs=options.n_jobs or _share_of_cores(config))
        self._plans: dict[Path, tuple[CheckedModel, ...]] = {}
        self._configs: dict[Path, Config] = {}
        self._sent_layers: set[tuple[str, str]] = set()
        self.results: ResultBuilder = ResultBuilder()
        self.written: list[tuple[str, Path]] = []
        self.problems: list[str] = []
        self.result: dict[str, Any] | None = None
        self.had_usage_error = False

    def plan_main(self) -> None:
        """Plan what the options ask for, before anything is collected."""
        self.models_of(self.main_path)
        from pytest_weightwatcher.report.targets import check_target

        for target in self.report_targets():
            check_target(target)

    def config_of(self, path: Path) -> Config:
        """Return the configuration of a ww.yaml; the defaults where the main one does not exist."""
        from pytest_weightwatcher.config import Config, load_config

        if path not in self._configs:
            is_absent = path == self.main_path and self.options.config is None and not path.exists()
            self._configs[path] = Config() if is_absent else load_config(path)
        return self._configs[path]

    def models_of(self, path: Path) -> tuple[CheckedModel, ...]:
        """Return the opened models of a ww.yaml; those of the command line belong to the main one."""
        if path not in self._plans:
            from pytest_weightwatcher.gate import plan_models

            is_main = path == self.main_path
            config = self.config_of(path)
            self._plans[path] = plan_models(
                config,
                patterns=self.options.models if is_main else (),
                baseline=self.options.baseline,
                update_baseline=self.options.update_baseline,
                folder=path.parent,
            )
            for model in self._plans[path]:
                self.results.add_model(model)
        return self._plans[path]

    @property
    def models(self) -> tuple[CheckedModel, ...]:
        """Every model planned so far."""
        return tuple(model for models in self._plans.values() for model in models)

    def group_of(self, check: Check) -> str:
        """Return a short name shared by the checks of one matrix, so that one worker computes it once."""
        import hashlib

        layer = check.spec.name if check.spec is not None else ""
        return hashlib.sha256(f"{check.model.path}\0{layer}".encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def prefetch(self, items: list[CheckItem]) -> None:
        """Start the analyses of all selected items; xdist workers do not know theirs and start on demand."""
        for item in items:
            self._gate.submit(item.check)

    def judge(self, check: Check) -> Judgement:
        """Decide one check."""
        return self._gate.judge(check)

    def is_enforced(self, judgement: Judgement) -> bool:
        """Tell whether a judgement fails the run under the policy of ``--ww-fail-on``."""
        verdict, policy = str(judgement.verdict), self.options.fail_on
        if policy == "never":
            return False
        return verdict in ("fail", "error") or (verdict == "warn" and policy == "warn")

    def format_failure(self, check: Check, judgement: Judgement) -> str:
        """Return the text of a failure: what, how far, what it usually means, what to do."""
        from pytest_weightwatcher.report.terminal import format_finding

        return format_finding(check, judgement)

    def payload_of(self, item: CheckItem) -> dict[str, Any]:
        """Return what the report of an item carries to the session that writes the results."""
        assert item.judgement is not None
        check = item.check
        payload = self.results.check_payload(check, item.judgement, item.stable_id)
        payload["config"] = str(item.path)
        if check.spec is not None and str(item.judgement.verdict) != "error":
            key = (str(check.model.path), check.spec.name)
            if key not in self._sent_layers:
                self._sent_layers.add(key)
                layer = self._gate.layer(check.model, check.spec)
                payload["layer_record"] = self.results.layer_payload(layer, with_entry=self.options.update_baseline)
        return payload

    def analysis(self, model: CheckedModel) -> Analysis:
        """Return the whole analysis of a model, sharing matrices with the items."""
        return self._gate.analysis(model)

    def report_targets(self) -> tuple[ReportTarget, ...]:
        """Return the reports to write: those of the options, then those of ww.yaml of other types.

        Raises
        ------
        ConfigError
            A path in a ww.yaml is none where a report may be written.
        """
        from pytest_weightwatcher.report.targets import targets_of_config

        types = {target.type for target in self.options.reports}
        of_configs = (target for config in self._configs.values() for target in targets_of_config(config))
        return (*self.options.reports, *(target for target in of_configs if target.type not in types))

    def receive(self, payload: dict[str, Any]) -> None:
        """Take what an item reported, perhaps in another process whose ww.yaml this one has not opened."""
        self.models_of(Path(payload["config"]))
        self.results.receive(payload)

    def finish(self, *, is_interrupted: bool) -> None:
        """Record baselines and write reports; trouble is kept for the terminal, never raised."""
        from pytest_weightwatcher.report import render

        self.result = self.results.build(self.options)
        if not self.results.n_checks:
            return
        if self.options.update_baseline and not is_interrupted:
            self._record_baselines()
        try:
            targets = self.report_targets()
        except GateError as error:
            self.problems.append(str(error))
            return
        for target in targets:
            try:
                write_atomically(target.path, render(target.type, self.result))
                self.written.append((target.type, target.path))
            except OSError as error:
                self.problems.append(f"{target.path}: the report cannot be written: {error.strerror}")

    def exit_status(self, status: int) -> int:
        """Return the exit code of the run: 4 for bad input or an unwritable target, 5 where nothing was checked."""
        if self.had_usage_error:
            return int(pytest.ExitCode.USAGE_ERROR)
        if status != pytest.ExitCode.OK:
            return status
        if self.problems:
            return int(pytest.ExitCode.USAGE_ERROR)
        is_nothing_checked = self.result is not None and self.result["outcome"] == "inconclusive"
        if self.results.n_checks and is_nothing_checked:
            return int(pytest.ExitCode.NO_TESTS_COLLECTED)
        return status

    @property
    def needs_virtual_file(self) -> bool:
        """True where models are named by options and there is no ww.yaml for pytest to collect."""
        return self.options.is_active and not self.main_path.exists()

    def choose_arguments(self, config: pytest.Config) -> None:
        """Collect the gate alone where no paths are given, and beside them where there are some."""
        main = [str(self.main_path)] if self.main_path.exists() else []
        if config.args_source != config.ArgsSource.ARGS:
            config.args = main
        elif main and not any(self._reaches_main_file(argument) for argument in config.args):
            config.args = [*config.args, *main]

    def take_virtual_arguments(self, config: pytest.Config) -> list[str]:
        """Take the node ids below a ww.yaml that does not exist out of the arguments, and return their rest."""
        if not self.needs_virtual_file:
            return []
        mine = [argument for argument in config.args if "::" in argument and self._is_in_main_file(argument)]
        config.args = [argument for argument in config.args if argument not in mine]
        return [argument.partition("::")[2] for argument in mine]

    def _reaches_main_file(self, argument: str) -> bool:
        """Tell whether pytest comes upon the main file by an argument: its path, a node id in it, a folder above."""
        path = Path(os.path.normpath(self.invocation_folder / argument.partition("::")[0]))
        main = Path(os.path.normpath(self.main_path))
        return path == main or path in main.parents

    def _is_in_main_file(self, argument: str) -> bool:
        path = self.invocation_folder / argument.partition("::")[0]
        return os.path.normpath(path) == os.path.normpath(self.main_path)

    def close(self) -> None:
        """Stop the workers."""
        self._gate.close()

    def _record_baselines(self) -> None:
        from pytest_weightwatcher.baseline import write_baseline
        from pytest_weightwatcher.gate import recorded_baseline
        from pytest_weightwatcher.report.result import tool_payload

        for model in self.models:
            entries = self.results.entries_of(model)
            if model.record_to is None or not entries:
                continue
            unsound = self.results.layers_without_entry(model)
            if unsound:
                self.problems.append(f"{model.record_to}: not recorded: {unsound[0]} of {model.name} has no spectrum")
                continue
            try:
                write_baseline(model.record_to, recorded_baseline(model, entries), tool_payload())
                self.written.append(("baseline", model.record_to))
            except BaselineError as error:
                self.problems.append(str(error))

    def _find_main_config(self, config: pytest.Config) -> Path:
        for folder in dict.fromkeys((self.invocation_folder, config.rootpath)):
            if (folder / CONFIG_NAME).is_file():
                return folder / CONFIG_NAME
        return self.invocation_folder / CONFIG_NAME


def _share_of_cores(config: pytest.Config) -> int | None:
    """Return the threads for this process: all cores, or an xdist worker's share of them."""
    workers = getattr(config, "workerinput", {}).get("workercount")
    if workers is None:
        return None
    return max(1, (os.cpu_count() or 1) // int(workers))
