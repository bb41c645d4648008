"""Checkpoints behind a URL, read by ranges of bytes: nothing is downloaded as a whole, nothing is written."""

from spectral.loaders.remote.address import is_url
from spectral.loaders.remote.errors import RemoteReadError
from spectral.loaders.remote.path import RemotePath, open_url

__all__ = ["RemotePath", "RemoteReadError", "is_url", "open_url"]
