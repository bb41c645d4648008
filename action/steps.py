"""The steps by name, and what a mistake of the workflow looks like in the log."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from action.commands import format_command
from action.comment import post_comment
from action.gate import run_gate
from action.inputs import ActionError
from action.install import install
from action.verdict import give_verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TextIO

STEPS: dict[str, Callable[[Mapping[str, str], TextIO], int]] = {
    "install": install,
    "gate": run_gate,
    "comment": post_comment,
    "verdict": give_verdict,
}


def main(arguments: Sequence[str]) -> int:
    """Carry out one step.

    Parameters
    ----------
    arguments : sequence of str
        The name of the step.

    Returns
    -------
    int
        The exit code of the step.
    """
    # A layer's name may hold what the runner's locale cannot write.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]  # a real stream
    try:
        return STEPS[arguments[0]](os.environ, sys.stdout)
    except ActionError as error:
        sys.stdout.write(format_command("error", str(error), title="ww-gate"))
        return 1
