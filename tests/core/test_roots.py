"""Bisection."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral.roots import bisect_root


@given(root=st.floats(-50, 50), sign=st.sampled_from([-1.0, 1.0]))
def test_it_finds_the_root_of_a_monotone_function(root: float, sign: float) -> None:
    found = bisect_root(lambda x: sign * (x - root) ** 3, -50.0, 50.0, xtol=1e-12)
    assert found == pytest.approx(root, abs=1e-12)


def test_it_ends_where_float64_does() -> None:
    assert bisect_root(lambda x: x - math.pi, 3.0, 4.0, xtol=0.0) == pytest.approx(math.pi, abs=1e-15)


def test_equal_signs_are_refused() -> None:
    with pytest.raises(ValueError, match="same sign"):
        bisect_root(lambda x: x + 9.0, 1.0, 2.0, xtol=1e-9)
    with pytest.raises(ValueError, match="same sign"):
        bisect_root(lambda x: math.nan, 1.0, 2.0, xtol=1e-9)
