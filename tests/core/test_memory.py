"""Models in memory: modules, state dicts and dicts of arrays."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch

from spectral.analysis import analyze, describe
from spectral.errors import ModelError, UnsupportedModelError
from spectral.loaders.memory import MemorySource
from spectral.loaders.opening import open_model
from spectral.loaders.protocol import LayerType
from tests.core.builders import heavy_tailed

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"],
)
def test_arrays_and_tensors_are_the_same_bits(dtype: str) -> None:
    tensor = torch.from_numpy(heavy_tailed(60, 50)).to(getattr(torch, dtype))
    numpy_type = np.dtype(getattr(ml_dtypes, dtype, dtype))
    array = tensor.view(torch.uint8).numpy().copy().view(numpy_type).reshape(60, 50)
    (one,), (two,) = (analyze({"w": value}).layers for value in (tensor, array))
    assert one.content_hash == two.content_hash
    assert one.metrics == two.metrics
    assert open_model({"w": tensor}).load("w").tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(heavy_tailed(40, 30)),
        heavy_tailed(40, 30).astype(">f8"),
        heavy_tailed(80, 60)[::2, ::-2][:, ::-1],
        heavy_tailed(40, 30).view(np.matrix) if hasattr(np, "matrix") else heavy_tailed(40, 30),
    ],
    ids=["fortran order", "big-endian", "strided", "matrix"],
)
def test_layout_in_memory_does_not_matter(array: NDArray[np.float64]) -> None:
    plain = np.array(array, dtype="<f8", order="C", subok=False)
    (one,), (two,) = (analyze({"w": value}).layers for value in (array, plain))
    assert one.content_hash == two.content_hash
    assert one.metrics == two.metrics


@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 2), (2, 3, 4)])
def test_shapes_are_kept(shape: tuple[int, ...]) -> None:
    source = open_model({"array": np.ones(shape), "tensor": torch.ones(shape)})
    assert [info.shape for info in source.tensors()] == [shape, shape]
    assert [source.load(name).shape for name in ("array", "tensor")] == [shape, shape]


def test_the_caller_s_arrays_are_not_written_to_or_copied() -> None:
    array = heavy_tailed(60, 50)
    before = array.copy()
    array.flags.writeable = False
    source = open_model({"w": array})
    assert np.shares_memory(source.load("w"), array)
    analyze(source)
    np.testing.assert_array_equal(array, before)


def test_any_mapping() -> None:
    assert describe(MappingProxyType({"w": np.ones((4, 4))})).details["longname"].tolist() == ["w"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({1: np.ones((2, 2))}, r"^dict: tensor names must be strings, got int$"),
        ({"w": [[1.0, 2.0]]}, r"^dict: 'w' is a list, expected a numpy array or a torch tensor$"),
        ({"w": None}, r"^dict: 'w' is a NoneType"),
        ({"w": {"x": np.ones((2, 2))}}, r"^dict: 'w' is a dict"),
    ],
)
def test_mappings_of_other_things(content: dict[Any, Any], match: str) -> None:
    with pytest.raises(UnsupportedModelError, match=match):
        open_model(content)


@pytest.mark.parametrize("model", [3, None, [np.ones((2, 2))], np.ones((2, 2)), b"m.pt", object()])
def test_other_things(model: object) -> None:
    with pytest.raises(UnsupportedModelError, match=r"^cannot analyse a \w+\.\w+: expected a path, a torch module"):
        open_model(model)


def test_a_source_is_returned_as_it_is() -> None:
    source = open_model({"w": np.ones((4, 4))})
    assert isinstance(source, MemorySource)
    assert open_model(source) is source


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex128", "object", "longdouble"])
def test_arrays_of_other_types_are_listed_and_refused(dtype: str) -> None:
    source = open_model({"w": np.ones((4, 4)).astype(dtype)})
    (unanalysed,) = describe(source).unanalysed
    assert "(" in unanalysed.reason
    with pytest.raises(ModelError, match=r"^dict: tensor 'w': "):
        source.load("w")


class TestModules:
    def test_roles_come_from_the_classes(self) -> None:
        model = torch.nn.ModuleDict(
            {
                "fc": torch.nn.Linear(30, 20),
                "table": torch.nn.Embedding(30, 20),
                "bag": torch.nn.EmbeddingBag(30, 20),
                "one": torch.nn.Conv1d(30, 20, 40),
                "two": torch.nn.Conv2d(4, 5, 7),
            }
        )
        roles = {info.name: info.role for info in open_model(model).tensors()}
        assert roles == {
            "fc.weight": LayerType.DENSE,
            "fc.bias": None,
            "table.weight": LayerType.EMBEDDING,
            "bag.weight": LayerType.EMBEDDING,
            "one.weight": LayerType.CONV1D,
            "one.bias": None,
            "two.weight": LayerType.CONV2D,
            "two.bias": None,
        }
        types = describe(model).details.set_index("longname")["layer_type"].to_dict()
        assert types == {"fc": "dense", "table": "embedding", "bag": "embedding", "one": "conv1d", "two": "conv2d"}

    def test_shapes_that_a_file_would_misread(self) -> None:
        # A kernel larger than the channels: by shape alone this looks like a Keras kernel.
        (spec,) = describe(torch.nn.Conv2d(4, 5, 7)).matrices
        assert (spec.rows, spec.columns, spec.rf) == (5, 4, 49)
        assert spec.part.cut(np.arange(5 * 4 * 49).reshape(5, 4, 7, 7))[1, 2, 3] == 2 * 4 * 49 + 3 * 49 + 1
        # Three dimensions, but no convolution.
        (spec,) = describe(torch.nn.Bilinear(12, 14, 20)).matrices
        assert (spec.layer_type, spec.rows, spec.columns, spec.rf) == (LayerType.BILINEAR, 12, 14, 20)

    def test_parameters_and_buffers(self) -> None:
        model = torch.nn.Sequential(torch.nn.Embedding(30, 20), torch.nn.Linear(20, 30))
        model.register_buffer("positions", torch.arange(12).reshape(3, 4))
        description = describe(model)
        assert [spec.name for spec in description.matrices] == ["0", "1"]
        assert [item.name for item in description.unanalysed] == ["positions"]

    def test_gradients_and_training_state_are_left_alone(self) -> None:
        model = torch.nn.Linear(30, 20)
        before = model.weight.detach().clone()
        analyze(model)
        assert model.weight.requires_grad
        assert model.training
        assert torch.equal(model.weight, before)

    def test_module_and_its_state_dict_agree(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.Conv2d(20, 30, 3))
        one, two = analyze(model), analyze(model.state_dict())
        assert [layer.content_hash for layer in one.layers] == [layer.content_hash for layer in two.layers]
        assert one.summary == two.summary

    def test_lazy_parameters(self) -> None:
        with pytest.raises(UnsupportedModelError, match=r"^'0\.weight' is not initialised: run the model once"):
            describe(torch.nn.Sequential(torch.nn.LazyLinear(3)))

    def test_meta_tensors_are_listed(self) -> None:
        description = describe(torch.nn.Linear(30, 20, device="meta"))
        (unanalysed,) = description.unanalysed
        assert unanalysed.reason == "the tensor is on the meta device: it has no values"
        assert description.coverage == 0.0
