"""Coded weights are read as the numbers that their own library makes of them, and nothing is coded twice or lost.

The files of tests/core/quantized/ were written by compressed-tensors, bitsandbytes, torchao, and in the layouts that
AutoAWQ and GPTQModel unpack; ``expected.npz`` has what these libraries dequantise them to
(tests/generation/quantized_files.py). Layouts without a library that runs here are written by this module.
"""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spectral import analyze, describe
from spectral.errors import CorruptCheckpointError, ModelError
from spectral.loaders.memory import open_mapping
from spectral.loaders.opening import open_model
from spectral.loaders.protocol import Quantization, TensorInfo, TensorSource
from spectral.loaders.quantized import dequantize
from spectral.loaders.quantized import source as source_module
from spectral.loaders.quantized.codes import power_of_two, small_float_levels, unpack_bits
from spectral.loaders.quantized.scaled import place_scales
from spectral.loaders.quantized.settings import MAX_BYTES, Settings, parse_settings, read_settings
from spectral.loaders.spans import read_span
from spectral.spectrum import SpectrumFailure
from tests.core.builders import heavy_tailed, write_index

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILES = Path(__file__).parent / "quantized"
EXPECTED = np.load(FILES / "expected.npz")

BITS = {"fp8": 8, "int8": 8, "int5": 5, "int4": 4, "int3": 3, "int2": 2, "nf4": 4, "fp4": 4}


def save(folder: Path, tensors: dict[str, torch.Tensor], config: object = None) -> Path:
    """Write a folder of one file, as Hugging Face's libraries do."""
    safetensors.torch.save_file(
        {name: values.contiguous() for name, values in tensors.items()}, folder / "m.safetensors"
    )
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return folder


def open_golden(name: str, folder: Path) -> TensorSource:
    """Open a file with the configuration that its library wrote, which the header keeps."""
    shutil.copy(FILES / f"{name}.safetensors", folder / "model.safetensors")
    with safetensors.safe_open(folder / "model.safetensors", "np") as stream:
        said = (stream.metadata() or {}).get("quantization_config")
    if said is not None:
        (folder / "config.json").write_text(json.dumps({"quantization_config": json.loads(said)}))
    return open_model(folder)


def info_of(source: TensorSource, name: str = "l.weight") -> TensorInfo:
    return {info.name: info for info in source.tensors()}[name]


def quantization_of(source: TensorSource, name: str = "l.weight") -> Quantization:
    found = info_of(source, name).quantization
    assert found is not None
    return found


def half_a_unit(expected: NDArray[np.float32], digits: int) -> NDArray[np.float32]:
    """Return the error of a number, or of a product of two of them, rounded to so many binary digits."""
    return np.abs(expected) * np.float32(2.0 ** (1 - digits)) + np.float32(1e-12)


@pytest.mark.parametrize("name", sorted(EXPECTED.files))
def test_what_the_library_itself_makes_of_a_file(name: str, tmp_path: Path) -> None:
    source = open_golden(name, tmp_path)
    values, expected = source.load("l.weight"), EXPECTED[name]
    if name == "compressed-tensors-nvfp4":
        # The library rounds scales to bfloat16 on its way.
        assert np.all(np.abs(values - expected) <= half_a_unit(expected, 8))
    elif name == "bitsandbytes-int8":
        # It multiplies by 1/127 where we divide by it.
        assert np.all(np.abs(values - expected) <= half_a_unit(expected, 23))
    else:
        np.testing.assert_array_equal(values, expected)
    info = info_of(source)
    assert (values.dtype.name, values.shape) == (info.dtype, info.shape) == ("float32", expected.shape)
    said = quantization_of(source)
    assert said.bits == next((bits for word, bits in BITS.items() if word in name), {"mxfp6": 6}.get(name[-5:], 4))
    assert said.scheme.startswith(name.partition("-")[0]) or said.code.startswith("float")
    others = [other for other in source.tensors() if other.name not in ("l.weight", "l.bias")]
    assert all(other.counted_in == "l.weight" and other.refusal for other in others)
    np.testing.assert_array_equal(read_span(source, "l.weight", 101, 1607), values.reshape(-1)[101:1607])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).load("l.weight"), values)


