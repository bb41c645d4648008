"""The pytest plugin: hooks, each of which delegates. Importing this module imports nothing heavy.

What a session needs beyond that begins when a model is asked for or a ww.yaml is collected: then a
:class:`~pytest_weightwatcher.session.GateSession` is made and its hooks are registered.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_weightwatcher.options import CONFIG_NAME, add_options, is_active, needs_a_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_weightwatcher.session import GateSession

pytest_plugins = ("pytest_weightwatcher.fixtures",)

PAYLOAD_ATTRIBUTE = "ww"
USAGE_ERROR_ATTRIBUTE = "ww_usage_error"
"""Attributes of a report; xdist carries them to the session that writes the results."""

_GATE_KEY = pytest.StashKey["GateSession"]()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_weightwatcher import hookspec

    pluginmanager.add_hookspecs(hookspec)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "ww: checks of neural-network checkpoints (pytest-weightwatcher); on a test of your own, "
        "ww(model=, baseline=, profile=, seed=, config=) says what its ww_ fixtures are about",
    )
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_ReportWatch(config), "ww-report-watch")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    if is_active(config):
        with usage_errors():
            gate = gate_of(config)
            gate.plan_main()
        gate.choose_arguments(config)
    elif needs_a_model(config) and not _names_a_config(config):
        raise pytest.UsageError(
            "a --ww-... option was given, but no model: add --ww-model PATH, or a ww.yaml with models"
        )


def _names_a_config(config: pytest.Config) -> bool:
    """Tell whether an argument is a ww.yaml, a node in one, or a folder with one."""
    paths = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    return any(path.name == CONFIG_NAME or (path / CONFIG_NAME).exists() for path in paths)


@pytest.hookimpl(tryfirst=True)
def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect no package on the way to a ww.yaml: pytest would import its ``__init__.py``, which no check needs.

    Where the arguments name anything but checks, tests may lie in the folder, and pytest does as it does.
    """
    return pytest.Dir.from_parent(parent, path=path) if _names_only_configs(parent.config) else None


def _names_only_configs(config: pytest.Config) -> bool:
    main = config.stash[_GATE_KEY].main_path if _GATE_KEY in config.stash else None
    paths = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    return bool(paths) and all((path.name == CONFIG_NAME or path == main) and not path.is_dir() for path in paths)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    config = parent.config
    is_named = _GATE_KEY in config.stash and file_path == config.stash[_GATE_KEY].main_path
    if file_path.name != CONFIG_NAME and not is_named:
        return None
    from pytest_weightwatcher.collection import ConfigFile

    with usage_errors():
        gate = gate_of(config)
    return ConfigFile.make(parent, file_path, gate)


def gate_of(config: pytest.Config) -> GateSession:
    """Return the gate of this session, made when first asked for."""
    if _GATE_KEY not in config.stash:
        from pytest_weightwatcher.hooks import GateHooks
        from pytest_weightwatcher.session import GateSession
        from pytest_weightwatcher.settings import read_options

        gate = GateSession(config, read_options(config))
        config.stash[_GATE_KEY] = gate
        config.pluginmanager.register(GateHooks(gate), "ww-gate")
    return config.stash[_GATE_KEY]


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn errors of the user's input into ``pytest.UsageError``: one sentence, exit code 4."""
    from pytest_weightwatcher.core import require_spectral_core
    from pytest_weightwatcher.errors import GateError
    from pytest_weightwatcher.nodeids import printable

    try:
        require_spectral_core()
    except GateError as error:
        raise pytest.UsageError(printable(str(error))) from error
    from spectral.errors import SpectralError

    try:
        yield
    except (GateError, SpectralError) as error:
        # Names of files and layers are not trusted: a line break and ::error:: would be a command to a CI service.
        raise pytest.UsageError(printable(str(error))) from error


class _ReportWatch:
    """Brings what items reported, from this process or an xdist worker, to the gate of this session."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        payload: dict[str, Any] | None = getattr(report, PAYLOAD_ATTRIBUTE, None)
        if payload is not None:
            gate_of(self._config).receive(payload)
        elif report.failed and f"{CONFIG_NAME}::" in report.nodeid:
            # A worker that died, or an error outside our own judgement: no verdict, and no pass either.
            gate_of(self._config).lose(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if getattr(report, USAGE_ERROR_ATTRIBUTE, False):
            gate_of(self._config).had_usage_error = True
