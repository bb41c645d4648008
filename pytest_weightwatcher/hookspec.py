"""The hooks that other plugins, and conftest files, may implement. A worked example is in docs/plugins.md.

Implement them in an installed plugin (entry point ``pytest11``), one named by ``-p``, or a ``conftest.py`` that pytest
reads before it collects: that of the rootdir, of the folder pytest is started in, or above. All four are asked for once
a session, when the gate begins: hooks in a conftest.py further down come too late. Mark them
``@pytest.hookimpl(optionalhook=True)``, so that ``-p no:ww`` does not find hooks that nobody knows.

With pytest-xdist the controller and every worker ask them, each for itself; all must get the same answers. Every plugin
is asked on its own, the last registered first, and errors name it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any

    from pytest_weightwatcher.plugins import LayerCheck, Metric, Section, TensorSource


@pytest.hookspec(firstresult=True)
def pytest_ww_load_model(path: Path) -> TensorSource | Mapping[str, Any] | None:
    """Open a checkpoint of a format that the gate does not know, by its headers.

    Called for every model and every baseline that is a checkpoint, when a run is planned, in the controller and in each
    worker of xdist. What it gives is used from several threads at once.

    Parameters
    ----------
    path : Path
        An existing file or folder.

    Returns
    -------
    TensorSource, mapping of str to ndarray, or None
        Names, shapes and types of all tensors and a way to load one of them (see
        :class:`pytest_weightwatcher.plugins.TensorSource`); or all tensors in memory; or None for what belongs to
        others: another plugin, then the gate, opens it.

    Raises
    ------
    Exception
        Ends the run with exit code 4 and a sentence that names the plugin and the file. One raised later, by ``load``,
        is the verdict ``error`` of the checks that needed the tensor.
    """


@pytest.hookspec
def pytest_ww_metrics() -> Iterable[Metric]:  # type: ignore[empty-body]  # a specification
    """Return metrics to compute of every weight matrix, beside those of the gate.

    Called once, when the gate begins, in the controller and in each worker of xdist. The metrics may have limits under
    ``checks``, ``regression`` and ``overrides`` of ww.yaml, are part of reports and baselines, and are not computed
    again of matrices that a baseline knows, where it was recorded with the same versions of the same metrics.

    Returns
    -------
    iterable of Metric
        With names that neither the gate nor another plugin has.

    Raises
    ------
    Exception
        Ends the run with exit code 4. One raised by a metric's function, and a value that is no finite number, is the
        verdict ``error`` of the checks of this metric, and nothing is recorded.
    """


@pytest.hookspec
def pytest_ww_checks() -> Iterable[LayerCheck]:  # type: ignore[empty-body]  # a specification
    """Return checks to make of every weight matrix, beside those of the gate.

    Called once, when the gate begins, in the controller and in each worker of xdist. Each check is one pytest item per
    matrix; its findings obey waivers, policy and ``--ww-fail-on``. ``checks: {name: false}`` in ww.yaml, or under
    ``overrides``, switches it off, ``{severity: warn}`` lets it only warn.

    Returns
    -------
    iterable of LayerCheck
        With names that neither the gate nor another plugin has.

    Raises
    ------
    Exception
        Ends the run with exit code 4. One raised by a check's function is the verdict ``error``.
    """


@pytest.hookspec
def pytest_ww_report_section(result: dict[str, Any]) -> Section | None:
    """Return a section to append to the Markdown report and to ``sections`` of the result file.

    Called once, at the end of the run, in the controller only.

    Parameters
    ----------
    result : dict
        The result as docs/reports.md has it; a copy of the plugin's own.

    Returns
    -------
    Section or None
        None for no section.

    Raises
    ------
    Exception
        A problem named at the end of the run, with exit code 4; all else is reported as without the section.
    """
