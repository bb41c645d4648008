"""Fused attention: the split against what each family's forward pass makes of the projection."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectral.analysis import analyze, describe
from spectral.attention import attention_config, fused_attention
from spectral.loaders.model_config import MAX_CONFIG_BYTES
from tests.core.builders import heavy_tailed, write_index, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

WIDTH = 24
"""Columns of every projection here: six heads of four, where the configuration does not say otherwise."""


def by_head(y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """GPT-NeoX, BLOOM, Falcon without either option: (head, 3, head_dim)."""
    heads = y.reshape(len(y), 6, 3, 4)
    return tuple(heads[:, :, index].reshape(len(y), -1) for index in range(3))


def by_kv_head(y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Falcon 40B, InternLM2: (key-value head, queries and one key and one value, head_dim); 2 of 6 heads here."""
    groups = y.reshape(len(y), 2, 5, 4)
    return tuple(part.reshape(len(y), -1) for part in (groups[:, :, :-2], groups[:, :, -2], groups[:, :, -1]))


def multi_query(y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Falcon 7B, StarCoder: all queries, then one key, then one value."""
    return tuple(np.split(y, [24, 28], axis=1))


def grouped(y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Phi-3 with 2 key-value heads: all queries, all keys, all values."""
    return tuple(np.split(y, [24, 32], axis=1))


def thirds(y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.split(y, 3, axis=1))


def codegen(y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """CodeGen: four blocks, each of queries, values, keys in this order."""
    q, v, k = np.split(y.reshape(len(y), 4, -1), 3, axis=-1)
    return tuple(part.reshape(len(y), -1) for part in (q, k, v))


NEOX = {"model_type": "gpt_neox", "num_attention_heads": 6, "hidden_size": 24}
FALCON = {"model_type": "falcon", "num_attention_heads": 6, "new_decoder_architecture": False}
FALCON_NEW = {**FALCON, "new_decoder_architecture": True, "multi_query": True, "num_kv_heads": 2}
PHI3 = {"model_type": "phi3", "num_attention_heads": 6, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("name", "n_rows", "config", "forward"),
    [
        ("h.0.query_key_value.weight", 72, NEOX, by_head),
        ("h.0.query_key_value.weight", 72, {"model_type": "bloom", "n_head": 6}, by_head),
        ("h.0.query_key_value.weight", 72, {**FALCON, "multi_query": False}, by_head),
        ("h.0.query_key_value.weight", 32, {**FALCON, "multi_query": True}, multi_query),
        ("h.0.query_key_value.weight", 40, FALCON_NEW, by_kv_head),
        ("h.0.query_key_value.weight", 40, {"model_type": "RefinedWeb", "n_head": 6, "n_head_kv": 2}, by_kv_head),
        ("h.0.query_key_value.weight", 40, {**PHI3, "model_type": "chatglm"}, grouped),
        ("h.0.attention.wqkv.weight", 40, {**PHI3, "model_type": "internlm2"}, by_kv_head),
        ("h.0.self_attn.qkv_proj.weight", 40, PHI3, grouped),
        ("h.0.self_attn.qkv_proj.weight", 40, {**PHI3, "hidden_size": 99, "head_dim": 4}, grouped),
        ("h.0.self_attn.qkv_proj.weight", 72, None, thirds),
        ("h.0.attn.qkv_proj.weight", 72, {"model_type": "codegen", "n_head": 4}, codegen),
        ("h.0.attn.c_attn.weight", 32, {"model_type": "gpt_bigcode", "n_head": 6, "multi_query": True}, multi_query),
        ("h.0.attn.c_attn.weight", 72, {"model_type": "gpt_bigcode", "n_head": 6, "multi_query": False}, by_head),
        ("h.0.attn.c_attn.weight", 72, None, thirds),
        ("blocks.0.attn.qkv.weight", 72, None, thirds),
        ("blocks.0.attn.qkv.weight", 72, PHI3, thirds),
        ("h.0.attn.Wqkv.weight", 72, {"model_type": "mpt", "n_heads": 6}, thirds),
        ("attn.in_proj_weight", 72, None, thirds),
    ],
)
def test_split_is_the_forward_pass(
    name: str, n_rows: int, config: Mapping[str, Any] | None, forward: Callable[..., Any]
) -> None:
    weight = np.random.default_rng(0).standard_normal((n_rows, WIDTH))
    inputs = np.random.default_rng(1).standard_normal((5, WIDTH))
    parts = fused_attention(name, weight.shape, None if config is None else attention_config(config))
    assert parts is not None
    cuts = {part.name: part.cut(weight)[0] for part in parts}
    assert sum(part.n_values for part in parts) == weight.size
    for letter, expected in zip("qkv", forward(inputs @ weight.T), strict=True):
        np.testing.assert_allclose(inputs @ cuts[letter].T, expected, rtol=1e-12, atol=1e-12)


def test_gpt2_stores_columns() -> None:
    weight = np.random.default_rng(0).standard_normal((WIDTH, 3 * WIDTH))
    parts = fused_attention("h.0.attn.c_attn.weight", weight.shape, attention_config({"model_type": "gpt2"}))
    assert parts is not None
    for part, expected in zip(parts, np.split(weight, 3, axis=1), strict=True):
        np.testing.assert_array_equal(part.cut(weight)[0], expected)


@pytest.mark.parametrize(
    ("name", "shape", "config"),
    [
        # Interleaved in some family or other, and nothing says how.
        ("h.0.query_key_value.weight", (72, 24), None),
        ("h.0.query_key_value.weight", (72, 24), {"model_type": "new", "num_attention_heads": 6}),
        ("h.0.query_key_value.weight", (72, 24), {"model_type": "gpt_neox"}),
        ("h.0.query_key_value.weight", (72, 24), {"model_type": "falcon", "num_attention_heads": 6}),
        ("h.0.query_key_value.weight", (72, 24), {"model_type": "chatglm", "num_attention_heads": 6}),
        ("h.0.attention.wqkv.weight", (72, 24), None),
        ("h.0.attn.qkv_proj.weight", (72, 24), None),
        ("h.0.attn.c_attn.weight", (72, 24), {"model_type": "gpt_bigcode", "n_head": 6}),
        # The numbers do not fit the shape.
        ("h.0.query_key_value.weight", (70, 24), NEOX),
        ("h.0.query_key_value.weight", (40, 24), {**FALCON_NEW, "num_kv_heads": 4}),
        ("h.0.self_attn.qkv_proj.weight", (40, 24), {**PHI3, "num_key_value_heads": 3}),
        ("h.0.self_attn.qkv_proj.weight", (40, 24), None),
        ("h.0.attn.qkv.weight", (48, 24), None),
        ("attn.in_proj_weight", (48, 24), None),
        # Other layers, other dimensions.
        ("h.0.attn.q_proj.weight", (72, 24), NEOX),
        ("ssm.in_proj.weight", (72, 24), None),
        ("attn.qkv.weight", (72, 24, 1), None),
        ("attn.qkv.weight", (72, 24, 1, 1), None),
    ],
)
def test_stays_whole(name: str, shape: tuple[int, ...], config: Mapping[str, Any] | None) -> None:
    assert fused_attention(name, shape, None if config is None else attention_config(config)) is None


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"num_attention_heads": "6", "head_dim": 4.0, "model_type": ["gpt_neox"], "multi_query": 1},
        {"num_attention_heads": True, "num_key_value_heads": False},
        {"num_attention_heads": -6, "head_dim": 0, "num_key_value_heads": 10**30},
        {"num_attention_heads": None, "n_head": {}, 3: 4},
    ],
)
def test_implausible_values_are_absent(payload: Mapping[Any, Any]) -> None:
    assert attention_config(payload) == attention_config({})


