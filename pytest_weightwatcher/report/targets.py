"""Where reports go. The command line is the owner's; a ww.yaml comes with a pull request and is not trusted."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_weightwatcher.errors import ReportError
from pytest_weightwatcher.files import is_inside
from pytest_weightwatcher.report.badge import LABEL
from pytest_weightwatcher.report.benchmark import PREFIX
from pytest_weightwatcher.settings import ReportTarget

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_weightwatcher.config import Config

SUFFIXES = MappingProxyType(
    {"json": ".json", "md": ".md", "html": ".html", "sarif": ".sarif", "benchmark": ".json", "badge": ".json"}
)
SIGNS = MappingProxyType(
    {
        "json": '"pytest-weightwatcher"',
        "md": "## Checkpoint gate",
        "html": 'content="pytest-weightwatcher',
        "sarif": '"pytest-weightwatcher"',
        "benchmark": f'"name": "{PREFIX}, ',
        "badge": f'"label": "{LABEL}"',
    }
)
"""Near its beginning, every report of a type has this."""

_KEYS = MappingProxyType({"markdown": "md"})
"""Key under ``report`` in ww.yaml -> type, where they differ."""

_N_CHARACTERS = 2000


def check_target(target: ReportTarget, inputs: Iterable[Path]) -> None:
    """Refuse what can be known before the run to be no place for a report.

    Parameters
    ----------
    target : ReportTarget
        Where a report is to go.
    inputs : iterable of Path
        What the run reads, all existing.

    Raises
    ------
    ReportError
        The path is a folder, leads through something that is no folder, is impossible, or is an input.
    """
    try:
        if target.path.is_dir():
            raise ReportError(f"{target.path}: is a folder, expected a file for the {target.type} report")
        for parent in target.path.parents:
            if parent.exists():
                if not parent.is_dir():
                    raise ReportError(f"{target.path}: {parent} is not a folder")
                break
        in_use = next((path for path in inputs if target.path.exists() and path.samefile(target.path)), None)
    except ReportError:
        raise
    except (OSError, ValueError) as error:
        raise ReportError(f"{str(target.path)[:200]!r}: no place for a report ({error})") from error
    if in_use is not None:
        raise ReportError(
            f"{target.path}: is a model, a baseline or a configuration of this run, no place for a report"
        )


def targets_of_config(config: Config) -> tuple[ReportTarget, ...]:
    """Return the reports that a ww.yaml asks for.

    Raises
    ------
    ConfigError
        A path leads out of the folder of ww.yaml, has another suffix than its type, is named twice, or is that of a
        file which is no report: source, a model, a baseline.
    """
    if config.path is None:
        return ()
    folder = config.path.parent
    targets: list[ReportTarget] = []
    for key, name in config.report.paths().items():
        kind = _KEYS.get(key, key)
        path, where = folder / name, ("report", key)
        if not name.isprintable():
            raise config.error(where, f"{name[:100]!r} is no file name")
        if not is_inside(path, folder):
            raise config.error(where, f"{name!r} is outside the folder of ww.yaml")
        if path.suffix != SUFFIXES[kind]:
            raise config.error(where, f"{name!r} must end in {SUFFIXES[kind]}")
        if path.exists() and not _is_report(path, kind):
            raise config.error(where, f"{name!r} exists and is no report of this tool; it is not written over")
        if any(other.path == path for other in targets):
            raise config.error(where, f"{name!r} is the place of another report, too")
        targets.append(ReportTarget(type=kind, path=path))
    return tuple(targets)


def _is_report(path: Path, kind: str) -> bool:
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as stream:
        beginning = stream.read(_N_CHARACTERS)
    # A baseline names this tool, too.
    return SIGNS[kind] in beginning and '"matrices"' not in beginning
