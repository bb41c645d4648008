"""Which tensors become which matrices, by name, shape and role."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.weights import MatrixSpec, as_weight_matrix, plan_matrices


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
        (info("conv3d.weight", 8, 8, 3, 3, 3), "tensors of 5 dimensions"),
        (info("mlp.experts.w1", 8, 300, 200), "fused experts"),
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
        info("conv3d.weight", 2, 2, 2, 2, 2),
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
        st.text("a.w", max_size=3).map(lambda stem: stem)
        | st.sampled_from(["a" + ".weight" * i for i in range(4)] + [".weight" * i for i in range(4)]),
        unique=True,
    )
)
def test_layer_names_all_differ(tensors: list[str]) -> None:
    names = [found.name for found in plan_matrices([info(name, 4, 4) for name in tensors]).matrices]
    assert len(set(names)) == len(tensors)


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
