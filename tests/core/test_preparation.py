"""From a model and its options to what is analysed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from spectral.errors import OptionError
from spectral.intra import IntraSource
from spectral.selection import Selection
from spectral.stacking import StackedSource
from tests.core.builders import heavy_tailed
from tests.core.formed import prepare

TENSORS = {
    "embed.weight": heavy_tailed(60, 16),
    "conv.weight": heavy_tailed(16, 12, 3, 1),
    "thin.weight": heavy_tailed(20, 3),
    "fc.weight": heavy_tailed(16, 40),
}


def test_defaults_change_nothing() -> None:
    prepared = prepare(TENSORS)
    assert [spec.name for spec in prepared.specs] == ["embed", "conv", "thin", "fc"]
    assert (prepared.left_out, prepared.unaligned, dict(prepared.longnames)) == ((), (), {})
    assert prepared.source.label == "dict"


def test_slices_are_made_before_limits() -> None:
    prepared = prepare(TENSORS, Selection(min_evals=13), pool=False)
    assert [(spec.name, spec.slice_id) for spec in prepared.specs] == [("embed", 0), ("fc", 0)]
    assert [(each.spec.name, each.spec.slice_id) for each in prepared.left_out] == [
        ("conv", 0),
        ("conv", 1),
        ("conv", 2),
        ("thin", 0),
    ]


@pytest.mark.parametrize(("form", "view"), [("stacked", StackedSource), ("intra", IntraSource)])
def test_limits_and_filters_decide_over_the_layers(form: str, view: type) -> None:
    prepared = prepare(TENSORS, Selection(layers=("-conv",), min_evals=4), **{form: True})
    assert isinstance(prepared.source, view)
    assert [(each.spec.name, each.by_choice) for each in prepared.left_out] == [("conv", True), ("thin", False)]
    (spec,) = prepared.specs
    assert spec.name == ("Stacked Layer" if form == "stacked" else "0 X 3")
    assert spec.shape == ((76, 40) if form == "stacked" else (60, 40))
    assert prepared.source.load(spec.tensor).shape == spec.shape
    assert pickle.loads(pickle.dumps(prepared.specs)) == prepared.specs


def test_pairs_without_a_product_are_named() -> None:
    prepared = prepare({**TENSORS, "odd.weight": heavy_tailed(9, 7)}, Selection(min_evals=4), intra=True)
    assert [spec.name for spec in prepared.specs] == ["0 X 1", "1 X 3"]
    assert [pair.longname for pair in prepared.unaligned] == ["fc X odd"]
    assert prepared.longnames == {"0 X 1": "embed X conv", "1 X 3": "conv X fc"}


def test_the_seed_reaches_the_products() -> None:
    first, again, other = (
        prepare(TENSORS, Selection(min_evals=4), seed=seed, intra=True).source.load("0 X 1") for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_products_are_plain_where_asked() -> None:
    prepared = prepare(TENSORS, Selection(min_evals=4), seed=1, intra=True, sparsify=False)
    first, second = TENSORS["embed.weight"], TENSORS["conv.weight"][:, :, 0, 0]
    expected = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    np.testing.assert_allclose(prepared.source.load("0 X 1"), expected, rtol=1e-12)


def test_glorot_fix_reaches_the_views() -> None:
    (spec,) = prepare(TENSORS, stacked=True, glorot_fix=True).specs
    assert spec.scale == pytest.approx(np.sqrt((spec.N + spec.M) / 2))


def test_kernels_that_become_vectors_are_listed() -> None:
    prepared = prepare(TENSORS, channels="first")
    assert [(each.spec.name, each.by_choice) for each in prepared.left_out] == [("conv", False)]


def test_filters_that_leave_nothing_to_stack() -> None:
    with pytest.raises(OptionError, match="stacked needs at least one layer"):
        prepare(TENSORS, Selection(min_evals=1000), stacked=True)
