"""Which tensors become which matrices, by name, shape and role."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.parts import row_blocks
from spectral.weights import MatrixSpec, as_weight_matrix, load_matrix, plan_matrices


def info(name: str, *shape: int, dtype: str = "float32", role: LayerType | None = None) -> TensorInfo:
    return TensorInfo(name=name, shape=shape, dtype=dtype, role=role)


def spec(tensor: TensorInfo) -> MatrixSpec:
    (found,) = plan_matrices([tensor]).matrices
    return found


def reason(tensor: TensorInfo) -> str:
    plan = plan_matrices([tensor])
    assert plan.matrices == ()
    (found,) = plan.unanalysed
    assert (found.name, found.shape, found.dtype) == (tensor.name, tensor.shape, tensor.dtype)
    return found.reason


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (info("fc.weight", 30, 20), ("dense", 30, 20, 1)),
        (info("word_embeddings.weight", 30, 20), ("embedding", 30, 20, 1)),
        (info("transformer.wte.weight", 30, 20), ("embedding", 30, 20, 1)),
        (info("embed.out.weight", 30, 20, role=LayerType.DENSE), ("dense", 30, 20, 1)),
        (info("table.weight", 30, 20, role=LayerType.EMBEDDING), ("embedding", 30, 20, 1)),
        (info("c_attn.weight", 30, 20, role=LayerType.CONV1D), ("dense", 30, 20, 1)),
        (info("pos_embed", 1, 197, 768), ("embedding", 197, 768, 1)),
        (info("conv.weight", 30, 20, 5), ("conv1d", 30, 20, 5)),
        (info("layer.weight", 30, 20, 16), ("conv1d", 30, 20, 16)),
        (info("long_conv.weight", 30, 20, 400), ("conv1d", 30, 20, 400)),
        (info("x.weight", 30, 20, 100, role=LayerType.CONV1D), ("conv1d", 30, 20, 100)),
        (info("conv/kernel", 5, 20, 30), ("conv1d", 20, 30, 5)),
        (info("conv.weight", 64, 32, 3, 3), ("conv2d", 64, 32, 9)),
        (info("conv.weight", 2, 30, 3, 3), ("conv2d", 2, 30, 9)),
        (info("conv.weight", 32, 3, 7, 7), ("conv2d", 32, 3, 49)),
        (info("conv/kernel", 3, 3, 32, 64), ("conv2d", 32, 64, 9)),
        (info("conv.weight", 5, 4, 7, 7, role=LayerType.CONV2D), ("conv2d", 5, 4, 49)),
        (info("conv.weight", 8, 8, 8, 8), ("conv2d", 8, 8, 64)),
        (info("conv.weight", 8, 9, 3, 4, 5), ("conv3d", 8, 9, 60)),
        (info("conv.weight", 2, 30, 3, 3, 3), ("conv3d", 2, 30, 27)),
        (info("conv/kernel", 3, 4, 5, 16, 32), ("conv3d", 16, 32, 60)),
        (info("conv.weight", 5, 4, 7, 7, 7, role=LayerType.CONV3D), ("conv3d", 5, 4, 343)),
        (info("head.bilinear.weight", 7, 30, 20), ("bilinear", 30, 20, 7)),
        (info("mask_head/kernel", 30, 20), ("dense", 30, 20, 1)),
        (info("x.weight", 30, 20, role=LayerType.ATTENTION), ("attention", 30, 20, 1)),
        (info("rnn.weight_hr_l0", 20, 30), ("recurrent", 20, 30, 1)),
        # Nothing beside it tells how many gates there are.
        (info("rnn.weight_ih_l0", 120, 30), ("dense", 120, 30, 1)),
    ],
)
def test_layout(tensor: TensorInfo, expected: tuple[str, int, int, int]) -> None:
    found = spec(tensor)
    layer_type, rows, columns, rf = expected
    assert (str(found.layer_type), found.rows, found.columns, found.rf) == expected
    assert found.rows * found.columns * found.rf == tensor.n_values
    assert (found.N, found.M, found.n_evals) == (max(rows, columns), min(rows, columns), min(rows, columns) * rf)
    assert max(rows, columns) / min(rows, columns) == found.Q
    assert found.scale**2 == pytest.approx(0.5 if layer_type == "conv2d" else 1.0)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (info("w", 0, 5), "an empty tensor"),
        (info("w", 5, 0, 3), "an empty tensor"),
        (info("attn.bias", 1, 1, 30, 30), "named as a bias or a mask"),
        (info("causal_mask", 30, 30), "named as a bias or a mask"),
        (info("w", 1, 30), "only vectors"),
        (info("w", 30, 1), "only vectors"),
        (info("conv.weight", 64, 1, 3, 3), "only vectors"),
        (info("conv.weight", 1, 1, 3), "only vectors"),
        (info("w", 1, 1, 1, 1), "only vectors"),
        (info("conv.weight", 8, 8, 3, 3, 3, 3), "tensors of 6 dimensions"),
        (info("mlp.experts.w1", 8, 300, 1), "only vectors"),
        (info("mlp.experts.w1_bias", 8, 300), "named as a bias or a mask"),
        (info("decoder/bias", 2, 24), "named as a bias or a mask"),
        (info("attn.qkv", 30, 40, 50), "three dimensions whose meaning"),
        (info("bilinear.weight", 30, 40, 5, role=LayerType.DENSE), "three dimensions whose meaning"),
        (TensorInfo(name="w", shape=(3, 3), dtype="int8", refusal="packed"), "packed"),
    ],
)
def test_reason(tensor: TensorInfo, expected: str) -> None:
    assert reason(tensor).startswith(expected)


@pytest.mark.parametrize("shape", [(), (1,), (300,), (0,)])
def test_scalars_and_vectors_are_in_neither_list(shape: tuple[int, ...]) -> None:
    plan = plan_matrices([info("w", *shape)])
    assert (plan.matrices, plan.unanalysed) == ((), ())
    assert plan.n_parameters == int(np.prod(shape))


def test_coverage_accounts_for_every_parameter() -> None:
    tensors = [
        info("fc.weight", 30, 20),
        info("fc.bias", 30),
        info("scale"),
        info("conv6d.weight", 2, 2, 2, 2, 2, 1),
        info("positions", 1, 512, dtype="int64"),
        info("mask", 9, 9, dtype="bool"),
        TensorInfo(name="packed", shape=(10, 10), dtype="uint8", refusal="packed"),
    ]
    plan = plan_matrices(tensors)
    # Masks and positions are no parameters; packed weights are.
    assert (plan.n_analysed, plan.n_parameters) == (600, 600 + 30 + 1 + 32 + 100 + 0)
    assert plan.coverage == pytest.approx(600 / 763)


def test_coverage_of_nothing() -> None:
    assert plan_matrices([]).coverage == 0.0
    assert plan_matrices([info("w", 0, 3)]).coverage == 0.0


@pytest.mark.parametrize(
    ("tensors", "names"),
    [
        (["a.weight", "b.weight"], ["a", "b"]),
        (["weight"], ["weight"]),
        ([".weight"], [".weight"]),
        (["a.weight", "a"], ["a.weight", "a"]),
        (["a", "a.weight", "a.weight.weight"], ["a", "a.weight", "a.weight.weight"]),
        (["a.weight", "a.weight_g", "a.kernel"], ["a", "a.weight_g", "a.kernel"]),
    ],
)
def test_layer_names(tensors: list[str], names: list[str]) -> None:
    plan = plan_matrices([info(name, 4, 4) for name in tensors])
    assert [found.name for found in plan.matrices] == names
    assert [found.tensor for found in plan.matrices] == tensors


@given(
    st.lists(
        st.text("a.w", max_size=3)
        | st.sampled_from(["a" + ".weight" * i for i in range(4)] + [".weight" * i for i in range(4)])
        | st.sampled_from(
            ["a/kernel", "a/embeddings", "a.qkv", "a.qkv.weight", "a.qkv.q", "a.qkv.q.weight", "a.qkv.q_"]
        ),
        unique=True,
    )
)
def test_layer_names_all_differ(tensors: list[str]) -> None:
    plan = plan_matrices([info(name, 12, 4) for name in tensors])
    names = [found.name for found in plan.matrices]
    assert len(set(names)) == len(names)
    assert {found.tensor for found in plan.matrices} == set(tensors)
    assert plan.coverage == (1.0 if tensors else 0.0)


def parts(*tensors: TensorInfo) -> dict[str, tuple[int, int]]:
    return {found.name: (found.rows, found.columns) for found in plan_matrices(tensors).matrices}


class TestSeveralMatricesInOneTensor:
    def test_experts(self) -> None:
        expected = {f"mlp.experts.w1.{index}": (300, 200) for index in range(8)}
        assert parts(info("mlp.experts.w1", 8, 300, 200)) == expected

    @pytest.mark.parametrize(
        ("n_gates", "names"), [(4, ["i", "f", "g", "o"]), (3, ["r", "z", "n"]), (1, [""]), (2, [""])]
    )
    @pytest.mark.parametrize("which", ["", "_l0", "_l12_reverse"])
    def test_torch_gates_by_the_size_of_the_hidden_state(self, n_gates: int, names: list[str], which: str) -> None:
        found = parts(
            info(f"a.weight_ih{which}", 20 * n_gates, 12),
            info(f"a.weight_hh{which}", 20 * n_gates, 20),
            info("b.weight_hh", 7, 7),
        )
        n_rows = 20 * n_gates // len(names)
        for kind, n_columns in (("ih", 12), ("hh", 20)):
            for gate in names:
                name = f"a.weight_{kind}{which}" + (f".{gate}" if gate else "")
                assert found[name] == (n_rows, n_columns)
        assert len(found) == 2 * len(names) + 1

    def test_a_projected_lstm(self) -> None:
        tensors = [info("weight_ih_l0", 96, 26), info("weight_hh_l0", 96, 20), info("weight_hr_l0", 20, 24)]
        found = parts(*tensors)
        assert found["weight_hh_l0.f"] == (24, 20)
        assert found["weight_hr_l0"] == (20, 24)
        assert len(found) == 9

    @pytest.mark.parametrize(("n_gates", "names"), [(4, ["i", "f", "c", "o"]), (3, ["z", "r", "h"]), (1, [""])])
    def test_keras_gates_in_a_file(self, n_gates: int, names: list[str]) -> None:
        found = parts(
            info("lstm/kernel", 12, 20 * n_gates),
            info("lstm/recurrent_kernel", 20, 20 * n_gates),
            info("dense/kernel", 12, 80),
        )
        expected = {
            f"lstm/{kernel}" + (f".{gate}" if gate else ""): (n_rows, 20)
            for kernel, n_rows in (("kernel", 12), ("recurrent_kernel", 20))
            for gate in names
        }
        assert found == {**expected, "dense": (12, 80)}

    def test_attention(self) -> None:
        assert parts(info("a.in_proj_weight", 60, 20)) == {f"a.in_proj_weight.{name}": (20, 20) for name in "qkv"}
        assert parts(info("h.c_attn.weight", 20, 60)) == {f"h.c_attn.{name}": (20, 20) for name in "qkv"}

    def test_names_that_are_taken(self) -> None:
        found = parts(info("qkv.weight", 12, 4), info("qkv.q.weight", 9, 8), info("qkv.k", 7, 6))
        assert found == {"qkv.q_": (4, 4), "qkv.k_": (4, 4), "qkv.v": (4, 4), "qkv.q": (9, 8), "qkv.k": (7, 6)}

    def test_two_tensors_of_one_short_name(self) -> None:
        assert parts(info("a.weight", 9, 8), info("a/kernel", 7, 6)) == {"a.weight": (9, 8), "a/kernel": (7, 6)}

    def test_a_part_that_is_only_a_vector(self) -> None:
        shape = (6, 5)
        tensor = replace(info("w", *shape), parts=row_blocks(LayerType.ATTENTION, shape, {"q": 4, "k": 1, "v": 1}))
        plan = plan_matrices([tensor])
        assert [found.name for found in plan.matrices] == ["w.q"]
        assert [(item.name, item.part) for item in plan.unanalysed] == [("w", "k"), ("w", "v")]
        assert plan.coverage == 20 / 30

    def test_what_the_source_says_comes_first(self) -> None:
        tensor = replace(info("qkv.bias", 12, 4), parts=row_blocks(LayerType.DENSE, (12, 4), {"a": 5, "b": 7}))
        assert parts(tensor) == {"qkv.bias.a": (5, 4), "qkv.bias.b": (7, 4)}

    def test_tied_tensors_are_no_parameters(self) -> None:
        tied = replace(info("b", 12, 4), refusal="tied to a", counted_in="a")
        plan = plan_matrices([info("a", 12, 4), tied])
        assert (plan.coverage, plan.n_parameters) == (1.0, 48)
        assert [(item.name, item.reason) for item in plan.unanalysed] == [("b", "tied to a")]


class TestLoading:
    class Source:
        """Counts the values it hands out."""

        label = "source"

        def __init__(self, values: NDArray[np.float64]) -> None:
            self.values = values
            self.n_read = 0

        def tensors(self) -> tuple[TensorInfo, ...]:
            return (info("experts", *self.values.shape, dtype="float64"),)

        def load(self, name: str) -> NDArray[np.float64]:
            self.n_read += self.values.size
            return self.values

    class SpanSource(Source):
        def load_span(self, name: str, begin: int, end: int) -> NDArray[np.float64]:
            self.n_read += end - begin
            return self.values.reshape(-1)[begin:end]

    @pytest.mark.parametrize(("source_class", "n_read"), [(Source, 60), (SpanSource, 20)])
    def test_no_more_than_the_part(self, source_class: type[Source], n_read: int) -> None:
        values = np.random.default_rng(0).standard_normal((3, 5, 4))
        source = source_class(values)
        for index, found in enumerate(plan_matrices(source.tensors()).matrices):
            source.n_read = 0
            loaded = load_matrix(source, found)
            np.testing.assert_array_equal(loaded.slices, values[index : index + 1])
            np.testing.assert_array_equal(loaded.values, values[index])
            assert not loaded.slices.flags.writeable
            assert source.n_read == n_read


def test_indices_count_matrices_only() -> None:
    plan = plan_matrices([info("a", 4, 4), info("b", 4), info("c", 0, 4), info("d", 4, 4)])
    assert [found.index for found in plan.matrices] == [0, 1]


class TestSlices:
    def test_torch_convolution(self) -> None:
        values = np.arange(5 * 4 * 3 * 2.0).reshape(5, 4, 3, 2)
        matrix = as_weight_matrix(spec(info("conv.weight", 5, 4, 3, 2)), values)
        assert matrix.slices.shape == (6, 5, 4)
        for i in range(3):
            for j in range(2):
                np.testing.assert_array_equal(matrix.slices[2 * i + j], values[:, :, i, j])

    def test_keras_convolution(self) -> None:
        values = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
        matrix = as_weight_matrix(spec(info("conv/kernel", 2, 3, 4, 5)), values)
        np.testing.assert_array_equal(matrix.slices, values.reshape(6, 4, 5))

    @pytest.mark.parametrize("shape", [(6, 5), (1, 60, 50), (6, 5, 1), (6, 5, 1, 1)])
    def test_one_matrix(self, shape: tuple[int, ...]) -> None:
        values = np.random.default_rng(0).standard_normal(shape)
        matrix = as_weight_matrix(spec(info("conv.weight" if len(shape) > 2 and shape[0] > 1 else "w", *shape)), values)
        np.testing.assert_array_equal(matrix.slices[0], values.reshape(matrix.slices.shape[1:]))

    @pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (6, 5, 3, 3)])
    def test_a_read_only_view(self, shape: tuple[int, ...]) -> None:
        values = np.ones(shape)
        matrix = as_weight_matrix(spec(info("conv.weight", *shape)), values)
        assert np.shares_memory(matrix.slices, values)
        with pytest.raises(ValueError, match=r"read-only"):
            matrix.slices[:] = 0.0
        assert values.flags.writeable

    def test_values_of_another_shape(self) -> None:
        with pytest.raises(ValueError, match=r"^w: expected shape \(6, 5\), got \(5, 6\)$"):
            as_weight_matrix(spec(info("w", 6, 5)), np.ones((5, 6)))
