"""What converters to GGUF do to tensors, and how it is taken back: tensors come out as the original model has them.

The converter is ``convert_hf_to_gguf.py`` of https://github.com/ggml-org/llama.cpp (now the folder ``conversion``), as
its methods ``modify_tensors`` stood in the summer of 2026. Taken back is what is one to one:

- rows of query and key that were reordered for another kind of rotary embedding (``LlamaModel.permute``), weights and
  biases, for the families of :data:`ROTARY`;
- rows of a fused projection that lie by head in the original (GPT-NeoX, BLOOM) or by key-value head (Falcon), and
  here as all queries, all keys, all values;
- the one that was added to the weights of norms (Gemma, Nemotron, Qwen3-Next and their like);
- A = -exp(A_log) of state-space models, and axes of length one that were dropped or added there.

Left as they are: GPT-2's own kind of layer, which the original stores transposed (``stores_transposed``); what was
split or joined (MLA's kv_b, gate and up of fused experts, W_pack, wqkv), where one tensor has no counterpart of its
shape; and reorderings that need numbers which the file does not carry (PLaMo's attention, the value heads of Qwen3.5,
the vision towers of Kimi and MiniMax). The spectrum of a matrix does not depend on the order of its rows in any of
these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectral.loaders.protocol import LayerType
from spectral.parts import Part, interleaved_rows, row_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from spectral.loaders.gguf_header import Value

ROTARY = frozenset(
    {
        "arcee",
        "arctic",
        "baichuan",
        "bailingmoe",
        "chameleon",
        "deci",
        "deepseek",
        "granite",
        "granitehybrid",
        "granitemoe",
        "internlm2",
        "llada",
        "llama",
        "llama-embed",
        "minicpm",
        "mistral3",
        "nanbeige",
        "olmo",
        "smollm3",
        "xverse",
    }
)
"""Families whose converter reorders the rows of query and key.

Mistral and Mixtral are written as ``llama``, Baichuan, BailingMoE and InternLM2 out of a fused projection. Files made
from Meta's or Mistral's own checkpoints have the same order without having been reordered: they compare with the
Hugging Face form all the same.
"""

_BY_HEAD = frozenset({"gptneox", "bloom"})
_BY_KV_HEAD = frozenset({"falcon"})

_SHIFTED_NORMS = frozenset(
    {"gemma", "gemma2", "gemma3", "gemma-embedding", "nemotron", "qwen3next", "qwen35", "qwen35moe", "minimax-m3"}
)
"""Families whose norms multiply by 1 + w: the one is added on the way in. Gemma 3n and 4 store the sum themselves."""

_TRANSPOSED = frozenset({"gpt2", "jais"})
_TRANSPOSED_LEAVES = frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_gate", "ffn_down"})
_TRANSPOSED_EXPERTS = frozenset({"gpt-oss", "llama4"})

_EMBEDDINGS = frozenset(
    {"token_embd", "position_embd", "token_types", "per_layer_token_embd", "v.position_embd", "a.position_embd"}
)

_BLOCK = re.compile(r"(?:(?:v|a|enc|dec)\.)?blk\.(?P<block>[0-9]{1,6})\.(?P<leaf>.+)")
_SUFFIX = re.compile(r"(?P<stem>.+?)(?P<suffix>\.(?:weight|bias)(?:\.lora_[ab])?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What the header says of the attention of one block; 0 where it does not."""

    n_heads: int = 0
    n_kv_heads: int = 0
    key_length: int = 0
    value_length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What was done to the values of a tensor when the file was made.

    Attributes
    ----------
    rotary_heads : int
        Heads whose rows were reordered from (2, n/2) to (n/2, 2); 0 for none.
    groups : (int, int), optional
        Number of key-value heads and queries for each, where rows that lay by group now lie queries first.
    shift : float
        What was added.
    is_negative_exponential : bool
        Whether the file has -exp(x) for x.
    """

    rotary_heads: int = 0
    groups: tuple[int, int] | None = None
    shift: float = 0.0
    is_negative_exponential: bool = False

    @property
    def moves_rows(self) -> bool:
        """Whether rows lie in another order than in the original."""
        return self.rotary_heads > 0 or self.groups is not None

    def row_order(self, n_rows: int) -> NDArray[Any]:
        """Return for each row of the file its row in the original."""
        import numpy as np

        rows = np.arange(n_rows)
        if self.groups is None:
            return rows.reshape(self.rotary_heads, 2, -1).swapaxes(1, 2).reshape(-1)
        n_groups, n_queries = self.groups
        by_group = rows.reshape(n_groups, n_queries + 2, -1)
        return np.concatenate([by_group[:, :-2].reshape(-1), by_group[:, -2].reshape(-1), by_group[:, -1].reshape(-1)])

    def take_back(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the original's values for those of the file, in any order."""
        import numpy as np

        if self.is_negative_exponential:
            with np.errstate(all="ignore"):
                # Where the file has no negative number, there is none whose exponential it is: NaN, a finding.
                restored: NDArray[Any] = np.log(-values)
            return restored
        return values - values.dtype.type(self.shift) if self.shift else values


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a tensor of the file is read.

    Attributes
    ----------
    shape : tuple of int
        As the original has it.
    role : LayerType, optional
        What it is, where its name says so.
    parts : tuple of Part, optional
        Its matrices, where names and shapes would not tell.
    change : Change, optional
        What must be taken back; None where the values stand as they are.
    """

    shape: tuple[int, ...]
    role: LayerType | None = None
    parts: tuple[Part, ...] | None = None
    change: Change | None = None


def split_name(name: str) -> tuple[int | None, str, str]:
    """Return the block's number, what the tensor is called in it, and its suffix: ``blk.3.attn_q.weight``."""
    found = _SUFFIX.fullmatch(name)
    if found is None:  # Only with a line break in it.
        return None, name, ""
    suffix = found["suffix"] or ""
    block = _BLOCK.fullmatch(found["stem"])
    return (None, found["stem"], suffix) if block is None else (int(block["block"]), block["leaf"], suffix)