@pytest.mark.parametrize("name", sorted(EXPECTED.files))
def test_slabs_join_without_a_seam(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_golden(name, tmp_path)
    whole = source.load("l.weight")
    monkeypatch.setattr(source_module, "SLAB_VALUES", 5 * whole.shape[1])
    np.testing.assert_array_equal(source.load("l.weight"), whole)


@pytest.mark.parametrize("kind", ["int8", "fp8", "int4-unpacked"])
def test_torchao_in_files_of_torch(kind: str) -> None:
    source = open_model(FILES / f"torchao-{kind}.pt")
    np.testing.assert_array_equal(source.load("l.weight"), EXPECTED[f"torchao-{kind}"])
    assert quantization_of(source).bits == (4 if kind == "int4-unpacked" else 8)
    assert [info.name for info in source.tensors() if info.refusal is None] == ["l.weight", "l.bias"]


@pytest.mark.parametrize("name", ["gptq-int4", "bitsandbytes-nf4-nested", "compressed-tensors-fp8-channel"])
def test_every_container_gives_the_same(name: str, tmp_path: Path) -> None:
    stored = safetensors.torch.load_file(FILES / f"{name}.safetensors")
    names = list(stored)
    for index, part in enumerate((names[::2], names[1::2])):
        safetensors.torch.save_file({key: stored[key] for key in part}, tmp_path / f"part-{index}.safetensors")
    write_index(tmp_path, {key: f"part-{names.index(key) % 2}.safetensors" for key in names})
    torch.save(stored, tmp_path / "m.pt")
    if name == "gptq-int4":
        for folder in (tmp_path,):
            (folder / "quantize_config.json").write_text(json.dumps({"checkpoint_format": "gptq_v2", "bits": 4}))
        np.savez(tmp_path / "m.npz", **{key: values.numpy() for key, values in stored.items()})
        np.testing.assert_array_equal(open_model(tmp_path / "m.npz").load("l.weight"), EXPECTED[name])
    np.testing.assert_array_equal(open_model(tmp_path).load("l.weight"), EXPECTED[name])
    np.testing.assert_array_equal(open_model(tmp_path / "m.pt").load("l.weight"), EXPECTED[name])
    if (
        name != "gptq-int4"
    ):  # A state dict has no configuration: its zero points are taken as those of the first version.
        np.testing.assert_array_equal(open_model(stored).load("l.weight"), EXPECTED[name])


def test_zero_points_of_gptq_s_first_version_are_stored_less_one(tmp_path: Path) -> None:
    stored = safetensors.torch.load_file(FILES / "gptq-int4.safetensors")
    packed = stored["l.qzeros"].numpy().view(np.uint8)
    codes = unpack_bits(packed, 4, packed.shape[1] * 2)
    less = (codes - 1) & 15
    stored["l.qzeros"] = torch.from_numpy((less[:, ::2] | less[:, 1::2] << 4).view(np.int32))
    source = open_model(save(tmp_path, stored, {"quant_method": "gptq", "bits": 4, "group_size": 32}))
    np.testing.assert_array_equal(source.load("l.weight"), EXPECTED["gptq-int4"])


def test_a_group_that_does_not_exist_is_no_number(tmp_path: Path) -> None:
    stored = safetensors.torch.load_file(FILES / "gptq-int4-ordered.safetensors")
    stored["l.g_idx"][3], stored["l.g_idx"][5] = 2, -1
    values = open_model(save(tmp_path, stored)).load("l.weight")
    assert sorted(set(np.argwhere(np.isnan(values))[:, 1])) == [3, 5]
    (layer,) = analyze(tmp_path, min_evals=8, n_workers=1).layers
    assert isinstance(layer.spectrum, SpectrumFailure)
    assert layer.spectrum.detail.startswith("64 of 2048 values are NaN")


def test_fp8_in_blocks_as_deepseek_stores_it(tmp_path: Path) -> None:
    codes = (torch.randn(300, 200) * 100).to(torch.float8_e4m3fn)
    scales = torch.rand(3, 2) * 0.01
    spread = scales.repeat_interleave(128, 0)[:300].repeat_interleave(128, 1)[:, :200]
    source = open_model(save(tmp_path, {"l.weight": codes, "l.weight_scale_inv": scales}))
    np.testing.assert_array_equal(source.load("l.weight"), (codes.float() * spread).numpy())
    assert quantization_of(source) == Quantization(
        scheme="fp8_e4m3fn", bits=8, code="float8_e4m3fn", block=(128, 128), is_symmetric=True
    )
    # Another length of blocks is told by the configuration.
    save(
        tmp_path,
        {"l.weight": codes, "l.weight_scale_inv": scales},
        {"quant_method": "fp8", "weight_block_size": [100, 100]},
    )
    spread = scales.repeat_interleave(100, 0).repeat_interleave(100, 1)
    source = open_model(tmp_path)
    np.testing.assert_array_equal(source.load("l.weight"), (codes.float() * spread).numpy())
    assert quantization_of(source).scheme == "fp8 fp8_e4m3fn"


@pytest.mark.parametrize("n_axes", [1, 2, 3])
def test_experts_in_one_tensor(n_axes: int, tmp_path: Path) -> None:
    codes = (torch.randn(4, 40, 24) * 100).to(torch.float8_e5m2)
    scales = torch.rand((4, 40, 1)[:n_axes])
    source = open_model(save(tmp_path, {"experts.down_proj": codes, "experts.down_proj_scale": scales}))
    expected = codes.float() * scales.reshape(*scales.shape, *(1,) * (3 - n_axes))
    np.testing.assert_array_equal(source.load("experts.down_proj"), expected.numpy())
    assert [spec.name for spec in describe(tmp_path, min_evals=8).matrices] == [
        f"experts.down_proj.{i}" for i in range(4)
    ]


def test_mxfp4_experts_of_gpt_oss_are_turned_as_the_model_turns_them(tmp_path: Path) -> None:
    # The levels by hand: one sign bit, two of the exponent, one of the mantissa.
    levels = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    levels += [-value for value in levels]
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (3, 20, 2, 32), dtype=np.uint8)
    exponents = rng.integers(110, 130, (3, 20, 2), dtype=np.uint8)
    stored = {
        "mlp.experts.gate_up_proj_blocks": torch.from_numpy(codes[..., ::2] | codes[..., 1::2] << 4),
        "mlp.experts.gate_up_proj_scales": torch.from_numpy(exponents),
    }
    expected = np.array(levels)[codes] * 2.0 ** (exponents[..., np.newaxis].astype(float) - 127)
    source = open_model(save(tmp_path, stored))
    values = source.load("mlp.experts.gate_up_proj")
    np.testing.assert_array_equal(values, expected.reshape(3, 20, 64).transpose(0, 2, 1))
    assert quantization_of(source, "mlp.experts.gate_up_proj").block == (1, 32, 1)
    begin, end = 64 * 20 + 7, 64 * 20 + 99
    np.testing.assert_array_equal(
        read_span(source, "mlp.experts.gate_up_proj", begin, end),
        values.reshape(-1)[begin:end],
    )


