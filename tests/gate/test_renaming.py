"""Rules of names go before contents; where there is no rule, contents decide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_weightwatcher.matching import match_renamed
from pytest_weightwatcher.records import LayerRecord, record_of
from pytest_weightwatcher.renaming import by_numbers, by_prefix
from spectral import analyze

Values = NDArray[np.float32]

SHAPE = (40, 30)


def draw(seed: int) -> Values:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def records(tensors: dict[str, Values]) -> dict[str, LayerRecord]:
    return {layer.name: record_of(layer) for layer in analyze(tensors, projections=True).layers}


def matched(new: dict[str, Values], old: dict[str, Values]) -> dict[str, str]:
    return match_renamed(list(records(new).values()), records(old))


LAYERS = [draw(seed) for seed in range(6)]
OLD = {f"layer.{number}": values for number, values in enumerate(LAYERS)}


@pytest.mark.parametrize("n", [2, 3, 4, 6])
@pytest.mark.parametrize(
    "names",
    ["enc.blk.{}", "layer.{}.dense", "v2.layer.{}", "block{}", "layers_{}.w"],
    ids=["beginning", "end", "number", "glued", "underscore"],
)
@pytest.mark.parametrize("is_noisy", [False, True])
def test_layers_that_changed_places_under_new_names(n: int, names: str, is_noisy: bool) -> None:
    places = [1, 0, *range(2, n)]
    noise = np.float32(0.01) * draw(99) * is_noisy
    new = {names.format(place): LAYERS[number] + noise for place, number in enumerate(places)}
    old = dict(list(OLD.items())[:n])
    assert matched(new, old) == {names.format(place): f"layer.{place}" for place in range(n)}


@pytest.mark.parametrize("is_swapped", [False, True])
def test_numbers_that_begin_elsewhere(is_swapped: bool) -> None:
    places = [0, 2, 1, 3, 4, 5] if is_swapped else list(range(6))
    new = {f"blk{place + 1}.w": LAYERS[number] for place, number in enumerate(places)}
    assert matched(new, OLD) == {f"blk{place + 1}.w": f"layer.{place}" for place in range(6)}


def test_all_layers_moved_on_by_one() -> None:
    new = {f"enc.{place}": LAYERS[place - 1] for place in range(6)}
    assert matched(new, OLD) == {f"enc.{place}": f"layer.{place}" for place in range(6)}


def test_words_changed_in_the_middle_and_two_changed_places() -> None:
    old = {f"layer.{n}.{word}.w": draw(10 * n + k) for n in range(4) for k, word in enumerate(("attention", "mlp"))}
    places = {0: 0, 1: 2, 2: 1, 3: 3}
    words = {"attention": "attn", "mlp": "ffn"}
    new = {
        f"layer.{n}.{words[word]}.w": old[f"layer.{places[n] if word == 'mlp' else n}.{word}.w"]
        for n in range(4)
        for word in words
    }
    assert matched(new, old) == {
        f"layer.{n}.{words[word]}.w": f"layer.{n}.{word}.w" for n in range(4) for word in words
    }


def test_a_dropped_layer_is_found_by_contents() -> None:
    """The numbers are no longer those of the baseline, so they tell nothing."""
    kept = [0, 1, 3, 4, 5]
    new = {f"enc.{place}": LAYERS[number] for place, number in enumerate(kept)}
    assert matched(new, OLD) == {f"enc.{place}": f"layer.{number}" for place, number in enumerate(kept)}


@settings(deadline=None)  # the first pair loads scipy.optimize
@given(st.permutations(range(6)))
def test_names_without_a_rule_are_matched_by_contents(order: list[int]) -> None:
    new = {f"p{17 * number + 5}x": LAYERS[number] for number in order}
    assert matched(new, OLD) == {f"p{17 * number + 5}x": f"layer.{number}" for number in order}


def test_a_beginning_must_explain_every_name_and_shape() -> None:
    square, oblong = (3, 3), (3, 4)
    assert by_prefix({"b.x": square, "b.y": oblong}, {"a.x": square, "a.y": oblong}) == {"b.x": "a.x", "b.y": "a.y"}
    assert by_prefix({"b.x": square, "b.y": oblong}, {"a.x": square, "a.y": square}) == {}
    assert by_prefix({"b.x": square, "b.z": oblong}, {"a.x": square, "a.y": oblong}) == {}
    assert by_prefix({"b.x": square}, {"a.x": square}) == {}
    assert by_prefix({"x": square, "y": square}, {"m.x": square, "m.y": square}) == {"x": "m.x", "y": "m.y"}


def test_numbers_need_a_rule_of_words() -> None:
    shapes = {f"n.{number}.b": SHAPE for number in range(4)}
    theirs = {f"{word}.{number}": SHAPE for number in range(2) for word in "xy"}
    assert by_numbers(shapes, theirs, {"n.0.b": "x.0", "n.1.b": "y.1", "n.2.b": "x.1", "n.3.b": "y.0"}) == {}
    assert by_numbers(shapes, {}, {}) == {}
