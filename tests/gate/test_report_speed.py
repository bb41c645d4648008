"""Reports of a model of 1,000 matrices: work grows with the result, not with its square."""

from __future__ import annotations

import time

import pytest

from pytest_weightwatcher.options import FORMS
from pytest_weightwatcher.report import render
from tests.gate.synthetic_result import large_result


@pytest.mark.parametrize("kind", FORMS)
def test_each_form_takes_well_under_a_second_of_this_processor(kind: str) -> None:
    result = large_result(1000, 12)
    start = time.process_time()
    render(kind, result)
    assert time.process_time() - start < 1.0
