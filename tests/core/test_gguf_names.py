"""What GGUF's tensors are called in the original: against the library's own table, and with what converters do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
from gguf.constants import MODEL_ARCH_NAMES

from spectral.loaders.former_names import EXPERT, match_originals
from spectral.loaders.gguf_file import open_gguf
from spectral.loaders.gguf_layout import split_name
from spectral.loaders.gguf_names import original_candidates
from spectral.pairing import match_names
from tests.core.test_gguf import heads, permute, plain, write

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RNG = np.random.default_rng(0)
ARCHITECTURES = {name: number for number, name in MODEL_ARCH_NAMES.items()}

FAMILIES = (
    "bert", "bloom", "command-r", "deepseek2", "falcon", "gemma", "gemma2", "gemma3", "gemma3n", "glm4", "gpt2",
    "gptneox", "granite", "internlm2", "jamba", "llama", "mamba", "mamba2", "minicpm", "mpt", "nemotron", "nomic-bert",
    "olmo2", "olmoe", "phi2", "phi3", "qwen", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "qwen3next", "smollm3",
    "stablelm", "starcoder", "starcoder2", "t5",
)  # fmt: skip

GENERATED = ("rope_freqs", "rope_factors_long", "rope_factors_short", "attn_rot_embd")
"""What the converter computes, or what is no parameter."""


def library_names(architecture: str) -> dict[str, set[str]]:
    """Turn the library's table round: the name in the file -> all names that become it."""
    names: dict[str, set[str]] = {}
    for original, (_, name) in gguf.get_tensor_name_map(ARCHITECTURES[architecture], 1).mapping.items():
        names.setdefault(name, set()).add(original)
    return names


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_library_has_a_name_for_what_the_first_candidate_names(architecture: str) -> None:
    """Of those families that have one class of model, what we propose first becomes the same tensor there."""
    table = gguf.get_tensor_name_map(ARCHITECTURES[architecture], 1)
    joined = {"deepseek2": ("attn_k_b", "attn_v_b")}.get(architecture, ())
    n_checked = 0
    for name in library_names(architecture):
        _, leaf, _ = split_name(name)
        if leaf in (*GENERATED, *joined):
            continue
        candidates = original_candidates(architecture, name + ".weight")
        known = [
            found
            for candidate in candidates
            for prefix in ("", "transformer.", "model.")
            if EXPERT not in candidate
            for found in [table.get_name(candidate.removeprefix(prefix), try_suffixes=(".weight",))]
            if found is not None
        ]
        n_checked += bool(known)
        assert known == [] or known[0].removesuffix(".weight") == name
    assert n_checked >= 9


@pytest.mark.parametrize("architecture", FAMILIES)
def test_all_that_the_library_names_is_found(architecture: str) -> None:
    """Whatever of the library's spellings a model uses, it is matched, but for names that mean two things."""
    names = library_names(architecture)
    for name in names:
        _, leaf, _ = split_name(name)
        if leaf in GENERATED or name.startswith(("v.", "mm.", "a.", "blk.0.cross")):
            continue
        spellings = names[name] - {name}
        found = [
            original
            for original in spellings
            if match_originals({"x": original_candidates(architecture, f"{name}.weight")}, [f"{original}.weight"])
            or match_originals({"x": original_candidates(architecture, name)}, [original])
        ]
        assert found, (name, spellings)


