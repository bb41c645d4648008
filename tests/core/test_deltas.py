"""The difference of two models as a model of its own."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.analysis import analyze, describe
from spectral.deltas import ONLY_IN_BASE, delta_source
from spectral.errors import ModelError, ModelMismatchError
from spectral.loaders.opening import open_model
from spectral.loaders.protocol import LayerType, TensorInfo, TensorSource
from spectral.pairing import match_names
from spectral.weights import load_matrix
from tests.core.builders import heavy_tailed
from tests.core.oracle_cross import oracle_deltas
from tests.core.zoo import every_layer_model

if TYPE_CHECKING:
    from numpy.typing import NDArray


def network(seed: int, size: float = 0.0) -> Any:
    """Return a small network; ``size`` moves its weights from those of seed 0 by that much."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(16, 24, 3), torch.nn.Flatten(), torch.nn.Linear(120, 90), torch.nn.Linear(60, 140, bias=False)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            heavy = torch.from_numpy(heavy_tailed(*parameter.shape, seed=seed)).float()
            parameter.add_(size * (heavy + torch.randn(parameter.shape, generator=generator)))
    return net


def arrays(seed: int, *names: str, shape: tuple[int, ...] = (60, 50)) -> dict[str, NDArray[Any]]:
    return {name: heavy_tailed(*shape, seed=seed + i).astype(np.float32) for i, name in enumerate(names)}


def test_same_numbers_as_the_incumbent() -> None:
    base, tuned = network(0), network(3, 0.01)
    theirs = oracle_deltas(tuned, base)
    ours = analyze(delta_source(tuned, base), n_workers=1).details.set_index("longname")
    assert len(theirs) == len(ours) == 3
    assert list(theirs.index) == list(ours.index)
    for column in ("alpha", "xmin", "D", "log_norm", "log_spectral_norm", "stable_rank", "sv_max", "alpha_weighted"):
        np.testing.assert_allclose(ours[column].astype(float), theirs[column].astype(float), rtol=1e-6, err_msg=column)
    for column in ("num_pl_spikes", "rank_loss", "N", "M", "num_evals"):
        assert ours[column].tolist() == theirs[column].tolist(), column


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("float32", "float32", "float32"),
        ("float64", "float32", "float64"),
        ("float16", "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "float32"),
        ("float32", "float64", "float64"),
    ],
)
def test_difference_of_stored_values(first: str, second: str, expected: str) -> None:
    types = [np.dtype(getattr(ml_dtypes, name, name)) for name in (first, second)]
    one, two = (heavy_tailed(20, 30, seed=seed).astype(dtype) for seed, dtype in enumerate(types))
    before = one.copy()
    source = delta_source({"w": one}, {"w": two})
    assert [info.dtype for info in source.tensors()] == [expected]
    found = source.load("w")
    assert found.dtype == np.dtype(expected)
    exact = one.astype(np.float64) - two.astype(np.float64)
    np.testing.assert_allclose(found, exact, rtol=6e-8 if expected == "float32" else 0.0)
    assert one.tobytes() == before.tobytes()


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 1000))
def test_antisymmetric_and_the_model_itself_against_zero(n_rows: int, n_columns: int, seed: int) -> None:
    one, two = (heavy_tailed(n_rows, n_columns, seed=seed + i) for i in range(2))
    forth, back = (delta_source({"w": a}, {"w": b}).load("w") for a, b in ((one, two), (two, one)))
    np.testing.assert_array_equal(forth, -back)
    np.testing.assert_array_equal(delta_source({"w": one}, {"w": np.zeros_like(one)}).load("w"), one)


def test_identical_models_have_no_spectrum_and_say_so() -> None:
    (layer,) = analyze(delta_source(arrays(0, "w"), arrays(0, "w")), n_workers=1).layers
    assert layer.status == "failed"
    assert layer.reason == "all 3000 values are zero"


def test_a_source_like_any_other() -> None:
    source = delta_source(arrays(0, "a.weight", "b.weight"), arrays(7, "a.weight", "b.weight"))
    assert isinstance(source, TensorSource)
    assert source.label == "dict - dict"
    assert open_model(source) is source
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.load("b.weight"), source.load("b.weight"))


