"""By whose files a pull request is judged: its own, and those of the base branch where it edits them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from action.inputs import ActionError
from action.overlay import make_overlay
from action.repository import base_commit, edited_files, find_repository, is_below, moved_way, steps_to
from action.results import WORST_FIRST
from action.running import CONFIG_NAME, SUFFIXES, Judged, failed_to_judge, judge, known_report_types

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from action.inputs import GateInputs
    from action.repository import Repository
    from action.runner import Runner

OWN = "own"
BASE = "base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """All that was judged.

    Attributes
    ----------
    runs : dict of str to Judged
        ``own``: by the files as they are; ``base``: by those of the base branch. One of them, or both.
    edited : tuple of str
        The files that judge and that the pull request edits.
    revision : str
        The merge base; empty where there is none.
    notes : tuple of str
        What a reader should know of how it was judged.
    """

    runs: Mapping[str, Judged]
    edited: tuple[str, ...] = ()
    revision: str = ""
    notes: tuple[str, ...] = ()

    @property
    def deciding(self) -> Judged:
        """The worse of the runs."""
        return min(self.runs.values(), key=lambda run: WORST_FIRST.index(run.outcome))

    @property
    def is_success(self) -> bool:
        """Whether every run lets the job pass."""
        return bool(self.runs) and all(run.is_success for run in self.runs.values())


def broken_trial(trouble: str) -> Trial:
    """Return the trial that could not be held."""
    return Trial(runs={OWN: failed_to_judge(trouble)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Court:
    """What every run of a trial shares.

    Attributes
    ----------
    python : str
        The interpreter that has the plugin.
    inputs : GateInputs
        What is asked for, with paths relative to the workspace.
    runner : Runner
        The run of the workflow.
    folder : Path
        Where what the Action writes goes.
    stream : text stream
        The log.
    """

    python: str
    inputs: GateInputs
    runner: Runner
    folder: Path
    stream: TextIO

    @property
    def config(self) -> str:
        """The ww.yaml in force, relative to the workspace."""
        return self.inputs.config or CONFIG_NAME

    def hold(self) -> Trial:
        """Judge by the files as they are, by those of the merge base, or by both."""
        commit = base_commit(self.runner.event_name, self.runner.event)
        judging = tuple(path for path in (self.config, self.inputs.baseline_path) if path)
        repository = find_repository(self.runner.workspace, judging) if commit else None
        if commit is None or repository is None:
            return self._without_base(is_merge=commit is not None)
        revision = repository.merge_base(commit)
        way = moved_way(repository, revision, judging, are_all_named=bool(self.inputs.baseline_path))
        if way is not None:
            # What lies behind it cannot be held against the base branch file by file, so nobody passes by it.
            raise ActionError(
                f"{way}: this pull request changes a link or submodule behind which ww.yaml or a baseline may lie; "
                "change it by itself, and judge the model after that"
            )
        return self._with_base(repository, revision, edited_files(repository, revision, judging))

    def _without_base(self, *, is_merge: bool) -> Trial:
        notes: tuple[str, ...] = ()
        if is_merge:
            raise ActionError(
                "the workspace is no git work tree, so that nobody can tell whether this pull request edits the "
                "baseline or ww.yaml: put actions/checkout before, with fetch-depth: 0"
            )
        if self.inputs.uses_merge_base:
            notes = (f"no merge base on the event {self.runner.event_name}: judged by the files of this commit",)
        return Trial(runs={OWN: self._judge_own()}, notes=notes)

    def _with_base(self, repository: Repository, revision: str, edited: tuple[str, ...]) -> Trial:
        runs: dict[str, Judged] = {}
        if not (edited and self.inputs.uses_merge_base):
            runs[OWN] = self._judge_own()
            edited += self._edited_baselines(repository, revision, runs[OWN], edited)
        if edited:
            base = self._judge_base(repository, revision, edited)
            more = self._edited_baselines(repository, revision, base, edited)
            edited += more
            runs[BASE] = self._judge_base(repository, revision, edited) if more else base
        if self.inputs.uses_merge_base:
            decided = runs.get(BASE) or runs[OWN]
            runs = {BASE if edited else OWN: _with_baseline(decided, revision)}
        return Trial(runs=runs, edited=edited, revision=revision)

    def _edited_baselines(
        self, repository: Repository, revision: str, run: Judged, known: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Return files of checkpoints that served as a baseline and that the pull request edits, beside known ones."""
        if run.result is None:
            return ()
        names = {name for name in run.result.baselines if name}
        models = {self._place_of(path) for path in run.result.models}
        of_models = {step for model in models for step in steps_to(repository.workspace, model)}
        of_models |= repository.links_lead_to(lambda link: is_below(link, models))
        behind = repository.links_lead_to(lambda link: _is_named(link, names) and not is_below(link, models))
        return tuple(
            path
            for path in repository.changed_since(revision)
            if (_is_named(path, names) or is_below(path, behind))
            and not is_below(path, of_models)
            and path not in known
        )

    def _place_of(self, model: str) -> str:
        """Return a model's path, which is relative to its ww.yaml or whole, relative to the workspace."""
        whole = os.path.normpath(self.runner.workspace / PurePosixPath(self.config).parent / model)
        # A run by the files of the base branch sees the workspace elsewhere.
        views = (self.runner.workspace, *self.folder.parent.glob(f"{self.folder.name}-base-*"))
        roots = [os.path.realpath(view) for view in views] + [str(view) for view in views]
        root = next((root for root in roots if whole.startswith(f"{root}{os.sep}")), None)
        return Path(os.path.relpath(whole, root)).as_posix() if root else whole

    def _judge_own(self) -> Judged:
        return self._judge(self.inputs, self._reports(), self.runner.workspace)

    def _judge_base(self, repository: Repository, revision: str, edited: tuple[str, ...]) -> Judged:
        contents = {path: repository.content_at(revision, path) for path in edited}
        folder = self.folder.with_name(f"{self.folder.name}-base-{len(edited)}")
        make_overlay(self.runner.workspace, folder, contents)
        reports = {kind: self.folder / f"base-report{SUFFIXES[kind]}" for kind in known_report_types(self.python)}
        absent = {path for path, held in contents.items() if held is None}
        if self.inputs.uses_merge_base and self.inputs.baseline_path in absent:
            raise ActionError(f"the merge base {revision[:12]} has no {self.inputs.baseline_path}: merge one first")
        inputs = self._without(absent)
        self.stream.write(f"Judging by the files of the base branch as of {revision[:12]}\n")
        return self._judge(inputs, reports, folder)

    def _without(self, absent: set[str]) -> GateInputs:
        """Return the inputs without what the base branch does not have yet."""
        inputs = self.inputs
        if inputs.config in absent:
            inputs = replace(inputs, config="")
        return replace(inputs, baseline="") if inputs.baseline_path in absent else inputs

    def _judge(self, inputs: GateInputs, reports: Mapping[str, Path], folder: Path) -> Judged:
        settings = self.folder.with_name(f"{self.folder.name}.ini")
        settings.write_text("[pytest]\n", encoding="utf-8")
        return judge(self.python, inputs, reports, folder=folder, settings=settings, stream=self.stream)

    def _reports(self) -> dict[str, Path]:
        """Return where the reports go: where the workflow says, else the folder of the Action."""
        wanted = self.inputs.reports
        return {
            kind: self.runner.workspace / wanted[kind] if wanted[kind] else self.folder / f"report{SUFFIXES[kind]}"
            for kind in known_report_types(self.python)
        }


