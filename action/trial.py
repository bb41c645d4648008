"""By whose files a pull request is judged: its own, and those of the base branch where it edits them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from action.changes import Judging, read_changes
from action.inputs import ActionError
from action.overlay import make_overlay
from action.places import report_places
from action.repository import base_commit, find_repository
from action.results import WORST_FIRST
from action.running import CONFIG_NAME, SUFFIXES, Judged, failed_to_judge, judge, known_report_types
from action.ways import inside, is_below

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from action.changes import Changes
    from action.inputs import GateInputs
    from action.runner import Runner

OWN = "own"
BASE = "base"
_MAX_VIEWS = 10
"""Views of the base branch, each made since the one before led to more; no honest pull request needs three."""


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
        repository = find_repository(self.runner.workspace, self._judging_paths) if commit else None
        if commit is None or repository is None:
            return self._without_base(is_merge=commit is not None)
        return self._with_base(read_changes(repository, commit))

    @property
    def _judging_paths(self) -> tuple[str, ...]:
        return tuple(path for path in (self.config, self.inputs.baseline_path) if path)

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

    def _with_base(self, changes: Changes) -> Trial:
        runs: dict[str, Judged] = {}
        workspace = changes.repository.workspace
        edited = changes.edited(workspace, self._judging())
        if not (edited and self.inputs.uses_merge_base):
            runs[OWN] = self._judge_own()
            edited = _joined(edited, changes.edited(workspace, self._judging(runs[OWN], self.config)))
        if edited:
            runs[BASE], edited = self._judge_base(changes, edited)
        if self.inputs.uses_merge_base:
            decided = runs.get(BASE) or runs[OWN]
            runs = {BASE if edited else OWN: _with_baseline(decided, changes.revision)}
        return Trial(runs=runs, edited=edited, revision=changes.revision)

    def _judging(self, run: Judged | None = None, config: str = "") -> Judging:
        """Return what judges, as far as the inputs tell, and a run with some ww.yaml."""
        if run is None or run.result is None:
            return Judging(paths=self._judging_paths)
        if any(name and not path for name, path in zip(run.result.baselines, run.result.baseline_paths, strict=True)):
            raise ActionError("the gate that python has does not say where a baseline is: it is older than this Action")
        return Judging(
            paths=self._judging_paths,
            baselines=tuple(self._place_of(path, config) for path in run.result.baseline_paths if path),
            models=tuple(self._place_of(path, config) for path in run.result.models),
        )

    def _judge_base(self, changes: Changes, edited: tuple[str, ...]) -> tuple[Judged, tuple[str, ...]]:
        """Judge by the merge base, and again as long as what it says leads to more that the pull request edits."""
        for _ in range(_MAX_VIEWS):
            view = self._view(changes, edited)
            more = _joined(edited, changes.edited(view, self._judging()))
            if more == edited:
                inputs = self._inputs_in(view, changes, edited)
                run = self._judge_view(view, inputs, changes.revision)
                more = _joined(edited, changes.edited(view, self._judging(run, inputs.config or CONFIG_NAME)))
                if more == edited:
                    return run, edited
            edited = more
        raise ActionError("what judges this pull request leads on and on to what it edits")

    def _view(self, changes: Changes, edited: tuple[str, ...]) -> Path:
        view = self.folder.resolve().with_name(f"{self.folder.name}-base-{len(edited)}")
        make_overlay(changes.repository.workspace, view, {path: changes.held_before(path) for path in edited})
        return view

    def _place_of(self, path: str, config: str) -> str:
        """Return a path of a result, which is relative to its ww.yaml or whole, relative to the workspace."""
        whole = os.path.normpath(self.runner.workspace / PurePosixPath(config).parent / path)
        # A run by the files of the base branch sees the workspace elsewhere.
        views = (self.runner.workspace, *self.folder.parent.glob(f"{self.folder.name}-base-*"))
        roots = [os.path.realpath(view) for view in views] + [str(view) for view in views]
        root = next((root for root in roots if whole.startswith(f"{root}{os.sep}")), None)
        return Path(os.path.relpath(whole, root)).as_posix() if root else whole

    def _judge_own(self) -> Judged:
        return self._judge(self.inputs, self._reports(), self.runner.workspace)

    def _judge_view(self, view: Path, inputs: GateInputs, revision: str) -> Judged:
        reports = {kind: self.folder / f"base-report{SUFFIXES[kind]}" for kind in known_report_types(self.python)}
        self.stream.write(f"Judging by the files of the base branch as of {revision[:12]}\n")
        return self._judge(inputs, reports, view)

    def _inputs_in(self, view: Path, changes: Changes, edited: tuple[str, ...]) -> GateInputs:
        """Return the inputs without what the base branch does not have yet."""
        inputs = self.inputs
        absent = {path for path in self._judging_paths if is_below(path, edited) and not (view / path).exists()}
        if inputs.uses_merge_base and inputs.baseline_path in absent:
            raise ActionError(f"the merge base {changes.revision[:12]} has no {inputs.baseline_path}: merge one first")
        if inputs.config in absent:
            inputs = replace(inputs, config="")
        return replace(inputs, baseline="") if inputs.baseline_path in absent else inputs

    def _judge(self, inputs: GateInputs, reports: Mapping[str, Path], folder: Path) -> Judged:
        settings = self.folder.with_name(f"{self.folder.name}.ini")
        settings.write_text("[pytest]\n", encoding="utf-8")
        return judge(self.python, inputs, reports, folder=folder, settings=settings, stream=self.stream)

    def _reports(self) -> dict[str, Path]:
        """Return where the reports go: where the workflow says, else the folder of the Action."""
        places = report_places(self.inputs, self.runner.workspace)
        return {
            kind: places.get(kind, self.folder / f"report{SUFFIXES[kind]}") for kind in known_report_types(self.python)
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


def _joined(some: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*some, *more]))


def _relative(path: str, workspace: Path) -> str:
    """Return a path that is not a pattern without the workspace before it, by whatever name it calls that."""
    if not path:
        return ""
    place = inside(path, workspace) if Path(path).is_absolute() else None
    return os.path.normpath(path if place is None else place)


def _inside(path: str, workspace: Path) -> str:
    """Return a path without the workspace before it; a pattern stays one."""
    return path.removeprefix(f"{workspace}{os.sep}") if workspace.is_absolute() else path


def _with_baseline(run: Judged, revision: str) -> Judged:
    """Return an error in place of a run that was to compare with the merge base and compared with nothing."""
    if run.result is None or all(run.result.baselines):
        return run
    trouble = f"baseline: merge-base, but the ww.yaml at the merge base {revision[:12]} names no baseline for a model"
    return replace(run, outcome="error", is_success=False, trouble=trouble)