def test_tensors_without_a_partner_are_rows_and_not_the_weight_itself() -> None:
    model = {**arrays(0, "a.weight", "b.weight"), "head.weight": np.ones((60, 2), np.float32)}
    base = {**arrays(5, "a.weight", "b.weight"), "pooler.weight": np.ones((50, 50), np.float32)}
    description = describe(delta_source(model, base))
    assert [spec.name for spec in description.matrices] == ["a", "b"]
    assert {row.name: row.reason for row in description.unanalysed} == {
        "head.weight": "no tensor of this name in the other model",
        "pooler.weight": ONLY_IN_BASE,
    }
    with pytest.raises(ModelError, match=r"^dict - dict: tensor 'head.weight': no tensor of this name in the other"):
        delta_source(model, base).load("head.weight")


def test_other_shapes_are_rows() -> None:
    model = {**arrays(0, "a.weight", "b.weight"), "vocabulary.weight": np.ones((8, 4), np.float32)}
    base = {**arrays(5, "a.weight", "b.weight"), "vocabulary.weight": np.ones((7, 4), np.float32)}
    (row,) = describe(delta_source(model, base)).unanalysed
    assert row.reason == "its shape is (8, 4) here and (7, 4) in the other model"
    base["vocabulary.weight"] = np.ones((4, 8), np.float32)
    (row,) = describe(delta_source(model, base)).unanalysed
    assert row.reason.endswith("is (8, 4) here and (4, 8) in the other model: perhaps it is stored transposed")


def test_a_quantised_base_is_a_row() -> None:
    base = {**arrays(5, "a.weight"), "b.weight": np.ones((60, 50), np.int8)}
    (row,) = describe(delta_source(arrays(0, "a.weight", "b.weight"), base)).unanalysed
    assert row.reason == "in the other model: quantised or packed values are not decoded (int8)"


def test_not_finite_in_the_base_is_a_finding_of_that_layer() -> None:
    base = arrays(5, "a", "b")
    base["a"][3, 4] = np.inf
    model = arrays(0, "a", "b")
    model["a"][3, 4] = np.inf
    first, second = analyze(delta_source(model, base), n_workers=1).layers
    assert first.reason == "1 of 3000 values are NaN or infinite, the first at a[3, 4]"
    assert second.status == "success"


def test_the_role_a_module_gives_is_kept_where_the_other_is_a_file() -> None:
    module = network(0)
    plain = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    for pair in ((module, plain), (plain, module)):
        roles = [info.role for info in delta_source(*pair).tensors() if len(info.shape) > 1]
        assert roles == [LayerType.CONV2D, LayerType.DENSE, LayerType.DENSE]


def test_ranks_add_up() -> None:
    class Products:
        label = "products"

        def __init__(self, rank: int | None) -> None:
            self.rank = rank

        def tensors(self) -> tuple[TensorInfo, ...]:
            return (TensorInfo(name="w", shape=(60, 50), dtype="float32", max_rank=self.rank),)

        def load(self, name: str) -> NDArray[Any]:
            raise AssertionError(name)

    assert [info.max_rank for info in delta_source(Products(3), Products(4)).tensors()] == [7]
    assert [info.max_rank for info in delta_source(Products(3), Products(None)).tensors()] == [None]


def test_parts_and_ties_of_a_module_are_kept() -> None:
    first, second = every_layer_model(0), every_layer_model(1)
    expected = describe(first)
    assert describe(delta_source(first, second)).matrices == tuple(
        replace(spec, dtype="float32") for spec in expected.matrices
    )
    # A file tells less than a module: one of the wrapped weights cannot be computed from what it holds.
    plain = {name: tensor.numpy() for name, tensor in second.state_dict().items()}
    description = describe(delta_source(first, plain))
    known = {spec.name: spec.part for spec in expected.matrices}
    found = {spec.name: spec.part for spec in description.matrices}
    assert known.items() >= found.items()
    assert set(known) - set(found) == {"orthogonal"}
    new = {row.name: row.reason for row in description.unanalysed} | {row.name: "" for row in expected.unanalysed}
    assert {name: reason for name, reason in new.items() if reason} == {
        "orthogonal.weight": "no tensor of this name in the other model"
    }


def test_a_tied_head_that_the_file_leaves_out() -> None:
    heads = {f"head{i}": torch.nn.Linear(20, 40, bias=False) for i in range(3)}
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(40, 20), **heads})
    for name in heads:
        model[name].weight = model["embed"].weight
    description = describe(delta_source(model, {"embed.weight": np.ones((40, 20), np.float32)}))
    assert [spec.name for spec in description.matrices] == ["embed"]
    assert [row.reason for row in description.unanalysed] == ["tied to embed.weight"] * 3
    assert description.coverage == 1.0


