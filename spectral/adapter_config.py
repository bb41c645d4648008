"""The configuration of a LoRA adapter (adapter_config.json): how strongly B·A is added, and what is not read here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectral.errors import CorruptCheckpointError, ModelError, ModelNotFoundError, UnsupportedModelError
from spectral.loaders.naming import unique_keys

if TYPE_CHECKING:
    from pathlib import Path

CONFIG_FILE = "adapter_config.json"

MAX_CONFIG_BYTES = 1_000_000
"""Far above any real configuration (about one kB); a guard against a file made to fill memory."""

MAX_RANK = 1_000_000

_PLAIN_PATTERN = re.compile(r"\^?[\w.\-]+\$?", re.ASCII)

_CHANGED_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to initialise an adapter that replace the base weights, too: base + B·A is then not the tuned model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """What of a LoRA configuration decides the values of the update.

    Attributes
    ----------
    alpha : float
        ``lora_alpha``: the update is alpha/r · B·A.
    rank : int or None
        ``r``; None where only the tensors tell.
    is_rank_stabilised : bool
        ``use_rslora``: alpha/√r instead (Kalajdzievski 2023, arXiv 2312.03732).
    is_transposed : bool
        ``fan_in_fan_out``: the base stores (in, out), as Conv1D of GPT-2 does.
    rank_pattern, alpha_pattern : mapping of str to number
        Exceptions by the end of a layer's path.
    changes_base : str or None
        The initialisation that changed the base weights, too.
    """

    alpha: float
    rank: int | None = None
    is_rank_stabilised: bool = False
    is_transposed: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    changes_base: str | None = None

    def rank_of(self, path: str) -> int | None:
        """Return the rank that the configuration gives a layer, None where it gives none."""
        key = _matching_key(self.rank_pattern, path)
        return self.rank if key is None else self.rank_pattern[key]

    def scaling_of(self, path: str, rank: int) -> float:
        """Return the factor on B·A of a layer whose A has this many rows."""
        key = _matching_key(self.alpha_pattern, path)
        alpha = self.alpha if key is None else self.alpha_pattern[key]
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read an ``adapter_config.json``.

    Raises
    ------
    ModelNotFoundError
        There is no such file.
    CorruptCheckpointError
        It is too large, no JSON object, or a value has an impossible type or size.
    UnsupportedModelError
        See :func:`parse_adapter_config`.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: missing: without lora_alpha the scale of B·A is not known") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > MAX_CONFIG_BYTES:
        raise CorruptCheckpointError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, which no adapter needs")
    try:
        payload = json.loads(text.decode("utf-8"), object_pairs_hook=unique_keys)
    except RecursionError as error:
        raise CorruptCheckpointError(f"{path}: nested too deeply") from error
    except ValueError as error:
        raise CorruptCheckpointError(f"{path}: not valid JSON ({error})") from error
    return parse_adapter_config(payload, str(path))


def parse_adapter_config(payload: object, label: str) -> AdapterConfig:
    """Check a configuration that is in memory.

    Parameters
    ----------
    payload : object
        What the JSON file held, or the fields of a PEFT ``LoraConfig``.
    label : str
        What to call it in messages.

    Raises
    ------
    CorruptCheckpointError
        Not a mapping, or a value of an impossible type or size.
    UnsupportedModelError
        Not LoRA, or a variant whose update is not alpha/r · B·A (DoRA, ``target_parameters``, ..), or a pattern
        that is a regular expression: those of a stranger's file are not run.
    """
    if not isinstance(payload, Mapping):
        raise CorruptCheckpointError(f"{label}: expected an object with r and lora_alpha, got {_shown(payload)}")
    _refuse_other_methods(payload, label)
    initialisation = payload.get("init_lora_weights")
    name = initialisation.lower() if isinstance(initialisation, str) else ""
    if "lora_alpha" not in payload:
        raise CorruptCheckpointError(f"{label}: has no lora_alpha, so the scale of B·A is not known")
    return AdapterConfig(
        alpha=_number(payload["lora_alpha"], "lora_alpha", label),
        rank=None if payload.get("r") is None else _rank(payload["r"], "r", label),
        is_rank_stabilised=_flag(payload, "use_rslora", label),
        is_transposed=_flag(payload, "fan_in_fan_out", label),
        rank_pattern={
            key: _rank(value, f"rank_pattern[{key[:100]!r}]", label)
            for key, value in _patterns(payload, "rank_pattern", label).items()
        },
        alpha_pattern={
            key: _number(value, f"alpha_pattern[{key[:100]!r}]", label)
            for key, value in _patterns(payload, "alpha_pattern", label).items()
        },
        changes_base=name if name.startswith(_CHANGED_BASE) else None,
    )


def _refuse_other_methods(payload: Mapping[Any, Any], label: str) -> None:
    kind = payload.get("peft_type", "LORA")
    # PEFT's own enum, too, is text.
    if not isinstance(kind, str) or kind.upper().rpartition(".")[2] != "LORA":
        raise UnsupportedModelError(f"{label}: peft_type is {_shown(kind)}: only LORA is read")
    if _flag(payload, "use_dora", label):
        raise UnsupportedModelError(
            f"{label}: use_dora is set: a DoRA update also rescales every column of the base, it is not B·A"
        )
    for key in ("target_parameters", "layer_replication", "use_qalora"):
        if payload.get(key):
            raise UnsupportedModelError(f"{label}: {key} is set: the update is not alpha/r · B·A of one layer")


def _matching_key(patterns: Mapping[str, Any], path: str) -> str | None:
    """Return the first key that is the path, or its end after a dot; ``^`` asks for the whole path."""
    for key in patterns:
        plain = key.removeprefix("^").removesuffix("$")
        if path == plain or (not key.startswith("^") and path.endswith(f".{plain}")):
            return key
    return None


def _patterns(payload: Mapping[Any, Any], key: str, label: str) -> Mapping[str, Any]:
    patterns = payload.get(key) or {}
    if not isinstance(patterns, Mapping) or not all(isinstance(name, str) for name in patterns):
        raise CorruptCheckpointError(f"{label}: {key} must be an object, got {_shown(patterns)}")
    for name in patterns:
        if _PLAIN_PATTERN.fullmatch(name) is None:
            raise UnsupportedModelError(
                f"{label}: {key} has the regular expression {name[:200]!r}: only the ends of layer paths are read"
            )
    return patterns


def _flag(payload: Mapping[Any, Any], key: str, label: str) -> bool:
    value = payload.get(key)
    if value is not None and not isinstance(value, bool):
        raise CorruptCheckpointError(f"{label}: {key} must be true or false, got {_shown(value)}")
    return bool(value)


def _rank(value: object, key: str, label: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise CorruptCheckpointError(f"{label}: {key} must be an integer from 1 to {MAX_RANK}, got {_shown(value)}")
    return value


def _number(value: object, key: str, label: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise CorruptCheckpointError(f"{label}: {key} must be a finite number, got {_shown(value)}")
    return number


def _shown(value: object) -> str:
    if isinstance(value, (str, int, float, bool)) or value is None:
        # str() of an integer of many digits is refused by Python itself.
        is_huge = isinstance(value, int) and abs(value) > 10**18
        return "a huge integer" if is_huge else repr(value)[:100]
    return f"a {type(value).__name__}"