def test_nvfp4_of_modelopt(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (24, 64), dtype=np.uint8)
    scales = torch.from_numpy(rng.random((24, 4), dtype=np.float32) * 100).to(torch.float8_e4m3fn)
    stored = {
        "l.weight": torch.from_numpy(codes[:, ::2] | codes[:, 1::2] << 4),
        "l.weight_scale": scales,
        "l.weight_scale_2": torch.tensor(0.003),
        "l.input_scale": torch.tensor(0.1),
    }
    source = open_model(save(tmp_path, stored))
    whole = scales.float().numpy() * np.float32(0.003)
    expected = (small_float_levels(2, 1)[codes].reshape(24, 4, 16) * whole[..., np.newaxis]).reshape(24, 64)
    np.testing.assert_array_equal(source.load("l.weight"), expected)
    assert info_of(source, "l.input_scale").refusal is None


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        (("l.weight", "l.scale_weight"), "fp8_e4m3fn"),
        (("l.weight._data", "l.weight._scale"), "fp8_e4m3fn"),
        (("l.kernel", "l.kernel_scale"), "fp8_e4m3fn"),
    ],
)
def test_other_names_of_scales(names: tuple[str, str], scheme: str, tmp_path: Path) -> None:
    codes = (torch.randn(30, 20) * 100).to(torch.float8_e4m3fn)
    source = open_model(save(tmp_path, {names[0]: codes, names[1]: torch.tensor([0.25])}))
    target = names[0].removesuffix("._data")
    np.testing.assert_array_equal(source.load(target), codes.float().numpy() * 0.25)
    assert quantization_of(source, target).scheme == scheme


