"""Which layer of a baseline is which layer of a model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_weightwatcher.matching import layer_sets, match_renamed, unpaired_layers
from pytest_weightwatcher.records import LayerRecord, record_of
from spectral import analyze

Shapes = dict[str, tuple[int, ...]]

shapes_of_models = st.dictionaries(
    st.sampled_from([f"{letter}.{index}" for letter in "ab" for index in range(4)]),
    st.sampled_from([(2, 2), (3, 2), (4, 4)]),
    max_size=8,
)


def records_of(tensors: dict[str, Any]) -> list[LayerRecord]:
    named = {f"{name}.weight": values for name, values in tensors.items()}
    return [record_of(layer) for layer in analyze(named, projections=True).layers]


def tensors_of_a_model(n_blocks: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        f"model.layers.{index}.{name}": rng.normal(size=(40, 32)).astype(np.float32) * (1.0 + index)
        for index in range(n_blocks)
        for name in ("query", "key")
    }


@cache
def baseline() -> dict[str, LayerRecord]:
    return {record.name: record for record in records_of(tensors_of_a_model())}


@given(shapes=shapes_of_models, old=shapes_of_models)
def test_layers_are_unpaired_where_name_and_shape_do_not_pair_them(shapes: Shapes, old: Shapes) -> None:
    found = unpaired_layers(shapes, old)
    for name in found.new:
        assert old.get(name) != shapes[name]
        assert shapes[name] in {old[other] for other in found.old}
    for name in found.old:
        assert shapes.get(name) != old[name]
        assert old[name] in {shapes[other] for other in found.new}
    assert (not found.new) == (not found.old)


@given(shapes=shapes_of_models, old=shapes_of_models)
def test_every_layer_is_in_one_set(shapes: Shapes, old: Shapes) -> None:
    sets = layer_sets(shapes, old, {})
    assert len(shapes) == sets.n_shared + len(sets.added) + len(sets.reshaped)
    assert len(old) == sets.n_shared + len(sets.removed) + len(sets.reshaped)


def test_renamed_layers_are_neither_new_nor_missing() -> None:
    sets = layer_sets({"x": (2, 2), "b": (3, 3)}, {"a": (2, 2), "b": (4, 4)}, {"x": "a"})
    assert (sets.added, sets.removed, sets.reshaped, sets.n_shared) == ((), (), ("b",), 1)


@given(order=st.permutations(range(8)))
def test_the_same_bytes_are_found_under_any_name(order: list[int]) -> None:
    names = list(baseline())
    renamed = {f"z.{place}": names[place] for place in order}
    new = [replace(baseline()[before], name=now) for now, before in renamed.items()]
    assert match_renamed(new, baseline()) == renamed


@pytest.mark.parametrize("step", [0.01, 0.3])
def test_weights_that_changed_a_little_are_found_under_any_name(step: float) -> None:
    rng = np.random.default_rng(1)
    tensors = tensors_of_a_model()
    renamed = {f"z.{index}": name for index, name in enumerate(reversed(tensors))}
    changed = {
        now: tensors[before] + step * np.std(tensors[before]) * rng.normal(size=(40, 32)).astype(np.float32)
        for now, before in renamed.items()
    }
    assert match_renamed(records_of(changed), baseline()) == renamed


def test_unrelated_layers_are_not_matched() -> None:
    rng = np.random.default_rng(2)
    drawn = {f"z.{index}": 3.0 * rng.normal(size=(40, 32)) for index in range(8)}
    assert match_renamed(records_of(drawn), baseline()) == {}


def test_a_damaged_layer_under_a_new_prefix_is_still_itself() -> None:
    tensors = {name.replace("model.", "module."): values for name, values in tensors_of_a_model().items()}
    tensors["module.layers.2.key"] = np.random.default_rng(3).normal(size=(40, 32))
    tensors["module.layers.1.key"] = np.full((40, 32), np.nan)
    found = match_renamed(records_of(tensors), baseline())
    assert found == {name: name.replace("module.", "model.") for name in tensors}


def test_the_same_spectrum_with_other_weights_is_found_where_it_is_clear() -> None:
    """Rows in another order, as after a change of the tokenizer or of heads."""
    tensors = tensors_of_a_model(2)
    old = {record.name: record for record in records_of(tensors)}
    shuffled = {f"z{name.rpartition('.')[0]}": tensors[name][::-1].copy() for name in list(tensors)[::2]}
    expected = {f"z{name.rpartition('.')[0]}": name for name in list(tensors)[::2]}
    assert match_renamed(records_of(shuffled), old) == expected


def test_the_same_spectrum_is_not_enough_where_others_have_it_too() -> None:
    values = tensors_of_a_model(1)["model.layers.0.key"]
    old = {record.name: record for record in records_of({"a": values, "b": values[::-1].copy()})}
    turned = {"c": values[:, ::-1].copy(), "d": values[::-1, ::-1].copy()}
    assert match_renamed(records_of(turned), old) == {}


def test_layers_of_another_shape_are_never_matched() -> None:
    tensors = {name: values[:39].copy() for name, values in tensors_of_a_model().items()}
    assert match_renamed(records_of(tensors), baseline()) == {}


def test_each_layer_is_matched_once() -> None:
    """Tied or copied layers: two of the model with the content of one in the baseline."""
    (name, record), *_ = baseline().items()
    found = match_renamed([replace(record, name="x"), replace(record, name="y")], {name: record})
    assert found == {"x": name}
    two = {"a": record, "b": replace(record, name="b")}
    assert match_renamed([replace(record, name="x"), replace(record, name="y")], two) == {"x": "a", "y": "b"}


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("prefix", ["model.", "bert.encoder."])
def test_layers_that_changed_places_are_not_taken_for_renamed_under_a_prefix(prefix: str, rounded: bool) -> None:
    """Contents tell the rule of the renaming, and then the rule tells who is who."""
    base = {f"layer.{index}.{kind}.weight": draw(10 * index + place) for index in range(3) for place, kind in PLACES}
    old = {record.name: record for record in records(base)}
    swapped = {**base, "layer.0.q.weight": base["layer.1.q.weight"], "layer.1.q.weight": base["layer.0.q.weight"]}
    tensors = {f"{prefix}{name}": values for name, values in swapped.items()}
    if rounded:
        tensors = {name: values.astype(np.float16).astype(np.float32) for name, values in tensors.items()}
    found = match_renamed(records(tensors), old)
    assert found == {f"{prefix}{name}": name for name in old}


PLACES = ((0, "q"), (1, "k"), (2, "v"))


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(40, 30)).astype(np.float32)


def records(tensors: dict[str, np.ndarray]) -> list[LayerRecord]:
    return [record_of(layer) for layer in analyze(tensors, projections=True).layers]
