"""One tensor under several names: which views are the same values, and which of them is analysed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral import WeightWatcher
from spectral.analysis import analyze, describe
from spectral.deltas import delta_source
from spectral.dropin_plan import counted_target, open_counted
from spectral.loaders.opening import open_model
from spectral.loaders.ties import MAX_OPEN, Region, region_of
from spectral.transforms import Replacement, transform_matrices
from tests.core.builders import heavy_tailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def matrix(n_rows: int = 30, n_columns: int = 20) -> Any:
    return heavy_tailed(n_rows, n_columns).astype(np.float32)


def listed(model: Any) -> dict[str, str]:
    return {item.name: item.reason for item in describe(model).unanalysed}


def names(model: Any) -> list[str]:
    return [spec.tensor for spec in describe(model).matrices]


VIEWS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "itself": (lambda w: w, "tied to a"),
    "transposed": (lambda w: w.T, "tied to a, transposed"),
    "folded": (lambda w: w.reshape(15, 40), "tied to a, in another shape or order"),
    "a part, rows": (lambda w: w[10:], "a view of a part of a"),
    "a part, columns": (lambda w: w[:, 3:13], "a view of a part of a"),
    "a part, transposed": (lambda w: w[::2, ::3].T, "a view of a part of a"),
}


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("case", VIEWS)
def test_a_view_is_listed_and_counted_once(case: str, framework: str) -> None:
    view, reason = VIEWS[case]
    weight = matrix() if framework == "numpy" else torch.from_numpy(matrix())
    for model in ({"a": weight, "b": view(weight)}, {"other": matrix(), "a": weight, "b": view(weight)}):
        assert names(model) == [name for name in model if name != "b"]
        assert listed(model) == {"b": reason}
        assert describe(model).coverage == 1.0
        assert len(analyze(model, min_evals=8).layers) == len(model) - 1


@pytest.mark.parametrize("case", [case for case in VIEWS if case.startswith("a part")])
def test_the_whole_is_analysed_wherever_it_stands(case: str) -> None:
    weight = matrix()
    assert listed({"b": VIEWS[case][0](weight), "a": weight}) == {"b": "a view of a part of a"}
    assert names({"b": VIEWS[case][0](weight), "a": weight}) == ["a"]


def test_a_flipped_view() -> None:
    weight = matrix()
    assert listed({"a": weight, "b": weight[::-1]}) == {"b": "tied to a, in another shape or order"}


def test_a_torch_view_of_an_array() -> None:
    weight = matrix()
    assert listed({"a": weight, "b": torch.from_numpy(weight).t()}) == {"b": "tied to a, transposed"}


def test_of_parts_of_parts_only_the_whole_is_named() -> None:
    weight = matrix()
    assert listed({"c": weight[10:20, :5], "b": weight[10:20], "a": weight}) == dict.fromkeys(
        ("c", "b"), "a view of a part of a"
    )


def test_views_that_overlap_are_two() -> None:
    weight = matrix()
    assert names({"a": weight[:20], "b": weight[10:]}) == ["a", "b"]
    # Every second row: within the same bytes, with no value in common.
    assert names({"a": weight[::2], "b": weight[1::2]}) == ["a", "b"]
    assert names({"a": weight[:, :12], "b": weight[:, 4:]}) == ["a", "b"]


def test_copies_and_other_types_are_two() -> None:
    weight = matrix()
    assert names({"a": weight, "b": weight.copy(), "c": weight.astype(np.float64)}) == ["a", "b", "c"]
    swapped = weight.view(weight.dtype.newbyteorder())
    assert names({"a": weight, "b": swapped}) == ["a", "b"]


def test_a_vector_is_no_whole() -> None:
    """A flat buffer has no spectrum, the weights that are cut from it have."""
    flat = heavy_tailed(1000).astype(np.float32)
    model = {"flat": flat, "a": flat[:600].reshape(30, 20), "b": flat[600:].reshape(20, 20), "a.q": flat[:200]}
    description = describe(model)
    assert [spec.tensor for spec in description.matrices] == ["a", "b"]
    assert description.coverage == 1.0
    assert describe({**model, "bias": np.ones(1000, np.float32)}).coverage == 0.5
    # One part of it is not analysed: its values stay in the account.
    assert describe({"flat": flat, "a": model["a"]}).coverage == 0.6
    # Its NaN are found, too.
    assert description.other_tensors == ("flat",)


def test_a_vector_of_all_values_is_tied_to_the_matrix() -> None:
    weight = matrix()
    source = open_model({"flat": weight.reshape(-1), "a": weight})
    assert {info.name: info.refusal for info in source.tensors()} == {
        "flat": "tied to a, in another shape or order",
        "a": None,
    }
    assert describe(source).coverage == 1.0


def test_matrices_of_a_flat_buffer_have_differences() -> None:
    def model(seed: int) -> dict[str, Any]:
        flat = heavy_tailed(1000, seed=seed).astype(np.float32)
        return {"flat": flat, "a": flat[:600].reshape(30, 20)}

    first, second = model(0), model(1)
    np.testing.assert_array_equal(delta_source(first, second).load("a"), first["a"] - second["a"])
    # One that has no partner says so, and those with one are still of one architecture.
    others = {"b": matrix(), "c": matrix()}
    found = listed(delta_source({**first, **others}, {"flat": second["flat"], **others}))
    assert found == {"a": "no tensor of this name in the other model"}


def test_repeated_values_are_no_whole() -> None:
    """The windows of a Hankel matrix hold a vector's values many times; they are no weight that others are part of."""
    base = torch.from_numpy(heavy_tailed(100))
    windows = base.as_strided((10, 8), (1, 1))
    inner = base[:6].reshape(3, 2)
    assert names({"windows": windows, "inner": inner}) == ["windows", "inner"]


