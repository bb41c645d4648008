"""The step that installs this very checkout, so that the version of the Action is the version of the gate."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from action.commands import append_outputs
from action.inputs import ActionError
from action.programs import find_program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

LOCK = Path(__file__).resolve().with_name("requirements.txt")
"""Every package that the gate needs, and what builds it, with versions and hashes for all platforms."""

_EXTRAS = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*(?:,[A-Za-z0-9][A-Za-z0-9._-]*)*)?")


def install(environ: Mapping[str, str], stream: TextIO) -> int:
    """Make an environment in the runner's temporary folder and write the output ``python``.

    Parameters
    ----------
    environ : mapping of str to str
        ``WW_PYTHON``, ``WW_INSTALL`` and ``WW_EXTRAS``, and the runner's own variables.
    stream : text stream
        The log.

    Raises
    ------
    ActionError
        The inputs are wrong, or there is no such Python.
    """
    python = find_program(environ.get("WW_PYTHON") or "python3")
    if python is None:
        raise ActionError("python: not found; put actions/setup-python before")
    wish = environ.get("WW_INSTALL", "true")
    if wish not in ("true", "false"):
        raise ActionError(f"install: expected true or false, got {wish!r}")
    if wish == "true":
        python = _installed(python, environ, stream)
    append_outputs(environ["GITHUB_OUTPUT"], {"python": python})
    return 0


def requirement(checkout: Path, extras: str) -> str:
    """Return what pip is told to install: a folder, with extras.

    Raises
    ------
    ActionError
        The extras are no list of names.
    """
    wanted = "".join(extras.split())
    if not _EXTRAS.fullmatch(wanted):
        raise ActionError(f"extras: expected names with commas between, such as torch,plots; got {extras!r}")
    return f"{checkout}[{wanted}]" if wanted else str(checkout)


def _installed(python: str, environ: Mapping[str, str], stream: TextIO) -> str:
    """Return the interpreter of an environment with the package; a second use in a job finds that of the first."""
    checkout = Path(__file__).resolve().parent.parent
    wanted = requirement(checkout, environ.get("WW_EXTRAS", ""))
    name = hashlib.sha256(f"{python}\n{wanted}".encode()).hexdigest()[:16]
    folder = Path(environ["RUNNER_TEMP"]) / f"ww-gate-venv-{name}"
    inner = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    done = folder / "ww-gate-installed"
    if not done.exists():
        stream.write("Installing the gate from the checkout of the Action\n")
        stream.flush()
        _call([python, "-I", "-m", "venv", "--clear", str(folder)], "the environment could not be made")
        pip = [inner, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        # By hash, and nothing is built but the gate itself, by what was installed by hash.
        locked = ["--require-hashes", "--only-binary=:all:", "--requirement", str(LOCK)]
        _call([*pip, *locked], "what the gate needs could not be installed")
        _call([*pip, "--no-deps", "--no-build-isolation", str(checkout)], "the gate could not be installed")
        if wanted != str(checkout):
            _call([*pip, "--no-build-isolation", wanted], "the extras could not be installed")
        done.touch()
    return inner


def _call(command: Sequence[str], trouble: str) -> None:
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)  # noqa: S603 (a list, and no shell)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ActionError(f"{trouble}: see the log above") from error
