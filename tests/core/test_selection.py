"""Filters and limits: what is kept, what is left out and why, and what is refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral.errors import OptionError
from spectral.forms import FormOptions, expand_specs
from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.selection import Selection, select_matrices
from spectral.weights import MatrixSpec, plan_matrices
from tests.core.oracle import oracle_rows

SHAPES = {
    "embeddings.word_embeddings.weight": (300, 32),
    "encoder.0.query.weight": (32, 32),
    "encoder.0.key.weight": (32, 32),
    "encoder.0.dense.weight": (64, 32),
    "encoder.1.query.weight": (32, 32),
    "head.conv-out.weight": (16, 12, 3, 3),
}
NAMES = [name.removesuffix(".weight") for name in SHAPES]


def specs_of(shapes: dict[str, tuple[int, ...]]) -> tuple[MatrixSpec, ...]:
    infos = [TensorInfo(name=name, shape=shape, dtype="float32") for name, shape in shapes.items()]
    return plan_matrices(infos).matrices


SPECS = specs_of(SHAPES)


def kept_ids(*layers: Any, **limits: Any) -> list[int]:
    kept, left_out = select_matrices(SPECS, Selection(layers=layers, **limits))
    assert sorted([*kept, *(each.spec for each in left_out)], key=lambda spec: spec.index) == list(SPECS)
    assert list(kept) == sorted(kept, key=lambda spec: spec.index)
    return [spec.index for spec in kept]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((), [0, 1, 2, 3, 4, 5]),
        ((0,), [0]),
        ((3, 1, 1), [1, 3]),
        ((np.int64(2), np.int32(4)), [2, 4]),
        ((-3,), [0, 1, 2, 4, 5]),
        ((-3, -3, -1), [0, 2, 4, 5]),
        (("dense",), [1, 2, 3, 4]),
        (("embedding", "conv2d"), [0, 5]),
        ((LayerType.CONV2D,), [5]),
        (("-dense",), [0, 5]),
        (("query",), [1, 4]),
        (("encoder.0.query",), [1]),
        (("encoder.0.query.weight",), [1]),
        (("-query",), [0, 2, 3, 5]),
        (("conv-out",), [5]),
        (("-conv-out",), [0, 1, 2, 3, 4]),
        (("encoder.*",), [1, 2, 3, 4]),
        (("encoder.?.query",), [1, 4]),
        (("*_embeddings",), [0]),
        (("-encoder.*",), [0, 5]),
        (("encoder.*", "-query"), [2, 3]),
        (("-query", "encoder.*"), [2, 3]),
        (("embedding", 3), [0, 3]),
        (("dense", -1), [2, 3, 4]),
    ],
)
def test_filters(layers: tuple[Any, ...], expected: list[int]) -> None:
    assert kept_ids(*layers) == expected


def test_a_layer_type_means_the_type() -> None:
    """``dense`` is a layer's name, too; as in the incumbent, the type comes first."""
    assert [spec.name for spec in SPECS if spec.name.endswith(".dense")] == ["encoder.0.dense"]
    assert kept_ids("dense") != [3]
    assert kept_ids("encoder.0.dense") == [3]


def test_a_name_with_wildcards_is_a_name_first() -> None:
    specs = specs_of({"a[1].weight": (9, 9), "a1.weight": (9, 9)})
    kept, _ = select_matrices(specs, Selection(layers=("a[1]",)))
    assert [spec.name for spec in kept] == ["a[1]"]


@pytest.mark.parametrize("layers", [3, "encoder.0.dense", [3], (3,), np.array([3]), np.int64(3), iter([3])])
def test_one_entry_or_any_sequence(layers: Any) -> None:
    selection = Selection(layers=layers)
    assert type(selection.layers) is tuple
    assert [spec.index for spec in select_matrices(SPECS, selection)[0]] == [3]


def test_none_is_all() -> None:
    assert Selection(layers=None) == Selection()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ((6,), r"no layer has the id 6; the model has ids from 0 to 5"),
        ((-9,), r"no layer has the id 9"),
        (("recurrent",), r"'recurrent' matches no layer; the model has the types conv2d, dense, embedding"),
        (("querry",), r"'querry' matches no layer; close to it: query"),
        (("-encoder.0.kei",), r"'-encoder.0.kei' matches no layer; close to it: encoder.0.key"),
        (("decoder.*",), r"'decoder.\*' matches no layer"),
        (("zzz",), r"'zzz' matches no layer$"),
        (("key", "nope"), r"'nope' matches no layer"),
    ],
)
def test_what_matches_nothing_is_named(layers: tuple[Any, ...], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        select_matrices(SPECS, Selection(layers=layers))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": (1, -2)}, r"layer ids must be all kept .* got \[1, -2\]"),
        ({"layers": (0, -2)}, r"layer ids must be all kept"),
        ({"layers": (1.0,)}, r"layers must hold ids and names, got 1.0 \(float\)"),
        ({"layers": (True,)}, r"got True \(bool\)"),
        ({"layers": (None,)}, r"got None"),
        ({"layers": ("",)}, r"got ''"),
        ({"layers": ("-",)}, r"got '-'"),
        ({"layers": 1.5}, r"layers must be ids and names, got 1.5"),
        ({"min_evals": -1}, r"min_evals must be an integer of at least 0 or None, got -1"),
        ({"max_evals": 2.5}, r"max_evals must be an integer"),
        ({"max_N": 0}, r"max_N must be an integer of at least 1"),
        ({"max_N": True}, r"max_N must be an integer"),
        ({"min_evals": 8, "max_evals": 8}, r"min_evals \(8\) must be below max_evals \(8\)"),
    ],
)
def test_impossible_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(OptionError, match=match):
        Selection(**options)


