"""Small sound files to begin fuzzing with: ``python -m tests.fuzz.seeds`` writes them into the corpus."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch

from tests.fuzz.reading import CORPUS, SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def _safetensors(folder: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(4, 3), "b": torch.ones(2).bfloat16()}, folder / "plain.safetensors")
    goldens = CORPUS.parents[1] / "core" / "quantized"
    for name in ("gptq-int4-ordered", "bitsandbytes-nf4-nested", "compressed-tensors-int3-asymmetric", "torchao-fp8"):
        shutil.copy(goldens / f"{name}.safetensors", folder)
    coded = {
        "w_blocks": torch.zeros(2, 4, 1, 16, dtype=torch.uint8),
        "w_scales": torch.zeros(2, 4, 1, dtype=torch.uint8),
    }
    safetensors.torch.save_file(coded, folder / "mxfp4.safetensors")


def _torch(folder: Path) -> None:
    torch.save({"w": torch.ones(3, 2), "v": torch.ones(4).half()[::2], "n": 3}, folder / "plain.pt")
    torch.save({"state_dict": {"w": torch.ones(2, 2)}, "optimizer": {"m": [torch.zeros(2)]}}, folder / "training.pt")
    torch.save({"w": torch.ones(3, 2)}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), folder / "script.pt")


def _npz(folder: Path) -> None:
    np.savez(folder / "plain.npz", a=np.ones((3, 2)), b=np.ones(2, dtype=">f4"))
    np.savez_compressed(folder / "packed.npz", a=np.ones((3, 2)))


def _npy(folder: Path) -> None:
    np.save(folder / "plain.npy", np.asfortranarray(np.ones((3, 2), dtype=np.float16)))


def _gguf(folder: Path) -> None:
    import gguf

    for name, endian in (("little", gguf.GGUFEndian.LITTLE), ("big", gguf.GGUFEndian.BIG)):
        writer = gguf.GGUFWriter(str(folder / f"{name}.gguf"), "llama", endianess=endian)
        writer.add_head_count(2)
        writer.add_array("tokens", ["a", "b"])
        writer.add_tensor("blk.0.attn_q.weight", np.ones((4, 32), dtype=np.float32))
        writer.add_tensor("norm.weight", np.ones(4, dtype=np.float16))
        if name == "little":
            coded = gguf.quantize(np.ones((4, 256), dtype=np.float32), gguf.GGMLQuantizationType.Q4_0)
            writer.add_tensor("blk.0.ffn_up.weight", coded, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _onnx(folder: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    weights = {
        "w": np.ones((3, 2), dtype=np.float32),
        "q": np.ones((2, 4), dtype=np.int8),
        "s": np.ones(4, dtype=np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="/fc/MatMul"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"], axis=1),
        helper.make_node("MatMul", ["h", "d"], ["y"]),
    ]
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph(
        nodes, "g", *([end] for end in ends), [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    save(helper.make_model(graph), folder / "plain.onnx")


def _msgpack(folder: Path) -> None:
    import msgpack

    def array(values: NDArray[Any]) -> Any:
        return msgpack.ExtType(1, msgpack.packb((values.shape, values.dtype.name, values.tobytes()), use_bin_type=True))

    tree = {
        "params": {"dense": {"kernel": array(np.ones((3, 2), dtype=np.float32)), "bias": array(np.ones(2))}},
        "step": 3,
    }
    (folder / "plain.msgpack").write_bytes(msgpack.packb(tree, use_bin_type=True))


def _hdf5(folder: Path) -> None:
    import h5py

    for version in ("earliest", "latest"):
        with h5py.File(folder / f"{version}.h5", "w", libver=version) as file:
            group = file.create_group("layers/dense/vars")
            group.create_dataset("0", data=np.ones((3, 2), dtype=np.float32))
            group.create_dataset("1", data=np.ones(8), chunks=(3,), compression="gzip", shuffle=True, fletcher32=True)
            file.attrs["names"] = ["a", "b"]


def _keras(folder: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    model.save(folder / "plain.keras")


WRITERS: dict[str, Callable[[Path], None]] = {
    "safetensors": _safetensors,
    "torch": _torch,
    "npz": _npz,
    "npy": _npy,
    "gguf": _gguf,
    "onnx": _onnx,
    "msgpack": _msgpack,
    "hdf5": _hdf5,
    "keras": _keras,
}


def main() -> None:
    """Write the seeds of every format."""
    assert WRITERS.keys() == SUFFIXES.keys()
    for name, write in WRITERS.items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)


if __name__ == "__main__":
    main()