def test_a_piece_of_a_difference_reads_a_piece_of_each() -> None:
    class Pieces:
        label = "pieces"

        def __init__(self, values: NDArray[Any]) -> None:
            self.values = values
            self.read: list[tuple[int, int]] = []

        def tensors(self) -> tuple[TensorInfo, ...]:
            return (TensorInfo(name="experts", shape=self.values.shape, dtype="float32"),)

        def load(self, name: str) -> NDArray[Any]:
            raise AssertionError(name)

        def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
            self.read.append((begin, end))
            return np.asarray(self.values.reshape(-1)[begin:end])

    values = [heavy_tailed(3, 20, 10, seed=seed).astype(np.float32) for seed in range(2)]
    first, second = (Pieces(each) for each in values)
    source = delta_source(first, second)
    matrices = [load_matrix(source, spec).slices[0] for spec in describe(source).matrices]
    np.testing.assert_array_equal(np.stack(matrices), values[0] - values[1])
    assert first.read == second.read == [(0, 200), (200, 400), (400, 600)]
    whole = SimpleNamespace(label="whole", tensors=second.tensors, load=lambda _: values[1])
    difference = (values[0] - values[1]).reshape(-1)
    np.testing.assert_array_equal(delta_source(first, whole).load_span("experts", 7, 99), difference[7:99])


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (
            arrays(0, "x.weight", "y.weight", "z.weight", "u.weight"),
            (
                r"^dict and dict are not of one architecture: they hold 2 and 4 tensors of two or more dimensions, "
                r"and 0 agree in name and shape; only in the first: a.weight, b.weight; "
                r"only in the second: x.weight, y.weight, z.weight, .. \(4 in all\)$"
            ),
        ),
        (
            arrays(0, "a.weight", "b.weight", shape=(60, 40)),
            r"and 0 agree in name and shape; of another shape: a.weight is \(60, 50\) and \(60, 40\), b.weight is",
        ),
        ({"a.weight": np.ones(3)}, r"they hold 2 and 0 tensors of two or more dimensions, and 0 agree"),
        (arrays(0, "a.weight", "c", "d", "e"), r"they hold 2 and 4 tensors .*, and 1 agree in name and shape"),
    ],
)
def test_another_architecture(base: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelMismatchError, match=message):
        delta_source(arrays(0, "a.weight", "b.weight"), base)


def test_two_models_without_matrices() -> None:
    with pytest.raises(ModelMismatchError, match=r"they hold 0 and 0 tensors of two or more dimensions"):
        delta_source({"a": np.ones(3)}, {"a": np.ones(3)})


@pytest.mark.parametrize("prefix", ["module.", "model.", "base_model.model.", "bert."])
def test_one_prefix_is_seen_through(prefix: str) -> None:
    names = ["encoder.0.q.weight", "encoder.0.k.weight", "embed.weight"]
    long = [*(prefix + name for name in names), "head.weight"]
    assert match_names(long, [*names, "head.weight"]) == {
        **{prefix + name: name for name in names},
        "head.weight": "head.weight",
    }
    assert match_names(names, long) == {name: prefix + name for name in names}


def test_an_ambiguous_prefix_is_not() -> None:
    assert match_names(["encoder.w", "decoder.w"], ["w"]) == {}
    assert match_names(["w"], ["encoder.w", "decoder.w"]) == {}
    # More names explained is no ambiguity.
    assert match_names(["encoder.w", "encoder.v", "decoder.w"], ["w", "v"]) == {"encoder.w": "w", "encoder.v": "v"}


def test_equal_names_come_before_prefixes() -> None:
    assert match_names(["x", "p.x"], ["x"]) == {"x": "x"}
    assert match_names(["x"], ["p.x", "x"]) == {"x": "x"}


names = st.lists(st.text("ab.", min_size=1, max_size=5), unique=True, max_size=8)


@settings(max_examples=200, deadline=None)
@given(names, names)
def test_matches_are_one_to_one_and_symmetric(first: list[str], second: list[str]) -> None:
    found = match_names(first, second)
    assert set(found) <= set(first)
    assert set(found.values()) <= set(second)
    assert len(set(found.values())) == len(found)
    assert {b: a for a, b in found.items()} == match_names(second, first)
    assert all(a == b or a.endswith(f".{b}") or b.endswith(f".{a}") for a, b in found.items())


def test_a_wrapped_model_against_its_plain_base() -> None:
    base = network(0)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned[2].weight[5, 7] += 1.0
    source = delta_source(torch.nn.DataParallel(tuned), base)
    assert np.count_nonzero(source.load("module.2.weight")) == 1
    assert not source.load("module.2.bias").any()