def stores_transposed(architecture: str, name: str) -> bool:
    """Tell whether the original stores this matrix, or each of this stack, the other way round: (in, out)."""
    _, leaf, suffix = split_name(name)
    if suffix != ".weight":
        return False
    is_expert = leaf == "ffn_down_exps" and architecture in _TRANSPOSED_EXPERTS
    return is_expert or (leaf in _TRANSPOSED_LEAVES and architecture in _TRANSPOSED)


def attention_of(architecture: str, values: Mapping[str, Value], block: int) -> Attention:
    """Return the numbers of heads of a block: a number for all, or one for each."""

    def number(key: str) -> int:
        value = values.get(f"{architecture}.attention.{key}", 0)
        if isinstance(value, tuple):
            value = value[block] if block < len(value) else 0
        return value if isinstance(value, int) and 0 < value <= 1 << 20 else 0

    n_heads = number("head_count")
    return Attention(
        n_heads=n_heads,
        n_kv_heads=number("head_count_kv") or n_heads,
        key_length=number("key_length"),
        value_length=number("value_length"),
    )


def layout_of(architecture: str, name: str, shape: tuple[int, ...], values: Mapping[str, Value]) -> Layout:
    """Return how to read a tensor, from its name, its shape and what the header says of its block."""
    block, leaf, suffix = split_name(name)
    if block is None:
        is_table = len(shape) == 2 and leaf in _EMBEDDINGS
        return Layout(
            shape=shape,
            role=LayerType.EMBEDDING if is_table else _role(shape),
            change=_norm_shift(architecture, leaf, suffix, shape),
        )
    if leaf.startswith(("ssm_", "shortconv.")) and suffix in ("", ".weight"):
        return _state_space(leaf, suffix, shape)
    if leaf in ("attn_q", "attn_k") and suffix != ".weight.lora_a":
        attention = attention_of(architecture, values, block)
        n_heads = attention.n_heads if leaf == "attn_q" else attention.n_kv_heads
        is_moved = architecture in ROTARY and len(shape) in (1, 2) and _divides(2 * n_heads, shape[0])
        return Layout(shape=shape, change=Change(rotary_heads=n_heads) if is_moved else None)
    if leaf == "attn_qkv" and suffix in (".weight", ".bias") and len(shape) in (1, 2):
        return _fused(architecture, shape, attention_of(architecture, values, block))
    if leaf in ("attn_k_b", "attn_v_b") and len(shape) == 3:
        return Layout(shape=shape, parts=_heads_of_latent(shape, is_key=leaf == "attn_k_b"))
    return Layout(shape=shape, role=_role(shape), change=_norm_shift(architecture, leaf, suffix, shape))


