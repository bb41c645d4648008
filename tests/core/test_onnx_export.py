"""Modules exported by torch, by both of its exporters: every weight comes back under its own name, bit for bit."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spectral import describe
from spectral.loaders.onnx_file import OnnxFile, open_onnx
from spectral.loaders.onnx_names import Consumer, is_generated, original_name
from spectral.loaders.protocol import LayerType

EXPORTERS: dict[str, dict[str, Any]] = {
    "script": {"dynamo": False},
    "script unfolded": {"dynamo": False, "do_constant_folding": False},
    "dynamo": {"dynamo": True},
}
FOLDED = ("script", "dynamo")


class Everything(nn.Module):  # type: ignore[misc]  # torch is not looked into
    """A layer of each kind that has matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.mixing = nn.Parameter(torch.randn(16, 16))
        self.conv = nn.Conv1d(16, 16, 3, padding=1, groups=2)
        self.blocks = nn.ModuleList([nn.Linear(16, 16) for _ in range(2)])
        self.tail = nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Sequential(nn.Linear(20, 16, bias=False)))
        self.lstm = nn.LSTM(16, 12, num_layers=2, batch_first=True)
        self.gru = nn.GRU(12, 10, bidirectional=True, batch_first=True)
        self.head = nn.Linear(20, 30)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(self.embed(tokens)) @ self.mixing
        hidden = self.conv(hidden.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden).relu()
        hidden, _ = self.lstm(self.tail(hidden))
        hidden, _ = self.gru(hidden)
        result: torch.Tensor = self.head(hidden)
        return result


def export(module: nn.Module, example: torch.Tensor, path: Path, **options: Any) -> OnnxFile:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (example,), path, **options)
    logging.disable(logging.NOTSET)
    return open_onnx(path)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(0)
    return Everything()