@pytest.mark.parametrize(
    ("architecture", "name", "expected"),
    [
        ("llama", "blk.3.attn_q.weight", "model.layers.3.self_attn.q_proj.weight"),
        ("llama", "token_embd.weight", "model.embed_tokens.weight"),
        ("llama", "output.weight", "lm_head.weight"),
        ("llama", "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("llama", "blk.0.ffn_gate_exps.weight", "model.layers.0.block_sparse_moe.experts.{expert}.w1.weight"),
        ("qwen3moe", "blk.0.ffn_down_exps.weight", "model.layers.0.mlp.experts.{expert}.down_proj.weight"),
        ("gemma2", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight"),
        ("gemma2", "blk.0.post_attention_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
        ("phi3", "blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight"),
        ("bert", "blk.0.attn_q.weight", "encoder.layer.0.attention.self.query.weight"),
        ("bert", "token_types.weight", "embeddings.token_type_embeddings.weight"),
        ("gpt2", "blk.0.attn_qkv.bias", "transformer.h.0.attn.c_attn.bias"),
        ("gptneox", "blk.0.ffn_down.weight", "gpt_neox.layers.0.mlp.dense_4h_to_h.weight"),
        ("falcon", "blk.0.attn_output.weight", "transformer.h.0.self_attention.dense.weight"),
        ("bloom", "token_embd_norm.weight", "transformer.word_embeddings_layernorm.weight"),
        ("mamba", "blk.1.ssm_a", "backbone.layers.1.mixer.A_log"),
        ("mamba2", "blk.1.ssm_dt.bias", "backbone.layers.1.mixer.dt_proj.bias"),
        ("deepseek2", "blk.1.attn_kv_a_mqa.weight", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"),
        ("deepseek2", "blk.1.exp_probs_b.bias", "model.layers.1.mlp.gate.e_score_correction_bias"),
        ("t5", "enc.blk.0.ffn_norm.weight", "encoder.block.0.layer.1.layer_norm.weight"),
        ("t5", "dec.blk.0.ffn_norm.weight", "decoder.block.0.layer.2.layer_norm.weight"),
        ("t5", "dec.blk.1.cross_attn_q.weight", "decoder.block.1.layer.1.EncDecAttention.q.weight"),
        ("t5", "enc.blk.0.attn_rel_b.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("t5", "token_embd.weight", "shared.weight"),
        ("a family of tomorrow", "blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
        ("flux", "double_blocks.0.img_attn.qkv.weight", "double_blocks.0.img_attn.qkv.weight"),
        ("llama", "", ""),
        ("llama", "two\nlines", "two\nlines"),
        ("t5", "dec.blk.1.odd.weight", "dec.blk.1.odd.weight"),
        ("clip", "v.blk.0.attn_out.weight", "vision_tower.vision_model.encoder.layers.0.self_attn.out_proj.weight"),
        ("clip", "a.blk.0.ln1.weight", "audio_tower.layers.0.self_attn_layer_norm.weight"),
    ],
)
def test_the_first_candidate(architecture: str, name: str, expected: str) -> None:
    assert original_candidates(architecture, name)[0] == expected


@pytest.mark.parametrize("prefix", ["", "model.", "language_model.model.", "model.language_model.", "module.model."])
def test_prefixes_do_not_matter(prefix: str) -> None:
    names = ("blk.0.attn_q.weight", "blk.10.attn_q.weight", "token_embd.weight", "output_norm.weight")
    candidates = {name: original_candidates("llama", name) for name in names}
    originals = [
        "layers.0.self_attn.q_proj.weight",
        "layers.10.self_attn.q_proj.weight",
        "embed_tokens.weight",
        "norm.weight",
    ]
    assert list(match_originals(candidates, [prefix + name for name in originals]).values()) == [
        prefix + name for name in originals
    ]


def test_names_that_a_prefix_alone_sets_apart() -> None:
    candidates = {"token_embd.weight": original_candidates("llama", "token_embd.weight")}
    both = ["a.model.embed_tokens.weight", "model.embed_tokens.weight"]
    assert match_originals(candidates, both) == {"token_embd.weight": "model.embed_tokens.weight"}
    assert match_originals(candidates, ["module.embed_tokens.weight", "bert.embed_tokens.weight"]) == {}


def test_a_tensor_of_the_original_is_taken_once() -> None:
    candidates = {"a": ("x.weight",), "b": ("x.weight", "y.weight"), "c": ("y.weight",)}
    assert match_originals(candidates, ["x.weight", "y.weight"]) == {"a": "x.weight", "b": "y.weight"}


def test_experts_of_the_original() -> None:
    name = "blk.1.ffn_up_exps.weight"
    candidates = {name: original_candidates("qwen2moe", name)}
    originals = [f"base.model.layers.1.mlp.experts.{i}.up_proj.weight" for i in range(3)]
    assert match_originals(candidates, originals) == {}
    originals = [f"language_model.model.layers.1.mlp.experts.{i}.up_proj.weight" for i in range(3)]
    expected = {name: "language_model.model.layers.1.mlp.experts.{expert}.up_proj.weight"}
    assert match_originals(candidates, originals) == expected
    stacked = "model.layers.1.mlp.experts.up_proj.weight"
    assert match_originals(candidates, [stacked]) == {name: stacked}


class TestConverted:
    """What convert_hf_to_gguf does to a small model comes back, name by name and value by value."""

    @staticmethod
    def compare(path: Path, originals: dict[str, NDArray[Any]]) -> None:
        source = open_gguf(path)
        pairs = match_originals(source.original_names, originals)
        assert set(pairs) == set(source.infos)
        used: set[str] = set()
        for name, original in pairs.items():
            values = source.load(name)
            if EXPERT in original:
                names = [original.replace(EXPERT, str(index)) for index in range(len(values))]
                expected = np.stack([originals[one] for one in names])
                used |= set(names)
            else:
                expected = originals[original]
                used.add(original)
            if name in source.transposed_names:
                expected = expected.swapaxes(-1, -2)
            np.testing.assert_array_equal(values, expected, err_msg=name)
        assert used == set(originals)

    @staticmethod
    def convert(architecture: str, originals: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Rename as the converter does, by the library's own table."""
        table = gguf.get_tensor_name_map(ARCHITECTURES[architecture], 2)
        renamed = {}
        for name, values in originals.items():
            new = table.get_name(name, try_suffixes=(".weight", ".bias"))
            assert new is not None, name
            renamed[new] = values
        return renamed

    @pytest.mark.parametrize("is_mixture", [False, True], ids=["dense", "experts"])
    def test_llama(self, is_mixture: bool, tmp_path: Path) -> None:
        def draw(*shape: int) -> NDArray[np.float32]:
            return RNG.normal(size=shape).astype(np.float32)

        originals: dict[str, NDArray[Any]] = {
            "model.embed_tokens.weight": draw(20, 16), "model.norm.weight": draw(16), "lm_head.weight": draw(20, 16),
        }  # fmt: skip
        for index in range(2):
            block = f"model.layers.{index}."
            originals |= {
                f"{block}self_attn.q_proj.weight": draw(16, 16),
                f"{block}self_attn.k_proj.weight": draw(8, 16),
                f"{block}self_attn.v_proj.weight": draw(8, 16),
                f"{block}self_attn.o_proj.weight": draw(16, 16),
                f"{block}input_layernorm.weight": draw(16),
                f"{block}post_attention_layernorm.weight": draw(16),
            }
            if is_mixture:
                originals[f"{block}block_sparse_moe.gate.weight"] = draw(3, 16)
                originals |= {
                    f"{block}block_sparse_moe.experts.{expert}.{w}.weight": draw(*((16, 24) if w == "w2" else (24, 16)))
                    for expert in range(3)
                    for w in ("w1", "w2", "w3")
                }
            else:
                originals |= {
                    f"{block}mlp.gate_proj.weight": draw(24, 16),
                    f"{block}mlp.up_proj.weight": draw(24, 16),
                    f"{block}mlp.down_proj.weight": draw(16, 24),
                }
        changed: dict[str, NDArray[Any]] = {}
        for name, values in originals.items():
            if ".experts." in name:
                continue
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                changed[name] = permute(values, 4 if "q_proj" in name else 2)
            else:
                changed[name] = values
        if is_mixture:
            for index in range(2):
                for w in ("w1", "w2", "w3"):
                    stack = [
                        originals[f"model.layers.{index}.block_sparse_moe.experts.{expert}.{w}.weight"]
                        for expert in range(3)
                    ]
                    changed[f"layers.{index}.feed_forward.experts.{w}.weight"] = np.stack(stack)
        tensors = {name: plain(values) for name, values in self.convert("llama", changed).items()}
        self.compare(write(tmp_path / "m.gguf", tensors, values=heads(4, 2)), originals)

    def test_bert(self, tmp_path: Path) -> None:
        originals: dict[str, NDArray[Any]] = {
            f"embeddings.{name}_embeddings.weight": RNG.normal(size=(n, 16)).astype(np.float32)
            for name, n in {"word": 20, "position": 10, "token_type": 2}.items()
        }
        originals["embeddings.LayerNorm.weight"] = np.ones(16, np.float32)
        for index in range(2):
            for layer in ("self.query", "self.key", "self.value", "output.dense"):
                weights = RNG.normal(size=(16, 16)).astype(np.float32)
                originals[f"encoder.layer.{index}.attention.{layer}.weight"] = weights
                originals[f"encoder.layer.{index}.attention.{layer}.bias"] = weights[0]
            originals[f"encoder.layer.{index}.attention.output.LayerNorm.weight"] = np.ones(16, np.float32)
            originals[f"encoder.layer.{index}.intermediate.dense.weight"] = RNG.normal(size=(24, 16)).astype(np.float32)
            originals[f"encoder.layer.{index}.output.dense.weight"] = RNG.normal(size=(16, 24)).astype(np.float32)
            originals[f"encoder.layer.{index}.output.LayerNorm.bias"] = np.ones(16, np.float32)
        tensors = {name: plain(values) for name, values in self.convert("bert", originals).items()}
        path = write(tmp_path / "m.gguf", tensors, architecture="bert", values=heads(4, 4, "bert"))
        self.compare(path, originals)
        self.compare(path, {f"bert.{name}": values for name, values in originals.items()})

    def test_gpt2(self, tmp_path: Path) -> None:
        originals: dict[str, NDArray[Any]] = {"wte.weight": RNG.normal(size=(20, 16)).astype(np.float32)}
        for name, shape in {"attn.c_attn": (16, 48), "attn.c_proj": (16, 16), "mlp.c_fc": (16, 64)}.items():
            originals[f"h.0.{name}.weight"] = RNG.normal(size=shape).astype(np.float32)
        changed = {name: values.T if name.startswith("h.") else values for name, values in originals.items()}
        tensors = {name: plain(np.ascontiguousarray(values)) for name, values in self.convert("gpt2", changed).items()}
        self.compare(write(tmp_path / "m.gguf", tensors, architecture="gpt2"), originals)


def test_the_names_alone_do_not_pair() -> None:
    """What this module is for: the pairing of names and prefixes finds nothing in common."""
    assert match_names(["blk.0.attn_q.weight"], ["model.layers.0.self_attn.q_proj.weight"]) == {}
