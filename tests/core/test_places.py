"""The index of a weight in the user's own tensor, told by reading it back there, for every layout."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from spectral.analysis import describe
from spectral.attention import AttentionConfig, with_fused_attention
from spectral.loaders.protocol import LayerType, TensorInfo
from spectral.parts import channels_last_kernel, kernel
from spectral.places import name_place, stored_index
from spectral.spectrum import SpectrumFailure, compute_spectrum
from spectral.weights import as_weight_matrix, load_matrix, plan_matrices

if TYPE_CHECKING:
    from pathlib import Path

    from spectral.weights import MatrixSpec

SHAPES: dict[str, tuple[int, ...]] = {
    "dense.weight": (9, 5),
    "wide.weight": (5, 9),
    "embed.weight": (12, 4),
    "conv1d.weight": (6, 4, 3),
    "conv2d.weight": (6, 4, 3, 2),
    "conv3d.weight": (6, 4, 2, 2, 2),
    "keras_conv/kernel": (3, 3, 16, 17),
    "in_proj_weight": (15, 5),
    "h.0.attn.c_attn.weight": (5, 15),
    "h.0.mlp.c_fc.weight": (5, 20),
    "weight_ih_l0": (16, 6),
    "weight_hh_l0": (16, 4),
    "gru.weight_ih_l0": (12, 7),
    "gru.weight_hh_l0": (12, 4),
    "experts.gate_up_proj": (3, 4, 6),
    "bilinear.weight": (3, 4, 5),
    "squeezed": (1, 5, 20),
}
"""Tensors from whose names and shapes alone their matrices are told."""

FALCON = AttentionConfig(
    model_type="falcon", n_heads=4, n_kv_heads=2, head_dim=3, is_multi_query=False, is_new_decoder=True
)
NEOX = AttentionConfig(
    model_type="gpt_neox", n_heads=4, n_kv_heads=None, head_dim=3, is_multi_query=None, is_new_decoder=False
)


def info(name: str, shape: tuple[int, ...], **known: Any) -> TensorInfo:
    return TensorInfo(name=name, shape=shape, dtype="float64", **known)


def specs_of(*tensors: TensorInfo) -> dict[str, tuple[MatrixSpec, ...]]:
    """Tensor name -> its matrices."""
    matrices = plan_matrices(tensors).matrices
    return {tensor.name: tuple(spec for spec in matrices if spec.tensor == tensor.name) for tensor in tensors}


def layouts() -> dict[str, tuple[MatrixSpec, ...]]:
    fused = {"query_key_value": (24, 7)}
    interleaved = with_fused_attention(
        {f"falcon.{name}.weight": info(f"falcon.{name}.weight", shape) for name, shape in fused.items()}, FALCON
    )
    by_head = with_fused_attention({"neox.query_key_value": info("neox.query_key_value", (36, 7))}, NEOX)
    grouped = (
        info("grouped.weight", (6, 2, 3, 3), parts=kernel(LayerType.CONV2D, (6, 2, 3, 3), 3)),
        # Transposed, (in, out / groups, ..): the groups lie along the first axis there, too.
        info("transposed.weight", (6, 4, 3), parts=kernel(LayerType.CONV1D, (6, 4, 3), 2)),
        info("keras_grouped", (3, 2, 8), parts=channels_last_kernel(LayerType.CONV1D, (3, 2, 8), 2)),
    )
    plain = (info(name, shape) for name, shape in SHAPES.items())
    return specs_of(*plain, *interleaved.values(), *by_head.values(), *grouped)


@pytest.mark.parametrize("tensor", layouts())
def test_every_value_is_read_back_at_its_index(tensor: str) -> None:
    """The whole of every matrix, element by element, against the cutting that the analysis does."""
    specs = layouts()[tensor]
    assert specs
    values = np.arange(np.prod(specs[0].shape), dtype=np.float64).reshape(specs[0].shape)
    n_read = 0
    for spec in specs:
        for (slice_id, row, column), value in np.ndenumerate(as_weight_matrix(spec, values).slices):
            assert values[stored_index(spec, slice_id=slice_id, row=row, column=column)] == value
            n_read += 1
    assert n_read == values.size


def test_the_layouts_are_what_their_names_say() -> None:
    """Else the test above would only see whole matrices."""
    n_matrices = {tensor: len(specs) for tensor, specs in layouts().items()}
    assert {tensor: n for tensor, n in n_matrices.items() if n > 1} == {
        "in_proj_weight": 3,
        "h.0.attn.c_attn.weight": 3,
        "weight_ih_l0": 4,
        "weight_hh_l0": 4,
        "gru.weight_ih_l0": 3,
        "gru.weight_hh_l0": 3,
        "experts.gate_up_proj": 3,
        "falcon.query_key_value.weight": 3,
        "neox.query_key_value": 3,
    }
    assert {tensor for tensor, specs in layouts().items() if specs[0].rf > 1} == {
        "conv1d.weight",
        "conv2d.weight",
        "conv3d.weight",
        "keras_conv/kernel",
        "bilinear.weight",
        "grouped.weight",
        "transposed.weight",
        "keras_grouped",
    }


@pytest.mark.parametrize(
    ("tensor", "layer", "place", "text"),
    [
        ("dense.weight", "dense", (0, 8, 3), "dense.weight[8, 3]"),
        ("in_proj_weight", "in_proj_weight.k", (0, 2, 3), "in_proj_weight[7, 3]"),
        ("h.0.attn.c_attn.weight", "h.0.attn.c_attn.v", (0, 3, 2), "h.0.attn.c_attn.weight[3, 12]"),
        ("weight_hh_l0", "weight_hh_l0.g", (0, 2, 3), "weight_hh_l0[10, 3]"),
        ("experts.gate_up_proj", "experts.gate_up_proj.2", (0, 3, 5), "experts.gate_up_proj[2, 3, 5]"),
        ("conv2d.weight", "conv2d", (5, 4, 1), "conv2d.weight[4, 1, 2, 1]"),
    ],
)
def test_places_in_words(tensor: str, layer: str, place: tuple[int, int, int], text: str) -> None:
    (spec,) = (spec for spec in layouts()[tensor] if spec.name == layer)
    assert name_place(spec, slice_id=place[0], row=place[1], column=place[2]) == text


@pytest.mark.parametrize("place", [(1, 0, 0), (0, 9, 0), (0, 0, 5), (0, -1, 0)])
def test_a_place_that_the_matrix_does_not_have(place: tuple[int, int, int]) -> None:
    (spec,) = layouts()["dense.weight"]
    with pytest.raises(ValueError, match=r"out of bounds"):
        stored_index(spec, slice_id=place[0], row=place[1], column=place[2])


def test_a_folder_that_tells_how_attention_is_laid(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    config = {"model_type": "gpt_neox", "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    values = np.random.default_rng(0).standard_normal((36, 12)).astype(np.float32)
    values[23, 5] = 70.0
    save_file({"attention.query_key_value.weight": values}, tmp_path / "model.safetensors")
    description = describe(tmp_path)
    found = []
    for spec in description.matrices:
        slices = load_matrix(description.source, spec).slices
        for slice_id, row, column in np.argwhere(slices == 70.0).tolist():
            found.append((spec.name, stored_index(spec, slice_id=slice_id, row=row, column=column)))
    # Head 2 of 4 has rows 18 to 26, three each for Q, K and V.
    assert found == [("attention.query_key_value.k", (23, 5))]


@pytest.mark.parametrize("tensor", ["conv2d.weight", "weight_hh_l0", "grouped.weight"])
def test_a_value_that_is_not_finite_is_named_there(tensor: str) -> None:
    spec = layouts()[tensor][-1]
    values = np.ones(spec.shape)
    index = stored_index(spec, slice_id=spec.rf - 1, row=1, column=1)
    values[index] = np.nan
    failure = compute_spectrum(as_weight_matrix(spec, values))
    assert isinstance(failure, SpectrumFailure)
    assert failure.detail.endswith(f"the first at {tensor}[{', '.join(map(str, index))}]")
    # Of one slice alone the number counts all of them.
    if spec.rf > 1:
        single = compute_spectrum(as_weight_matrix(replace(spec, slice_id=spec.rf - 1), values))
        assert isinstance(single, SpectrumFailure)
        assert single.detail.partition("the first")[2] == failure.detail.partition("the first")[2]
