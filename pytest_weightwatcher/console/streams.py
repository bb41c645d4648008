"""Where a result goes: a terminal, a pipe, or a file that is written whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pytest_weightwatcher.console.progress import can_redraw
from pytest_weightwatcher.console.rendering import render_csv, render_json, render_markdown
from pytest_weightwatcher.console.text import render_text
from pytest_weightwatcher.errors import ReportError
from pytest_weightwatcher.files import is_inside, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_weightwatcher.console.document import Document

_RENDERERS = {"csv": render_csv, "json": render_json, "md": render_markdown}


def check_output(output: str, models: Iterable[str]) -> None:
    """Refuse, before anything is computed, to write where no result can go.

    Raises
    ------
    ReportError
        The path is a folder or impossible, or a file that one of the models consists of.
    """
    from pytest_weightwatcher.report.targets import check_target
    from pytest_weightwatcher.settings import ReportTarget
    from spectral.loaders.remote import is_url

    target = Path(output)
    inputs = [file for model in models if not is_url(model) for file in _files_of(Path(model), target)]
    check_target(ReportTarget(type="console", path=target), inputs)


def write_document(document: Document, *, kind: str, output: str | None) -> None:
    """Render a document and write it to a file, or to the standard output.

    Raises
    ------
    ReportError
        The file, or what the standard output leads to, cannot be written.
    """
    stream = sys.stdout
    if output is None:
        is_terminal = kind == "table" and can_redraw(stream)
        width = shutil.get_terminal_size().columns if kind == "table" and _has_width(stream) else None
        _write(stream, _rendered(document, kind, width=width, colour=is_terminal and _wants_colour()))
        return
    try:
        write_atomically(Path(output), _rendered(document, kind, width=None, colour=False))
    except OSError as error:
        raise ReportError(f"{output}: cannot be written: {error.strerror or error}") from error


def write_text(text: str) -> None:
    """Write a text to the standard output.

    Raises
    ------
    ReportError
        It is closed, or what it leads to cannot be written.
    """
    _write(sys.stdout, text)


def _rendered(document: Document, kind: str, *, width: int | None, colour: bool) -> str:
    if kind == "table":
        return render_text(document, width=width, colour=colour)
    return _RENDERERS[kind](document)


def _has_width(stream: TextIO | None) -> bool:
    """Tell whether lines end somewhere: on a terminal, or where COLUMNS says so."""
    return os.environ.get("COLUMNS", "").isdecimal() or (stream is not None and stream.isatty())


def _wants_colour() -> bool:
    # https://no-color.org: any value but an empty one.
    return os.name == "posix" and not os.environ.get("NO_COLOR")


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        raise ReportError("the standard output is closed")
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ReportError(f"the standard output cannot be written: {error.strerror or error}") from error


def _files_of(model: Path, target: Path) -> Iterator[Path]:
    """Yield the files that a model consists of: in a folder all weights, and what configures or indexes them."""
    if not model.is_dir():
        yield from [model] if model.exists() else []
        return
    yield from (path for path in sorted(model.iterdir()) if path.is_file() and _is_part(path))
    if target.is_file() and is_inside(target, model) and _is_part(target):
        yield target


def _is_part(path: Path) -> bool:
    from spectral.loaders.folder import WEIGHT_SUFFIXES

    return path.suffix.lower() in WEIGHT_SUFFIXES or path.name.endswith((".index.json", "config.json"))
