"""What JUnit's XML says of the run as a whole: properties of the test suite, beside those of each check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_weightwatcher.report.names import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pytest


def suite_properties(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of a run: name -> text on one line; several models are separated by commas.

    Parameters
    ----------
    result : mapping
        The result of a run; it is not changed.
    """
    models = result["models"]
    found = {
        "ww_tool": result["tool"]["name"],
        "ww_version": result["tool"]["version"],
        "ww_models": _listed(model["path"] for model in models),
        "ww_baseline": _listed(model["baseline"] for model in models),
        "ww_profile": _listed(model["profile"] for model in models),
        "ww_outcome": result["outcome"],
    }
    return {name: shortened(text) for name, text in found.items() if text}


def add_suite_properties(config: pytest.Config, result: Mapping[str, Any]) -> None:
    """Add the facts of a run to the XML that ``--junitxml`` writes; without that option do nothing."""
    plugin = config.pluginmanager.getplugin("junitxml")
    # What the fixture record_testsuite_property does; it is for tests, and we are none.
    xml = None if plugin is None else config.stash.get(plugin.xml_key, None)
    if xml is not None:
        for name, text in suite_properties(result).items():
            xml.add_global_property(name, text)


def _listed(names: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(shortened(name) for name in names if name is not None))
