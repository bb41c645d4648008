"""By which hash a stored tensor is known again: that of its type, its shape and its bytes."""

from __future__ import annotations

import hashlib


def begin_hash(dtype: str, shape: tuple[int, ...]) -> hashlib._Hash:
    """Return a SHA-256 that has taken in type and shape; the bytes follow, in C order and little-endian."""
    return hashlib.sha256(f"{dtype}:{','.join(map(str, shape))}:".encode())