@pytest.mark.parametrize("n_kept", [0, 1, 700])
def test_pruned_weights_with_their_zeros_left_out(n_kept: int, tmp_path: Path) -> None:
    weight = heavy_tailed(40, 20, seed=1).astype(np.float32)
    weight.reshape(-1)[np.random.default_rng(0).permutation(800)[n_kept:]] = 0.0
    mask = np.packbits(weight != 0, axis=-1, bitorder="little")
    stored = {
        "l.weight.compressed": torch.from_numpy(weight[weight != 0]).bfloat16(),
        "l.weight.bitmask": torch.from_numpy(mask),
        "l.weight.shape": torch.tensor([40, 20]),
        "l.weight.row_offsets": torch.zeros(40, 1, dtype=torch.int64),
    }
    source = open_model(save(tmp_path, stored))
    np.testing.assert_array_equal(source.load("l.weight"), torch.from_numpy(weight).bfloat16().float().numpy())
    if n_kept == 700:
        stored["l.weight.compressed"] = stored["l.weight.compressed"][:-1]
        with pytest.raises(
            CorruptCheckpointError, match=r"tensor 'l.weight': its mask has 700 values, and 699 are stored"
        ):
            open_model(save(tmp_path, stored)).load("l.weight")


def test_a_checkpoint_without_codes_is_the_source_itself(tmp_path: Path) -> None:
    save(tmp_path, {"l.weight": torch.randn(30, 20), "steps": torch.tensor(3)})
    assert type(open_model(tmp_path / "m.safetensors")).__name__ == "SafetensorsFile"


def test_bytes_without_scales_stay_listed_with_their_reason(tmp_path: Path) -> None:
    stored = {
        "l.weight": torch.zeros(30, 20, dtype=torch.int8),
        "l.other_scale": torch.ones(30),
        "m.qweight": torch.zeros(8, 20, dtype=torch.int32),
        "n.weight_packed": torch.zeros(8, 20, dtype=torch.int32),
        "n.weight_scale": torch.ones(8),
        "o.weight": (torch.randn(30, 20) * 10).to(torch.float8_e4m3fn),
    }
    described = describe(save(tmp_path, stored), min_evals=8)
    assert {tensor.name: tensor.reason for tensor in described.unanalysed} == {
        "l.weight": "quantised or packed values are not decoded (int8)",
        "m.qweight": "quantised or packed values are not decoded (int32)",
        "n.weight_packed": "quantised or packed values are not decoded (int32)",
    }
    assert [spec.tensor for spec in described.matrices] == ["o.weight"]


def test_the_method_is_named_where_it_is_not_decoded(tmp_path: Path) -> None:
    save(tmp_path, {"l.codes": torch.zeros(30, 20, dtype=torch.int8)}, {"quant_method": "AQLM"})
    (tensor,) = describe(tmp_path, min_evals=8).unanalysed
    assert tensor.reason == "quantised or packed values are not decoded (int8, aqlm)"


WRONG: dict[str, dict[str, torch.Tensor]] = {
    "scales of another length": {"l.weight_scale": torch.ones(29)},
    "scales of too many axes": {"l.weight_scale": torch.ones(30, 20, 1)},
    "integer scales": {"l.weight_scale": torch.ones(30, dtype=torch.int32)},
    "zero points of another shape": {"l.weight_scale": torch.ones(30), "l.weight_zero_point": torch.ones(3)},
    "empty scales": {"l.weight_scale": torch.ones(0)},
}


@pytest.mark.parametrize("case", WRONG)
def test_scales_that_do_not_fit_are_not_used(case: str, tmp_path: Path) -> None:
    source = open_model(save(tmp_path, {"l.weight": torch.zeros(30, 20, dtype=torch.int8)} | WRONG[case]))
    assert info_of(source).refusal == "quantised or packed values are not decoded (int8)"
    with pytest.raises(ModelError, match="not decoded"):
        source.load("l.weight")


