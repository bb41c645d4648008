"""What the tensors of a GGUF file are called in the model that it was made from.

llama.cpp has one name for a tensor of all families, which Hugging Face's have dozens of: ``blk.0.attn_q.weight`` is
``model.layers.0.self_attn.q_proj.weight`` in most, ``encoder.layer.0.attention.self.query.weight`` in BERT. So a name
has several candidates, the likeliest of its family first; which one it is, the names of the original decide
(:func:`spectral.loaders.former_names.match_originals`), with or without the prefix of a wrapper.

The package ``gguf`` has such a table (``gguf.tensor_mapping``,
https://github.com/ggml-org/llama.cpp/tree/master/gguf-py), to be read in the other direction: all families in one
list without order, where one name may mean two tensors (``post_attention_layernorm`` comes before the feed-forward
layer in Llama, and after attention in Gemma 2), and without what converters do themselves: Mixtral's experts, joined
ones, T5's embeddings. Turned round it would propose up to forty names for each tensor, differently with each version
installed, and none where a plain file is read without it. Hence the table here, which tests hold against that one.
"""

from __future__ import annotations

import re

from spectral.loaders.gguf_families import AUDIO, FAMILIES, FIRST, GPT, LLAMA, WHOLE
from spectral.loaders.gguf_layout import split_name

_T5_SIDES = {"enc": "encoder", "dec": "decoder"}
_T5_BLOCK = re.compile(r"(?P<side>enc|dec)\.blk\.(?P<block>[0-9]{1,6})\.(?P<leaf>\w+)(?P<suffix>\.weight|\.bias)?")
_T5_OUTER = {
    "token_embd": ("shared", "encoder.embed_tokens"),
    "output": ("lm_head",),
    "enc.output_norm": ("encoder.final_layer_norm",),
    "dec.output_norm": ("decoder.final_layer_norm",),
}
_T5_ATTENTION = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_o": "o", "attn_rel_b": "relative_attention_bias"}
_T5_FEED_FORWARD = {"ffn_gate": ("wi_0",), "ffn_up": ("wi_1", "wi"), "ffn_down": ("wo",)}


def original_candidates(architecture: str, name: str) -> tuple[str, ...]:
    """Return what a tensor of a GGUF file may be called in the original, the likeliest first.

    Parameters
    ----------
    architecture : str
        As the file says it, for example ``llama``.
    name : str
        The tensor's name in the file.

    Returns
    -------
    tuple of str
        Names as the family's usual class has them, with its prefix. A stack of experts has names with :data:`EXPERT` in
        them, too. Where nothing is known the name itself, as files of image models keep their own.
    """
    if architecture in ("t5", "t5encoder"):
        return _t5_candidates(name) or (name,)
    family = AUDIO if name.startswith("a.") else FAMILIES.get(architecture, LLAMA)
    # Families that were remodelled in the manner of Llama (Phi, Qwen, Exaone) have names of both kinds.
    families = (family, LLAMA) if family is GPT else (family,)
    block, leaf, suffix = split_name(name)
    found: list[str | None] = []
    for spelt in families:
        if block is None:
            found += [_spell(spelling, suffix) for spelling in spelt.outer.get(leaf, ())]
        else:
            spellings = (*FIRST.get(architecture, {}).get(leaf, ()), *spelt.inner.get(leaf, ()))
            found += [_spell(f"{begin}{block}.{spelling}", suffix) for spelling in spellings for begin in spelt.block]
    return tuple(dict.fromkeys(spelling for spelling in found if spelling is not None)) or (name,)


def _spell(spelling: str, suffix: str) -> str | None:
    """Return a name with its suffix, or None where the spelling is that of the weight alone."""
    whole = spelling.removesuffix(WHOLE)
    if whole == spelling:
        return spelling + suffix
    return whole if suffix != ".bias" or whole.endswith("bias") else None


def _t5_candidates(name: str) -> tuple[str, ...]:
    _, stem, suffix = split_name(name)
    if stem in _T5_OUTER:
        return tuple(spelling + suffix for spelling in _T5_OUTER[stem])
    found = _T5_BLOCK.fullmatch(name)
    if found is None:
        return ()
    side, leaf, suffix = found["side"], found["leaf"], found["suffix"] or ""
    begin = f"{_T5_SIDES[side]}.block.{found['block']}.layer."
    n_attention = 1 if side == "enc" else 2
    if leaf in ("attn_norm", "cross_attn_norm", "ffn_norm"):
        index = {"attn_norm": 0, "cross_attn_norm": 1, "ffn_norm": n_attention}[leaf]
        return (f"{begin}{index}.layer_norm{suffix}",)
    if leaf in _T5_FEED_FORWARD:
        return tuple(f"{begin}{n_attention}.DenseReluDense.{part}{suffix}" for part in _T5_FEED_FORWARD[leaf])
    plain = leaf.removeprefix("cross_")
    if plain not in _T5_ATTENTION:
        return ()
    layer = "0.SelfAttention" if plain == leaf else "1.EncDecAttention"
    return (f"{begin}{layer}.{_T5_ATTENTION[plain]}{suffix}",)
