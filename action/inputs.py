"""What a workflow asks for: environment variables -> frozen records, with mistakes in one sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FAIL_ON = ("", "fail", "warn", "never")
PROFILES = ("", "compression", "finetune")
COMMENT_MODES = ("always", "changes", "failures", "off")
MERGE_BASE = "merge-base"
_OF_INPUTS = ("--ww-model", "--ww-config", "--ww-baseline")
_OF_WORKERS = re.compile(r"-n.*|-d|--(?:numprocesses|maxprocesses|dist|tx|looponfail)(?:=.*)?")
_OF_SETTINGS = re.compile(r"(?:-o ?|--override-ini=)?ww_(?:model|config|baseline) *=.*")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ActionError(Exception):
    """A mistake of the workflow, or of the repository it runs on: one sentence that says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateInputs:
    """What the gate is asked for.

    Attributes
    ----------
    models, args : tuple of str
        Checkpoints or shell patterns; further arguments of pytest.
    config, profile, fail_on : str
        As the options of the plugin; empty where the plugin decides.
    baseline : str
        A file or checkpoint, ``merge-base``, ``merge-base:PATH``, or empty.
    reports : dict of str to str
        Type of report -> where the workflow wants it; empty for the temporary folder.
    comment_mode, comment_key : str
        When to comment, and what tells this comment from others of the same pull request.
    """

    models: tuple[str, ...]
    config: str
    baseline: str
    profile: str
    fail_on: str
    reports: Mapping[str, str]
    comment_mode: str
    comment_key: str
    args: tuple[str, ...]

    @property
    def uses_merge_base(self) -> bool:
        """Whether only the files of the merge base judge."""
        return self.baseline == MERGE_BASE or self.baseline.startswith(f"{MERGE_BASE}:")

    @property
    def baseline_path(self) -> str:
        """The baseline as the plugin is told it; empty where ww.yaml names it, or nobody does."""
        return self.baseline.removeprefix(MERGE_BASE).removeprefix(":") if self.uses_merge_base else self.baseline


def read_gate_inputs(environ: Mapping[str, str]) -> GateInputs:
    """Return the inputs of the gate.

    Parameters
    ----------
    environ : mapping of str to str
        The environment, with a variable ``WW_...`` for each input.

    Raises
    ------
    ActionError
        An input has a value that it cannot have.
    """
    args = read_lines(environ.get("WW_ARGS", ""))
    for argument in args:
        _check_argument(argument)
    return GateInputs(
        models=read_lines(environ.get("WW_MODEL", "")),
        config=environ.get("WW_CONFIG", "").strip(),
        baseline=environ.get("WW_BASELINE", "").strip(),
        profile=_choice(environ, "profile", PROFILES),
        fail_on=_choice(environ, "fail-on", FAIL_ON),
        reports={kind: environ.get(f"WW_REPORT_{kind.upper()}", "").strip() for kind in ("json", "md", "html")},
        comment_mode=_choice(environ, "comment", COMMENT_MODES),
        comment_key=read_key(environ),
        args=args,
    )


def _check_argument(argument: str) -> None:
    option = argument.partition("=")[0][:100]
    # Who edits what these name would not be seen.
    if option in _OF_INPUTS:
        raise ActionError(f"args: {option} has an input of its own: {option.removeprefix('--ww-')}")
    if _OF_SETTINGS.fullmatch(argument):
        raise ActionError(f"args: {option} has an input of its own")
    if argument.startswith("@"):
        raise ActionError(f"args: {option}: arguments are not read from a file, which a pull request can edit")
    if _OF_WORKERS.fullmatch(argument):
        # The run refuses them in any spelling, here in a sentence.
        raise ActionError(f"args: {option}: no workers of pytest-xdist here; --ww-jobs says how many threads there are")


def read_lines(text: str) -> tuple[str, ...]:
    """Return the lines of a list that are not blank, without the blanks around them."""
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def read_key(environ: Mapping[str, str]) -> str:
    """Return the key of the comment.

    Raises
    ------
    ActionError
        It has characters that could end the hidden marker.
    """
    key = environ.get("WW_COMMENT_KEY", "")
    if not _KEY.fullmatch(key):
        raise ActionError(f"comment-key: expected 1 to 100 letters, digits, dots, hyphens or underscores, got {key!r}")
    return key


def _choice(environ: Mapping[str, str], name: str, choices: Sequence[str]) -> str:
    value = environ.get(f"WW_{name.upper().replace('-', '_')}", "").strip()
    if value not in choices:
        expected = ", ".join(choice or "nothing" for choice in choices)
        raise ActionError(f"{name}: expected one of {expected}; got {value!r}")
    return value