def test_two_weights_of_one_name_are_not_made_one(tmp_path: Path) -> None:
    stored = safetensors.torch.load_file(FILES / "gptq-int4.safetensors")
    source = open_model(save(tmp_path, stored | {"l.weight": torch.ones(30, 20)}))
    np.testing.assert_array_equal(source.load("l.weight"), np.ones((30, 20)))
    assert info_of(source, "l.qweight").refusal == "quantised or packed values are not decoded (int32)"


def test_coverage_counts_weights_and_not_their_codes(tmp_path: Path) -> None:
    open_golden("gptq-int4", tmp_path)
    described = describe(tmp_path, min_evals=8)
    assert described.coverage == 1.0
    assert [spec.tensor for spec in described.matrices] == ["l.weight"]


@pytest.mark.parametrize("junk", [b"", b"[", b"[]", b"3", b"\xff", b"[" * 100_000, b" " * (MAX_BYTES + 1)])
def test_a_configuration_that_is_none(junk: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(junk)
    assert read_settings(tmp_path) == Settings()


@pytest.mark.parametrize("value", [None, True, -4, 0, 2**40, "4", [4], {}, 4.0])
def test_settings_of_another_kind_are_as_if_absent(value: Any) -> None:
    said = parse_settings(
        {
            "bits": value,
            "group_size": value,
            "weight_block_size": [value, 128],
            "config_groups": value,
            "quant_method": 3,
        }
    )
    assert said == Settings()


def test_settings_of_groups_that_differ_say_nothing() -> None:
    groups = {"a": {"weights": {"num_bits": 4}}, "b": {"weights": {"num_bits": 8}}, "c": 3}
    assert parse_settings({"config_groups": groups}).bits is None
    assert parse_settings({"config_groups": {"a": {"weights": {"num_bits": 4}}}}).bits == 4


@given(st.integers(1, 8), st.lists(st.integers(0, 255), min_size=1, max_size=40))
@settings(deadline=None)
def test_codes_are_a_stream_of_bits(bits: int, packed: list[int]) -> None:
    number, n = int.from_bytes(bytes(packed), "little"), len(packed) * 8 // bits
    codes = unpack_bits(np.array([packed], dtype=np.uint8), bits, n)
    assert codes.tolist() == [[number >> (bits * i) & ((1 << bits) - 1) for i in range(n)]]


@pytest.mark.parametrize(
    ("name", "exponent", "mantissa"), [("float4_e2m1fn", 2, 1), ("float6_e2m3fn", 2, 3), ("float6_e3m2fn", 3, 2)]
)
def test_levels_of_small_floats(name: str, exponent: int, mantissa: int) -> None:
    codes = np.arange(1 << (exponent + mantissa + 1), dtype=np.uint8)
    expected = codes.view(getattr(ml_dtypes, name)).astype(np.float32)
    np.testing.assert_array_equal(small_float_levels(exponent, mantissa), expected)


def test_scales_that_are_exponents() -> None:
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(power_of_two(codes), codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float32))


LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=3).map(tuple)


