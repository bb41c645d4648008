"""Fixtures for users' own tests. The core is imported when a test asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import pandas as pd

    from pytest_weightwatcher.config import Config
    from spectral.analysis import Analysis


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that use a model of the command line once for each model, where there are several."""
    if "ww_checkpoint" in metafunc.fixturenames:
        names = _checkpoint_names(metafunc.config)
        if len(names) > 1:
            metafunc.parametrize("ww_checkpoint", range(len(names)), ids=names, indirect=True, scope="session")


def _checkpoint_names(config: pytest.Config) -> list[str]:
    from pytest_weightwatcher.nodeids import escape_name
    from pytest_weightwatcher.plugin import gate_of, usage_errors

    with usage_errors():
        gate = gate_of(config)
        return [escape_name(model.name) for model in gate.models_of(gate.main_path)]


@pytest.fixture(scope="session")
def ww_checkpoint(request: pytest.FixtureRequest) -> Any:
    """Return the opened model of ``--ww-model`` or ww.yaml that this test runs for (internal to the plugin)."""
    from pytest_weightwatcher.plugin import gate_of, usage_errors

    with usage_errors():
        gate = gate_of(request.config)
        models = gate.models_of(gate.main_path)
    if not models:
        pytest.fail(
            "the test asks for ww_model, but no model is given: add --ww-model PATH or a ww.yaml with models, "
            "or define a fixture ww_model of your own",
            pytrace=False,
        )
    return models[getattr(request, "param", 0)]


@pytest.fixture(scope="session")
def ww_model(ww_checkpoint: Any) -> Any:
    """Return the path of the model under test; override it to return a module, a state dict or arrays."""
    return ww_checkpoint.path


@pytest.fixture(scope="session")
def ww_config(request: pytest.FixtureRequest) -> Config:
    """Return the limits in force: those of ww.yaml, or the built-in ones."""
    from pytest_weightwatcher.plugin import gate_of, usage_errors

    with usage_errors():
        gate = gate_of(request.config)
        return gate.config_of(gate.main_path)


@pytest.fixture(scope="session")
def ww_analysis(request: pytest.FixtureRequest, ww_model: Any, ww_config: Config) -> Analysis:
    """Return the analysis of ``ww_model`` with the options of ww.yaml; shared with the gate's own checks."""
    from pytest_weightwatcher.plugin import gate_of

    gate = gate_of(request.config)
    for model in gate.models:
        if isinstance(ww_model, type(model.path)) and model.path == ww_model:
            return gate.analysis(model)
    from spectral.analysis import analyze

    from pytest_weightwatcher.planning import gate_options

    return analyze(ww_model, gate_options(ww_config))


@pytest.fixture(scope="session")
def ww_details(ww_analysis: Analysis) -> pd.DataFrame:
    """Return one row per matrix of ``ww_model``, with every metric."""
    return ww_analysis.details


@pytest.fixture(scope="session")
def ww_summary(ww_analysis: Analysis) -> dict[str, float]:
    """Return the means of the metrics over the layers of ``ww_model``."""
    return ww_analysis.summary