@pytest.fixture(scope="module", params=EXPORTERS)
def exported(request: pytest.FixtureRequest, module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    return request.param, export(module, torch.randint(0, 30, (2, 7)), path, **EXPORTERS[request.param])


def test_every_matrix_has_its_own_name(exported: Any, module: nn.Module) -> None:
    """Recurrent weights that were folded hold all directions, in ONNX's order of gates; see the test below."""
    how, source = exported
    named = {original: name for name, original in source.original_names.items()}
    for name, tensor in module.state_dict().items():
        is_recurrent = name.startswith(("lstm", "gru"))
        if tensor.ndim < 2 or (how in FOLDED and is_recurrent):
            continue
        values = source.load(named[name])
        if named[name] in source.transposed_names:
            values = values.T
        np.testing.assert_array_equal(values, tensor.numpy(), err_msg=name)
    if how in FOLDED:
        assert any(name != original for original, name in named.items())


def test_gates_of_recurrent_layers(exported: Any, module: nn.Module) -> None:
    how, source = exported
    if how not in FOLDED:
        return
    state = module.state_dict()
    n_checked = 0
    for info in source.tensors():
        if info.role is not LayerType.RECURRENT or info.name not in source.original_names:
            continue
        for part in info.parts:
            layer = f"{source.original_names[info.name]}.{part.name}"
            layer = source.original_parts.get(info.name, {}).get(part.name, layer)
            tensor, _, gate = layer.rpartition(".")
            gates = "ifgo" if tensor.startswith("lstm") else "rzn"
            expected = state[tensor].numpy().reshape(len(gates), -1, state[tensor].shape[1])[gates.index(gate)]
            np.testing.assert_array_equal(part.cut(source.load(info.name))[0], expected, err_msg=layer)
            n_checked += 1
    assert n_checked == 4 * 2 * 2 + 3 * 2 * 2


def test_the_same_matrices_as_in_the_module(exported: Any, module: nn.Module) -> None:
    how, source = exported
    assert how in EXPORTERS
    expected, found = (
        sorted((str(spec.layer_type), spec.rf, spec.N, spec.M) for spec in describe(model).matrices)
        for model in (module, source)
    )
    # What torch knows by the class of a module to be a projection of attention, is a product here.
    in_file, in_module = (
        sorted((kind.replace("attention", "dense"), *rest) for kind, *rest in rows) for rows in (found, expected)
    )
    assert in_file == in_module
    assert describe(source).coverage > 0.9


def test_tied_embeddings(tmp_path: Path) -> None:
    class Tied(nn.Module):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(30, 16)
            self.head = nn.Linear(16, 30, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(self.embed(tokens))
            return result

    tied = Tied()
    source = export(tied, torch.zeros(1, 3, dtype=torch.long), tmp_path / "m.onnx", dynamo=True)
    found = source.original_names
    weight = tied.embed.weight.detach().numpy()
    for name in found:
        values = source.load(name)
        np.testing.assert_array_equal(values.T if name in source.transposed_names else values, weight)
    assert "embed.weight" in found.values() or "head.weight" in found.values()


BERT = "/encoder/layer.0/attention/self/query/MatMul"


QUERY = "encoder.layer.0.attention.self.query.weight"
SCOPES = "['', 'a', 'a.b', 'linear']"
HOW = "/layer1/layer1.0/downsample/downsample.0/Conv"
GENAI = "model.layers.0.attn.q_proj.MatMul.weight"
HF = "model.layers.0.self_attn.q_proj.weight"


def takes(op_type: str, node: str = "", index: int = 1, **options: Any) -> Consumer:
    return Consumer(op_type=op_type, index=index, node=node, **options)


LINEAR = takes("MatMul")


@pytest.mark.parametrize(
    ("names", "consumer", "expected", "is_turned"),
    [
        (("encoder.0.weight",), None, "encoder.0.weight", False),
        (("pos_embed",), None, "pos_embed", False),
        (("fc.weight_quantized",), None, "fc.weight", False),
        (("fc.weight_DequantizeLinear_Output", "fc.weight_quantized"), None, "fc.weight", False),
        (("fc.weight_Q4",), None, "fc.weight", True),
        (("fc.weight_Transposed_quantized",), LINEAR, "fc.weight", True),
        (("onnx::MatMul_123",), takes("MatMul", BERT), QUERY, True),
        (("onnx::MatMul_123_quantized",), takes("MatMulInteger", f"{BERT}_quant"), QUERY, True),
        (("onnx::MatMul_123_Q4",), takes("MatMulNBits", f"{BERT}_Q4"), QUERY, False),
        (("onnx::Conv_5",), takes("Conv", "/layer1/layer1.0/conv1/Conv"), "layer1.0.conv1.weight", False),
        (("onnx::Conv_5",), takes("Conv", HOW), "layer1.0.downsample.0.weight", False),
        (("onnx::LSTM_5",), takes("LSTM", "/rnn/LSTM_1", 2, layer=1), "rnn.weight_hh_l1", False),
        (("val_5",), takes("MatMul", "node_MatMul", bias="attn.in_proj_bias"), "attn.in_proj_weight", True),
        (("val_5",), takes("MatMul", "n", scopes=SCOPES), "a.b.weight", True),
        (("val_5",), takes("MatMul", "node_MatMul_5"), None, False),
        (("val_5",), takes("MatMul", "/MatMul"), None, False),
        (("onnx::MatMul_5",), None, None, False),
        ((GENAI,), LINEAR, HF, True),
        ((f"{GENAI}_Q4",), takes("MatMulNBits"), HF, False),
        (("StatefulPartitionedCall/net/dense/MatMul/ReadVariableOp:0",), LINEAR, "net/dense/kernel", False),
        (("net/conv/BiasAdd/ReadVariableOp:0",), None, "net/conv/bias", False),
        (("If_0_then_branch__Inline_0__encoder.0.weight",), None, "encoder.0.weight", False),
    ],
)
def test_names(names: tuple[str, ...], consumer: Consumer | None, expected: str | None, is_turned: bool) -> None:
    found = original_name(names, consumer)
    assert (found.name if found else None) == expected
    assert (found is not None and found.is_turned) is is_turned


@pytest.mark.parametrize(
    "name", ["_DQ" * 170 + "!", "_quant" * 600, "a." * 255 + "MatMul", "'" * 4000, "/" * 4000, "Inline_" * 70]
)
def test_names_made_to_take_long(name: str) -> None:
    consumer = Consumer(op_type="MatMul", index=1, node=f"/a/MatMul{name}", scopes=name, bias=name)
    for names in ((name,), ("val_1",)):
        found = original_name(names, consumer)
        assert found is None or len(found.name) <= len(name) + 10
    assert is_generated("val_1")
