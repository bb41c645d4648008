"""The ``config.json`` beside the weights, for the little that the spectral analysis needs of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectral.attention import attention_config, with_fused_attention
from spectral.loaders.json_text import parse_json
from spectral.loaders.protocol import SpanSource, TensorInfo, TensorSource
from spectral.loaders.spans import stream_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CONFIG_FILE = "config.json"

MAX_CONFIG_BYTES = 4_000_000
"""Far above any real configuration (some list a label for each of tens of thousands of classes)."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredSource:
    """A source whose tensors are described with the help of the model's configuration."""

    inner: TensorSource
    infos: dict[str, TensorInfo] = field(repr=False)

    @property
    def label(self) -> str:
        return self.inner.label

    def tensors(self) -> tuple[TensorInfo, ...]:
        return tuple(self.infos.values())

    def load(self, name: str) -> NDArray[Any]:
        return self.inner.load(name)

    def load_span(self, name: str, begin: int, end: int) -> NDArray[Any]:
        if isinstance(self.inner, SpanSource):
            return self.inner.load_span(name, begin, end)
        return self.inner.load(name).reshape(-1)[begin:end]

    def stream(self, name: str) -> Iterator[memoryview] | None:
        return stream_of(self.inner, name)


def with_config(source: TensorSource, folder: Path) -> TensorSource:
    """Return ``source`` with the fused projections split that ``config.json`` explains, or itself.

    The configuration refines the analysis and is no part of the weights: one that cannot be read is left aside
    with a warning in the log, and every value of another kind or size than it should be is as if absent.
    """
    payload = _read(folder / CONFIG_FILE)
    if not isinstance(payload, dict):
        return source
    infos = {info.name: info for info in source.tensors()}
    configured = with_fused_attention(infos, attention_config(payload))
    return source if configured == infos else ConfiguredSource(inner=source, infos=configured)


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            _LOGGER.warning("%s: larger than %d bytes, not read", path, MAX_CONFIG_BYTES)
            return None
        return parse_json(text)
    except (OSError, ValueError) as error:
        _LOGGER.warning("%s: cannot be read (%s); attention layers are split by names and shapes alone", path, error)
        return None
