"""``ww-gate``: from a command line to an exit code. Everything heavy is imported when it is used."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pytest_weightwatcher.console.parser import PROGRAM, TEXT_COMMANDS, USAGE_ERROR, parse_arguments
from pytest_weightwatcher.core import require_spectral_core
from pytest_weightwatcher.errors import GateError
from pytest_weightwatcher.nodeids import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pytest_weightwatcher.console.document import Document

INTERRUPTED = 130
BROKEN_PIPE = 141
"""What a shell reports for a program that SIGINT, or SIGPIPE, has ended: 128 and the signal's number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Without the program's name; default that of the process.

    Returns
    -------
    int
        0 done, 1 a check failed or 5 nothing was checked (both of ``check``), 4 the input cannot be used as asked
        (one sentence on stderr), 130 interrupted.
    """
    try:
        return _run(argv)
    except SystemExit as end:  # argparse ends --help, --version and errors so.
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return BROKEN_PIPE


def _run(argv: Sequence[str] | None) -> int:
    try:
        require_spectral_core()
    except GateError as error:
        return _refuse(error)
    arguments = parse_arguments(argv)
    from spectral.errors import SpectralError

    try:
        return _execute(arguments)
    except BrokenPipeError:
        raise
    except (GateError, SpectralError, OSError) as error:
        return _refuse(error)


def _execute(arguments: argparse.Namespace) -> int:
    from pytest_weightwatcher.console.streams import check_output, write_document, write_text

    _hide_signatures(arguments)
    if arguments.command == "check":
        from pytest_weightwatcher.console.check import check_models

        text, exit_code = check_models(arguments)
        write_text(text)
        return exit_code
    if arguments.command in TEXT_COMMANDS:
        write_text(_text(arguments))
        return 0
    if arguments.output is not None:
        check_output(arguments.output, _inputs(arguments))
    document = _document(arguments)
    write_document(document, kind=arguments.format, output=arguments.output)
    if arguments.format == "csv":
        for section in document.sections:
            if section.warning:
                _say(f"{section.model}: {section.warning}")
    return 0


def _hide_signatures(arguments: argparse.Namespace) -> None:
    """Have the signatures of URLs in no output of a command."""
    from spectral.loaders.locations import hide_signature

    for name in ("models", "model", "base", "base_model", "baseline"):
        given = getattr(arguments, name, None)
        if isinstance(given, str):
            setattr(arguments, name, hide_signature(given))
        elif given is not None:
            setattr(arguments, name, [hide_signature(each) for each in given])


def _text(arguments: argparse.Namespace) -> str:
    """Carry out a command whose result is plain text."""
    if arguments.command == "schema":
        from pytest_weightwatcher.console.schema import schema_text

        return schema_text(arguments)
    if arguments.command == "explain":
        from pytest_weightwatcher.console.explain import explain_result

        return explain_result(arguments)
    if arguments.command == "report":
        from pytest_weightwatcher.console.report import report_results

        return report_results(arguments)
    from pytest_weightwatcher.console.init import init_config
    from pytest_weightwatcher.console.progress import progress_line
    from pytest_weightwatcher.console.streams import check_output

    check_output(arguments.output, [arguments.model])
    with progress_line(sys.stderr) as line:
        return init_config(arguments, line)


def _document(arguments: argparse.Namespace) -> Document:
    from pytest_weightwatcher.console.progress import progress_line

    if arguments.command == "describe":
        from pytest_weightwatcher.console.describe import describe_models

        return describe_models(arguments)
    with progress_line(sys.stderr) as line:
        if arguments.command == "analyze":
            from pytest_weightwatcher.console.analyze import analyze_models

            return analyze_models(arguments, line)
        if arguments.command == "calibrate":
            from pytest_weightwatcher.console.calibrate import calibrate

            return calibrate(arguments, line)
        from pytest_weightwatcher.console.compare import compare_with_base

        return compare_with_base(arguments, line)


def _inputs(arguments: argparse.Namespace) -> list[str]:
    bases = [getattr(arguments, name, None) for name in ("base", "base_model", "baseline")]
    return [*arguments.models, *(base for base in bases if base is not None)]


def _refuse(error: Exception) -> int:
    # Names of files and layers are not trusted: a line break in one must not make a second line.
    _say(f"error: {printable(str(error))}")
    return USAGE_ERROR


def _say(text: str) -> None:
    if sys.stderr is None:
        return
    encoding = sys.stderr.encoding or "ascii"
    line = printable(f"{PROGRAM}: {text}").encode(encoding, "backslashreplace").decode(encoding)
    print(line, file=sys.stderr)  # noqa: T201 (a program's own message)


def _forget_stdout() -> None:
    """Let the interpreter's last flush of a closed pipe go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
