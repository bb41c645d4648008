"""Write the files of tests/core/quantized/ with the libraries whose formats they are, and what these make of them.

Run it by hand, where a format changes or one is added; the libraries are large and need nothing of the suite's::

    pip install torch==2.13.0 safetensors compressed-tensors==0.20.0 bitsandbytes==0.50.2 torchao==0.18.0
    pip download --no-deps --no-binary :all: autoawq==0.2.9 gptqmodel==7.7.0   # unpacked; only their unpacking is run
    python -m tests.generation.quantized_files AUTOAWQ_FOLDER GPTQMODEL_FOLDER

Every file ``<scheme>.safetensors`` holds the layer ``l``; ``expected.npz`` its weight as its library dequantises it.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

TARGET = Path(__file__).parents[1] / "core" / "quantized"
N_OUT, N_IN, GROUP = 32, 64, 32


def _compressed_tensors() -> dict[str, tuple[dict[str, torch.Tensor], torch.Tensor, Any]]:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    grouped = {"strategy": "group", "group_size": GROUP}
    cases = {
        "int4-symmetric": ("pack-quantized", {"num_bits": 4, "type": "int", "symmetric": True, **grouped}),
        "int4-asymmetric": ("pack-quantized", {"num_bits": 4, "type": "int", "symmetric": False, **grouped}),
        "int3-asymmetric": ("pack-quantized", {"num_bits": 3, "type": "int", "symmetric": False, **grouped}),
        "int5-channel": ("pack-quantized", {"num_bits": 5, "type": "int", "symmetric": False, "strategy": "channel"}),
        "int8-packed": ("pack-quantized", {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}),
        "int8-channel": ("int-quantized", {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "channel"}),
        "int8-tensor": ("int-quantized", {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor"}),
        "fp8-channel": ("float-quantized", {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}),
        "fp8-tensor": ("float-quantized", {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}),
        "fp8-block": (
            "float-quantized",
            {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [20, 24]},
        ),
        "nvfp4": (
            "nvfp4-pack-quantized",
            {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16},
        ),
        "mxfp4": ("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "symmetric": True, **grouped}),
        "mxfp6": ("mxfp6-pack-quantized", {"num_bits": 6, "type": "float", "symmetric": True, **grouped}),
        "mxfp8": ("mxfp8-quantized", {"num_bits": 8, "type": "float", "symmetric": True, **grouped}),
    }
    made = {}
    for name, (file_format, options) in cases.items():
        arguments = QuantizationArgs(**options)
        weight = torch.randn(N_OUT, N_IN) * 0.05
        low, high = _extremes(weight, arguments)
        whole = (448 * 6 / weight.abs().max()).reshape(1) if name == "nvfp4" else None
        if name.startswith("mx"):
            top = {4: 6.0, 6: 7.5, 8: 448.0}[arguments.num_bits]
            largest = torch.maximum(low.abs(), high.abs())
            scale, zero = 2.0 ** torch.floor(torch.log2(largest / top)), None
        else:
            scale, zero = calculate_qparams(low, high, arguments, global_scale=whole)
        scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
        compressor = BaseCompressor.get_value_from_registry(file_format)
        held = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero, "weight_global_scale": whole}
        stored = compressor.compress({key: value for key, value in held.items() if value is not None}, scheme)
        expected = compressor.decompress(dict(stored), scheme)["weight"]
        config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": options}}}
        made[f"compressed-tensors-{name}"] = ({f"l.{key}": value for key, value in stored.items()}, expected, config)
    return made


def _extremes(weight: torch.Tensor, arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if arguments.strategy == "tensor":
        return weight.min().reshape(1), weight.max().reshape(1)
    if arguments.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if arguments.strategy == "block":
        rows, columns = arguments.block_structure
        filled = torch.zeros(-(-N_OUT // rows) * rows, -(-N_IN // columns) * columns)
        filled[:N_OUT, :N_IN] = weight
        blocks = filled.reshape(len(filled) // rows, rows, -1, columns)
        return blocks.amin((1, 3)), blocks.amax((1, 3))
    groups = weight.reshape(N_OUT, -1, arguments.group_size)
    return groups.amin(-1), groups.amax(-1)


def _bitsandbytes() -> dict[str, tuple[dict[str, torch.Tensor], torch.Tensor, Any]]:
    from bitsandbytes import functional

    made = {}
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            weight = torch.randn(N_OUT, N_IN) * 0.05
            codes, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=nested, blocksize=64)
            stored = {"l.weight": codes}
            stored |= {f"l.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
            expected = functional.dequantize_4bit(codes, state)
            made[f"bitsandbytes-{kind}{'-nested' if nested else ''}"] = (stored, expected, None)
    codes, scales, _ = functional.int8_vectorwise_quant((torch.randn(N_OUT, N_IN) * 0.05).half())
    stored = {"l.weight": codes, "l.SCB": scales, "l.weight_format": torch.tensor(0, dtype=torch.uint8)}
    made["bitsandbytes-int8"] = (stored, functional.int8_vectorwise_dequant(codes, scales), None)
    return made


def _torchao() -> dict[str, tuple[dict[str, torch.Tensor], torch.Tensor, Any]]:
    from torchao import quantization
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    grouped = quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=quantization.PerGroup(GROUP))
    configs = {
        "int8": quantization.Int8WeightOnlyConfig(),
        "fp8": quantization.Float8WeightOnlyConfig(),
        "int4-unpacked": grouped,
    }
    made = {}
    for name, config in configs.items():
        module = torch.nn.ModuleDict({"l": torch.nn.Linear(N_IN, N_OUT)})
        quantization.quantize_(module, config)
        stored, metadata = flatten_tensor_state_dict(module.state_dict())
        made[f"torchao-{name}"] = (stored, module["l"].weight.dequantize(), metadata)
        torch.save(module.state_dict(), TARGET / f"torchao-{name}.pt")
    return made


def _awq(folder: Path) -> dict[str, tuple[dict[str, torch.Tensor], torch.Tensor, Any]]:
    spec = importlib.util.spec_from_file_location("packing_utils", folder / "awq" / "utils" / "packing_utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    words, zeros = _words(N_IN, N_OUT // 8), _words(N_IN // GROUP, N_OUT // 8)
    scales = torch.rand(N_IN // GROUP, N_OUT) * 0.01
    expected = module.dequantize_gemm(words, zeros, scales, 4, GROUP).T
    stored = {"l.qweight": words, "l.qzeros": zeros, "l.scales": scales}
    return {"awq": (stored, expected, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"})}


def _gptq(folder: Path) -> dict[str, tuple[dict[str, torch.Tensor], torch.Tensor, Any]]:
    """Run the two methods of GPTQModel that dequantise on stand-ins; the package itself wants a GPU."""
    source = (folder / "gptqmodel" / "nn_modules" / "qlinear" / "__init__.py").read_text()
    scope: dict[str, Any] = {"t": torch, "_torch_right_shift": torch.bitwise_right_shift}
    scope["_torch_left_shift"] = torch.bitwise_left_shift
    for method in ("dequantize_weight", "_dequantize_from_codes"):
        found = re.search(rf"    def {method}\(.*?(?=\n    def |\n    @|\nclass )", source, re.DOTALL)
        assert found is not None
        exec(textwrap.dedent(found[0]), scope)
    made = {}
    _GptqLayer._dequantize_from_codes = scope["_dequantize_from_codes"]
    for bits in (2, 3, 4, 8):
        for has_order in (False, True):
            layer = _GptqLayer(bits, has_order=has_order)
            expected = scope["dequantize_weight"](layer).T
            stored = {f"l.{name}": getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
            if has_order:
                stored["l.g_idx"] = layer.g_idx
            config = {"bits": bits, "group_size": GROUP, "checkpoint_format": "gptq_v2", "quant_method": "gptq"}
            made[f"gptq-int{bits}{'-ordered' if has_order else ''}"] = (stored, expected, config)
    return made


class _GptqLayer:
    planar = False
    in_features = N_IN
    _dequantize_from_codes: Any

    def __init__(self, bits: int, *, has_order: bool) -> None:
        self.bits, self.maxq, self.pack_factor = bits, 2**bits - 1, 32 // bits
        self.dequant_dtype = torch.int16
        shifts = (
            torch.tensor(
                [
                    [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0],
                    [0, 1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31],
                    [0, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0],
                ],
                dtype=torch.int32,
            ).reshape(1, 3, 12)
            if bits == 3
            else torch.arange(0, 32, bits, dtype=torch.int32).unsqueeze(0)
        )
        self.wf_unsqueeze_zero, self.wf_unsqueeze_neg_one = shifts.unsqueeze(0), shifts.unsqueeze(-1)
        self.qweight, self.qzeros = _words(N_IN * bits // 32, N_OUT), _words(N_IN // GROUP, N_OUT * bits // 32)
        self.scales = torch.rand(N_IN // GROUP, N_OUT) * 0.01
        self.g_idx = torch.arange(N_IN, dtype=torch.int32) // GROUP
        if has_order:
            self.g_idx = self.g_idx[torch.randperm(N_IN)]

    def _init_wf_unsqueeze_buffers(self) -> None:
        """Do nothing: they are there."""


def _words(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)


def main() -> None:
    """Write all files."""
    torch.manual_seed(0)
    TARGET.mkdir(exist_ok=True)
    made = _compressed_tensors() | _bitsandbytes() | _torchao() | _awq(Path(sys.argv[1])) | _gptq(Path(sys.argv[2]))
    for name, (stored, _, said) in made.items():
        metadata = said if name.startswith("torchao") else {"quantization_config": json.dumps(said)} if said else None
        save_file({key: value.contiguous() for key, value in stored.items()}, TARGET / f"{name}.safetensors", metadata)
    np.savez_compressed(
        TARGET / "expected.npz", **{name: expected.detach().float().numpy() for name, (_, expected, _) in made.items()}
    )


if __name__ == "__main__":
    main()