@example((1, 1), (0, 0))
@given(LENGTHS, st.lists(st.integers(0, 300), min_size=0, max_size=4).map(tuple))
@settings(deadline=None)
def test_scales_of_any_shape_fit_or_do_not(shape: tuple[int, ...], scales: tuple[int, ...]) -> None:
    placed = place_scales(shape, scales, Settings())
    if placed is not None:
        block, grid = placed
        assert all(-(-n // length) == count for n, length, count in zip(shape, block, grid, strict=True))


PART_SHAPES = st.sampled_from(
    [(), (1,), (2,), (8,), (2, 32), (8, 32), (64, 4), (32, 2), (2, 4), (64,), (32, 8), (3, 8, 2, 16)]
)
PART_DTYPES = st.sampled_from(
    [torch.int32, torch.uint8, torch.int8, torch.int64, torch.float16, torch.float32, torch.float8_e4m3fn]
)
PART_NAMES = st.sampled_from(
    [
        "qweight", "qzeros", "scales", "g_idx", "weight", "weight_packed", "weight_scale", "weight_shape",
        "weight_zero_point", "weight_g_idx", "weight_global_scale", "weight_scale_2", "weight.absmax",
        "weight.quant_map",
        "weight.quant_state.bitsandbytes__nf4", "weight.nested_absmax", "weight.compressed", "weight.bitmask",
        "weight.shape", "weight_blocks", "weight_scales", "_weight_qdata", "_weight_scale", "_weight_zero_point", "SCB",
    ]
)  # fmt: skip


@given(st.dictionaries(PART_NAMES, st.tuples(PART_SHAPES, PART_DTYPES, st.integers(0, 2**31)), max_size=8))
@settings(deadline=None, max_examples=300)
def test_parts_in_any_wrong_mixture_end_in_values_or_reasons(parts: dict[str, Any]) -> None:
    tensors = {}
    for name, (shape, dtype, seed) in parts.items():
        size = int(np.prod(shape)) * torch.empty(0, dtype=dtype).element_size()
        raw = np.random.default_rng(seed).bytes(size)
        tensors[f"l.{name}"] = (
            torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if size else torch.empty(shape)
        )
    source = open_model(tensors)
    for info in source.tensors():
        if info.refusal is None:
            try:
                values = source.load(info.name)
            except ModelError:
                continue
            assert values.shape == info.shape


def test_what_a_loader_refuses_for_a_reason_of_its_own_stays_refused() -> None:
    opened = open_mapping({"l.weight": np.ones((4, 6), np.int8), "l.weight_scale": np.ones(4, np.float32)}, "m")
    assert info_of(dequantize(opened, Settings)).refusal is None
    reason = "its zero points are missing"
    infos = {**opened.infos, "l.weight": replace(opened.infos["l.weight"], refusal=reason)}
    source = dequantize(replace(opened, infos=infos), Settings)
    assert info_of(source).refusal == reason


@pytest.mark.parametrize(
    "description",
    [
        b"[]",
        b"null",
        b"3",
        b'"a"',
        b'{"shape":[4,16],"shape":[8,8],"blocksize":64}',
        b'{"shape":[4,16],"blocksize":64,"nested_offset":' + b"9" * 400 + b"}",
        b'{"shape":[4,16],"blocksize":NaN}',
    ],
)
def test_descriptions_of_bitsandbytes_that_are_none(description: bytes, tmp_path: Path) -> None:
    stored = {
        "w": torch.zeros(32, 1, dtype=torch.uint8),
        "w.absmax": torch.ones(1),
        "w.quant_map": torch.ones(16),
        "w.quant_state.bitsandbytes__nf4": torch.frombuffer(bytearray(description), dtype=torch.uint8),
    }
    refusal = info_of(open_model(save(tmp_path, stored)), "w").refusal
    assert refusal == "quantised or packed values are not decoded (uint8)"


def test_four_bits_in_whole_bytes(tmp_path: Path) -> None:
    stored = {"l.weight": torch.ones(8, 16, dtype=torch.int8), "l.weight_scale": torch.ones(8, 1)}
    weights = {"num_bits": 4, "type": "int"}
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    assert quantization_of(open_model(save(tmp_path, stored, config))).bits == 4


BYTES_THAT_ARE_SOMETHING_ELSE: dict[str, dict[str, torch.Tensor]] = {
    "no sign and no zero point": {"l.weight": torch.ones(8, 16, dtype=torch.uint8), "l.weight_scale": torch.ones(8, 1)},
    "groups in another order": {
        "l.weight": torch.ones(8, 64, dtype=torch.int8),
        "l.weight_scale": torch.ones(8, 2),
        "l.weight_g_idx": torch.zeros(64, dtype=torch.int32),
    },
    "scales turned over": {"l.weight": torch.ones(256, 512, dtype=torch.int8), "l.weight_scale": torch.ones(1, 256)},
    "tiles": {
        "l.weight": torch.ones(8, 16, dtype=torch.int8),
        "l.SCB": torch.ones(8),
        "l.weight_format": torch.tensor(1, dtype=torch.uint8),
    },
}


@pytest.mark.parametrize("case", BYTES_THAT_ARE_SOMETHING_ELSE)
def test_bytes_that_are_something_else(case: str, tmp_path: Path) -> None:
    source = open_model(save(tmp_path, BYTES_THAT_ARE_SOMETHING_ELSE[case]))
    assert "not decoded" in str(info_of(source).refusal)
