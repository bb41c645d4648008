"""No number that passes the schema breaks the page: what cannot be drawn is left out."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from pytest_weightwatcher.report import render
from pytest_weightwatcher.report.html.drawable import drawable_spectrum
from pytest_weightwatcher.report.html.spectrum_chart import spectrum_chart
from tests.gate.synthetic_result import large_result

HUGE = (1e300, 1.7e308, 5e-324, -1e300, 0, 10**30)


def result() -> dict[str, Any]:
    found = large_result(6, n_failing=3)
    for layer in found["models"][0]["layers"]:
        layer["spectrum"] = {
            "evals": [9.0, 4.0, 1.0],
            "weights": [1, 1, 2],
            "before": [9.0, 4.0, 2.0],
            "tail": {"xmin": 1.0, "xmax": 9.0, "alpha": 2.5, "n": 3},
            "bulk": {"min": 0.5, "max": 3.0},
            "permuted": [4.0, 2.0],
            "trap_edge": 4.0,
        }
    return found


def test_the_picture_is_there() -> None:
    page = render("html", result())
    assert 'class="tail"' in page
    assert 'class="trap"' in page
    assert 'class="before"' in page


PLACES = ("evals", "weights", "before", "permuted", "tail", "bulk", "trap_edge", "metrics", "value", "limit")


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("place", PLACES)
def test_a_number_that_has_no_place(place: str, value: float) -> None:
    changed = copy.deepcopy(result())
    model = changed["models"][0]
    spectrum = model["layers"][0]["spectrum"]
    if place in ("evals", "weights", "before", "permuted"):
        spectrum[place][0] = value
    elif place in ("tail", "bulk"):
        spectrum[place] = dict.fromkeys(spectrum[place], value)
    elif place == "trap_edge":
        spectrum[place] = value
    elif place == "metrics":
        model["layers"][0]["metrics"] = dict.fromkeys(model["layers"][0]["metrics"], value)
    for check in model["checks"] if place in ("value", "limit") else ():
        check[place] = value if place == "value" else {"max": value}
    assert render("html", changed).endswith("</html>\n")


@pytest.mark.parametrize(
    "edit",
    [
        {"evals": []}, {"weights": []}, {"evals": [1.0]}, {"before": [1.0]}, {"bulk": {"min": None, "max": None}},
        {"tail": {"xmin": None, "alpha": 2.0, "n": 2}}, {"permuted": None}, {"trap_edge": None}, {"tail": None},
    ],
)  # fmt: skip
def test_parts_that_are_missing(edit: dict[str, Any]) -> None:
    changed = copy.deepcopy(result())
    model = changed["models"][0]
    model["layers"][0]["spectrum"] |= edit
    model["checks"][-1]["layer"] = "no such layer"
    model["coverage"] = None
    changed["sections"] = [{"plugin": "mine", "title": "x"}]
    assert render("html", changed).endswith("</html>\n")


ENDS = (1e-149, 1e-100, 1e-3, 1.0, 1e100, 1e149)


@pytest.mark.parametrize("alpha", [-999.0, -3.0, 0.0, 1.0, 2.5, 999.0])
@pytest.mark.parametrize("n", [1, 10**6, 10**149])
def test_a_tail_of_numbers_that_have_a_place_each_but_none_together(alpha: float, n: int) -> None:
    spectrum = result()["models"][0]["layers"][0]["spectrum"]
    for xmin, xmax in itertools.combinations(ENDS, 2):
        drawn = drawable_spectrum({**spectrum, "tail": {"xmin": xmin, "xmax": xmax, "alpha": alpha, "n": n}})
        assert drawn is not None
        assert spectrum_chart("layer", drawn, "key").endswith("</svg>")
        if alpha >= 0.0 and xmax / xmin < 1e100 and n < 10**9:
            assert drawn["tail"] is not None, "what can be drawn is"


@pytest.mark.parametrize("kind", ["html", "md"])
def test_a_whole_number_of_a_plugin_beyond_all_floats(kind: str) -> None:
    changed = result()
    rows = [[10**400], [-(10**400)], [123_456]]
    changed["sections"] = [{"plugin": "mine", "title": "x", "text": "", "columns": ["n"], "rows": rows}]
    text = render(kind, changed)
    assert "1.000e+400" in text
    assert "-1.000e+400" in text
    assert ("123456" if kind == "md" else "1.235e+05") in text
