"""The one-dimensional search visits the same points as scipy's, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import fmin

from spectral import nelder_mead
from spectral.nelder_mead import polish_minimum

FUNCTIONS: dict[str, Callable[[float], float]] = {
    "parabola": lambda x: (x - 0.7) ** 2,
    "steep": lambda x: 1e6 * (x - 0.7) ** 2,
    "inverse square": lambda x: (3.0 / (x * x) - 2.0) / (x * x) + 1.0,
    "wall": lambda x: 3.0 - x if x < 0.9 else 1e6,
    "kink": lambda x: abs(x - 1.3) * (2.0 if x > 1.3 else 1.0),
    "flat": lambda _: 7.0,
    "stairs": lambda x: float(math.floor(20.0 * abs(x - 0.7))),
    "few values": lambda x: float(round(7.0 * x) % 3),
    "two valleys": lambda x: math.cos(9.0 * x) + 0.1 * x,
    "endless": lambda x: -x,
}


def recorded(function: Callable[[float], float], visited: list[float]) -> Callable[[Any], float]:
    def call(x: Any) -> float:
        (value,) = np.ravel(x).tolist()  # scipy passes an array of one
        visited.append(value)
        return function(value)

    return call


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=40, deadline=None)
@given(start=st.floats(0.05, 4.0))
def test_same_path_as_scipy(name: str, start: float) -> None:
    ours: list[float] = []
    theirs: list[float] = []
    found = polish_minimum(recorded(FUNCTIONS[name], ours), start)
    (expected,) = fmin(recorded(FUNCTIONS[name], theirs), start, disp=False, maxiter=1000, maxfun=200)
    assert ours[: len(theirs)] == theirs
    if name != "endless":  # there both stop at their limits, which scipy checks within a step
        assert len(ours) == len(theirs)
        assert found == expected


def test_gives_up() -> None:
    visited: list[float] = []
    polish_minimum(recorded(FUNCTIONS["endless"], visited), 1.0)
    assert nelder_mead.MAX_EVALUATIONS <= len(visited) <= nelder_mead.MAX_EVALUATIONS + 1


def test_never_worse_than_the_start() -> None:
    assert polish_minimum(FUNCTIONS["wall"], 0.89) == pytest.approx(0.9, abs=1e-3)
    assert FUNCTIONS["two valleys"](polish_minimum(FUNCTIONS["two valleys"], 3.0)) <= FUNCTIONS["two valleys"](3.0)
