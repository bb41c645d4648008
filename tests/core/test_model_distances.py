"""Distances of two models."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.analysis import describe
from spectral.errors import ModelMismatchError, OptionError
from spectral.loaders.opening import open_model
from spectral.model_distances import DistanceMethod, cka_similarity, distances
from tests.core.builders import heavy_tailed
from tests.core.oracle_cross import oracle_distances
from tests.core.zoo import every_layer_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS = get_args(DistanceMethod)


def network(seed: int) -> Any:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(16, 24, 3, bias=False),
        torch.nn.Conv2d(24, 12, (1, 2), bias=False),
        torch.nn.Embedding(70, 30),
        torch.nn.Linear(50, 90),
        torch.nn.Linear(90, 40, bias=False),
    )
    with torch.no_grad():
        for position, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.from_numpy(heavy_tailed(*parameter.shape, seed=100 * seed + position)))
    return net


def orthogonal(n: int, seed: int) -> NDArray[np.float64]:
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0], dtype=np.float64)


def slow_cka(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    norms = np.linalg.norm(one.T @ one) * np.linalg.norm(two.T @ two)
    return float(np.linalg.norm(one.T @ two) / np.sqrt(norms))


@pytest.mark.parametrize("method", METHODS)
def test_same_numbers_as_the_incumbent(method: Any) -> None:
    first, second = network(0), network(1)
    mean_w, mean_b, theirs = oracle_distances(first, second, method)
    ours = distances(first, second, method=method, n_workers=1)
    assert [layer.name for layer in ours.layers] == list(theirs.index)
    details = ours.details.set_index("longname")
    # Its norms are sums of float32.
    np.testing.assert_allclose(details["delta_W"], theirs["delta_W"].astype(float), rtol=2e-6)
    assert ours.mean_delta_W == pytest.approx(mean_w, rel=2e-6)
    assert set(theirs.columns) - {"longname"} <= set(details.columns)
    if method == "raw":
        # The one layer that has a bias, where it has 0 for the others.
        assert ours.mean_delta_b == pytest.approx(theirs.loc["3", "delta_b"], rel=2e-6)
        assert details["delta_b"].notna().tolist() == [False, False, False, True, False]
        assert 5 * mean_b == pytest.approx(ours.mean_delta_b, rel=2e-6)
        # pandas takes the one number out of its tuple.
        assert ours.layers[3].b_shape == (theirs.loc["3", "b_shape"],) == (90,)
        # The sides of whole tensors: 2 and 24 for a kernel of (12, 24, 1, 2). Ours are those of the matrices.
        assert (theirs.loc["1", "M"], details.loc["1", "M"]) == (1, 12)
    else:
        assert details["M"].tolist() == theirs["M"].tolist()
        assert details["N"].tolist() == theirs["N"].tolist()
        assert ours.mean_delta_b is None


def test_the_incumbent_puts_minus_one_where_shapes_differ() -> None:
    first = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 20), torch.nn.Linear(20, 10))
    second = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 20), torch.nn.Linear(20, 12))
    _, _, theirs = oracle_distances(first, second, "raw")
    assert theirs.loc["2", "delta_W"] == -1
    found = distances(first, second)
    ours = found.details.set_index("longname")
    assert ours["delta_W"].isna().tolist() == [False, False, True]
    assert found.layers[2].reason == "its shape is (10, 20) here and (12, 20) in the other model"
    expected = np.linalg.norm((first[0].weight - second[0].weight).detach())
    assert ours.loc["0", "delta_W"] == pytest.approx(float(expected), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 999))
def test_cka_without_the_large_product(n_rows: int, n_columns: int, seed: int) -> None:
    one, two = (heavy_tailed(n_rows, n_columns, seed=seed + i) for i in range(2))
    found = cka_similarity(one, two)
    assert found == pytest.approx(slow_cka(one, two), rel=1e-9, abs=1e-9)
    assert 0.0 <= found <= 1.0 + 1e-12
    assert cka_similarity(two, one) == pytest.approx(found, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 999), st.floats(1e-3, 1e3))
def test_cka_sees_neither_scale_nor_rotation_of_the_inputs(
    n_rows: int, n_columns: int, seed: int, scale: float
) -> None:
    one, two = (heavy_tailed(n_rows, n_columns, seed=seed + i) for i in range(2))
    turned = scale * two @ orthogonal(n_columns, seed)
    assert cka_similarity(one, turned) == pytest.approx(cka_similarity(one, two), rel=1e-8)
    assert cka_similarity(two, turned) == pytest.approx(1.0, rel=1e-9)


def test_cka_of_orthogonal_column_spaces_is_zero() -> None:
    basis = orthogonal(20, 0)
    assert cka_similarity(basis[:, :5], basis[:, 5:10]) == pytest.approx(0.0, abs=1e-12)
    wide = np.zeros((6, 30)), np.zeros((6, 30))
    wide[0][:3], wide[1][3:] = 1.0, 1.0
    assert cka_similarity(*wide) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(-3, 3).map(lambda x: 10.0**x), st.sampled_from(["raw", "euclidean"]))
def test_norms_are_a_metric(seed: int, scale: float, method: Any) -> None:
    a, b, c = ({"k.weight": heavy_tailed(8, 6, 3, 2, seed=seed + i)} for i in range(3))

    def distance(one: Any, two: Any) -> float:
        value = distances(one, two, method=method, n_workers=1).mean_delta_W
        assert value is not None
        return value

    assert distance(a, a) == 0.0
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-12)
    assert distance(a, c) <= (distance(a, b) + distance(b, c)) * (1 + 1e-12)
    scaled = [{"k.weight": scale * model["k.weight"]} for model in (a, b)]
    assert distance(*scaled) == pytest.approx(scale * distance(a, b), rel=1e-9)
    # By the inequality of the quadratic and the arithmetic mean, over six slices.
    raw, mean = (distances(a, b, method=name).mean_delta_W for name in ("raw", "euclidean"))
    assert raw is not None
    assert mean is not None
    assert math.sqrt(6) * mean <= raw * (1 + 1e-12)


@pytest.mark.parametrize("shape", [(300, 40), (40, 300)])
def test_blocks_of_rows(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectral.model_distances.BLOCK_VALUES", 900)
    one, two = (heavy_tailed(*shape, seed=seed).astype(np.float32) for seed in range(2))
    exact = [values.astype(np.float64) for values in (one, two)]
    assert distances({"w": one}, {"w": two}).mean_delta_W == pytest.approx(
        np.linalg.norm(exact[0] - exact[1]), rel=1e-12
    )
    similarity = distances({"w": one}, {"w": two}, method="cka").mean_delta_W
    assert similarity == pytest.approx(slow_cka(*exact), rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_layers_without_a_number(method: Any) -> None:
    good = {name: heavy_tailed(20, 10, seed=seed) for seed, name in enumerate("abcd")}
    bad = {**good, "b": good["b"].copy(), "c": good["c"] * 1e200, "d": np.zeros((20, 10))}
    bad["b"][3, 4] = np.nan
    rows = {layer.name: layer for layer in distances(good, bad, method=method, n_workers=1).layers}
    assert rows["a"].reason == ""
    assert rows["b"].delta_W is None
    assert rows["b"].reason == "1 of 200 values of the second model are NaN or infinite"
    if method == "cka":
        assert rows["c"].reason == "the squares of the values leave the range of float64"
        assert rows["d"].delta_W is None
        assert rows["d"].reason == "all values of a slice of the second model are zero"
    else:
        assert rows["d"].delta_W == pytest.approx(np.linalg.norm(good["d"]))
        assert rows["c"].delta_W == pytest.approx(1e200 * np.linalg.norm(good["c"]))


@pytest.mark.parametrize("method", ["raw", "euclidean"])
def test_tiny_differences_are_not_zero(method: Any) -> None:
    values = heavy_tailed(40, 30)
    (layer,) = distances({"a": values * 1e-170}, {"a": values * 2e-170}, method=method).layers
    assert layer.delta_W == pytest.approx(1e-170 * np.linalg.norm(values))


def test_a_bias_that_is_not_finite_has_a_reason() -> None:
    good = {"a.weight": heavy_tailed(20, 10), "a.bias": np.ones(20)}
    (layer,) = distances(good, {**good, "a.bias": np.full(20, np.nan)}).layers
    assert layer.delta_W == 0.0
    assert layer.delta_b is None
    assert layer.reason == "delta_b: the biases hold NaN or infinite values"


def test_layers_of_one_model_only_and_tensors_without_matrices_are_rows() -> None:
    shared = {name: heavy_tailed(20, 10, seed=seed) for seed, name in enumerate("abcdef")}
    first = {**shared, "mine": heavy_tailed(5, 4), "v": np.ones((1, 7))}
    second = {
        **shared,
        "yours": heavy_tailed(5, 4),
        "v": np.ones((1, 7)),
        "w": np.ones((1, 7)),
        "b": np.ones((20, 10), np.int8),
    }
    found = distances(first, second, n_workers=1)
    reasons = {layer.name: layer.reason for layer in found.layers if layer.delta_W is None}
    assert reasons == {
        "b": "in the other model: quantised or packed values are not decoded (int8)",
        "mine": "no tensor of this name in the other model",
        "v": "only vectors: each slice has a single row or column, so no spectrum",
        "yours": "only in the second model",
        "w": "only in the second model",
    }
    assert found.mean_delta_W == 0.0
    assert found.details["layer_id"].isna().sum() == 3


def test_a_bias_of_a_tensor() -> None:
    first = {
        "a.weight": heavy_tailed(9, 8),
        "a.bias": np.zeros(9),
        "b.kernel": heavy_tailed(9, 8),
        "b.bias": np.zeros(8),
    }
    second = {**first, "a.bias": np.full(9, 2.0), "b.bias": np.zeros(7)}
    one, two = distances(first, second).layers
    assert (one.delta_W, one.delta_b, one.b_shape) == (0.0, 6.0, (9,))
    assert (two.delta_W, two.delta_b, two.b_shape) == (0.0, None, None)


def test_a_tensor_of_several_matrices_has_a_row_for_each_and_its_bias_once() -> None:
    first, second = (torch.nn.MultiheadAttention(24, 3) for _ in range(2))
    with torch.no_grad():
        second.load_state_dict(first.state_dict())
        second.in_proj_weight[24:48] += 1.0
        second.in_proj_bias += 2.0
    # The file does not say that the tensor is Q, K and V; it is cut as in the module.
    plain = {name: tensor.numpy() for name, tensor in second.state_dict().items()}
    for other in (second, plain):
        rows = {layer.name: layer for layer in distances(first, other).layers}
        assert [row.delta_W for row in rows.values()] == pytest.approx([0.0, 24.0, 0.0, 0.0], rel=1e-6)
        assert list(rows)[:3] == ["in_proj_weight.q", "in_proj_weight.k", "in_proj_weight.v"]
        biases = [row.delta_b for row in rows.values()]
        assert biases[0] == pytest.approx(2.0 * math.sqrt(72), rel=1e-6)
        assert biases[1:] == [None, None, 0.0]
    found = distances(first, describe(second, exclude=["in_proj_weight.k"]))
    assert found.layers[1].reason == "in the other model: excluded by the options"


def test_a_model_with_every_kind_of_layer() -> None:
    first, second = every_layer_model(0), every_layer_model(1)
    names = [spec.name for spec in describe(first).matrices]
    for method in METHODS:
        found = {layer.name: layer for layer in distances(first, second, method=method).layers}
        assert all(found[name].delta_W for name in names)
        missing = {name: layer.reason for name, layer in found.items() if layer.delta_W is None}
        assert set(missing) == {item.name for item in describe(first).unanalysed}
        assert all(missing.values())


def test_descriptions_and_patterns_choose_layers() -> None:
    first, second = ({name: heavy_tailed(9, 8, seed=seed) for name in ("x.q", "x.k", "y.q")} for seed in range(2))
    assert [layer.name for layer in distances(first, second, layers=["x.*"]).layers] == ["x.q", "x.k"]
    assert [layer.name for layer in distances(first, second, layers="q").layers] == ["x.q", "y.q"]
    assert [layer.name for layer in distances(first, second, layers=-1).layers] == ["x.q", "y.q"]
    assert [layer.name for layer in distances({**first, "v": np.ones((1, 3))}, second, layers=[0, 2]).layers] == [
        "x.q",
        "y.q",
    ]
    found = distances(describe(first, exclude=["x.*"]), second)
    assert [layer.name for layer in found.layers if layer.delta_W is not None] == ["y.q"]
    found = distances(first, describe(second, exclude=["x.*"]))
    assert [layer.reason for layer in found.layers] == ["in the other model: excluded by the options"] * 2 + [""]


def test_the_same_bits_on_any_number_of_workers() -> None:
    first, second = network(0), network(1)
    one = distances(first, second, method="cka", n_workers=1)
    with ThreadPoolExecutor(2) as executor:
        two = distances(first, second, method="cka", executor=executor)
    assert one == two


def test_a_source_twice_and_the_arguments_untouched() -> None:
    values = {"a": heavy_tailed(20, 10)}
    before = values["a"].copy()
    source = open_model(values)
    assert distances(source, source).mean_delta_W == 0.0
    assert values["a"].tobytes() == before.tobytes()


def test_models_of_different_architecture() -> None:
    with pytest.raises(ModelMismatchError, match=r"only in the first: a; only in the second: b$"):
        distances({"a": np.ones((3, 4))}, {"b": np.ones((3, 5))})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "frobenius"}, r"^method must be one of raw, euclidean, cka, got 'frobenius'$"),
        ({"method": None}, r"^method must be one of raw, euclidean, cka, got None$"),
        ({"layers": ["b*"]}, r"^layers: 'b\*' matches no layer$"),
        ({"layers": "absent"}, r"^layers: .*'absent'"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        distances({"a": np.ones((3, 4))}, {"a": np.ones((3, 4))}, **options)
