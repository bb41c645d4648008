"""Workflow commands, outputs and the summary: what a step says to the runner.

A line that begins with ``::`` is an order to the runner. What is written here is escaped, so that names from a pull
request stay text; what others write is printed between ``::stop-commands::`` and its token.
"""

from __future__ import annotations

import re
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TextIO

MAX_MESSAGE = 3000
"""Characters of a message: GitHub cuts at 4,096."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def printable(text: str) -> str:
    """Return text without terminal sequences, with every other control character but line breaks written out."""
    return "".join(
        character
        if character.isprintable() or character == "\n"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in _ANSI.sub("", text)
    )


def escape_message(text: str) -> str:
    """Return a message that cannot end its line, nor be read as an escape."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """Return the value of a property that cannot end itself either."""
    return escape_message(text).replace(":", "%3A").replace(",", "%2C")


def format_command(name: str, message: str, **properties: str) -> str:
    """Return the line of a workflow command.

    Parameters
    ----------
    name : str
        Of the command: ``error``, ``warning``, ``notice``, ...
    message : str
        Any text; what is longer than :data:`MAX_MESSAGE` is cut.
    **properties : str
        Any texts; empty ones are left out.

    Returns
    -------
    str
        One line, with its line break.
    """
    text = printable(message)
    shown = text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 1]}…"
    given = ",".join(f"{key}={escape_property(printable(value))}" for key, value in properties.items() if value)
    return f"::{name}{' ' if given else ''}{given}::{escape_message(shown)}\n"


@contextmanager
def stopped_commands(stream: TextIO) -> Iterator[None]:
    """Print what is not trusted: no line of it is an order to the runner."""
    token = secrets.token_hex(16)
    stream.write(f"::stop-commands::{token}\n")
    stream.flush()
    try:
        yield
    finally:
        # The last line of the untrusted text may have no end.
        stream.write(f"\n::{token}::\n")
        stream.flush()


def append_outputs(path: str, outputs: Mapping[str, str]) -> None:
    """Write outputs of a step, each between delimiters that no value can guess."""
    with Path(path).open("a", encoding="utf-8", newline="\n") as stream:
        for name, value in outputs.items():
            delimiter = f"ww_{secrets.token_hex(16)}"
            stream.write(f"{name}<<{delimiter}\n{value}\n{delimiter}\n")


def append_summary(path: str, text: str) -> None:
    """Add text to the summary of a job."""
    with Path(path).open("a", encoding="utf-8", newline="\n") as stream:
        stream.write(f"{text}\n")
