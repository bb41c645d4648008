"""assert_layers_well_trained, with pytest and without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pytest_weightwatcher import assert_layers_well_trained
from spectral import analyze
from tests.gate.conftest import MakeModel, flat, healthy_tensors


def test_returns_the_analysis() -> None:
    analysis = assert_layers_well_trained(healthy_tensors())
    assert [layer.status for layer in analysis.layers] == ["success"] * 4


def test_takes_a_path_and_an_analysis(make_model: MakeModel) -> None:
    path = make_model()
    analysis = assert_layers_well_trained(path)
    assert assert_layers_well_trained(analysis) is analysis
    assert assert_layers_well_trained(str(path)).summary == analysis.summary


def test_names_the_layer_and_how_far() -> None:
    with pytest.raises(AssertionError, match=r"1 layer is not well trained \(4 with an alpha were judged\)") as caught:
        assert_layers_well_trained({**healthy_tensors(), "head.weight": flat()})
    assert "head: alpha 101.3 is 95.34 above the limit of 2 to 6" in str(caught.value)


def test_range_is_inclusive_and_settable() -> None:
    alphas = [layer.metrics["alpha"] for layer in analyze(healthy_tensors()).layers]
    assert_layers_well_trained(healthy_tensors(), alpha_range=(min(alphas), max(alphas)))
    with pytest.raises(AssertionError, match="worst first"):
        assert_layers_well_trained(healthy_tensors(), alpha_range=(2, min(alphas) - 1e-9))


@pytest.mark.parametrize("alpha_range", [(6, 2), (2, float("nan"))])
def test_impossible_range(alpha_range: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="alpha_range must be"):
        assert_layers_well_trained(healthy_tensors(), alpha_range=alpha_range)


def test_excluded_layers_are_not_judged() -> None:
    tensors = {**healthy_tensors(), "head.weight": flat()}
    assert_layers_well_trained(tensors, exclude=["head"])
    assert_layers_well_trained(analyze(tensors), exclude=["he*"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_damaged_values_never_pass(value: float) -> None:
    with pytest.raises(AssertionError, match="head: "):
        assert_layers_well_trained({**healthy_tensors(), "head.weight": np.full((96, 64), value)})


def test_a_layer_without_alpha_never_passes() -> None:
    with pytest.raises(AssertionError, match="head: no alpha: "):
        assert_layers_well_trained({**healthy_tensors(), "head.weight": np.eye(64)})


def test_nothing_judged_is_no_pass() -> None:
    with pytest.raises(AssertionError, match="no layer could be judged: 1 matrices"):
        assert_layers_well_trained({"small": np.random.default_rng(0).normal(size=(20, 20))})


def test_works_without_pytest(tmp_path: Path) -> None:
    code = """
        import sys
        sys.modules["pytest"] = None
        import numpy as np
        from pytest_weightwatcher import assert_layers_well_trained
        try:
            assert_layers_well_trained({"w": np.random.default_rng(0).normal(size=(64, 64))}, alpha_range=(1, 1.1))
        except AssertionError as error:
            print("caught", error)
    """
    import textwrap

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("caught 1 layer is not well trained")
