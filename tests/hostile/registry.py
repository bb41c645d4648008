"""The hostile checkpoints by name, and how one is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    Builder = Callable[[Path], Path]

TRACE = "trace-of-execution"
SECRET = "secret.bin"
"""Names in the folder above that of the case: what must not appear, and what must not be read."""

CASES: dict[str, Builder] = {}
"""Name -> builder, which writes into a folder of its own and returns what a user would name as the model.

The names of a format begin with its own.
"""


def case(name: str) -> Callable[[Builder], Builder]:
    """Register a builder."""

    def register(builder: Builder) -> Builder:
        assert name not in CASES, name
        CASES[name] = builder
        return builder

    return register


def write(place: Path, name: str, data: bytes) -> Path:
    """Write a file and return it."""
    path = place / name
    path.write_bytes(data)
    return path


def add(name: str, file: str, make: Callable[[], bytes]) -> None:
    """Register a case of one file."""

    def build(place: Path) -> Path:
        return write(place, file, make())

    case(name)(build)


def write_case(name: str, folder: Path) -> Path:
    """Write one case into a folder of its own below ``folder``, beside the secret that it must not reach."""
    place = folder / name.replace(" ", "-").replace("/", "-")
    place.mkdir(parents=True, exist_ok=True)
    if not (folder / SECRET).exists():
        (folder / SECRET).write_bytes(np.ones(1 << 12, dtype=np.float32).tobytes())
    return CASES[name](place)
