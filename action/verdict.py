"""The last step: one exit code, after everything else was said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from action.commands import format_command

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

SUCCESS = "success"
FAILURE = "failure"


def give_verdict(environ: Mapping[str, str], stream: TextIO) -> int:
    """Return 0 only where the gate said in so many words that it succeeded.

    Parameters
    ----------
    environ : mapping of str to str
        ``WW_CONCLUSION`` and ``WW_OUTCOME``, both empty where an earlier step broke.
    stream : text stream
        The log.
    """
    outcome = environ.get("WW_OUTCOME") or "error"
    if environ.get("WW_CONCLUSION") == SUCCESS:
        stream.write(f"outcome: {outcome}\n")
        return 0
    stream.write(format_command("error", f"outcome: {outcome}; see the job summary", title="Checkpoint gate"))
    return 1