def _role(shape: tuple[int, ...]) -> LayerType | None:
    # ggml's convolutions have torch's order, whatever the lengths.
    return LayerType.CONV2D if len(shape) == 4 else None


def _divides(divisor: int, n: int) -> bool:
    return divisor > 0 and n > 0 and n % divisor == 0


def _norm_shift(architecture: str, leaf: str, suffix: str, shape: tuple[int, ...]) -> Change | None:
    is_norm = leaf.endswith("norm") and suffix == ".weight" and len(shape) == 1
    return Change(shift=1.0) if is_norm and architecture in _SHIFTED_NORMS else None


def _state_space(leaf: str, suffix: str, shape: tuple[int, ...]) -> Layout:
    change = Change(is_negative_exponential=True) if (leaf, suffix) == ("ssm_a", "") else None
    if leaf in ("ssm_conv1d", "shortconv.conv") and len(shape) == 2:
        return Layout(shape=(shape[0], 1, shape[1]), role=LayerType.CONV1D)
    if leaf in ("ssm_a", "ssm_d") and len(shape) == 2 and shape[1] == 1:
        return Layout(shape=shape[:1], change=change)
    if leaf == "ssm_norm" and len(shape) == 2:
        return Layout(shape=(shape[0] * shape[1],))
    return Layout(shape=shape, role=_role(shape), change=change)


def _fused(architecture: str, shape: tuple[int, ...], attention: Attention) -> Layout:
    n_heads, n_kv_heads = attention.n_heads, attention.n_kv_heads
    groups: tuple[int, int] | None = None
    if architecture in _BY_HEAD:
        groups = (n_heads, 1)
    elif architecture in _BY_KV_HEAD and _divides(n_kv_heads, n_heads):
        groups = (n_kv_heads, n_heads // n_kv_heads)
    if groups is not None:
        if not _divides(groups[0] * (groups[1] + 2), shape[0]):
            return Layout(shape=shape)
        sizes = {"q": groups[1], "k": 1, "v": 1}
        parts = None
        if len(shape) == 2:
            parts = interleaved_rows(LayerType.ATTENTION, (shape[0], shape[1]), groups[0], sizes)
        return Layout(shape=shape, parts=parts, change=Change(groups=groups) if groups[0] > 1 else None)
    return Layout(shape=shape, parts=_contiguous(shape, attention))


def _contiguous(shape: tuple[int, ...], attention: Attention) -> tuple[Part, ...] | None:
    """Cut Q, K and V one below the other, where the numbers of heads fit."""
    if len(shape) != 2 or not attention.n_heads:
        return None
    key_length = attention.key_length or shape[1] // attention.n_heads
    value_length = attention.value_length or key_length
    sizes = {
        "q": attention.n_heads * key_length,
        "k": attention.n_kv_heads * key_length,
        "v": attention.n_kv_heads * value_length,
    }
    if not key_length or sum(sizes.values()) != shape[0]:
        return None
    return row_blocks(LayerType.ATTENTION, (shape[0], shape[1]), sizes)


def _heads_of_latent(shape: tuple[int, ...], *, is_key: bool) -> tuple[Part, ...]:
    """Put the heads of MLA's expansion of keys (heads, latent, n) or values (heads, n, latent) one below the other."""
    rows, columns = ((0, 2), (1,)) if is_key else ((0, 1), (2,))
    return (Part(layer_type=LayerType.DENSE, fold=shape, row_axes=rows, column_axes=columns),)
