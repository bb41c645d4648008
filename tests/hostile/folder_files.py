"""Hostile folders: indices, links, pipes."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.payloads import PYTHON
from tests.hostile.registry import SECRET, case, write
from tests.hostile.torch_files import PICKLES

if TYPE_CHECKING:
    from pathlib import Path


def _index(place: Path, payload: object, name: str = "model.safetensors.index.json") -> Path:
    text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    write(place, name, text)
    return place


_INDICES: dict[str, object] = {
    "shard above": {"weight_map": {"w": f"../{SECRET}"}},
    "shard by an absolute path": {"weight_map": {"w": "/etc/passwd"}},
    "shard with a backslash": {"weight_map": {"w": f"..\\{SECRET}"}},
    "shard of a device": {"weight_map": {"w": "/dev/zero"}},
    "shard of a process": {"weight_map": {"w": "/proc/self/environ"}},
    "missing shard": {"weight_map": {"w": "gone.safetensors"}},
    "a million shards": {"weight_map": {f"w{i}": f"s{i}.safetensors" for i in range(200_000)}},
    "nested too deeply": b"[" * 500_000,
    "no map": {"weight_map": []},
    "names twice": b'{"weight_map": {"w": "a", "w": "b"}}',
    "a shard that is an index": {"weight_map": {"w": "model.safetensors.index.json"}},
}
for _name, _payload in _INDICES.items():
    case(f"folder {_name}")(partial(_index, payload=_payload))


@case("folder shard that is a link out")
def _(place: Path) -> Path:
    (place / "out.safetensors").symlink_to(f"../{SECRET}")
    return _index(place, {"weight_map": {"w": "out.safetensors"}})


@case("folder links in a circle")
def _(place: Path) -> Path:
    (place / "a.safetensors").symlink_to("b.safetensors")
    (place / "b.safetensors").symlink_to("a.safetensors")
    return _index(place, {"weight_map": {"w": "a.safetensors"}})


@case("folder with a pipe for weights")
def _(place: Path) -> Path:
    os.mkfifo(place / "model.safetensors")
    return place / "model.safetensors"


@case("folder with a code module beside the pickle")
def _(place: Path) -> Path:
    write(place, "payload.py", f"def run():\n    {PYTHON}\n".encode())
    write(place, "conftest.py", PYTHON.encode())
    return write(place, "model.bin", PICKLES["import of a module beside it"])
