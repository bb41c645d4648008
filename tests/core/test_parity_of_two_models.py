"""A real model and a changed copy of it: ours beside the incumbent's, run live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spectral.analysis import analyze
from spectral.deltas import delta_source
from spectral.model_comparison import compare_models
from spectral.model_distances import distances
from tests.core.oracle import module_tree
from tests.core.oracle_cross import oracle_deltas, oracle_distances
from tests.core.test_parity import FLOATS, INTEGERS

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = ("encoder.layer.1.attention.self.", "encoder.layer.4.output.")
"""Three matrices of 384 x 384 and one of 384 x 1536."""

Tensors = dict[str, Any]


@pytest.fixture(scope="module")
def base(minilm: Path) -> Tensors:
    return {name: tensor for name, tensor in load_file(minilm).items() if name.startswith(LAYERS)}


@pytest.fixture(scope="module")
def tuned(base: Tensors) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    # Noise in proportion to the weights, as rounding makes it, and a step of low rank.
    changed = {
        name: tensor * (1 + 0.02 * torch.randn(tensor.shape, generator=generator)) for name, tensor in base.items()
    }
    for tensor in changed.values():
        if tensor.ndim == 2:
            left, right = (torch.randn(n, generator=generator) for n in tensor.shape)
            tensor.add_(1e-3 * torch.outer(left, right))
    return changed


def test_deltas(base: Tensors, tuned: Tensors) -> None:
    few = [{name: model[name] for name in model if ".attention." in name} for model in (tuned, base)]
    theirs = oracle_deltas(*map(module_tree, few))
    ours = analyze(delta_source(tuned, base)).details.set_index("longname").loc[list(theirs.index)]
    assert len(ours) == 3
    for column in FLOATS:
        np.testing.assert_allclose(ours[column].astype(float), theirs[column].astype(float), rtol=1e-6, err_msg=column)
    for column in INTEGERS:
        assert ours[column].tolist() == theirs[column].tolist(), column


@pytest.mark.parametrize("method", ["raw", "euclidean", "cka"])
def test_distances(base: Tensors, tuned: Tensors, method: Any) -> None:
    mean, _, theirs = oracle_distances(module_tree(tuned), module_tree(base), method)
    ours = distances(tuned, base, method=method)
    details = ours.details.set_index("longname").loc[list(theirs.index)]
    # Its products of 1536 x 1536 are summed in float32; the same formula in float64 says who is nearer.
    tolerance = 5e-6 if method == "cka" else 1e-6
    np.testing.assert_allclose(details["delta_W"], theirs["delta_W"].astype(float), rtol=tolerance)
    assert ours.mean_delta_W == pytest.approx(mean, rel=tolerance)


def test_cka_in_float64(base: Tensors, tuned: Tensors) -> None:
    name = "encoder.layer.4.output.dense.weight"
    (layer,) = distances({name: tuned[name]}, {name: base[name]}, method="cka").layers
    one, two = (tensors[name].numpy().astype(np.float64) for tensors in (tuned, base))
    norms = np.linalg.norm(one.T @ one) * np.linalg.norm(two @ two.T)
    assert layer.delta_W == pytest.approx(np.linalg.norm(one.T @ two) / np.sqrt(norms), rel=1e-12)


def test_directions_of_a_harmless_change(base: Tensors, tuned: Tensors) -> None:
    details = compare_models(tuned, base).details
    assert details["num_intruders"].tolist() == [0] * 4
    assert details["relative_change"].between(0.02, 0.05).all()
    assert (details["left_overlap"] > 0.9).all()
