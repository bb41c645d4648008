"""The state of the gate during one pytest session."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_weightwatcher.checks import INTEGRITY
from pytest_weightwatcher.errors import BaselineError, GateError
from pytest_weightwatcher.nodeids import printable
from pytest_weightwatcher.options import CONFIG_NAME, is_asked_on_the_command_line
from spectral.errors import SpectralError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_weightwatcher.collection import CheckItem
    from pytest_weightwatcher.config import Config
    from pytest_weightwatcher.gate import Check
    from pytest_weightwatcher.planning import CheckedModel
    from pytest_weightwatcher.report.result import ResultBuilder
    from pytest_weightwatcher.settings import GateOptions, ReportTarget
    from pytest_weightwatcher.verdict import Judgement
    from spectral.analysis import Analysis
    from spectral.weights import MatrixSpec


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
        from pytest_weightwatcher.extensions import collect_extensions
        from pytest_weightwatcher.gate import Gate
        from pytest_weightwatcher.report.result import ResultBuilder

        self.options = options
        self.extensions = collect_extensions(config)
        self._config = config
        self.has_xdist = config.pluginmanager.hasplugin("xdist")
        self.is_worker = hasattr(config, "workerinput")
        self.invocation_folder = config.invocation_params.dir
        self.main_path = options.config or self._find_main_config(config)
        self._gate = Gate(n_jobs=options.n_jobs or _share_of_cores(config))
        self._plans: dict[Path, tuple[CheckedModel, ...]] = {}
        self._configs: dict[Path, Config] = {}
        self._sent_layers: set[tuple[str, str]] = set()
        self.results: ResultBuilder = ResultBuilder()
        self.written: list[tuple[str, Path, str]] = []
        self.problems: list[str] = []
        self.result: dict[str, Any] | None = None
        self.had_usage_error = False
        self._n_selected = 0
        self._is_filtered = _is_filtered(config)

    def plan_main(self) -> None:
        """Plan what the options ask for, before anything is collected."""
        self.models_of(self.main_path)
        from pytest_weightwatcher.report.targets import check_target

        if not self.models:
            raise GateError(f"{self.main_path}: no models to check: add --ww-model PATH, or models: to ww.yaml")
        inputs = [model.path for model in self.models]
        inputs += [model.baseline.path for model in self.models if model.baseline is not None]
        recordings = [model.recording.path for model in self.models if model.recording is not None]
        inputs += [path for path in recordings if path.exists()]
        inputs += [path for path in self._configs if path.exists()]
        for target in self.report_targets():
            check_target(target, inputs)

    def config_of(self, path: Path) -> Config:
        """Return the configuration of a ww.yaml; the defaults where the main one does not exist."""
        from pytest_weightwatcher.config import Config, load_config

        if path not in self._configs:
            is_absent = path == self.main_path and self.options.config is None and not os.path.lexists(path)
            self._configs[path] = (
                Config().extended(self.extensions) if is_absent else load_config(path, self.extensions)
            )
        return self._configs[path]

    def models_of(self, path: Path) -> tuple[CheckedModel, ...]:
        """Return the opened models of a ww.yaml; those of the command line belong to the main one."""
        if path not in self._plans:
            from pytest_weightwatcher.planning import Wish, plan_models

            wish = Wish(
                patterns=self.options.models if path == self.main_path else (),
                folder=self.options.models_folder,
                baseline=self.options.baseline,
                update_baseline=self.options.update_baseline,
                new_only=self.options.new_only,
                profile=self.options.profile,
                seed=self.options.seed,
            )
            self._plans[path] = plan_models(self.config_of(path), wish, path.parent)
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
        self._n_selected = len(items)
        for item in items:
            self._gate.submit(item.check)

    def watch(self, reporter: pytest.TerminalReporter) -> None:
        """Wait for the analyses with a word of how far they are, where somebody looks at a terminal."""
        is_watched = reporter.isatty and reporter.verbosity >= 0 and os.environ.get("TERM") != "dumb"
        # Who wants to stop at the first failure does not want to wait for the last analysis.
        if is_watched and not self._config.option.maxfail:
            from pytest_weightwatcher.live_progress import watch

            watch(self._gate.begun(), partial(reporter.write, flush=True), width=shutil.get_terminal_size().columns)

    def judge(self, check: Check) -> Judgement:
        """Decide one check."""
        return self._gate.judge(check)

    def fail_on(self, config: Config) -> str:
        """Return the mildest verdict that fails the run: of the options, then of a ww.yaml."""
        return self.options.fail_on or config.policy.fail_on or "fail"

    @property
    def main_fail_on(self) -> str:
        """That of the main ww.yaml; the default where it cannot be read, which its collector has said."""
        try:
            return self.fail_on(self.config_of(self.main_path))
        except GateError:
            return self.options.fail_on or "fail"

    def is_enforced(self, check: Check, judgement: Judgement) -> bool:
        """Tell whether a judgement fails the run."""
        verdict, policy = str(judgement.verdict), self.fail_on(check.model.config)
        if policy == "never":
            return False
        return verdict in ("fail", "error") or (verdict == "warn" and policy == "warn")

    def format_failure(self, check: Check, judgement: Judgement) -> str:
        """Return the text of a failure: what, how far, what it usually means, what to do."""
        from pytest_weightwatcher.report.terminal import format_finding, shown_width

        return format_finding(check, judgement, shown_width(self._config))

    def payload_of(self, item: CheckItem) -> dict[str, Any]:
        """Return what the report of an item carries to the session that writes the results."""
        assert item.judgement is not None
        check = item.check
        payload = self.results.check_payload(check, item.judgement, item.stable_id)
        payload["config"] = str(item.config_path)
        is_read = str(item.judgement.verdict) != "error"
        if is_read and check.spec is None and check.name == INTEGRITY and check.model.recording is not None:
            from pytest_weightwatcher.tensors import tensor_payload

            payload["tensors"] = {
                name: tensor_payload(record) for name, record in self._gate.tensors(check.model).items()
            }
        if check.spec is not None and str(item.judgement.verdict) != "error":
            key = (str(check.model.path), check.spec.name)
            if key not in self._sent_layers:
                self._sent_layers.add(key)
                payload["layer_record"] = self._layer_payload(check.model, check.spec)
        return payload

    def pictures_of(self, item: CheckItem) -> list[dict[str, str]]:
        """Return what pytest-html is to show beside a finding: the spectrum of its layer."""
        from pytest_weightwatcher.report.html.attachment import pytest_html_extra
        from pytest_weightwatcher.report.spectra import spectrum_payload

        model, spec = item.check.model, item.check.spec
        if spec is None or item.judgement is None or str(item.judgement.verdict) not in ("warn", "fail"):
            return []
        spectrum = spectrum_payload(
            self._gate.record(model, spec), spec, self._gate.before(model, spec), self._gate.n_traps(model, spec)
        )
        return [] if spectrum is None else [pytest_html_extra(spec.name, spectrum)]

    def _layer_payload(self, model: CheckedModel, spec: MatrixSpec) -> dict[str, Any]:
        from pytest_weightwatcher.recording import entry_to_record, recorded_payload

        record = self._gate.record(model, spec)
        entry = None if model.recording is None else entry_to_record(self._gate, model, spec)
        return {
            "layer": self.results.layer_payload(
                record,
                spec,
                is_reused=self._gate.is_reused(model, spec),
                baseline_name=self._gate.partner(model, spec),
                before=self._gate.before(model, spec),
                n_traps=self._gate.n_traps(model, spec),
            ),
            "recorded": None if entry is None else recorded_payload(entry),
            "failed_metrics": [f"{spec.name}: {record.reasons[name]}" for name in record.failed_metrics],
        }

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

        if self.options.explain:
            # Asking why a run failed must not replace its reports by those of the few checks asked about.
            return self.options.reports
        types = {target.type for target in self.options.reports}
        of_configs = (target for config in self._configs.values() for target in targets_of_config(config))
        return (*self.options.reports, *(target for target in of_configs if target.type not in types))

    def receive(self, payload: dict[str, Any]) -> None:
        """Take what an item reported, perhaps in another process whose ww.yaml this one has not opened."""
        try:
            self.models_of(Path(payload["config"]))
        except (GateError, SpectralError) as error:
            self._note_problem(str(error))
        self.results.receive(payload)

    def is_explained(self, node_id: str) -> bool:
        """Tell whether ``--ww-explain`` asks about a check: by its id, the end of it, or a shell pattern."""
        from pytest_weightwatcher.explain import is_match

        return any(is_match(node_id, wanted) for wanted in self.options.explain)

    def unknown_explanations(self, node_ids: Iterable[str]) -> str | None:
        """Return the first thing to be explained that no check answers to."""
        from pytest_weightwatcher.explain import is_match

        known = list(node_ids)
        return next(
            (wanted for wanted in self.options.explain if not any(is_match(each, wanted) for each in known)), None
        )

    def lose(self, node_id: str) -> None:
        """Note an item that failed without a verdict: its worker died, or something else broke."""
        self.results.lose(node_id)

    def finish(self, *, is_interrupted: bool) -> None:
        """Record baselines and write reports; trouble is kept for the terminal, never raised."""
        from pytest_weightwatcher.report.junit import add_suite_properties
        from pytest_weightwatcher.report.writing import write_report

        self.result = self.results.build(fail_on=self.main_fail_on, seed=self.options.seed)
        if not self.results.n_checks and not self.results.n_lost:
            return
        if (self.options.update_baseline or self.options.new_only) and not is_interrupted:
            self._record_baselines()
        self._add_sections(self.result)
        add_suite_properties(self._config, self.result)
        try:
            targets = self.report_targets()
        except GateError as error:
            self._note_problem(str(error))
            return
        for target in targets:
            try:
                write_report(target, self.result)
                self.written.append((target.type, target.path, ""))
            except OSError as error:
                self._note_problem(f"{target.path}: the report cannot be written: {error.strerror}")

    def _add_sections(self, result: dict[str, Any]) -> None:
        from pytest_weightwatcher.extensions import report_sections

        sections, problems = report_sections(self._config, result)
        if sections:
            result["sections"] = sections
        for problem in problems:
            self._note_problem(problem)

    def exit_status(self, status: int) -> int:
        """Return the exit code of the run: 4 for bad input or an unwritable target, 5 where nothing was checked."""
        if self.had_usage_error:
            return int(pytest.ExitCode.USAGE_ERROR)
        if status != pytest.ExitCode.OK:
            return status
        if self.problems:
            return int(pytest.ExitCode.USAGE_ERROR)
        is_nothing_checked = self.result is not None and self.result["outcome"] == "inconclusive"
        is_asked_in_vain = self._n_selected > 0 and not self.results.n_checks
        if is_asked_in_vain or (self.results.n_checks and is_nothing_checked):
            return int(pytest.ExitCode.NO_TESTS_COLLECTED)
        return status

    def choose_arguments(self, config: pytest.Config) -> None:
        """Collect the gate alone where the command line asks for it and gives no paths, else beside the rest."""
        main = [str(self.main_path)] if self.main_path.exists() else []
        if config.args_source != config.ArgsSource.ARGS and is_asked_on_the_command_line(config):
            config.args = main
        elif main and not any(self._reaches_main_file(argument) for argument in config.args):
            config.args = [*config.args, *main]

    def take_virtual_arguments(self, config: pytest.Config) -> list[str]:
        """Take the node ids below a ww.yaml that does not exist out of the arguments, and return their rest."""
        if not self.options.is_active or self.main_path.exists():
            return []
        mine = [argument for argument in config.args if self._path_of(argument) == self.main_path]
        config.args = [argument for argument in config.args if argument not in mine]
        return [argument.partition("::")[2] for argument in mine]

    def _reaches_main_file(self, argument: str) -> bool:
        """Tell whether pytest comes upon the main file by an argument: its path, a node id in it, a folder above."""
        path = self._path_of(argument)
        return path == self.main_path or path in self.main_path.parents

    def _path_of(self, argument: str) -> Path:
        return Path(os.path.abspath(self.invocation_folder / argument.partition("::")[0]))

    def close(self) -> None:
        """Stop the workers."""
        self._gate.close()

    def _note_problem(self, problem: str) -> None:
        """Keep a problem for the terminal, once; names in it are not trusted."""
        text = printable(problem)
        if text not in self.problems:
            self.problems.append(text)

    def _record_baselines(self) -> None:
        from pytest_weightwatcher.recording import record_models

        groups: dict[Path, list[CheckedModel]] = {}
        for model in self.models:
            if model.recording is not None:
                groups.setdefault(model.recording.path, []).append(model)
        for path, models in groups.items():
            try:
                text = record_models(models, self.results, is_filtered=self._is_filtered)
                self.written.append(("baseline", path, text))
            except BaselineError as error:
                self._note_problem(str(error))

    def _find_main_config(self, config: pytest.Config) -> Path:
        for folder in dict.fromkeys((self.invocation_folder, config.rootpath)):
            # A link that leads nowhere is a ww.yaml that cannot be read, not the absence of one.
            if os.path.lexists(folder / CONFIG_NAME):
                return Path(os.path.abspath(folder / CONFIG_NAME))
        return Path(os.path.abspath(self.invocation_folder / CONFIG_NAME))


def _share_of_cores(config: pytest.Config) -> int | None:
    """Return the threads for this process: all cores, or an xdist worker's share of them."""
    workers = getattr(config, "workerinput", {}).get("workercount")
    if workers is None:
        return None
    from spectral.execution import n_default_workers

    return max(1, n_default_workers() // int(workers))


def _is_filtered(config: pytest.Config) -> bool:
    """Tell whether the user chose some items: only then may a recording leave layers as they were."""
    option = config.option
    choices = ("keyword", "markexpr", "deselect", "lf", "ww_explain")
    is_chosen = any(getattr(option, name, None) for name in choices)
    return is_chosen or any("::" in argument for argument in config.args)
