"""What a model's configuration says of its quantisation; names and shapes of the tensors say most of it, too."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectral.loaders.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CONFIG_FILES = ("config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Where it stands: in the model's own configuration, or in a file of GPTQ, of AWQ, of ModelOpt."""

MAX_BYTES = 4_000_000
MAX_SIZE = 1 << 31

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The few values that are needed; what is not said, or not plausibly, is None.

    Attributes
    ----------
    method : str
        Name of the quantiser (``gptq``, ``awq``, ``fp8``, ``compressed-tensors``), or empty.
    bits, group_size : int, optional
        Of a code, and values that share a scale.
    block : tuple of int, optional
        Rows and columns that share a scale.
    checkpoint_format : str
        Of GPTQ: ``gptq_v2`` stores zero points as they are, others less one.
    """

    method: str = ""
    bits: int | None = None
    group_size: int | None = None
    block: tuple[int, int] | None = None
    checkpoint_format: str = ""


def read_settings(folder: Path) -> Settings:
    """Return what the files beside the weights say; one that cannot be read is left aside with a warning in the log."""
    for name in CONFIG_FILES:
        payload = _read(folder / name)
        inner = payload.get("quantization_config", payload.get("quantization")) if isinstance(payload, dict) else None
        if isinstance(inner, dict):
            return parse_settings(inner)
        if isinstance(payload, dict) and name.startswith("quant"):
            return parse_settings(payload)
    return Settings()


def parse_settings(payload: dict[Any, Any]) -> Settings:
    """Take from a configuration what is of the right kind and size."""
    block = payload.get("weight_block_size")
    if block is None:
        block = next(
            (group["block_structure"] for group in _weight_groups(payload) if group.get("block_structure")), None
        )
    is_pair = isinstance(block, (list, tuple)) and len(block) == 2 and all(_is_size(length) for length in block)
    groups = [payload, *_weight_groups(payload)]
    method = _text(payload, "quant_method") or _text(payload, "quant_algo") or _text(payload, "quantization_method")
    return Settings(
        method=method.lower(),
        bits=_only(_size(group, "bits", "w_bit", "num_bits") for group in groups),
        group_size=_only(_size(group, "group_size", "q_group_size") for group in groups),
        block=(block[0], block[1]) if is_pair and block is not None else None,
        checkpoint_format=_text(payload, "checkpoint_format") or _text(payload, "version"),
    )


def _weight_groups(payload: dict[Any, Any]) -> list[dict[Any, Any]]:
    """Return what compressed-tensors and ModelOpt say of weights, layers by groups."""
    groups = payload.get("config_groups")
    inside = groups.values() if isinstance(groups, dict) else ()
    found = [group.get("weights") for group in inside if isinstance(group, dict)]
    return [weights for weights in found if isinstance(weights, dict)]


def _only(values: Iterable[int | None]) -> int | None:
    """Return what all agree on that say anything."""
    said = {value for value in values if value is not None}
    return said.pop() if len(said) == 1 else None


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < MAX_SIZE


def _size(payload: dict[Any, Any], *keys: str) -> int | None:
    return next((payload[key] for key in keys if _is_size(payload.get(key))), None)


def _text(payload: dict[Any, Any], key: str) -> str:
    value = payload.get(key)
    return value[:100] if isinstance(value, str) else ""


def _read(path: Path) -> Any:
    try:
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
        return parse_json(text) if len(text) <= MAX_BYTES else None
    except (OSError, ValueError) as error:
        _LOGGER.warning("%s: cannot be read (%s); how weights are quantised is told by their names alone", path, error)
        return None
