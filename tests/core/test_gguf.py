"""GGUF files: every type as the package gguf reads it, the original's rows, parts, and no trust in a header."""

from __future__ import annotations

import pickle
import random
import shutil
import struct
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.analysis import analyze, describe
from spectral.errors import (
    CorruptCheckpointError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from spectral.loaders import gguf_types
from spectral.loaders.gguf_file import open_gguf
from spectral.loaders.gguf_types import KINDS
from spectral.loaders.opening import open_model
from spectral.loaders.protocol import LayerType
from tests.core.builders import heavy_tailed
from tests.core.test_bad_files import check_refused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

RNG = np.random.default_rng(0)
PLAIN = {Type.F32: np.float32, Type.F16: np.float16, Type.F64: np.float64}
INTEGERS = {Type.I8: np.int8, Type.I16: np.int16, Type.I32: np.int32, Type.I64: np.int64}
CODED = [kind for kind in Type if kind not in (*PLAIN, *INTEGERS, Type.BF16)]
UNREAD = [Type.Q8_1, Type.Q8_K, Type.Q1_0]


def write(
    path: Path,
    tensors: Mapping[str, tuple[NDArray[Any], Type | None]],
    *,
    architecture: str = "llama",
    endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE,
    alignment: int | None = None,
    values: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write tensors, and keys with integers or lists of them, by the library."""
    writer = gguf.GGUFWriter(path, architecture, endianess=endian, **options)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for key, value in (values or {}).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_uint32(key, value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def plain(values: Any) -> tuple[NDArray[np.float32], None]:
    return np.asarray(values, dtype=np.float32), None


def heads(n_heads: int, n_kv_heads: int, architecture: str = "llama") -> dict[str, int]:
    return {
        f"{architecture}.attention.head_count": n_heads,
        f"{architecture}.attention.head_count_kv": n_kv_heads,
    }


def packed(kind: Type, n_rows: int, n_columns: int) -> NDArray[np.uint8]:
    """Quantise where the library can, and make up bytes where it can only read."""
    values = RNG.normal(size=(n_rows, n_columns)).astype(np.float32)
    try:
        return np.asarray(gguf.quantize(values, kind))
    except NotImplementedError:
        n_values, n_bytes = GGML_QUANT_SIZES[kind]
        return RNG.integers(0, 256, (n_rows, n_columns // n_values * n_bytes), dtype=np.uint8)


def dequantized(raw: NDArray[Any], kind: Type) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        return np.asarray(gguf.dequantize(raw, kind))


def read_all(path: Path) -> None:
    """Open a model and load all of it."""
    source = open_model(path)
    for info in source.tensors():
        if info.refusal is None:
            assert source.load(info.name).shape == info.shape


class TestTypes:
    def test_all_types_of_the_library_are_known(self) -> None:
        assert {kind.value: GGML_QUANT_SIZES[kind] for kind in Type} == {
            number: (kind.n_values, kind.n_bytes) for number, kind in KINDS.items()
        }
        assert {kind.value: kind.name for kind in Type} == {number: kind.name for number, kind in KINDS.items()}

    @pytest.mark.parametrize("kind", [kind for kind in CODED if kind not in UNREAD], ids=lambda kind: kind.name)
    def test_values_are_those_of_the_library(self, kind: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Pieces that end within the tensor, and within a row.
        monkeypatch.setattr(gguf_types, "PIECE_VALUES", 2048)
        monkeypatch.setattr("spectral.loaders.gguf_file.PIECE_VALUES", 2048)
        raw = packed(kind, 9, 768)
        source = open_gguf(write(tmp_path / "m.gguf", {"w.weight": (raw, kind), "b": plain(np.ones(3))}))
        info = source.infos["w.weight"]
        assert (info.shape, info.dtype, info.refusal) == ((9, 768), "float32", None)
        expected = dequantized(raw, kind)
        values = source.load("w.weight")
        assert values.dtype == np.float32
        assert values.tobytes() == expected.tobytes()
        for begin, end in ((0, 768), (768, 5 * 768), (5, 6000), (7, 7), (6911, 6912)):
            assert source.load_span("w.weight", begin, end).tobytes() == expected.reshape(-1)[begin:end].tobytes()
        pieces = source.stream("w.weight")
        assert pieces is not None
        assert b"".join(map(bytes, pieces)) == expected.tobytes()
        assert info.quantization is not None
        assert info.quantization.scheme == f"gguf {kind.name}"
        assert info.quantization.block is not None
        assert info.quantization.block[0] == 1
        assert 768 % info.quantization.block[1] == 0

    @pytest.mark.parametrize(
        ("kind", "bits", "code", "block", "is_symmetric"),
        [
            (Type.Q4_0, 4, "int", (1, 32), True),
            (Type.Q4_1, 4, "int", (1, 32), False),
            (Type.Q8_0, 8, "int", (1, 32), True),
            (Type.Q3_K, 3, "int", (1, 16), True),
            (Type.Q4_K, 4, "int", (1, 32), False),
            (Type.Q6_K, 6, "int", (1, 16), True),
            (Type.IQ2_XXS, 1.875, "lattice", (1, 32), False),
            (Type.IQ4_XS, 4, "iq4_nl", (1, 32), False),
            (Type.TQ1_0, 1.6, "int", (1, 256), True),
            (Type.MXFP4, 4, "float4_e2m1fn", (1, 32), True),
            (Type.NVFP4, 4, "float4_e2m1fn", (1, 16), True),
        ],
        ids=lambda value: value.name if isinstance(value, Type) else None,
    )
    def test_how_a_type_is_stored(self, kind: Type, bits: float, code: str, block: Any, is_symmetric: bool) -> None:
        found = KINDS[kind.value].quantization(2)
        assert found is not None
        assert (found.bits, found.code, found.block, found.is_symmetric) == (bits, code, block, is_symmetric)

    @pytest.mark.parametrize("kind", [kind for kind in CODED if kind not in UNREAD], ids=lambda kind: kind.name)
    def test_scales_are_shared_by_no_more_than_is_said(self, kind: Type) -> None:
        """Within a block of scale, no more values differ than its codes can tell."""
        record = KINDS[kind.value]
        if record.code == "lattice":
            return
        n_levels = 3 if kind in (Type.TQ1_0, Type.TQ2_0) else 2**record.bits
        values = dequantized(packed(kind, 64, 768), kind).reshape(-1, record.n_scaled)
        assert max(len(np.unique(block[np.isfinite(block)])) for block in values) <= n_levels
        if record.n_values > record.n_scaled and record.bits <= 4:
            # And twice as many values have two scales.
            pairs = values.reshape(-1, 2 * record.n_scaled)
            assert max(len(np.unique(pair[np.isfinite(pair)])) for pair in pairs) > n_levels

    @pytest.mark.parametrize("kind", UNREAD, ids=lambda kind: kind.name)
    def test_types_that_the_library_does_not_read(self, kind: Type, tmp_path: Path) -> None:
        n_values, n_bytes = GGML_QUANT_SIZES[kind]
        raw = np.zeros((4, 768 // n_values * n_bytes), np.uint8)
        path = write(tmp_path / "m.gguf", {"w.weight": (raw, kind), "v.weight": plain(np.ones((48, 64)))})
        plan = describe(path)
        assert [(item.name, item.reason) for item in plan.unanalysed] == [
            ("w.weight", f"the package gguf does not dequantise the type {kind.name}")
        ]
        assert plan.coverage == 0.5
        with pytest.raises(ModelError, match=r"m\.gguf: tensor 'w\.weight': the package gguf does not"):
            open_gguf(path).load("w.weight")
        with pytest.raises(NotImplementedError):
            gguf.dequantize(raw, kind)

    @pytest.mark.parametrize("endian", list(gguf.GGUFEndian), ids=lambda endian: endian.name)
    def test_plain_types(self, endian: gguf.GGUFEndian, tmp_path: Path) -> None:
        arrays: dict[str, NDArray[Any]] = {
            kind.name: RNG.normal(size=(5, 6)).astype(dtype) for kind, dtype in PLAIN.items()
        }
        half = gguf.quantize(RNG.normal(size=(5, 6)).astype(np.float32), Type.BF16)
        stored = half.view(np.uint16).byteswap().view(np.uint8) if endian is gguf.GGUFEndian.BIG else half
        tensors: dict[str, Any] = {name: (array, None) for name, array in arrays.items()}
        tensors |= {"BF16": (stored, Type.BF16), "number": plain(3.5), "empty": plain(np.zeros((0, 3)))}
        tensors |= {kind.name: (np.ones((2, 3), dtype), None) for kind, dtype in INTEGERS.items()}
        source = open_gguf(write(tmp_path / "m.gguf", tensors, endian=endian))
        assert {info.name for info in source.tensors()} == set(tensors)
        arrays |= {
            "BF16": gguf.dequantize(half, Type.BF16),
            "number": np.asarray(3.5, np.float32),
            "empty": np.zeros((0, 3)),
        }
        for name, expected in arrays.items():
            values = source.load(name)
            np.testing.assert_array_equal(values.astype(expected.dtype), expected)
            assert values.shape == source.infos[name].shape == expected.shape
            assert values.dtype.newbyteorder("<") == values.dtype
            assert source.infos[name].quantization is None
            pieces = source.stream(name)
            assert pieces is not None
            assert b"".join(map(bytes, pieces)) == values.tobytes()
            half_way = expected.size // 2
            assert source.load_span(name, half_way, expected.size).tobytes() == values.reshape(-1)[half_way:].tobytes()
        assert source.infos["BF16"].dtype == "bfloat16"
        for kind in INTEGERS:
            assert source.infos[kind.name].refusal is not None

    @pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q8_0, Type.Q4_K, Type.Q6_K, Type.MXFP4, Type.NVFP4])
    def test_blocks_of_the_other_byte_order(self, kind: Type, tmp_path: Path) -> None:
        from gguf.scripts.gguf_convert_endian import byteswap_tensors

        raw = packed(kind, 3, 768)
        flat = raw.reshape(-1).copy()
        for offset in range(0, flat.size, GGML_QUANT_SIZES[kind][1]):
            byteswap_tensors[kind](SimpleNamespace(data=flat), offset)
        path = write(tmp_path / "m.gguf", {"w": (flat.reshape(raw.shape), kind)}, endian=gguf.GGUFEndian.BIG)
        assert open_gguf(path).load("w").tobytes() == dequantized(raw, kind).tobytes()

    def test_blocks_whose_other_order_nobody_settled(self, tmp_path: Path) -> None:
        tensors = {"w": (packed(Type.Q5_K, 3, 256), Type.Q5_K)}
        (info,) = open_gguf(write(tmp_path / "m.gguf", tensors, endian=gguf.GGUFEndian.BIG)).tensors()
        assert info.refusal == "how Q5_K lies in a big-endian file is not settled: nothing writes it"

    def test_types_that_nobody_knows(self, tmp_path: Path) -> None:
        """The block formats of forks: their sizes are not known, and the tensors around them are read."""
        path = write(tmp_path / "m.gguf", {name: plain(np.full((6, 8), i)) for i, name in enumerate("abc")})
        data = path.read_bytes()
        place = data.index(struct.pack("<QcIQQI", 1, b"b", 2, 8, 6, 0))
        changed = struct.pack("<QcIQQI", 1, b"b", 2, 8, 6, 137)
        path.write_bytes(data[:place] + changed + data[place + len(changed) :])
        source = open_gguf(path)
        assert source.infos["b"].refusal == (
            "its element type has the number 137, which the package gguf does not know"
        )
        assert [source.load(name)[0, 0] for name in "ac"] == [0, 2]
        assert describe(path).coverage == pytest.approx(2 / 3)


class TestLayers:
    def test_what_tensors_are(self, tmp_path: Path) -> None:
        tensors: dict[str, tuple[NDArray[Any], Type | None]] = {
            "token_embd.weight": (packed(Type.Q8_0, 40, 64), Type.Q8_0),
            "blk.0.ffn_down.weight": (packed(Type.Q4_0, 48, 64), Type.Q4_0),
            "blk.0.ffn_up_exps.weight": (packed(Type.Q8_0, 3 * 24, 32).reshape(3, 24, 34), Type.Q8_0),
            "v.patch_embd.weight": plain(RNG.normal(size=(4, 3, 14, 14))),
            "output_norm.weight": plain(np.ones(64)),
        }
        path = write(tmp_path / "m.gguf", tensors)
        source, plan = open_gguf(path), describe(path)
        types = {spec.name: (spec.layer_type, spec.rows, spec.columns, spec.rf) for spec in plan.matrices}
        assert types == {
            "token_embd": (LayerType.EMBEDDING, 40, 64, 1),
            "blk.0.ffn_down": (LayerType.DENSE, 48, 64, 1),
            "blk.0.ffn_up_exps.0": (LayerType.EXPERT, 24, 32, 1),
            "blk.0.ffn_up_exps.1": (LayerType.EXPERT, 24, 32, 1),
            "blk.0.ffn_up_exps.2": (LayerType.EXPERT, 24, 32, 1),
            # A kernel larger than the channels, which a bare shape would misread.
            "v.patch_embd": (LayerType.CONV2D, 4, 3, 196),
        }
        stack = source.infos["blk.0.ffn_up_exps.weight"]
        assert stack.quantization is not None
        assert stack.quantization.block == (1, 1, 32)
        expected = dequantized(tensors["blk.0.ffn_up_exps.weight"][0], Type.Q8_0)
        np.testing.assert_array_equal(source.load_span(stack.name, 24 * 32, 2 * 24 * 32), expected[1].reshape(-1))

    def test_the_same_numbers_as_from_memory(self, tmp_path: Path) -> None:
        values = heavy_tailed(96, 64)
        raw = gguf.quantize(values.astype(np.float32), Type.Q8_0)
        path = write(tmp_path / "m.gguf", {"blk.0.ffn_up.weight": (raw, Type.Q8_0)})
        (read,) = analyze(path).layers
        (memory,) = analyze({"blk.0.ffn_up.weight": gguf.dequantize(raw, Type.Q8_0)}).layers
        assert read.metrics == memory.metrics
        assert read.content_hash == memory.content_hash

    def test_shapes_that_image_models_note(self, tmp_path: Path) -> None:
        values = RNG.normal(size=(8, 4, 3, 3, 2)).astype(np.float32)
        note: dict[str, Any] = {
            "comfy.gguf.orig_shape.patch.weight": [8, 4, 3, 3, 2],
            "comfy.gguf.orig_shape.b.weight": [7],
        }
        note |= {"comfy.gguf.orig_shape.c.weight": [-2, -3], "comfy.gguf.orig_shape.q.weight": [16, 2, 4]}
        raw = packed(Type.Q8_0, 4, 32)
        tensors: dict[str, tuple[NDArray[Any], Type | None]] = {
            "patch.weight": plain(values.reshape(-1, 8)),
            "q.weight": (raw, Type.Q8_0),
        }
        tensors |= {name: plain(np.ones(6)) for name in ("b.weight", "c.weight")}
        source = open_gguf(write(tmp_path / "m.gguf", tensors, architecture="wan", values=note))
        np.testing.assert_array_equal(source.load("patch.weight"), values)
        assert [source.infos[name].shape for name in ("b.weight", "c.weight")] == [(6,), (6,)]
        np.testing.assert_array_equal(source.load("q.weight"), dequantized(raw, Type.Q8_0).reshape(16, 2, 4))
        quantization = source.infos["q.weight"].quantization
        assert quantization is not None
        assert quantization.block is None
        assert source.original_names["patch.weight"] == ("patch.weight",)

    def test_the_two_halves_of_a_latent_projection(self, tmp_path: Path) -> None:
        n_heads, n_key, n_value, n_latent = 4, 6, 5, 16
        kv_b = RNG.normal(size=(n_heads, n_key + n_value, n_latent)).astype(np.float32)
        key, value = kv_b[:, :n_key], kv_b[:, n_key:]
        tensors = {
            "blk.0.attn_k_b.weight": plain(np.ascontiguousarray(key.transpose(0, 2, 1))),
            "blk.0.attn_v_b.weight": plain(np.ascontiguousarray(value)),
        }
        path = write(tmp_path / "m.gguf", tensors, architecture="deepseek2")
        source = open_gguf(path)
        cut = {spec.name: spec.part.cut(source.load(spec.tensor))[0] for spec in describe(path).matrices}
        np.testing.assert_array_equal(cut["blk.0.attn_k_b"], key.reshape(-1, n_latent))
        np.testing.assert_array_equal(cut["blk.0.attn_v_b"], value.reshape(-1, n_latent))


def permute(weights: NDArray[Any], n_heads: int) -> NDArray[Any]:
    """Reorder rows as LlamaModel.permute does."""
    halves = weights.reshape(n_heads, 2, weights.shape[0] // n_heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


class TestOriginal:
    """Values come out as the original model has them."""

    @pytest.mark.parametrize("kind", [None, Type.Q8_0, Type.BF16])
    @pytest.mark.parametrize("architecture", ["llama", "mistral3", "granitemoe"])
    def test_rotary_rows(self, architecture: str, kind: Type | None, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("spectral.loaders.gguf_file.PIECE_VALUES", 96)
        query, key = (RNG.normal(size=(n, 32)).astype(np.float32) for n in (48, 24))
        bias = RNG.normal(size=48).astype(np.float32)

        def coded(array: NDArray[np.float32]) -> tuple[NDArray[Any], Type | None]:
            return (array, None) if kind is None else (gguf.quantize(array, kind), kind)

        tensors = {
            "blk.0.attn_q.weight": coded(permute(query, 4)),
            "blk.0.attn_q.bias": plain(permute(bias, 4)),
            "blk.0.attn_k.weight": coded(permute(key, 2)),
            "blk.0.attn_v.weight": coded(key),
            "blk.0.attn_q.weight.lora_b": plain(permute(query, 4)),
        }
        path = write(tmp_path / "m.gguf", tensors, architecture=architecture, values=heads(4, 2, architecture))
        source = open_gguf(path)
        expected = {
            "blk.0.attn_q.weight": query, "blk.0.attn_k.weight": key, "blk.0.attn_v.weight": key,
        }  # fmt: skip
        for name, array in expected.items():
            whole = array if kind is None else gguf.dequantize(gguf.quantize(array, kind), kind)
            np.testing.assert_array_equal(source.load(name).astype(np.float32), whole)
            np.testing.assert_array_equal(source.load_span(name, 5, 400).astype(np.float32), whole.reshape(-1)[5:400])
        np.testing.assert_array_equal(source.load("blk.0.attn_q.bias"), bias)
        np.testing.assert_array_equal(source.load("blk.0.attn_q.weight.lora_b"), query)
        assert source.stream("blk.0.attn_q.weight") is None

    def test_heads_that_differ_from_block_to_block(self, tmp_path: Path) -> None:
        values = RNG.normal(size=(48, 8)).astype(np.float32)
        tensors = {f"blk.{i}.attn_k.weight": plain(permute(values, n)) for i, n in enumerate((2, 6))}
        counts = {"deci.attention.head_count": [6, 6], "deci.attention.head_count_kv": [2, 6]}
        source = open_gguf(write(tmp_path / "m.gguf", tensors, architecture="deci", values=counts))
        for name in tensors:
            np.testing.assert_array_equal(source.load(name), values)

    @pytest.mark.parametrize(
        ("architecture", "values"),
        [("qwen2", heads(4, 4, "qwen2")), ("llama", {}), ("llama", heads(5, 5)), ("llama", heads(0, 0))],
    )
    def test_rows_that_stay(self, architecture: str, values: Any, tmp_path: Path) -> None:
        """Families that are not reordered, and files whose header does not say, or not plausibly."""
        weights = RNG.normal(size=(48, 8)).astype(np.float32)
        tensors = {"blk.0.attn_q.weight": plain(weights)}
        source = open_gguf(write(tmp_path / "m.gguf", tensors, architecture=architecture, values=values))
        np.testing.assert_array_equal(source.load("blk.0.attn_q.weight"), weights)

    def test_numbers_of_heads_that_are_lists_of_lists(self, tmp_path: Path) -> None:
        nested = struct.pack("<IQ", 9, 1) + struct.pack("<IQI", 4, 1, 2)
        keys = [key("general.architecture", 8, text("llama")), key("llama.attention.head_count", 9, nested)]
        rows = np.arange(8, dtype=np.float32)
        path = tmp_path / "m.gguf"
        path.write_bytes(raw_file([described("blk.0.attn_q.bias", (8,))], keys, data=rows.tobytes()))
        np.testing.assert_array_equal(open_gguf(path).load("blk.0.attn_q.bias"), rows)

    def test_a_single_group_is_in_order(self, tmp_path: Path) -> None:
        tensors = {"blk.0.attn_qkv.weight": plain(np.ones((6 * 8, 32)))}
        path = write(tmp_path / "m.gguf", tensors, architecture="falcon", values=heads(4, 1, "falcon"))
        assert open_gguf(path).stream("blk.0.attn_qkv.weight") is not None

    @pytest.mark.parametrize(("architecture", "n_heads"), [("gptneox", 5), ("falcon", 0), ("bloom", 0)])
    def test_fused_rows_that_heads_do_not_divide(self, architecture: str, n_heads: int, tmp_path: Path) -> None:
        weights = RNG.normal(size=(48, 32)).astype(np.float32)
        tensors = {"blk.0.attn_qkv.weight": plain(weights)}
        values = heads(n_heads, n_heads, architecture)
        path = write(tmp_path / "m.gguf", tensors, architecture=architecture, values=values)
        np.testing.assert_array_equal(open_gguf(path).load("blk.0.attn_qkv.weight"), weights)
        assert [spec.name for spec in describe(path).matrices] == ["blk.0.attn_qkv"]

    @pytest.mark.parametrize(
        ("architecture", "n_heads", "n_kv_heads"),
        [("gptneox", 4, 4), ("bloom", 4, 4), ("falcon", 4, 2), ("falcon", 4, 1)],
    )
    def test_fused_rows(self, architecture: str, n_heads: int, n_kv_heads: int, tmp_path: Path) -> None:
        n_queries = n_heads // n_kv_heads
        original = RNG.normal(size=(n_kv_heads, n_queries + 2, 8, 32)).astype(np.float32)
        q, k, v = (part.reshape(-1, 32) for part in (original[:, :-2], original[:, -2], original[:, -1]))
        tensors = {
            "blk.0.attn_qkv.weight": plain(np.concatenate([q, k, v])),
            "blk.0.attn_qkv.bias": plain(np.concatenate([q[:, 0], k[:, 0], v[:, 0]])),
        }
        values = heads(n_heads, n_kv_heads, architecture)
        path = write(tmp_path / "m.gguf", tensors, architecture=architecture, values=values)
        source = open_gguf(path)
        whole = original.reshape(-1, 32)
        np.testing.assert_array_equal(source.load("blk.0.attn_qkv.weight"), whole)
        np.testing.assert_array_equal(source.load("blk.0.attn_qkv.bias"), whole[:, 0])
        cut = {spec.name: spec.part.cut(whole)[0] for spec in describe(path).matrices}
        for name, part in {"q": q, "k": k, "v": v}.items():
            np.testing.assert_array_equal(cut[f"blk.0.attn_qkv.{name}"], part)

    def test_fused_rows_one_below_the_other(self, tmp_path: Path) -> None:
        tensors = {
            "blk.0.attn_qkv.weight": plain(np.zeros((4 * 8 + 2 * 8 + 2 * 8, 32))),
            "blk.1.attn_qkv.weight": plain(np.zeros((50, 32))),
        }
        path = write(tmp_path / "m.gguf", tensors, architecture="phi3", values=heads(4, 2, "phi3"))
        shapes = {spec.name: (spec.layer_type, spec.rows) for spec in describe(path).matrices}
        assert shapes == {
            "blk.0.attn_qkv.q": (LayerType.ATTENTION, 32),
            "blk.0.attn_qkv.k": (LayerType.ATTENTION, 16),
            "blk.0.attn_qkv.v": (LayerType.ATTENTION, 16),
            "blk.1.attn_qkv": (LayerType.DENSE, 50),
        }

    def test_norms_and_state_spaces(self, tmp_path: Path) -> None:
        norm = RNG.normal(size=8).astype(np.float32).astype(np.float16).astype(np.float32)
        log = RNG.normal(size=(6, 4)).astype(np.float32)
        tensors = {
            "blk.0.attn_norm.weight": plain(norm + 1),
            "output_norm.weight": plain(norm + 1),
            "blk.0.ssm_a": plain(-np.exp(log)),
            "blk.1.ssm_a": plain(-np.exp(log[:, :1])),
            "blk.1.ssm_d": plain(log[:, :1]),
            "blk.1.ssm_conv1d.weight": plain(log),
            "blk.1.ssm_norm.weight": plain(log),
        }
        source = open_gguf(write(tmp_path / "m.gguf", tensors, architecture="gemma2"))
        np.testing.assert_allclose(source.load("blk.0.attn_norm.weight"), norm, atol=1e-7)
        np.testing.assert_allclose(source.load("output_norm.weight"), norm, atol=1e-7)
        np.testing.assert_allclose(source.load("blk.0.ssm_a"), log, atol=1e-6)
        np.testing.assert_allclose(source.load("blk.1.ssm_a"), log[:, 0], atol=1e-6)
        np.testing.assert_array_equal(source.load("blk.1.ssm_d"), log[:, 0])
        np.testing.assert_array_equal(source.load("blk.1.ssm_conv1d.weight"), log[:, None])
        np.testing.assert_array_equal(source.load("blk.1.ssm_norm.weight"), log.reshape(-1))
        assert "blk.1.ssm_conv1d.weight" in {item.name for item in describe(tmp_path / "m.gguf").unanalysed}

    def test_what_is_stored_transposed_is_said(self, tmp_path: Path) -> None:
        names = ("blk.0.attn_qkv.weight", "blk.0.attn_qkv.bias", "token_embd.weight")
        tensors = {name: plain(np.ones(6 if "bias" in name else (6, 4))) for name in names}
        source = open_gguf(write(tmp_path / "m.gguf", tensors, architecture="gpt2"))
        assert source.transposed_names == {"blk.0.attn_qkv.weight"}


class TestParts:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "split"
        folder.mkdir()
        tensors = {f"blk.{i}.attn_q.weight": plain(permute(np.full((8, 4), i), 2)) for i in range(5)}
        write(folder / "m.gguf", tensors, split_max_tensors=2, values=heads(2, 2))
        assert sorted(file.name for file in folder.iterdir()) == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
        return folder

    @pytest.mark.parametrize("name", ["", "m-00001-of-00003.gguf"])
    def test_the_first_part_or_the_folder_opens_all(self, name: str, folder: Path) -> None:
        source = open_model(folder / name)
        assert [info.name for info in source.tensors()] == [f"blk.{i}.attn_q.weight" for i in range(5)]
        for index, info in enumerate(source.tensors()):
            np.testing.assert_array_equal(source.load(info.name), np.full((8, 4), index))

    def test_a_later_part(self, folder: Path) -> None:
        check_refused(
            folder / "m-00002-of-00003.gguf",
            UnsupportedModelError,
            r"is part 2 of 3: name the first, m-00001-of-00003\.gguf",
        )

    @pytest.mark.parametrize("number", [2, 3])
    def test_a_missing_part(self, number: int, folder: Path) -> None:
        (folder / f"m-0000{number}-of-00003.gguf").unlink()
        match = rf"names the shard 'm-0000{number}-of-00003\.gguf', which is missing"
        check_refused(folder / "m-00001-of-00003.gguf", ModelNotFoundError, match)
        with pytest.raises(ModelNotFoundError, match=match):
            open_model(folder)

    def test_the_first_part_is_missing(self, folder: Path) -> None:
        (folder / "m-00001-of-00003.gguf").unlink()
        with pytest.raises(UnsupportedModelError, match=r"is part 2 of 3: name the first, m-00001-of-00003\.gguf"):
            open_model(folder)

    def test_a_name_that_does_not_tell_the_others(self, folder: Path) -> None:
        path = folder / "m-00001-of-00003.gguf"
        shutil.move(path, folder / "first.gguf")
        match = r"is part 1 of 3, and the others are not to be found: its name must end in -00001-of-00003\.gguf"
        check_refused(folder / "first.gguf", UnsupportedModelError, match)

    def test_parts_that_changed_places(self, folder: Path) -> None:
        shutil.copy(folder / "m-00003-of-00003.gguf", folder / "m-00002-of-00003.gguf")
        match = r"m-00002-of-00003\.gguf: says that it is part 3 of 3, and its name that it is part 2 of 3"
        with pytest.raises(CorruptCheckpointError, match=match):
            open_model(folder / "m-00001-of-00003.gguf")

    def test_a_part_of_another_model(self, folder: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        for tensors, match in (
            ({f"x{i}": plain(np.ones(4)) for i in range(6)}, r"announces 5 tensors in 3 parts, which hold 6"),
            (
                {f"blk.{i}.attn_q.weight": plain(np.ones(4)) for i in range(4, -1, -1)},
                r"'blk\.\d.attn_q\.weight' is in",
            ),
        ):
            write(other / "m.gguf", tensors, split_max_tensors=2)
            shutil.copy(other / "m-00003-of-00003.gguf", folder)
            with pytest.raises(CorruptCheckpointError, match=match):
                open_model(folder / "m-00001-of-00003.gguf")

    def test_a_part_that_is_a_link_out_of_the_folder(self, folder: Path, tmp_path: Path) -> None:
        part = folder / "m-00002-of-00003.gguf"
        shutil.move(part, tmp_path / "elsewhere.gguf")
        part.symlink_to(tmp_path / "elsewhere.gguf")
        check_refused(folder / "m-00001-of-00003.gguf", UnsafeCheckpointError, "a link that leaves its folder")

    def test_several_models_in_a_folder(self, tmp_path: Path) -> None:
        for name in ("a.gguf", "b.gguf"):
            write(tmp_path / name, {"w": plain(np.ones(4))})
        with pytest.raises(UnsupportedModelError, match=r"name one of a\.gguf, b\.gguf"):
            open_model(tmp_path)


class TestWithoutTheLibrary:
    @pytest.fixture(autouse=True)
    def no_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in sys.modules if name.startswith("gguf.")]:
            monkeypatch.delitem(sys.modules, name)

    def test_plain_floats_are_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        half = gguf.quantize(np.full((4, 32), 1.5, np.float32), Type.BF16)
        path = write(tmp_path / "m.gguf", {"w": plain(np.ones((4, 8))), "h": (half, Type.BF16)})
        monkeypatch.setitem(sys.modules, "gguf", None)
        assert open_model(path).load("w").sum() == 32
        assert open_model(path).load("h").astype(float).sum() == 192

    def test_quantised_tensors_say_which_extra(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tensors = {kind.name: (packed(kind, 2, 256), kind) for kind in (Type.Q8_0, Type.Q4_K)}
        path = write(tmp_path / "m.gguf", tensors)
        source = open_gguf(path)
        monkeypatch.setitem(sys.modules, "gguf", None)
        check_refused(
            path,
            MissingDependencyError,
            r'reading the types Q4_K, Q8_0 needs the package gguf: pip install "pytest-weightwatcher\[gguf\]"$',
        )
        with pytest.raises(MissingDependencyError, match=r"tensor 'Q8_0': reading the types Q8_0 needs"):
            source.load("Q8_0")

    def test_an_old_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "m.gguf", {"w": (packed(Type.MXFP4, 2, 256), Type.MXFP4)})
        quants = SimpleNamespace(dequantize=gguf.quants.dequantize)
        constants = SimpleNamespace(GGMLQuantizationType=lambda number: int("no such type"))
        monkeypatch.setitem(sys.modules, "gguf.quants", quants)
        monkeypatch.setitem(sys.modules, "gguf.constants", constants)
        with pytest.raises(ModelError, match=r"the installed gguf does not read the type MXFP4: upgrade it"):
            open_gguf(path).load("w")


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def described(name: str | bytes, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def raw_file(
    tensors: list[bytes],
    keys: list[bytes] | None = None,
    *,
    data: int | bytes = 32,
    head: bytes | None = None,
    alignment: int = 32,
) -> bytes:
    """Lay a file by hand."""
    keys = keys or []
    begin = head if head is not None else struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    header = begin + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + (bytes(data) if isinstance(data, int) else data)


ONE = [described("w", (8,))]
NESTED = struct.pack("<IQ", 9, 3) + struct.pack("<IQ", 5, 1) + bytes(4) + struct.pack("<IQ", 8, 2)
NESTED += text("a") + text("bc") + struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 12, 0)

SOUND: dict[str, bytes] = {
    "plain": raw_file(ONE),
    "every type of value": raw_file(
        ONE, [key(f"k{kind}", kind, bytes(size)) for kind, size in zip(range(8), (1, 1, 2, 2, 4, 4, 4, 1), strict=True)]
        + [key(f"k{kind}", kind, bytes(8)) for kind in (10, 11, 12)]
        + [key("text", 8, text("x" * 3000)), key("numbers", 9, struct.pack("<IQ", 4, 50_000) + bytes(200_000))],
    ),
    "arrays of arrays": raw_file(ONE, [key("deep", 9, NESTED), key("general.alignment", 4, struct.pack("<I", 32))]),
    "no padding at the end": raw_file([described("w", (3,))], data=12),
    "another alignment": raw_file(
        [described("w", (3,)), described("v", (3,), offset=8 * 8)],
        [key("general.alignment", 4, struct.pack("<I", 64))], data=76, alignment=64,
    ),
    "version 2": raw_file(ONE, head=struct.pack("<4sIQQ", b"GGUF", 2, 1, 0)),
    "an architecture that is no text": raw_file(ONE, [key("general.architecture", 4, bytes(4))]),
    "kept keys of other kinds": raw_file(
        ONE, [key("llama.attention.head_count", 6, bytes(4)), key("split.count", 9, struct.pack("<IQ", 8, 0))]
    ),
    "no axes": raw_file([described("w", ())], data=4),
    "more empty tensors than one at a place": raw_file(
        [described("a", (0,)), described("b", (8,)), described("c", (0, 4))]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SOUND)
def test_sound_files(case: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(SOUND[case])
    read_all(path)


def n_keys(n: int) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, 1, n)


BAD: dict[str, tuple[bytes, type[ModelError], str]] = {
    name: (data, CorruptCheckpointError, match)
    for name, (data, match) in {
        "empty": (b"", r"the file is empty"),
        "two bytes": (b"GG", r"not a GGUF file: begins with b'GG'"),
        "the magic alone": (b"GGUF", r"ends within the version, at byte 4"),
        "another magic": (b"PK\3\4" + bytes(60), r"not a GGUF file: begins with b'PK"),
        "text": (b"version https://git-lfs.github.com/spec/v1\n", r"not a GGUF file: begins with b'vers'"),
        "tensors without end": (
            struct.pack("<4sIQQ", b"GGUF", 3, 2**60, 0) + bytes(90), r"the number of tensors is 1152921504606846976",
        ),
        "a million tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 10**6, 0) + bytes(90), r"is 1000000, which no file"),
        "keys without end": (n_keys(2**63) + bytes(90), r"the number of keys is 9223372036854775808"),
        "more tensors than there are": (raw_file(ONE, head=struct.pack("<4sIQQ", b"GGUF", 3, 2, 0)), r"tensor"),
        "more keys than there are": (raw_file(ONE, head=n_keys(5)), r"m\.gguf: "),
        "no tensors": (raw_file([], data=0), r"holds no tensors"),
        "a key of any length": (n_keys(1) + struct.pack("<Q", 2**64 - 1) + bytes(90), r"the length of key 0 is 184467"),
        "a key longer than the file": (n_keys(1) + struct.pack("<Q", 5000), r"ends within key 0"),
        "a key that is no text": (raw_file(ONE, [key(b"\xff\xfe", 4, bytes(4))]), r"key 0 is not valid UTF-8"),
        "a key twice": (raw_file(ONE, [key("k", 4, bytes(4))] * 2), r"the key 'k' appears twice"),
        "a type of value": (raw_file(ONE, [key("k", 13, bytes(4))]), r"the value of 'k' has the type 13"),
        "a type of values": (raw_file(ONE, [key("k", 9, struct.pack("<IQ", 99, 1))]), r"'k' holds the type 99"),
        "an array of any length": (
            raw_file(ONE, [key("k", 9, struct.pack("<IQ", 12, 2**61))]), r"'k' of 18446744073709551616 bytes",
        ),
        "strings of any number": (
            raw_file(ONE, [key("k", 9, struct.pack("<IQ", 8, 2**62))]),
            r"brings the strings of the header above 4194304",
        ),
        "arrays of any number": (raw_file(ONE, [key("k", 9, struct.pack("<IQ", 9, 2**62))]), r"above 4194304"),
        "a string of any length": (
            raw_file(ONE, [key("k", 8, struct.pack("<Q", 2**63 - 9))]), r"'k' of 9223372036854775807 bytes at byte",
        ),
        "a string beyond 64 bits": (raw_file(ONE, [key("k", 8, struct.pack("<Q", 2**64 - 8))]), r"ends outside it"),
        "a string in an array": (
            raw_file(ONE, [key("k", 9, struct.pack("<IQ", 8, 2) + text("a") + struct.pack("<Q", 10**9))]),
            r"outside it",
        ),
        "an architecture without end": (
            raw_file(ONE, [key("general.architecture", 8, text("x" * 5000))]), r"the length of the value of 'general",
        ),
        "alignment zero": (raw_file(ONE, [key("general.alignment", 4, bytes(4))]), r"general\.alignment is 0"),
        "alignment of three": (
            raw_file(ONE, [key("general.alignment", 4, struct.pack("<I", 3))]),
            r"alignment is 3, whi",
        ),
        "alignment negative": (
            raw_file(ONE, [key("general.alignment", 5, struct.pack("<i", -32))]),
            r"alignment is -32",
        ),
        "alignment a text": (raw_file(ONE, [key("general.alignment", 8, text("32"))]), r"alignment is '32'"),
        "alignment of gigabytes": (
            raw_file(ONE, [key("general.alignment", 4, struct.pack("<I", 2**31))]), r"tensor 'w' ends at byte 21474836",
        ),
        "a name twice": (raw_file(ONE * 2), r"the tensor 'w' appears twice"),
        "a name that is no text": (
            raw_file([described(b"\xed\xa0\x80", (8,))]),
            r"name of tensor 0 is not valid UTF-8",
        ),
        "five dimensions": (raw_file([described("w", (2, 1, 1, 1, 4))]), r"tensor 'w' has 5 dimensions"),
        "dimensions without end": (
            raw_file([text("w") + struct.pack("<I", 2**32 - 1)]), r"tensor 'w' has 4294967295 dimensions",
        ),
        "a dimension of 2^50": (raw_file([described("w", (2**50,))]), r"tensor 'w' ends at byte \d+, outside the file"),
        "values beyond 2^63": (raw_file([described("w", (2**40, 2**40))]), r"has more than 576460752303423488 values"),
        "zero times 2^62": (raw_file([described("w", (0, 2**62))]), r"has more than 576460752303423488 values"),
        "half a block": (raw_file([described("w", (40,), 8)]), r"its shape \(40,\) is not made of blocks of 32 values"),
        "a block without axes": (raw_file([described("w", (), 8)]), r"its shape \(\) is not made of blocks"),
        "an offset outside": (
            raw_file([described("w", (8,), 0, 2**40)]),
            r"tensor 'w' ends at byte 1099511627\d+, outs",
        ),
        "an offset of 2^64": (
            raw_file([described("w", (8,), 0, 2**64 - 32)]),
            r"'w' ends at byte \d+, outside the file",
        ),
        "an offset between": (raw_file([described("w", (4,), 0, 16)]), r"tensor 'w' at byte \d+ is not aligned to 32"),
        "one byte less": (raw_file(ONE)[:-1], r"tensor 'w' ends at byte \d+, outside the file"),
        "an overlap": (
            raw_file([described("a", (16,)), described("b", (8,), 0, 32)], data=64),
            r"'b' at byte \d+ overlaps the tensor",
        ),
        "the same bytes twice": (raw_file([described("a", (8,)), described("b", (8,))]), r"'b' at byte \d+ overlaps"),
        "a hole": (
            raw_file([described("a", (8,)), described("b", (8,), 0, 64)], data=96),
            r"'b' at byte \d+ leaves a hole",
        ),
        "a hole at the start": (raw_file([described("a", (8,), 0, 32)], data=64), r"'a' at byte \d+ leaves a hole"),
        "more bytes": (raw_file(ONE, data=32 + 33), r"33 bytes follow the last tensor"),
        "a negative part": (
            raw_file(ONE, [key("split.count", 2, b"\2\0"), key("split.no", 5, struct.pack("<i", -3))]), r"",
        ),
    }.items()
}  # fmt: skip
BAD |= {
    "version 1": (b"GGUF" + struct.pack("<I", 1) + bytes(40), UnsupportedModelError, r"version 1 of GGUF is not read"),
    "version 4": (b"GGUF" + struct.pack("<I", 4) + bytes(40), UnsupportedModelError, r"version 4 of GGUF is not read"),
    "version 4 of the other order": (b"GGUF" + struct.pack(">I", 4) + bytes(40), UnsupportedModelError, "version 4"),
    "the format before": (b"tjgg" + bytes(40), UnsupportedModelError, r"written in the format that came before GGUF"),
    "a negative part": (BAD["a negative part"][0], UnsupportedModelError, r"is part -2 of 2, and the others are not"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, tmp_path: Path) -> None:
    data, kind, match = BAD[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    check_refused(path, kind, match)


@pytest.mark.parametrize("count", [2**20, 2**22])
def test_strings_in_a_file_of_nothing(count: int, tmp_path: Path) -> None:
    """Gigabytes that take no place on disk read as empty strings without end."""
    path = tmp_path / "m.gguf"
    with path.open("wb") as stream:
        stream.write(n_keys(2) + key("k", 9, struct.pack("<IQ", 8, count)))
        stream.truncate(8_000_000_000)
    check_refused(path, CorruptCheckpointError, r"m\.gguf: ")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"m\.gguf: no such file"):
        open_gguf(tmp_path / "m.gguf")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a file with a bit of everything."""
    tensors: dict[str, tuple[NDArray[Any], Type | None]] = {
        "token_embd.weight": (packed(Type.Q4_0, 4, 32), Type.Q4_0),
        "blk.0.attn_q.weight": (packed(Type.Q8_0, 4, 32), Type.Q8_0),
        "blk.0.ffn_up_exps.weight": plain(np.ones((2, 3, 4))),
        "blk.0.ssm_a": plain(-np.ones((4, 2))),
    }
    values = {**heads(2, 2), "tokens": ["a", "bc", "def"]}
    return write(tmp_path_factory.mktemp("small") / "m.gguf", tensors, values=values).read_bytes()


def test_truncation_at_every_byte(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(small)
    read_all(path)
    # The last tensor is padded to 32 bytes already.
    for n_bytes in range(len(small)):
        path.write_bytes(small[:n_bytes])
        with pytest.raises(CorruptCheckpointError, match=r"m\.gguf: "):
            open_model(path)


def test_every_byte_of_the_header_damaged(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    generator = random.Random(0)
    begin = time.perf_counter()
    messages: list[str] = []
    for place in range(len(small) - 400):
        changed = bytearray(small)
        changed[place] ^= generator.choice((1, 0x80, 0xFF))
        path.write_bytes(changed)
        try:
            read_all(path)
        except ModelError as error:
            messages.append(str(error))
    assert all(message.startswith(f"{path}") and message.isprintable() for message in messages)
    assert max(map(len, messages)) < 2500
    assert len(messages) > 100
    assert time.perf_counter() - begin < 60


@settings(max_examples=200)
@given(data=st.data())
def test_any_damage_ends_in_an_error_of_ours(
    data: st.DataObject, small: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    changed = bytearray(small)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(changed) - 1))
        piece = data.draw(st.sampled_from([b"\0", b"\xff", b"\x08", b"\x09", b"\xff" * 4, b"\xff" * 8, bytes(8)]))
        changed[place : place + len(piece)] = piece
    path.write_bytes(changed[: data.draw(st.sampled_from([len(changed), len(changed), place]))])
    said = f"{path}"
    try:
        read_all(path)
    except ModelError as error:
        said = str(error)
    assert said.startswith(f"{path}")


def test_a_large_vocabulary_is_passed_over(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_token_list([f"token{index}" * (1 + index % 3) for index in range(200_000)])
    writer.add_token_types([1] * 200_000)
    writer.add_head_count(2)
    writer.add_tensor(
        "blk.0.attn_q.weight", permute(np.arange(8, dtype=np.float32)[:, None] * np.ones(4, np.float32), 2)
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        source = open_model(tmp_path / "m.gguf")
        seconds.append(time.perf_counter() - begin)
    np.testing.assert_array_equal(source.load("blk.0.attn_q.weight")[:, 0], np.arange(8))
    assert min(seconds) < 0.25  # 0.03 on the machine of the time; others may be busy


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.IQ3_S, Type.TQ1_0])
@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "blk.0.ffn_up.weight"])
def test_memory_of_loading(kind: Type, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", {name: (packed(kind, 2048, 2048), kind)}, values=heads(8, 8))
    source = open_gguf(path)
    source.load_span(name, 0, 256)  # The library itself, and its lattices.
    tracemalloc.start()
    try:
        values = source.load(name)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert values.nbytes == 4 * 2048 * 2048
    assert peak < values.nbytes + 40_000_000


def test_sources_are_pickled_and_read_by_threads(tmp_path: Path) -> None:
    tensors = {
        f"blk.{i}.ffn_up.weight": (packed(kind, 8, 512), kind) for i, kind in enumerate((Type.IQ2_XS, Type.Q4_K) * 8)
    }
    source = open_gguf(write(tmp_path / "m.gguf", tensors))
    copied = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        loaded = dict(zip(tensors, pool.map(copied.load, tensors), strict=True))
    for name, (raw, kind) in tensors.items():
        assert loaded[name].tobytes() == dequantized(raw, kind).tobytes()
    assert source.label == str(tmp_path / "m.gguf")