@given(
    keep=st.lists(st.sampled_from(NAMES), max_size=6),
    drop=st.lists(st.sampled_from(NAMES), max_size=6),
    seed=st.randoms(use_true_random=False),
)
def test_keeps_without_drops_in_any_order(keep: list[str], drop: list[str], seed: Any) -> None:
    layers = [*keep, *(f"-{name}" for name in drop)]
    seed.shuffle(layers)
    wanted = (set(keep) or set(NAMES)) - set(drop)
    kept, left_out = select_matrices(SPECS, Selection(layers=tuple(layers)))
    assert {spec.name for spec in kept} == wanted
    assert all(each.by_choice for each in left_out)


class TestLimits:
    """Every matrix beyond a limit is listed with the limit."""

    @pytest.mark.parametrize(
        ("limits", "index", "reason"),
        [
            ({"min_evals": 40}, 0, "32 eigenvalues, fewer than min_evals = 40"),
            ({"max_evals": 107}, 5, "108 eigenvalues, more than max_evals = 107"),
            ({"max_N": 299}, 0, "N = 300 is above max_N = 299"),
        ],
    )
    def test_reason(self, limits: dict[str, Any], index: int, reason: str) -> None:
        _, left_out = select_matrices(SPECS, Selection(**limits))
        reasons = {each.spec.index: each for each in left_out}
        assert (reasons[index].reason, reasons[index].by_choice) == (reason, False)
        listed = reasons[index].as_unanalysed()
        spec = SPECS[index]
        assert (listed.name, listed.shape, listed.dtype, listed.reason) == (spec.tensor, spec.shape, "float32", reason)

    def test_limits_are_inclusive(self) -> None:
        assert kept_ids(min_evals=32, max_evals=108, max_N=300) == [0, 1, 2, 3, 4, 5]
        assert kept_ids(min_evals=0, max_evals=0) == [0, 1, 2, 3, 4, 5]

    def test_slices_are_counted_as_slices(self) -> None:
        slices, _ = expand_specs(SPECS, FormOptions(pool=False))
        kept, left_out = select_matrices(slices, Selection(min_evals=13))
        assert {spec.index for spec in kept} == {0, 1, 2, 3, 4}
        assert [each.spec.slice_id for each in left_out] == list(range(9))

    def test_operators_are_not_counted(self) -> None:
        """There are M eigenvalues at each of 1024 frequencies; as in the incumbent, no limit on their number holds."""
        selection = Selection(max_evals=100, max_N=200)
        kept, _ = select_matrices(SPECS, selection, FormOptions(conv2d_fft=True))
        assert 5 in {spec.index for spec in kept}
        assert 5 not in {spec.index for spec in select_matrices(SPECS, selection)[0]}

    @pytest.mark.parametrize("pool", [True, False], ids=["pooled", "slices"])
    @pytest.mark.parametrize("limits", [{"min_evals": 13}, {"min_evals": 21}, {"max_evals": 30}, {"max_N": 60}])
    def test_what_the_incumbent_keeps(self, limits: dict[str, Any], pool: bool) -> None:
        import torch

        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(12, 20, 3), torch.nn.Linear(70, 20), torch.nn.Linear(30, 40), torch.nn.Embedding(50, 50)
        )
        from spectral.loaders import open_model

        specs, _ = expand_specs(plan_matrices(open_model(model).tensors()).matrices, FormOptions(pool=pool))
        kept, _ = select_matrices(specs, Selection(**{"min_evals": 8, "max_evals": 15000, "max_N": 50000, **limits}))
        # The incumbent refuses a max_N below its max_evals.
        theirs = oracle_rows(model, pool=pool, **({"max_evals": 59, **limits} if "max_N" in limits else limits))
        if "max_N" in limits:
            kept = tuple(spec for spec in kept if spec.n_evals <= 59)
        assert [spec.name for spec in kept] == [row["longname"] for row in theirs]


def test_records_can_be_pickled() -> None:
    kept, left_out = select_matrices(SPECS, Selection(layers=(1,)))
    assert pickle.loads(pickle.dumps((kept, left_out))) == (kept, left_out)


def test_the_incumbent_says_nothing_of_a_filter_that_matches_nothing() -> None:
    import torch

    assert oracle_rows(torch.nn.Sequential(torch.nn.Linear(30, 40)), layers=["nope"]) == []
