"""Fixtures for users' own tests. The core is imported when a test asks for one.

They belong to one test, since its marker may change what they are; what is expensive is kept for the session.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_weightwatcher.marks import MARKER, names_a_model, read_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

    from pytest_weightwatcher.accepted import AcceptedState
    from pytest_weightwatcher.config import Config
    from pytest_weightwatcher.fixture_values import FixtureValues
    from spectral.analysis import Analysis

_POSITION = "_ww_position"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that use a model of the command line once for each model, where there are several."""
    if _POSITION in metafunc.fixturenames and not names_a_model(metafunc.definition):
        names = _checkpoint_names(metafunc.config)
        if len(names) > 1:
            metafunc.parametrize(_POSITION, range(len(names)), ids=names, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker with a slip in it, also where no fixture would have read it."""
    if any(marker.args or marker.kwargs for marker in item.iter_markers(MARKER)):
        with _clear_failures():
            read_mark(item)


def _checkpoint_names(config: pytest.Config) -> list[str]:
    from pytest_weightwatcher.nodeids import escape_name
    from pytest_weightwatcher.plugin import gate_of, usage_errors

    gate = gate_of(config)
    try:
        with usage_errors():
            return [escape_name(model.name) for model in gate.models_of(gate.main_path)]
    except pytest.UsageError as error:
        problem = str(error)
    # Of a file that cannot be used the sentence is all there is to say; what led to it is our own code.
    gate.had_usage_error = True
    raise pytest.Collector.CollectError(problem)


@pytest.fixture(scope="session", name="_ww_values")
def _ww_values(request: pytest.FixtureRequest) -> FixtureValues:
    """Return what finds models, baselines and limits (internal to the plugin)."""
    from pytest_weightwatcher.plugin import gate_of, usage_errors

    with usage_errors():
        gate = gate_of(request.config)
    from pytest_weightwatcher.fixture_values import FixtureValues

    return FixtureValues(gate)


@pytest.fixture(scope="session", name=_POSITION)
def _ww_position(request: pytest.FixtureRequest) -> int:
    """Return which model of the run this test runs for (internal to the plugin)."""
    return int(getattr(request, "param", 0))


@pytest.fixture
def ww_model(request: pytest.FixtureRequest, _ww_values: FixtureValues, _ww_position: int) -> Any:
    """Return the path of the model under test; override it to return a module, a state dict or arrays."""
    with _clear_failures():
        return _ww_values.model(read_mark(request.node), _ww_position)


@pytest.fixture
def ww_config(request: pytest.FixtureRequest, _ww_values: FixtureValues) -> Config:
    """Return the limits in force: those of ww.yaml, or the built-in ones; profile and seed as the options have them."""
    with _clear_failures():
        return _ww_values.config(read_mark(request.node))


@pytest.fixture
def ww_baseline(request: pytest.FixtureRequest, _ww_values: FixtureValues, ww_model: Any) -> AcceptedState:
    """Return the accepted state of ``ww_model``, for ``assert_no_regression(ww_model, ww_baseline)``."""
    with _clear_failures():
        accepted = _ww_values.baseline(read_mark(request.node), ww_model)
    if accepted is None:
        pytest.skip("the run records the baseline, so that there is none to compare with")
    return accepted


@pytest.fixture
def ww_analysis(request: pytest.FixtureRequest, _ww_values: FixtureValues, ww_model: Any) -> Analysis:
    """Return the analysis of ``ww_model`` with the options of ww.yaml; shared with the gate's own checks."""
    with _clear_failures():
        return _ww_values.analysis(read_mark(request.node), ww_model)


@pytest.fixture
def ww_details(ww_analysis: Analysis) -> pd.DataFrame:
    """Return one row per matrix of ``ww_model``, with every metric."""
    return ww_analysis.details


@pytest.fixture
def ww_summary(ww_analysis: Analysis) -> dict[str, float]:
    """Return the means of the metrics over the layers of ``ww_model``."""
    return ww_analysis.summary


@pytest.fixture(scope="session")
def ww_analyze(_ww_values: FixtureValues) -> Callable[..., Analysis]:
    """Return ``ww_analyze(model, **options)``: ``spectral.analyze`` with the options of ww.yaml, remembered.

    Options given go before those of ww.yaml. Equal calls are computed once in a session. It is one for all tests, so
    that fixtures of any scope can use it, and knows nothing of markers.
    """
    from pytest_weightwatcher.marks import Mark
    from pytest_weightwatcher.planning import gate_options

    with _clear_failures():
        defaults = gate_options(_ww_values.config(Mark()))

    def ww_analyze(model: object, *, base_model: object = None, peft: Any = None, **options: Any) -> Analysis:
        return _ww_values.analyses.analyze(model, defaults.changed(options), base_model=base_model, peft=peft)

    return ww_analyze


@contextmanager
def _clear_failures() -> Iterator[None]:
    """Turn errors of the user's input into a failure of one sentence, without a traceback through the plugin."""
    from pytest_weightwatcher.errors import GateError
    from spectral.errors import SpectralError

    try:
        yield
    except (GateError, SpectralError) as error:
        # What led to it is told in the sentence, not as an exception of its own.
        raise pytest.fail.Exception(_printable(error), pytrace=False) from None


def _printable(error: Exception) -> str:
    from pytest_weightwatcher.nodeids import printable

    return printable(str(error))
