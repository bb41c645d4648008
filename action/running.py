"""One run of pytest: its arguments as a list, its output to the log where it cannot give orders."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from action.commands import printable, stopped_commands
from action.inputs import ActionError
from action.results import Result, explain_exit, is_success, outcome_of, read_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import TextIO

    from action.inputs import GateInputs

CONFIG_NAME = "ww.yaml"
SUFFIXES = {"json": ".json", "md": ".md", "html": ".html"}
_TAIL = 64 * 1024
_HIDDEN = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY")
_WORKERS = ("xdist", "xdist.plugin", "xdist.looponfail", "looponfail")
_FOREIGN = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")
_PLUGIN = "ww"
"""The entry point of the gate. Others that are installed stay out: some put the workspace on sys.path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One run and what it came to.

    Attributes
    ----------
    outcome : str
        ``pass``, ``warn``, ``fail``, ``inconclusive`` or ``error``.
    is_success : bool
        Whether the job may pass.
    result : Result or None
        What was found, where there is a result.
    trouble : str
        Why there is none.
    reports : dict of str to Path
        Type of report -> the file, where it was written.
    """

    outcome: str
    is_success: bool
    result: Result | None
    trouble: str
    reports: Mapping[str, Path]


def failed_to_judge(trouble: str) -> Judged:
    """Return the record of a run that never was."""
    return Judged(outcome="error", is_success=False, result=None, trouble=trouble, reports={})


def known_report_types(python: str) -> tuple[str, ...]:
    """Return the types of report that the installed plugin writes.

    Parameters
    ----------
    python : str
        The interpreter that has the plugin.
    """
    question = "from pytest_weightwatcher.options import REPORT_TYPES; print(*REPORT_TYPES)"
    answer = subprocess.run(  # noqa: S603 (a list, and no shell)
        [python, "-I", "-c", question], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return tuple(kind for kind in answer.stdout.split() if kind in SUFFIXES) or ("json", "md")


def pytest_arguments(inputs: GateInputs, reports: Mapping[str, Path], settings: Path) -> list[str]:
    """Return the arguments of pytest.

    Each value stands behind its option's equals sign, so that none can be read as an option. Settings and conftest.py
    of the repository are not read: a pull request could switch the gate off in them.
    """
    # Without a model or a ww.yaml by name pytest would collect the workspace, and import what a pull request put there.
    config = inputs.config or ("" if inputs.models else CONFIG_NAME)
    given = {"config": config, "baseline": inputs.baseline_path, "profile": inputs.profile}
    return [
        "-c",
        str(settings),
        "--rootdir=.",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-p",
        _PLUGIN,
        "--color=no",
        *(f"--ww-model={model}" for model in inputs.models),
        *(f"--ww-{name}={value}" for name, value in given.items() if value),
        *([f"--ww-fail-on={inputs.fail_on}"] if inputs.fail_on else []),
        *(f"--ww-report={kind}:{path}" for kind, path in reports.items()),
        *inputs.args,
        # Last, so that nothing before it brings them back. Workers are started without -I, in the workspace.
        *(part for name in _WORKERS for part in ("-p", f"no:{name}")),
    ]


def judge(
    python: str, inputs: GateInputs, reports: Mapping[str, Path], *, folder: Path, settings: Path, stream: TextIO
) -> Judged:
    """Run the gate in a folder and return what it came to.

    Parameters
    ----------
    python : str
        The interpreter that has the plugin.
    inputs : GateInputs
        What is asked for.
    reports : dict of str to Path
        Type of report -> where it goes; ``json`` is among them.
    folder, settings : Path
        Where the run takes place, and the pytest settings of the Action.
    stream : text stream
        The log.
    """
    for path in reports.values():
        path.unlink(missing_ok=True)  # What an earlier run left is no result of this one.
    command = [python, "-I", "-m", "pytest", *pytest_arguments(inputs, reports, settings)]
    exit_code, output = _run(command, folder, stream)
    result = read_result(reports["json"])
    outcome = outcome_of(exit_code, result)
    return Judged(
        outcome=outcome,
        is_success=is_success(exit_code, outcome),
        result=result,
        trouble=explain_exit(exit_code, output) if outcome == "error" else "",
        reports={kind: path for kind, path in reports.items() if path.is_file()},
    )


def _run(command: Sequence[str], folder: Path, stream: TextIO) -> tuple[int, str]:
    """Print the output of a command as it comes; return its exit code and the end of the output."""
    environ = {name: value for name, value in os.environ.items() if name not in (*_HIDDEN, *_FOREIGN)}
    environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    tail = ""
    with stopped_commands(stream):
        try:
            process = subprocess.Popen(  # noqa: S603 (a list, and no shell)
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise ActionError(f"pytest could not be started: {error.strerror}") from error
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                shown = printable(line)
                stream.write(shown)
                tail = (tail + shown)[-_TAIL:]
    return process.returncode, tail
