"""Where a trial is told: files in one folder, outputs, the job summary and annotations."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from action.annotations import annotations_of
from action.commands import append_outputs, append_summary
from action.document import DEFAULT_KEY, write_comment, write_summary
from action.running import CONFIG_NAME, SUFFIXES
from action.trial import BASE, OWN
from action.verdict import FAILURE, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import TextIO

    from action.inputs import GateInputs
    from action.runner import Runner
    from action.trial import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is told, of what run, and in which folder.

    Attributes
    ----------
    trial : Trial
        All that was judged.
    inputs : GateInputs or None
        What was asked for; None where that could not be understood, and then there is no comment.
    runner : Runner
        The run of the workflow.
    folder : Path
        Holds everything that is uploaded.
    """

    trial: Trial
    inputs: GateInputs | None
    runner: Runner
    folder: Path

    def publish(self, environ: Mapping[str, str], stream: TextIO) -> None:
        """Write files, annotations, outputs and the summary."""
        key = self.inputs.comment_key if self.inputs is not None else DEFAULT_KEY
        summary = write_summary(self.trial, self.runner, key)
        files = {"summary-file": self._write("summary.md", summary)}
        if self.inputs is not None:
            comment = write_comment(self.trial, self.runner, key, self.inputs.comment_mode)
            files["comment-file"] = self._write("comment.md", comment)
        config = (self.inputs.config if self.inputs is not None else "") or CONFIG_NAME
        for annotation in annotations_of(self.trial, config):
            stream.write(annotation.format())
        self._collect()
        append_outputs(environ["GITHUB_OUTPUT"], self._outputs(files))
        append_summary(environ["GITHUB_STEP_SUMMARY"], summary)

    @property
    def reports(self) -> Mapping[str, Path]:
        """The reports of the run by the files of the commit, or else of the only one."""
        return (self.trial.runs.get(OWN) or self.trial.runs[BASE]).reports

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8", newline="\n")
        return path

    def _collect(self) -> None:
        """Copy reports that the workflow wants elsewhere, so that one folder holds all that is uploaded."""
        for kind, path in self.reports.items():
            if path.parent != self.folder:
                shutil.copyfile(path, self.folder / f"report{SUFFIXES[kind]}")

    def _outputs(self, files: Mapping[str, Path]) -> dict[str, str]:
        result = self.trial.deciding.result
        counts = result.counts if result is not None else {}
        return {
            "outcome": self.trial.deciding.outcome,
            "conclusion": SUCCESS if self.trial.is_success else FAILURE,
            "failed": str(result.n_failed if result is not None else 0),
            "warned": str(counts.get("warn", 0)),
            "inconclusive": str(counts.get("inconclusive", 0)),
            "config-changed": "true" if self.trial.edited else "false",
            "folder": str(self.folder),
            **{f"report-{kind}": str(self.reports.get(kind, "")) for kind in SUFFIXES},
            **{name: str(files.get(name, "")) for name in ("summary-file", "comment-file")},
        }
