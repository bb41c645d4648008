"""ww_model, ww_analysis, ww_details, ww_summary, ww_config in users' own tests."""

from __future__ import annotations

import pytest

from tests.gate.conftest import MakeModel

USES_ALL = """
    def test_mine(ww_model, ww_analysis, ww_details, ww_summary, ww_config):
        assert ww_model.name.endswith(".safetensors")
        assert len(ww_analysis.layers) == len(ww_details) == 4
        assert 2 < ww_summary["alpha"] < 6
        assert ww_config.analysis.min_evals == 50
"""


def test_fixtures_beside_the_gate(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.makepyfile(USES_ALL)
    pytester.runpytest("--ww-model=model.safetensors", ".").assert_outcomes(passed=19)


def test_once_for_each_model(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("a.safetensors")
    make_model("b.safetensors")
    pytester.makepyfile(USES_ALL)
    result = pytester.runpytest("--ww-model=a.safetensors", "--ww-model=b.safetensors", "-v", "-k", "mine", ".")
    result.assert_outcomes(passed=2, deselected=36)
    result.stdout.fnmatch_lines(["*::test_mine[[]a.safetensors[]] PASSED*", "*::test_mine[[]b.safetensors[]] PASSED*"])


def test_models_of_the_config(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.makefile(".yaml", ww="version: 1\nmodels: [{path: model.safetensors}]\n")
    pytester.makepyfile(USES_ALL)
    pytester.runpytest("-k", "mine").assert_outcomes(passed=1, deselected=18)


def test_options_of_the_config(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.makefile(".yaml", ww="version: 1\nanalysis: {min_evals: 60, exclude: [head]}\n")
    pytester.makepyfile(
        """
        def test_mine(ww_analysis, ww_config):
            assert ww_config.analysis.min_evals == 60
            assert [layer.name for layer in ww_analysis.layers] == [
                "encoder.0.key", "encoder.0.query", "encoder.1.query"
            ]
        """
    )
    pytester.runpytest("--ww-model=model.safetensors", ".", "-k", "mine").assert_outcomes(passed=1, deselected=8)


def test_own_model(pytester: pytest.Pytester) -> None:
    """A project's own ww_model, made in its conftest, feeds the other fixtures; no option is needed."""
    pytester.makeconftest(
        """
        import numpy as np
        import pytest

        @pytest.fixture(scope="session")
        def ww_model():
            values = np.random.default_rng(0).standard_t(3, (96, 64))
            return {"mine.weight": values}
        """
    )
    pytester.makepyfile("def test_mine(ww_details): assert list(ww_details.longname) == ['mine']")
    pytester.runpytest().assert_outcomes(passed=1)


def test_no_model_is_a_clear_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(ww_summary): pass")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["the test asks for ww_model, but no model is given: add --ww-model PATH*"])


def test_missing_model_is_a_usage_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USES_ALL)
    result = pytester.runpytest("--ww-model=nope.safetensors", ".")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
