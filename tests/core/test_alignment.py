"""A converted model is given the names and the layout of its original, and nothing is matched that does not fit."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.alignment import AlignedSource, align, shapes_of
from spectral.deltas import delta_source
from spectral.loaders.memory import MemorySource, open_mapping
from spectral.loaders.protocol import LayerType, Quantization
from spectral.model_comparison import compare_models
from spectral.model_distances import distances
from tests.core.builders import heavy_tailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from spectral.loaders.protocol import TensorSource

Arrays = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted(MemorySource):
    """A model of a converter that knows former names."""

    original_names: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned(Converted):
    """A model of a converter that turned everything over."""

    @property
    def transposed_names(self) -> frozenset[str]:
        return frozenset(self.infos)


def converted(tensors: Arrays, names: Mapping[str, tuple[str, ...] | str], **roles: LayerType) -> Converted:
    opened = open_mapping(tensors, "m")
    infos = {name: replace(info, role=roles.get(name)) for name, info in opened.infos.items()}
    return Converted(label="m", infos=infos, values=tensors, original_names=names)


def matrix(n: int, m: int, seed: int = 0) -> NDArray[np.float32]:
    return heavy_tailed(n, m, seed=seed).astype(np.float32)


def check_same(source: TensorSource, original: Arrays) -> None:
    """Demand every tensor of the original, with its values, whole and in pieces."""
    infos = {info.name: info for info in source.tensors()}
    for name, values in original.items():
        assert infos[name].shape == values.shape
        np.testing.assert_array_equal(source.load(name), values)
        assert source.load(name).flags.c_contiguous
        half = values.size // 2
        if isinstance(source, AlignedSource):
            np.testing.assert_array_equal(source.load_span(name, half, values.size), values.reshape(-1)[half:])
    assert set(infos) == set(original)


ORIGINAL = {
    "model.layers.0.self_attn.q_proj.weight": matrix(24, 16, 0),
    "model.layers.0.self_attn.k_proj.weight": matrix(8, 16, 1),
    "model.layers.0.self_attn.v_proj.weight": matrix(8, 16, 2),
    "model.layers.0.self_attn.q_proj.bias": matrix(1, 24, 3)[0],
    "model.layers.0.self_attn.k_proj.bias": matrix(1, 8, 4)[0],
    "model.layers.0.self_attn.v_proj.bias": matrix(1, 8, 5)[0],
    "model.layers.0.mlp.gate_proj.weight": matrix(40, 16, 6),
    "model.layers.0.mlp.up_proj.weight": matrix(40, 16, 7),
    "model.layers.0.mlp.down_proj.weight": matrix(16, 40, 8),
    "model.embed_tokens.weight": matrix(50, 16, 9),
}

FUSED = {
    "model.layers.0.self_attn.qkv_proj.weight": np.concatenate(
        [ORIGINAL[f"model.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"]
    ),
    "model.layers.0.self_attn.qkv_proj.bias": np.concatenate(
        [ORIGINAL[f"model.layers.0.self_attn.{part}_proj.bias"] for part in "qkv"]
    ),
    "model.layers.0.mlp.gate_up_proj.weight": np.concatenate(
        [ORIGINAL[f"model.layers.0.mlp.{part}_proj.weight"] for part in ("gate", "up")]
    ),
    "model.layers.0.mlp.down_proj.weight": ORIGINAL["model.layers.0.mlp.down_proj.weight"],
    "model.embed_tokens.weight": ORIGINAL["model.embed_tokens.weight"],
}


def test_equal_names_and_shapes_need_nothing() -> None:
    source = open_mapping(ORIGINAL, "m")
    assert align(source, shapes_of(source)) is source
    without = open_mapping({name.removesuffix(".weight"): values for name, values in ORIGINAL.items()}, "m")
    assert align(without, shapes_of(source)) is without


@pytest.mark.parametrize(("ours", "theirs"), [(FUSED, ORIGINAL), (ORIGINAL, FUSED)], ids=["split", "joined"])
def test_fused_projections(ours: Arrays, theirs: Arrays) -> None:
    check_same(align(open_mapping(ours, "m"), shapes_of(open_mapping(theirs, "o"))), theirs)


def test_what_is_not_wholly_there_is_not_joined() -> None:
    ours = {name: values for name, values in ORIGINAL.items() if "k_proj" not in name}
    source = align(open_mapping(ours, "m"), shapes_of(open_mapping(FUSED, "o")))
    assert "model.layers.0.self_attn.qkv_proj.weight" not in {info.name for info in source.tensors()}
    assert "model.layers.0.mlp.gate_up_proj.weight" in {info.name for info in source.tensors()}


def test_rows_that_do_not_add_up_are_not_cut() -> None:
    ours = {**FUSED, "model.layers.0.mlp.gate_up_proj.weight": matrix(79, 16)}
    source = align(open_mapping(ours, "m"), shapes_of(open_mapping(ORIGINAL, "o")))
    assert "model.layers.0.mlp.gate_up_proj.weight" in {info.name for info in source.tensors()}


@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model.model."])
def test_former_names_lead_to_the_original_under_any_prefix(prefix: str) -> None:
    names: dict[str, tuple[str, ...] | str] = {
        "token_embd.weight": ("embed_tokens.weight",),
        "blk.0.attn_q.weight": ("layers.0.attention.wq.weight", "layers.0.self_attn.q_proj.weight"),
        "blk.0.attn_k.weight": "layers.0.self_attn.k_proj.weight",
        "blk.0.ffn_down.weight": ("layers.0.mlp.down_proj.weight",),
    }
    original = {
        f"{prefix}embed_tokens.weight": matrix(50, 16),
        f"{prefix}layers.0.self_attn.q_proj.weight": matrix(16, 16, 1),
        f"{prefix}layers.0.self_attn.k_proj.weight": matrix(8, 16, 2),
        f"{prefix}layers.0.mlp.down_proj.weight": matrix(16, 40, 3),
    }
    ours = dict(zip(names, original.values(), strict=True))
    longer = {
        name: "model." + said if isinstance(said, str) else tuple(f"model.{one}" for one in said)
        for name, said in names.items()
    }
    hints: Mapping[str, tuple[str, ...] | str]
    for hints in (names, longer):
        source = align(converted(ours, hints), shapes_of(open_mapping(original, "o")))
        check_same(source, original)
        check_same(pickle.loads(pickle.dumps(source)), original)


def test_a_name_that_two_tensors_end_with_is_none() -> None:
    original = {"a.proj.weight": matrix(20, 16), "b.proj.weight": matrix(20, 16, 1)}
    source = converted({"x": matrix(20, 16)}, {"x": "proj.weight"})
    assert align(source, shapes_of(open_mapping(original, "o"))) is source


def test_matrices_that_fit_only_turned_are_turned_and_square_ones_with_them() -> None:
    original = {
        "fc1.weight": matrix(40, 16, 0),
        "fc2.weight": matrix(16, 40, 1),
        "out.weight": matrix(16, 16, 2),
        "emb.weight": matrix(16, 16, 3),
        "conv.weight": matrix(16, 9, 4).reshape(16, 3, 3),
    }
    ours = {name: values.T if name.startswith(("fc", "out")) else values for name, values in original.items()}
    roles = {"emb.weight": LayerType.EMBEDDING}
    source = align(converted(ours, {}, **roles), shapes_of(open_mapping(original, "o")))
    check_same(source, original)


def test_one_matrix_that_lies_otherwise_than_all_others_is_a_mistake() -> None:
    original = {f"fc{i}.weight": matrix(40, 16, i) for i in range(3)}
    ours = {**original, "fc1.weight": original["fc1.weight"].T}
    source = open_mapping(ours, "m")
    assert align(source, shapes_of(open_mapping(original, "o"))) is source


def test_square_matrices_stay_where_the_others_do() -> None:
    original = {"fc1.weight": matrix(40, 16, 0), "out.weight": matrix(16, 16, 2)}
    ours = {"x": original["fc1.weight"], "y": original["out.weight"]}
    source = align(converted(ours, {"x": "fc1", "y": "out"}), shapes_of(open_mapping(original, "o")))
    check_same(source, original)


def test_stacked_experts_are_cut_into_single_ones() -> None:
    original = {f"layers.3.mlp.experts.{i}.gate_proj.weight": matrix(24, 16, i) for i in range(12)}
    stack = np.stack(list(original.values()))
    said = Quantization(scheme="gguf Q4_0", bits=4, code="int", block=(1, 1, 8))
    source = converted(
        {"blk.3.ffn_gate_exps.weight": stack}, {"blk.3.ffn_gate_exps.weight": "layers.3.mlp.experts.gate_proj.weight"}
    )
    ((name, info),) = source.infos.items()
    source = replace(source, infos={name: replace(info, quantization=said)})
    aligned = align(source, shapes_of(open_mapping(original, "o")))
    check_same(aligned, original)
    assert all(info.quantization == replace(said, block=(1, 8)) for info in aligned.tensors())
    missing = {name: values for name, values in original.items() if ".7." not in name}
    assert align(source, shapes_of(open_mapping(missing, "o"))) is source


def test_a_turned_stack_of_experts_is_cut_and_turned() -> None:
    original = {f"model.experts.{i}.down_proj.weight": matrix(16, 16, i) for i in range(3)}
    name = "blk.0.ffn_down_exps.weight"
    source = converted(
        {name: np.stack([each.T for each in original.values()])}, {name: "experts.{expert}.down_proj.weight"}
    )
    turned = Turned(label="m", infos=source.infos, values=source.values, original_names=source.original_names)
    check_same(align(turned, shapes_of(open_mapping(original, "o"))), original)


def test_a_name_in_use_for_something_else_stays() -> None:
    original = {"fc.weight": matrix(20, 16)}
    ours = {"x": matrix(20, 16, 1), "fc.weight": matrix(30, 16, 2)}
    source = converted(ours, {"x": "fc.weight"})
    assert align(source, shapes_of(open_mapping(original, "o"))) is source


def test_what_a_tensor_is_part_of_is_renamed_with_it() -> None:
    ours = {"w": matrix(20, 16), "s": np.ones(20, dtype=np.float32)}
    source = converted(ours, {"w": "fc.weight"})
    infos = {**source.infos, "s": replace(source.infos["s"], refusal="the scales of w", counted_in="w")}
    aligned = align(replace(source, infos=infos), {"fc.weight": (20, 16)})
    assert {info.name: info.counted_in for info in aligned.tensors()} == {"fc.weight": None, "s": "fc.weight"}


def test_comparisons_of_two_models_align_them() -> None:
    original = {"fc1.weight": matrix(40, 16, 0), "fc2.weight": matrix(16, 40, 1), "out.weight": matrix(16, 16, 2)}
    names = {f"onnx::MatMul_{i}": name for i, name in enumerate(original)}
    ours = converted({own: original[name].T for own, name in names.items()}, names)
    found = distances(ours, original).details
    assert found.name.tolist() == ["fc1", "fc2", "out"]
    assert found.delta_W.tolist() == [0.0, 0.0, 0.0]
    delta = delta_source(ours, original)
    assert all(not delta.load(name).any() for name in original)
    assert compare_models(ours, original, k=2).details.num_intruders.tolist() == [0, 0, 0]


NAMES = st.sampled_from(
    ["a.w", "a.q_proj", "a.k_proj", "a.v_proj", "a.qkv_proj", "experts.0.w", "experts.1.w", "experts.w", "w", "b.w"]
)
SHAPES = st.sampled_from([(4, 6), (6, 4), (4, 4), (12, 4), (2, 4, 6), (4,), ()])


@given(
    st.dictionaries(NAMES, SHAPES, max_size=6),
    st.dictionaries(NAMES, SHAPES, max_size=6),
    st.dictionaries(NAMES, NAMES),
)
@settings(deadline=None)
def test_no_value_is_lost_or_invented(
    ours: dict[str, tuple[int, ...]], theirs: dict[str, tuple[int, ...]], hints: dict[str, str]
) -> None:
    rng = np.random.default_rng(0)
    source = converted({name: rng.random(shape) for name, shape in ours.items()}, hints)
    aligned = align(source, theirs)
    infos = aligned.tensors()
    assert len({info.name for info in infos}) == len(infos)
    before = np.sort(np.concatenate([np.zeros(0), *(source.load(name).ravel() for name in ours)]))
    after = np.sort(np.concatenate([np.zeros(0), *(aligned.load(info.name).ravel() for info in infos)]))
    np.testing.assert_array_equal(after, before)
    assert all(aligned.load(info.name).shape == info.shape for info in infos)
