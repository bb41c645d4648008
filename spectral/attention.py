"""Query, key and value in one tensor: how each family of models lays them, and where that can be known.

A matrix (3E, E) may hold Q, K and V one below the other (GPT-2, Phi-3, timm), or interleaved head by head
(GPT-NeoX, BLOOM) or key-value head by key-value head (Falcon, InternLM2), and its shape is the same. Where neither
its name nor the model's configuration tells, it stays whole: that is one matrix which the model has, while a
wrong split would be three that it has not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.parts import Part, equal_columns, equal_rows, interleaved_rows, matrix, row_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

QKV = ("q", "k", "v")
_ONE_EACH = {"q": 1, "k": 1, "v": 1}

MAX_COUNT = 1 << 20
"""More heads than any model has."""

_CONTIGUOUS = frozenset({"c_attn", "qkv_proj", "Wqkv", "qkv", "to_qkv", "W_pack", "in_proj_weight"})
"""Layers under these names hold Q, K and V one after the other in every family but those below."""

_INTERLEAVED = frozenset({"query_key_value", "wqkv"})
"""Layers under these names are interleaved in some families; only the configuration tells."""

_BY_HEAD = frozenset({"gpt_neox", "gpt_neox_japanese", "bloom"})
_FALCON = frozenset({"falcon", "RefinedWeb", "RefinedWebModel"})

_CODEGEN_BLOCKS = 4
"""CodeGen's checkpoints are laid for four devices, whatever they run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionConfig:
    """What a model's configuration says of its attention; what it does not say, or not plausibly, is None.

    Attributes
    ----------
    model_type : str
        Family, for example ``gpt_neox``.
    n_heads, n_kv_heads, head_dim : int, optional
        Heads of the queries, heads of keys and values, rows of each.
    is_multi_query : bool, optional
        One head of keys and values for all.
    is_new_decoder : bool
        Falcon's layout by key-value head.
    """

    model_type: str
    n_heads: int | None
    n_kv_heads: int | None
    head_dim: int | None
    is_multi_query: bool | None
    is_new_decoder: bool