def test_a_negated_view_has_other_values() -> None:
    values = torch.complex(torch.from_numpy(matrix()), torch.from_numpy(matrix()))
    assert values.conj().imag.is_neg()
    assert names({"a": values.imag, "b": values.conj().imag}) == ["a", "b"]


def test_a_tensor_is_compared_with_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file of overlapping views must not take a time that grows with the square of their number."""
    n_compared = 0

    def counted(self: Region, other: Region) -> bool:
        nonlocal n_compared
        n_compared += 1
        return lies_in(self, other)

    lies_in = Region.lies_in
    monkeypatch.setattr(Region, "lies_in", counted)
    base = torch.zeros(2000)
    open_model({str(index): base[index : index + 1000] for index in range(500)})
    assert n_compared <= 500 * MAX_OPEN


def _views(draw: st.DrawFn, array: NDArray[np.int64]) -> NDArray[np.int64]:
    slices = []
    for length in array.shape:
        begin = draw(st.integers(0, length - 1))
        stop = draw(st.integers(begin + 1, length))
        step = draw(st.integers(1, 3))
        slices.append(slice(begin, stop, step))
    view = array[tuple(slices)]
    if draw(st.booleans()):
        view = view[(slice(None, None, -1),)]
    return view.transpose(draw(st.permutations(range(view.ndim))))


@st.composite
def two_views(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Two views of one block, and a view of the first of them."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    base = np.arange(int(np.prod(shape))).reshape(shape)
    first = _views(draw, base)
    return first, _views(draw, base), _views(draw, first)


@settings(max_examples=500, deadline=None)
@given(two_views())
def test_regions_are_sets_of_places(views: tuple[Any, Any, Any]) -> None:
    first, second, _ = views
    held, other = set(first.ravel().tolist()), set(second.ravel().tolist())
    one, two, third = (region_of(view) for view in views)
    assert one is not None
    assert two is not None
    assert third is not None
    assert (one.n_values, one.repeats) == (first.size, False)
    assert one.end - one.begin == (max(held) - min(held) + 1) * first.itemsize
    if two.lies_in(one):
        assert other <= held
    if one == two:
        assert other == held
    assert third.lies_in(one)


def test_a_view_that_steps_evenly_across_the_gaps_of_the_whole() -> None:
    whole = np.zeros((4, 8))[:, :6:2]
    part = whole[:, ::2]
    regions = [region_of(view) for view in (whole, part)]
    assert regions[0] is not None
    assert regions[1] is not None
    assert regions[1].axes == ((8, 32),)
    assert regions[1].lies_in(regions[0])


class TestDropIn:
    """weightwatcher has a row for each name: its means need both."""

    @pytest.mark.parametrize("square", [False, True])
    def test_a_transposed_weight_has_its_row_and_its_values(self, square: bool) -> None:
        weight = torch.from_numpy(matrix(80, 80 if square else 60))
        watcher = WeightWatcher(model={"a.weight": weight, "b.weight": weight.t()})
        details = watcher.analyze(min_evals=20).set_index("longname")
        assert details.loc["a", "alpha"] == pytest.approx(details.loc["b", "alpha"], rel=1e-9)
        np.testing.assert_array_equal(watcher.get_Weights(layer="b")[0], weight.t().numpy())

    def test_it_is_transformed_once(self) -> None:
        weight = torch.from_numpy(matrix(80, 60))
        before = weight.clone()
        model = {"a.weight": weight, "b.weight": weight.t()}
        counted = open_counted(model)
        assert [spec.name for spec in counted.plan.matrices] == ["a", "b"]
        changes = transform_matrices(
            counted_target(model, counted),
            counted.plan.matrices,
            lambda matrix: Replacement(slices=-matrix.slices, n_changed=1),
        )
        assert torch.equal(weight, -before)
        assert [change.reason for change in changes] == [None, "tied to a.weight: changed with it"]
