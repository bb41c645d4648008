"""The pictures of all layers by depth."""

from __future__ import annotations

import re

import pytest

from pytest_weightwatcher.report.html.depth_charts import MAX_NAMED, depth_charts
from pytest_weightwatcher.report.ranking import layers_with_verdicts
from tests.gate.synthetic_result import large_result


@pytest.mark.parametrize("n_layers", [60, 400], ids=["few", "many"])
def test_marks_of_a_kind_are_of_one_size_with_and_without_a_name(n_layers: int) -> None:
    """A step in size would be seen as one in the model."""
    (model,) = large_result(n_layers, n_failing=n_layers // 2)["models"]
    (_, alpha), *_ = depth_charts(model, layers_with_verdicts(model), "key")
    n_failing = n_layers // 2
    assert alpha.count("<title>") == min(n_failing, MAX_NAMED)
    triangles = re.findall(r"m0,-([\d.]+)l", alpha)
    assert len(triangles) == n_failing
    assert len(set(triangles)) == 1
