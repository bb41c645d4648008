"""Find and load the Jinja2 templates, inside the installed package or in a checkout."""

from __future__ import annotations

from pathlib import Path

import jinja2


def templates_folder() -> Path:
    """Return the folder of the templates.

    Raises
    ------
    FileNotFoundError
        The installation is incomplete.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "templates", package.parent / "templates"):
        if (folder / "report.md.jinja").is_file():
            return folder
    raise FileNotFoundError(f"the report templates are missing beside {package}: reinstall pytest-weightwatcher")


def make_environment() -> jinja2.Environment:
    """Return a Jinja2 environment that escapes HTML everywhere and refuses undefined names."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_folder()),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