def relative_inputs(inputs: GateInputs, workspace: Path) -> GateInputs:
    """Return inputs whose paths inside the workspace are relative to it, so that they mean the same in a view of it."""
    baseline = inputs.baseline
    if inputs.uses_merge_base:
        path = _relative(inputs.baseline_path, workspace)
        baseline = f"merge-base:{path}" if path else baseline
    else:
        baseline = _relative(baseline, workspace)
    return replace(
        inputs,
        config=_relative(inputs.config, workspace),
        baseline=baseline,
        models=tuple(_inside(model, workspace) for model in inputs.models),
    )


def _is_named(path: str, names: set[str]) -> bool:
    """Tell whether a path, or a folder that it lies in, has one of some names."""
    return bool(names.intersection(Path(path).parts))


def _relative(path: str, workspace: Path) -> str:
    return os.path.normpath(_inside(path, workspace)) if path else ""


def _inside(path: str, workspace: Path) -> str:
    """Return a path without the workspace before it; a pattern stays one."""
    return path.removeprefix(f"{workspace}{os.sep}") if workspace.is_absolute() else path


def _with_baseline(run: Judged, revision: str) -> Judged:
    """Return an error in place of a run that was to compare with the merge base and compared with nothing."""
    if run.result is None or all(run.result.baselines):
        return run
    trouble = f"baseline: merge-base, but the ww.yaml at the merge base {revision[:12]} names no baseline for a model"
    return replace(run, outcome="error", is_success=False, trouble=trouble)
