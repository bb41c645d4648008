"""Bounds spare work and change nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spectral.best_first import first_smallest


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=40))
def test_is_the_first_minimum(pairs: list[tuple[int, int]]) -> None:
    values = [float(value) for value, _ in pairs]
    bounds = np.array([value - gap for value, gap in pairs], dtype=np.float64)
    assert first_smallest(bounds, values.__getitem__) == (values.index(min(values)), min(values))


def test_only_what_could_win_is_evaluated() -> None:
    evaluated: list[int] = []

    def value(position: int) -> float:
        evaluated.append(position)
        return (5.0, 2.0, 3.0, 2.5)[position]

    assert first_smallest(np.array([4.0, 1.0, 3.0, 2.05]), value) == (1, 2.0)
    assert evaluated == [1]
    evaluated.clear()
    assert first_smallest(np.array([4.0, 1.0, 3.0, 2.05]), value, slack=0.1) == (1, 2.0)
    assert evaluated == [1, 3]
