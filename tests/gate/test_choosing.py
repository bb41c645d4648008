"""What the HTML report tells first and draws whole."""

from __future__ import annotations

from typing import Any

from pytest_weightwatcher.report import render
from pytest_weightwatcher.report.html.choosing import (
    MAX_SPECTRA,
    MAX_SPECTRA_IN_ALL,
    N_CHANGES,
    choose_spectra,
    largest_changes,
)
from tests.gate.synthetic_result import large_result, make_check, make_layer, make_model, make_result


def models(n: int, n_failing: tuple[int, ...], n_layers: int = 25) -> list[dict[str, Any]]:
    """Return models, of which each has the first few of its layers failing."""
    found = []
    for index in range(n):
        path = f"{index:04}.safetensors"
        layers = [make_layer(f"layer.{place}", place, n_evals=40) for place in range(n_layers)]
        failing = n_failing[index % len(n_failing)]
        checks = [
            make_check(path, layer["name"], "alpha", "fail" if place < failing else "pass", index=place)
            for place, layer in enumerate(layers)
        ]
        found.append(make_model(path, layers, checks))
    return found


def test_one_model_has_its_worst_layers_drawn() -> None:
    (chosen,) = choose_spectra(models(1, (7,), 100))
    assert len(chosen) == MAX_SPECTRA
    assert [layer["verdict"] for layer, _ in chosen] == ["fail"] * 7 + ["pass"] * (MAX_SPECTRA - 7)


def test_models_share_and_the_worst_layers_come_first() -> None:
    chosen = choose_spectra(models(12, (9, 2, 0)))
    assert sum(map(len, chosen)) == MAX_SPECTRA_IN_ALL
    assert [len(each) for each in chosen] == [9, 3, 3] * 4, "all that fail; then of those of which the fewest are drawn"


def test_what_a_model_does_not_need_goes_to_others() -> None:
    few = models(2, (1,), 3) + models(2, (1,))
    assert [len(each) for each in choose_spectra(few)] == [3, 3, 24, 24]


def test_models_without_a_spectrum_take_none() -> None:
    assert choose_spectra([*models(1, (1,), 4), make_model("m", [make_layer("a", 0)], [])])[1] == []


def test_a_page_of_many_models_stays_small_and_says_what_is_not_drawn() -> None:
    many = models(60, (5, 0), 25)
    page = render("html", make_result(many))
    assert len(page.encode("utf-8")) < 3_000_000
    assert page.count("<figure id=") == MAX_SPECTRA_IN_ALL
    assert page.count("The 2 layers that matter most; 23 more are in the table only.") == 30
    assert page.count("No spectrum of this model is drawn") == 30


def test_layers_are_counted_in_words_that_fit() -> None:
    assert "The 24 layers that matter most; 1 more is in the table only." in render(
        "html", make_result(models(1, (0,)))
    )
    page = render("html", make_result([make_model("m", [make_layer("a", 0, n_evals=9), make_layer("b", 1)], [])]))
    assert "The layer that matters most; 1 more is in the table only." in page
    page = render("html", large_result(30))
    assert "matter most" not in page, "there is no spectrum"
    assert "is drawn" not in page


def test_what_changed_most_names_a_layer_once() -> None:
    checks = []
    for place, name in enumerate("abcdefg"):
        checks.append(make_check("m", name, "regression.weights", "fail", value=0.039 + 0.002 * place))
        checks.append(make_check("m", name, "regression.spectrum", "fail", value=0.04 + 0.002 * place))
    checks.append(make_check("m", "b", "integrity", "fail", value=None, limit=None))
    checks.append(make_check("m", None, "regression.weights", "fail", value=9.0))
    told = largest_changes(make_model("m", [], checks))
    assert [check["layer"] for check in told] == ["b", "g", "f", "e", "d"]
    assert [check["check"] for check in told] == ["integrity"] + ["regression.spectrum"] * (N_CHANGES - 1)