def attention_config(payload: Mapping[Any, Any]) -> AttentionConfig:
    """Read the few numbers that matter out of a configuration in the manner of Hugging Face; any content will do."""
    model_type, multi_query = payload.get("model_type"), payload.get("multi_query")
    return AttentionConfig(
        model_type=model_type if isinstance(model_type, str) else "",
        n_heads=_count(payload, "num_attention_heads", "n_head", "n_heads"),
        n_kv_heads=_count(payload, "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
        head_dim=_count(payload, "head_dim", "kv_channels"),
        is_multi_query=multi_query if isinstance(multi_query, bool) else None,
        is_new_decoder=payload.get("new_decoder_architecture") is True or model_type == "RefinedWeb",
    )


def fused_attention(
    name: str, shape: tuple[int, ...], config: AttentionConfig | None = None
) -> tuple[Part, ...] | None:
    """Split a fused projection into Q, K and V, or return None where it is none or its layout is not known.

    Parameters
    ----------
    name : str
        Tensor name.
    shape : tuple of int
        Stored shape: (out, in), or (in, out) for GPT-2's own kind of layer.
    config : AttentionConfig, optional
        The model's.
    """
    if len(shape) != 2:
        return None
    rows_columns = (shape[0], shape[1])
    parents, _, leaf = name.removesuffix(".weight").rpartition(".")
    if leaf in _INTERLEAVED:
        return None if config is None else _interleaved(rows_columns, config)
    if leaf not in _CONTIGUOUS:
        return None
    if config is not None and config.model_type in ("codegen", "gpt_bigcode"):
        return _code_models(rows_columns, config)
    if leaf == "qkv_proj" and config is None and not parents.endswith("self_attn"):
        return None  # CodeGen calls its own layout so, too, but under ``attn``.
    return (config and _contiguous(rows_columns, config)) or _thirds(rows_columns, is_conv1d=leaf == "c_attn")


def with_fused_attention(infos: Mapping[str, TensorInfo], config: AttentionConfig) -> dict[str, TensorInfo]:
    """Return the tensors with their fused projections split as the configuration says.

    A projection whose layout it does not tell stays whole. A configuration that says nothing changes nothing.
    """
    if not config.model_type and config.n_heads is None:
        return dict(infos)
    return {name: replace(info, parts=info.parts or _configured_parts(info, config)) for name, info in infos.items()}


def _configured_parts(info: TensorInfo, config: AttentionConfig) -> tuple[Part, ...] | None:
    leaf = info.name.removesuffix(".weight").rpartition(".")[2]
    if len(info.shape) != 2 or leaf not in _CONTIGUOUS | _INTERLEAVED:
        return None
    return fused_attention(info.name, info.shape, config) or matrix(LayerType.DENSE, *info.shape)


def _count(payload: Mapping[Any, Any], *keys: str) -> int | None:
    values = (payload.get(key) for key in keys)
    # bool is an int to isinstance.
    return next((value for value in values if type(value) is int and 0 < value <= MAX_COUNT), None)


def _thirds(shape: tuple[int, int], *, is_conv1d: bool) -> tuple[Part, ...] | None:
    n_rows, n_columns = shape
    if n_rows == 3 * n_columns:
        return equal_rows(LayerType.ATTENTION, shape, QKV)
    if is_conv1d and n_columns == 3 * n_rows:
        return equal_columns(LayerType.ATTENTION, shape, QKV)
    return None


def _contiguous(shape: tuple[int, int], config: AttentionConfig) -> tuple[Part, ...] | None:
    if config.n_heads is None:
        return None
    n_kv_heads = 1 if config.is_multi_query else config.n_kv_heads or config.n_heads
    # Where the configuration does not give it, the heads share the width of the layer's input.
    head_dim = config.head_dim or shape[1] // config.n_heads
    sizes = {"q": config.n_heads * head_dim, "k": n_kv_heads * head_dim, "v": n_kv_heads * head_dim}
    if head_dim == 0 or sum(sizes.values()) != shape[0]:
        return None
    return row_blocks(LayerType.ATTENTION, shape, sizes)


def _code_models(shape: tuple[int, int], config: AttentionConfig) -> tuple[Part, ...] | None:
    if config.model_type == "codegen":
        return _by_groups(shape, _CODEGEN_BLOCKS, {"q": 1, "v": 1, "k": 1})
    if config.is_multi_query is None:
        return None
    return _contiguous(shape, config) if config.is_multi_query else _by_groups(shape, config.n_heads, _ONE_EACH)


def _interleaved(shape: tuple[int, int], config: AttentionConfig) -> tuple[Part, ...] | None:
    is_falcon = config.model_type in _FALCON
    if config.model_type == "internlm2" or (is_falcon and config.is_new_decoder):
        return _by_kv_head(shape, config)
    if config.model_type in _BY_HEAD or (is_falcon and config.is_multi_query is False):
        return _by_groups(shape, config.n_heads, _ONE_EACH)
    if (is_falcon and config.is_multi_query) or (config.model_type == "chatglm" and config.n_kv_heads is not None):
        return _contiguous(shape, config)
    return None


def _by_kv_head(shape: tuple[int, int], config: AttentionConfig) -> tuple[Part, ...] | None:
    n_heads, n_kv_heads = config.n_heads, config.n_kv_heads or config.n_heads
    if n_heads is None or n_kv_heads is None or n_heads % n_kv_heads:
        return None
    return _by_groups(shape, n_kv_heads, {"q": n_heads // n_kv_heads, "k": 1, "v": 1})


def _by_groups(shape: tuple[int, int], n_groups: int | None, sizes: Mapping[str, int]) -> tuple[Part, ...] | None:
    if n_groups is None or shape[0] == 0 or shape[0] % (n_groups * sum(sizes.values())):
        return None
    return interleaved_rows(LayerType.ATTENTION, shape, n_groups, sizes)