class TestFolder:
    """``config.json`` beside the weights."""

    NAME = "layers.0.attention.query_key_value.weight"

    def folder(self, path: Path, config: str | bytes | None) -> Path:
        path.mkdir(exist_ok=True)
        values = heavy_tailed(72, 24).astype(np.float32)
        write_safetensors(path / "model.safetensors", {self.NAME: values, "up.weight": values})
        if config is not None:
            (path / "config.json").write_bytes(config if isinstance(config, bytes) else config.encode())
        return path

    def names(self, path: Path) -> list[str]:
        return [spec.name for spec in describe(path).matrices]

    def test_config_splits(self, tmp_path: Path) -> None:
        path = self.folder(tmp_path, json.dumps(NEOX))
        stem = self.NAME.removesuffix(".weight")
        assert self.names(path) == [f"{stem}.q", f"{stem}.k", f"{stem}.v", "up"]
        values = heavy_tailed(72, 24).astype(np.float32)
        q = values.reshape(6, 3, 4, 24)[:, 0].reshape(24, 24).copy()
        assert analyze(path).layers[0].content_hash == analyze({"w": q}).layers[0].content_hash
        assert describe(path).coverage == 1.0

    def test_shards(self, tmp_path: Path) -> None:
        values = heavy_tailed(72, 24).astype(np.float32)
        write_safetensors(tmp_path / "a.safetensors", {self.NAME: values})
        write_index(tmp_path, {self.NAME: "a.safetensors"})
        (tmp_path / "config.json").write_text(json.dumps(NEOX))
        assert len(self.names(tmp_path)) == 3
        assert [layer.status for layer in analyze(tmp_path).layers] == ["success"] * 3

    def test_contiguous_parts_are_read_alone(self, tmp_path: Path) -> None:
        weight = torch.from_numpy(heavy_tailed(40, 24))
        save_file({"self_attn.qkv_proj.weight": weight}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(PHI3))
        _, key, _ = analyze(tmp_path).layers
        assert key.spec.part.span == (24 * 24, 32 * 24)
        (alone,) = analyze({"k": weight[24:32].clone()}).layers
        assert key.content_hash == alone.content_hash

    def test_a_file_has_no_config(self, tmp_path: Path) -> None:
        path = self.folder(tmp_path, json.dumps(NEOX))
        assert len(self.names(path / "model.safetensors")) == 2

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ("{", "cannot be read"),
            (b"\xff\xfe\x00", "cannot be read"),
            ("[" * 100_000, "cannot be read"),
            (b" " * (MAX_CONFIG_BYTES + 1), "larger than"),
        ],
        ids=["no JSON", "no text", "deep", "large"],
    )
    def test_unreadable(
        self, tmp_path: Path, config: str | bytes, message: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, logger="spectral"):
            assert len(self.names(self.folder(tmp_path, config))) == 2
        assert message in caplog.text

    @pytest.mark.parametrize("config", [None, "[]", "3", "{}", '{"model_type": null}'])
    def test_says_nothing(self, tmp_path: Path, config: str | None, caplog: pytest.LogCaptureFixture) -> None:
        assert len(self.names(self.folder(tmp_path, config))) == 2
        assert caplog.text == ""

    def test_unknown_family_is_not_split_by_shape(self, tmp_path: Path) -> None:
        """StarCoder's own layer could be either; by shape alone it would be cut in thirds."""
        write_safetensors(tmp_path / "model.safetensors", {"c_attn.weight": heavy_tailed(72, 24).astype(np.float32)})
        assert self.names(tmp_path) == ["c_attn.q", "c_attn.k", "c_attn.v"]
        (tmp_path / "config.json").write_text('{"model_type": "gpt_bigcode", "n_head": 6}')
        assert self.names(tmp_path) == ["c_attn"]


def test_a_module_has_its_config_with_it() -> None:
    class Config:
        def __init__(self) -> None:
            self.model_type = "gpt_neox"
            self.num_attention_heads = 6

    model = torch.nn.ModuleDict({"query_key_value": torch.nn.Linear(24, 72)})
    assert [spec.name for spec in describe(model).matrices] == ["query_key_value"]
    model.config = Config()  # type: ignore[assignment, unused-ignore]
    assert [spec.name for spec in describe(model).matrices] == [f"query_key_value.{letter}" for letter in "qkv"]
