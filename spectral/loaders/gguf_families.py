"""How families of models spell the tensors that llama.cpp has one name for: the tables of :mod:`gguf_names`.

Gathered from ``gguf.tensor_mapping`` and the converter's own folder ``conversion`` (https://github.com/ggml-org/llama.cpp),
and from the classes of transformers that the names come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

WHOLE = "$"
"""Ends a spelling that takes no ``.weight`` behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How models of a family spell their tensors.

    Attributes
    ----------
    outer : mapping
        What a tensor outside the blocks is called here -> there.
    block : tuple of str
        How the names in a block begin.
    inner : mapping
        The same within a block, behind that.
    """

    outer: Mapping[str, tuple[str, ...]] = field(repr=False)
    block: tuple[str, ...]
    inner: Mapping[str, tuple[str, ...]] = field(repr=False)


def read_table(text: str) -> dict[str, tuple[str, ...]]:
    """Read lines of a name and its spellings; a plus begins a line that goes on."""
    rows = (line.split() for line in text.replace("\n        +", "").strip().splitlines())
    return {row[0]: tuple(row[1:]) for row in rows}


LLAMA = Family(
    outer=read_table("""
        token_embd            model.embed_tokens model.tok_embeddings model.word_embeddings model.embeddings
        token_embd_norm       model.embedding_norm
        per_layer_token_embd  model.embed_tokens_per_layer
        per_layer_model_proj  model.per_layer_model_projection
        per_layer_proj_norm   model.per_layer_projection_norm
        altup_proj            model.altup_projections
        altup_unembd_proj     model.altup_unembed_projections
        output_norm           model.norm model.final_layernorm model.ln_out model.norm_f model.embedding_norm
        output                lm_head output output_layer word_embeddings_for_head
        dense_2               dense_2_out 2_Dense.linear
        dense_3               dense_3_out 3_Dense.linear
        cls                   classifier score
        cls.output            classifier.out_proj score
    """),
    block=("model.layers.",),
    inner=read_table("""
        attn_norm             input_layernorm attention_norm ln1 norm attention_layernorm
        +                     pre_attention_layernorm operator_norm pre_attn_norm
        attn_norm_2           ln2 post_attention_layernorm
        attn_q                self_attn.q_proj attention.wq
        attn_k                self_attn.k_proj attention.wk
        attn_v                self_attn.v_proj attention.wv
        attn_qkv              self_attn.qkv_proj self_attn.query_key_value attention.query_key_value
        +                     linear_attn.in_proj_qkv self_attn.language_expert_query_key_value
        attn_output           self_attn.o_proj self_attn.out_proj self_attn.dense attention.wo attention.dense
        +                     self_attn.linear_attn self_attn.language_expert_dense
        attn_q_norm           self_attn.q_norm self_attn.q_layernorm self_attn.query_layernorm
        +                     attention.query_layernorm
        attn_k_norm           self_attn.k_norm self_attn.k_layernorm self_attn.key_layernorm attention.key_layernorm
        attn_gate             self_attn.gate_proj linear_attn.in_proj_z self_attn.g_proj
        attn_sinks            self_attn.sinks$ self_attn.attention_sink_bias$
        attn_sub_norm         self_attn.inner_attn_ln
        attn_q_a              self_attn.q_a_proj
        attn_q_b              self_attn.q_b_proj
        attn_q_a_norm         self_attn.q_a_layernorm
        attn_kv_a_mqa         self_attn.kv_a_proj_with_mqa
        attn_kv_a_norm        self_attn.kv_a_layernorm
        attn_kv_b             self_attn.kv_b_proj
        attn_k_b              self_attn.k_b_proj
        attn_v_b              self_attn.v_b_proj
        attn_rot_embd         self_attn.rotary_emb.inv_freq$
        post_attention_norm   post_attention_layernorm post_self_attn_layernorm
        ffn_norm              post_attention_layernorm ffn_norm pre_ff_layernorm pre_moe_layernorm
        +                     feedforward_layernorm pre_mlp_layernorm ln2 pre_moe_norm
        post_ffw_norm         post_feedforward_layernorm post_mlp_layernorm post_moe_norm
        ffn_gate              mlp.gate_proj feed_forward.w1 feed_forward.gate_proj mlp.language_mlp.gate_proj
        +                     residual_mlp.w1 mlp.c_fc_0
        ffn_up                mlp.up_proj mlp.gate_up_proj mlp.fc1 mlp.c_fc feed_forward.w3 feed_forward.up_proj
        +                     mlp.dense_h_to_4h mlp.language_mlp.up_proj residual_mlp.w3 block_sparse_moe.up
        ffn_down              mlp.down_proj mlp.fc2 mlp.c_proj feed_forward.w2 feed_forward.down_proj
        +                     mlp.dense_4h_to_h mlp.language_mlp.down_proj residual_mlp.w2 block_sparse_moe.down
        +                     shared_mlp.output_linear
        ffn_sub_norm          mlp.ffn_layernorm
        ffn_gate_inp          mlp.gate block_sparse_moe.gate mlp.router block_sparse_moe.router.layer
        +                     feed_forward.router feed_forward.gate mlp.gate.wg block_sparse_moe.primary_router
        +                     mlp.router.gate moe.gate router.proj
        ffn_gate_inp_shexp    mlp.shared_expert_gate
        exp_probs_b           mlp.gate.e_score_correction_bias$ mlp.moe_statics.e_score_correction_bias$
        +                     mlp.gate.expert_bias$ mlp.expert_bias$ feed_forward.expert_bias$
        +                     block_sparse_moe.e_score_correction_bias$ mlp.e_score_correction_bias$
        +                     block_sparse_moe.gate.e_score_correction_bias$ moe.router_bias$
        ffn_gate_exps         mlp.experts.{expert}.gate_proj block_sparse_moe.experts.{expert}.w1
        +                     feed_forward.experts.{expert}.w1 feed_forward.experts.{expert}.gate_proj
        +                     block_sparse_moe.experts.{expert}.gate mlp.experts.gate_proj
        +                     block_sparse_moe.experts.w1 feed_forward.experts.gate_proj moe.gate_proj
        ffn_up_exps           mlp.experts.{expert}.up_proj block_sparse_moe.experts.{expert}.w3
        +                     feed_forward.experts.{expert}.w3 feed_forward.experts.{expert}.up_proj
        +                     block_sparse_moe.experts.{expert}.up mlp.experts.up_proj
        +                     block_sparse_moe.experts.w3 feed_forward.experts.up_proj moe.up_proj
        ffn_down_exps         mlp.experts.{expert}.down_proj block_sparse_moe.experts.{expert}.w2
        +                     feed_forward.experts.{expert}.w2 feed_forward.experts.{expert}.down_proj
        +                     block_sparse_moe.experts.{expert}.down mlp.experts.down_proj
        +                     block_sparse_moe.experts.w2 mlp.experts.down_proj$ feed_forward.experts.down_proj
        +                     feed_forward.experts.down_proj$ block_sparse_moe.output_linear moe.down_proj
        +                     experts.down_proj mlp.experts.down_proj_bias$
        ffn_gate_up_exps      mlp.experts.gate_up_proj$ mlp.experts.gate_up_proj experts.gate_up_proj$
        +                     experts.gate_up_proj
        ffn_gate_shexp        mlp.shared_experts.gate_proj mlp.shared_expert.gate_proj
        +                     feed_forward.shared_expert.gate_proj mlp.shared_mlp.gate_proj
        +                     share_expert.gate_proj block_sparse_moe.shared_experts.gate_proj
        ffn_up_shexp          mlp.shared_experts.up_proj mlp.shared_expert.up_proj
        +                     feed_forward.shared_expert.up_proj mlp.shared_mlp.up_proj share_expert.up_proj
        +                     block_sparse_moe.shared_experts.up_proj
        ffn_down_shexp        mlp.shared_experts.down_proj mlp.shared_expert.down_proj
        +                     feed_forward.shared_expert.down_proj mlp.shared_mlp.down_proj
        +                     share_expert.down_proj shared_mlp.output_linear
        +                     block_sparse_moe.shared_experts.down_proj
        ffn_gate_chexps       mlp.chunk_experts.{expert}.gate_proj mlp.chunk_experts.gate_proj
        ffn_up_chexps         mlp.chunk_experts.{expert}.up_proj mlp.chunk_experts.up_proj
        ffn_down_chexps       mlp.chunk_experts.{expert}.down_proj mlp.chunk_experts.down_proj
        layer_output_norm     final_layernorm
        layer_output_scale    layer_scalar$ layer_scalar
        ssm_in                mamba.in_proj linear_attn.in_proj_qkvz in_proj
        ssm_conv1d            mamba.conv1d linear_attn.conv1d conv1d
        ssm_x                 mamba.x_proj x_proj
        ssm_dt                mamba.dt_proj mamba.dt_bias$ linear_attn.dt_bias$ dt_proj self_attn.dt_bias$
        ssm_dt_norm           mamba.dt_layernorm
        ssm_a                 mamba.A_log linear_attn.A_log A_log self_attn.A_log
        ssm_b_norm            mamba.b_layernorm mamba.B_layernorm
        ssm_c_norm            mamba.c_layernorm mamba.C_layernorm
        ssm_d                 mamba.D D
        ssm_norm              mamba.norm linear_attn.norm self_attn.o_norm
        ssm_out               mamba.out_proj linear_attn.out_proj out_proj
        ssm_alpha             linear_attn.in_proj_a
        ssm_beta              linear_attn.in_proj_b self_attn.b_proj
        ssm_ba                linear_attn.in_proj_ba
        shortconv.conv        conv.conv
        shortconv.in_proj     conv.in_proj
        shortconv.out_proj    conv.out_proj
        inp_gate              per_layer_input_gate
        proj                  per_layer_projection
        post_norm             post_per_layer_input_norm
        altup_correct_coef    altup.correction_coefs
        altup_correct_scale   altup.correct_output_scale$ altup.correct_output_scale
        altup_predict_coef    altup.prediction_coefs
        altup_router          altup.modality_router
        altup_router_norm     altup.router_norm
        pre_ffw_norm_2        pre_feedforward_layernorm_2
        post_ffw_norm_1       post_feedforward_layernorm_1
        post_ffw_norm_2       post_feedforward_layernorm_2
        ssm_conv1d_q          self_attn.q_conv1d
        ssm_conv1d_k          self_attn.k_conv1d
        ssm_conv1d_v          self_attn.v_conv1d
        ssm_f_a               self_attn.f_a_proj
        ssm_f_b               self_attn.f_b_proj
        ssm_g_a               self_attn.g_a_proj
        ssm_g_b               self_attn.g_b_proj
        vis_attn_qkv          self_attn.vision_expert_query_key_value
        vis_attn_output       self_attn.vision_expert_dense
        vis_gate              mlp.vision_mlp.gate_proj
        vis_up                mlp.vision_mlp.up_proj
        vis_down              mlp.vision_mlp.down_proj
        indexer.k_norm        self_attn.indexer.k_norm
        indexer.proj          self_attn.indexer.weights_proj
        indexer.attn_k        self_attn.indexer.wk
        indexer.attn_q_b      self_attn.indexer.wq_b
        nextn.eh_proj         eh_proj
        nextn.embed_tokens    embed_tokens
        nextn.enorm           enorm
        nextn.hnorm           hnorm
        nextn.shared_head_head  shared_head.head
        nextn.shared_head_norm  shared_head.norm
        laurel_l              laurel.linear_left
        laurel_r              laurel.linear_right
        laurel_post_norm      laurel.post_laurel_norm
    """),
)

_BERT = Family(
    outer=read_table("""
        token_embd       embeddings.word_embeddings embeddings.tok_embeddings
        token_types      embeddings.token_type_embeddings
        position_embd    embeddings.position_embeddings
        token_embd_norm  embeddings.LayerNorm emb_ln embeddings.norm
        output_norm      final_norm
        enc.output_norm  layer_norm
        cls              classifier.dense classifier pre_classifier pooler.dense head.dense
        cls.output       classifier.out_proj classifier
        cls.norm         head.norm
    """),
    block=("encoder.layer.", "encoder.layers.", "layers.", "transformer_encoder.", "transformer.layer."),
    inner=read_table("""
        attn_q             attention.self.query attention.q_lin
        attn_k             attention.self.key attention.k_lin
        attn_v             attention.self.value attention.v_lin
        attn_qkv           attn.Wqkv mixer.Wqkv qkv
        attn_output        attention.output.dense attn.out_proj mixer.out_proj attn.Wo wo attention.out_lin
        attn_norm          attn_norm attention_norm
        attn_norm_2        layer_norm_1
        attn_output_norm   attention.output.LayerNorm norm1 sa_layer_norm
        attn_q_norm        attention.self.layer_norm_q
        attn_k_norm        attention.self.layer_norm_k
        ffn_norm           mlp_norm ffn_norm
        ffn_gate           mlp.fc12 mlp.gated_layers_w
        ffn_up             intermediate.dense mlp.fc11 mlp.fc1 mlp.gated_layers mlp.up_gated_layer
        +                  mlp.gated_layers_v mlp.Wi ffn.w12 ffn.lin1
        ffn_down           output.dense mlp.fc2 mlp.wo mlp.down_layer mlp.Wo ffn.w3 ffn.lin2
        ffn_gate_inp       mlp.router.layer
        ffn_up_exps        mlp.experts.mlp.w1$
        ffn_down_exps      mlp.experts.mlp.w2$
        layer_output_norm  output.LayerNorm norm2 mlp.layernorm layer_norm_2 output_layer_norm
    """),
)

GPT = Family(
    outer=read_table("""
        token_embd       transformer.wte transformer.embd.wte transformer.token_embeddings
        +                transformer.word_embeddings
        position_embd    transformer.wpe
        output_norm      transformer.ln_f transformer.norm_f transformer.norm lm_head.ln transformer.rms_norm
        output           lm_head lm_head.linear
        token_embd_norm  transformer.norm
    """),
    block=("transformer.h.", "transformer.blocks.", "transformer.layers."),
    inner=read_table("""
        attn_norm       ln_1 norm_1 input_layernorm ln ln_mlp attn_norm norm_attn_norm.norm_1
        attn_norm_2     ln_attn
        attn_qkv        attn.c_attn attn.Wqkv self_attention.query_key_value mixer.Wqkv norm_attn_norm.attn.Wqkv
        +               attn.qkv_proj
        attn_q          attn.q_proj attn.attention.q_proj
        attn_k          attn.k_proj attn.attention.k_proj attn.k
        attn_v          attn.v_proj attn.attention.v_proj attn.v
        attn_output     attn.c_proj attn.out_proj self_attention.dense mixer.out_proj attn.attention.out_proj
        +               norm_attn_norm.attn.out_proj
        attn_output_norm norm_attn_norm.norm_2
        attn_q_norm     attn.q_ln attn.q_norm
        attn_k_norm     attn.k_ln attn.k_norm
        ffn_norm        ln_2 norm_2 ffn_norm
        ffn_gate        mlp.w2 mlp.c_fc2 mlp.c_fc_0 mlp.linear_1
        ffn_up          mlp.c_fc ffn.up_proj mlp.dense_h_to_4h mlp.fc_in mlp.fc1 mlp.w1 mlp.c_fc_1 mlp.linear_3
        +               ffn.proj_1
        ffn_down        mlp.c_proj ffn.down_proj mlp.dense_4h_to_h mlp.fc_out mlp.fc2 ffn.proj_2
        ffn             ffn.act
        ffn.act.scales  ffn.act.scales
        ffn_gate_inp    ffn.router.layer
        ffn_gate_exps   ffn.experts.mlp.w1$ ffn.experts.mlp.w1
        ffn_up_exps     ffn.experts.mlp.v1$ ffn.experts.mlp.v1
        ffn_down_exps   ffn.experts.mlp.w2$ ffn.experts.mlp.w2
    """),
)

_NEOX = Family(
    outer=read_table("""
        token_embd   gpt_neox.embed_in
        output_norm  gpt_neox.final_layer_norm
        output       embed_out
    """),
    block=("gpt_neox.layers.",),
    inner=read_table("""
        attn_norm    input_layernorm
        attn_qkv     attention.query_key_value
        attn_output  attention.dense
        ffn_norm     post_attention_layernorm
        ffn_up       mlp.dense_h_to_4h
        ffn_down     mlp.dense_4h_to_h
    """),
)

_BLOOM = Family(
    outer=read_table("""
        token_embd       transformer.word_embeddings word_embeddings
        token_embd_norm  transformer.word_embeddings_layernorm word_embeddings_layernorm
        output_norm      transformer.ln_f ln_f
        output           lm_head
    """),
    block=("transformer.h.", "h."),
    inner=read_table("""
        attn_norm    input_layernorm ln_mlp
        attn_norm_2  ln_attn
        attn_qkv     self_attention.query_key_value
        attn_output  self_attention.dense
        ffn_norm     post_attention_layernorm
        ffn_up       mlp.dense_h_to_4h
        ffn_down     mlp.dense_4h_to_h
    """),
)

_CHATGLM = Family(
    outer=read_table("""
        token_embd   transformer.embedding.word_embeddings
        output_norm  transformer.encoder.final_layernorm
        output       transformer.output_layer
        rope_freqs   transformer.rotary_pos_emb.inv_freq$
    """),
    block=("transformer.encoder.layers.",),
    inner=read_table("""
        attn_norm    input_layernorm
        attn_qkv     self_attention.query_key_value
        attn_output  self_attention.dense
        ffn_norm     post_attention_layernorm
        ffn_up       mlp.dense_h_to_4h
        ffn_down     mlp.dense_4h_to_h
    """),
)

_MAMBA = Family(
    outer=read_table("""
        token_embd   backbone.embeddings backbone.embedding
        output_norm  backbone.norm_f
        output       lm_head
    """),
    block=("backbone.layers.", "model.layers."),
    inner=read_table("""
        attn_norm      norm
        attn_q         mixer.q_proj
        attn_k         mixer.k_proj
        attn_v         mixer.v_proj
        attn_output    mixer.o_proj
        ffn_up         mixer.up_proj
        ffn_down       mixer.down_proj
        ffn_gate_inp   mixer.gate
        exp_probs_b    mixer.gate.e_score_correction_bias$
        ffn_up_exps    mixer.experts.{expert}.up_proj
        ffn_down_exps  mixer.experts.{expert}.down_proj
        ffn_up_shexp   mixer.shared_experts.up_proj
        ffn_down_shexp mixer.shared_experts.down_proj
        ssm_in         mixer.in_proj in_proj
        ssm_conv1d     mixer.conv1d conv1d
        ssm_x          mixer.x_proj x_proj
        ssm_dt         mixer.dt_proj mixer.dt_bias$ dt_proj
        ssm_a          mixer.A_log A_log
        ssm_d          mixer.D D
        ssm_norm       mixer.norm
        ssm_out        mixer.out_proj out_proj
    """),
)

_LLADA = Family(
    outer=read_table("""
        token_embd   model.transformer.wte
        output_norm  model.transformer.ln_f
        output       model.transformer.ff_out lm_head
    """),
    block=("model.transformer.blocks.",),
    inner=read_table("""
        attn_norm    attn_norm
        attn_q       q_proj
        attn_k       k_proj
        attn_v       v_proj
        attn_output  attn_out
        ffn_norm     ff_norm
        ffn_gate     ff_proj
        ffn_up       up_proj
        ffn_down     ff_out
    """),
)

_VISION = Family(
    outer=read_table("""
        v.patch_embd     vision_tower.vision_model.embeddings.patch_embedding
        +                vision_model.embeddings.patch_embedding
        v.position_embd  vision_tower.vision_model.embeddings.position_embedding
        +                vision_model.embeddings.position_embedding
        v.class_embd     vision_tower.vision_model.embeddings.class_embedding$
        +                vision_model.embeddings.class_embedding$
        v.pre_ln         vision_tower.vision_model.pre_layrnorm vision_model.pre_layrnorm
        v.post_ln        vision_tower.vision_model.post_layernorm vision_model.post_layernorm
        mm.0             multi_modal_projector.linear_1 model.mm_projector.0
        mm.2             multi_modal_projector.linear_2 model.mm_projector.2
        mm.1             multi_modal_projector.linear_1
        mm.input_projection  multi_modal_projector.mm_input_projection_weight$
        mm.soft_emb_norm     multi_modal_projector.mm_soft_emb_norm
    """),
    block=("vision_tower.vision_model.encoder.layers.", "vision_model.encoder.layers.", "visual.blocks."),
    inner=read_table("""
        attn_q    self_attn.q_proj
        attn_k    self_attn.k_proj
        attn_v    self_attn.v_proj
        attn_qkv  attn.qkv
        attn_out  self_attn.out_proj attn.proj
        ln1       layer_norm1 norm1
        ln2       layer_norm2 norm2
        ffn_up    mlp.fc1 mlp.up_proj
        ffn_down  mlp.fc2 mlp.down_proj
        ffn_gate  mlp.gate_proj
    """),
)

AUDIO = Family(
    outer=read_table("""
        a.conv1d.1       audio_tower.conv1
        a.conv1d.2       audio_tower.conv2
        a.position_embd  audio_tower.embed_positions
        a.post_ln        audio_tower.layer_norm
    """),
    block=("audio_tower.layers.",),
    inner=read_table("""
        attn_q    self_attn.q_proj
        attn_k    self_attn.k_proj
        attn_v    self_attn.v_proj
        attn_out  self_attn.out_proj
        ln1       self_attn_layer_norm
        ln2       final_layer_norm
        ffn_up    fc1
        ffn_down  fc2
    """),
)

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        ("bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert"), _BERT
    ),
    **dict.fromkeys(
        (
            "codeshell",
            "dbrx",
            "exaone",
            "gpt2",
            "gptj",
            "jais",
            "mpt",
            "openelm",
            "phi2",
            "qwen",
            "refact",
            "starcoder",
        ),
        GPT,
    ),
    "gptneox": _NEOX,
    "bloom": _BLOOM,
    "falcon": _BLOOM,
    "chatglm": _CHATGLM,
    "mamba": _MAMBA,
    "mamba2": _MAMBA,
    "nemotron_h": _MAMBA,
    "nemotron_h_moe": _MAMBA,
    "llada": _LLADA,
    "clip": _VISION,
}
"""Architecture -> family; all others spell as Llama does."""

FIRST: dict[str, dict[str, tuple[str, ...]]] = {
    **{
        gemma: {"ffn_norm": ("pre_feedforward_layernorm",)}
        for gemma in ("gemma2", "gemma3", "gemma3n", "gemma4", "gemma-embedding")
    },
    "afmoe": {"ffn_norm": ("pre_mlp_layernorm",)},
    "glm4": {"post_attention_norm": ("post_self_attn_layernorm",), "post_ffw_norm": ("post_mlp_layernorm",)},
    "llama": {
        "ffn_gate_inp": ("block_sparse_moe.gate",),
        "ffn_gate_exps": ("block_sparse_moe.experts.{expert}.w1",),
        "ffn_up_exps": ("block_sparse_moe.experts.{expert}.w3",),
        "ffn_down_exps": ("block_sparse_moe.experts.{expert}.w2",),
    },
    "phi3": {"ffn_up": ("mlp.gate_up_proj",)},
    "qwen2moe": {f"ffn_{part}_shexp": (f"mlp.shared_expert.{part}_proj",) for part in ("gate", "up", "down")},
}
"""Architecture -> the spellings that come before those of its family, which would mean another tensor there."""
