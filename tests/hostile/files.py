"""Every hostile checkpoint: the modules register theirs as they are imported."""

from tests.hostile import (  # noqa: F401 (imported for what they register)
    coded_files,
    folder_files,
    gguf_files,
    msgpack_files,
    numpy_files,
    onnx_files,
    safetensors_files,
    torch_files,
)
from tests.hostile.registry import CASES, SECRET, TRACE, write_case

__all__ = ["CASES", "SECRET", "TRACE", "write_case"]
