"""Cutting tensors: every value in exactly one matrix, and the shortcuts equal to the long way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral.loaders.protocol import LayerType
from spectral.parts import (
    Part,
    channels_last_kernel,
    equal_columns,
    equal_rows,
    interleaved_rows,
    kernel,
    matrix,
    pool,
    row_blocks,
    stack,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DENSE = LayerType.DENSE
sizes = st.integers(1, 4)

CUTS: dict[str, Callable[[int, int, int, int], tuple[tuple[Part, ...], tuple[int, ...]]]] = {
    "matrix": lambda a, b, _c, _d: (matrix(DENSE, a, b), (a, b)),
    "kernel": lambda a, b, c, d: (kernel(DENSE, (a, b, c, d)), (a, b, c, d)),
    "grouped": lambda a, b, c, d: (kernel(DENSE, (a * d, b, c), d), (a * d, b, c)),
    "channels last": lambda a, b, c, d: (channels_last_kernel(DENSE, (a, b, c, d)), (a, b, c, d)),
    "channels last grouped": lambda a, b, c, d: (channels_last_kernel(DENSE, (a, b, c * d), d), (a, b, c * d)),
    "pool": lambda a, b, c, _d: (pool(DENSE, (a, b, c)), (a, b, c)),
    "stack": lambda a, b, c, _d: (stack(DENSE, (a, b, c)), (a, b, c)),
    "blocks": lambda a, b, c, d: (row_blocks(DENSE, (a + b + c, d), {"q": a, "k": b, "v": c}), (a + b + c, d)),
    "rows": lambda a, b, _c, _d: (equal_rows(DENSE, (4 * a, b), "ifgo"), (4 * a, b)),
    "columns": lambda a, b, c, _d: (equal_columns(DENSE, (a, b, 3 * c), "zrh"), (a, b, 3 * c)),
    "interleaved": lambda a, b, c, d: (
        interleaved_rows(DENSE, (a * (b + 2) * c, d), a, {"q": b, "k": 1, "v": 1}),
        (a * (b + 2) * c, d),
    ),
}


@pytest.mark.parametrize("cut", CUTS)
@given(a=sizes, b=sizes, c=sizes, d=sizes)
def test_every_value_is_in_exactly_one_matrix(cut: str, a: int, b: int, c: int, d: int) -> None:
    parts, shape = CUTS[cut](a, b, c, d)
    values = np.arange(np.prod(shape)).reshape(shape)
    slices = [part.cut(values) for part in parts]
    for part, found in zip(parts, slices, strict=True):
        assert found.shape == (part.rf, part.rows, part.columns)
        assert found.size == part.n_values
    assert sorted(np.concatenate([found.ravel() for found in slices])) == list(range(values.size))
    assert len({part.name for part in parts}) == len(parts)


@pytest.mark.parametrize("cut", CUTS)
@given(a=sizes, b=sizes, c=sizes, d=sizes)
def test_a_span_is_the_part(cut: str, a: int, b: int, c: int, d: int) -> None:
    parts, shape = CUTS[cut](a, b, c, d)
    values = np.arange(np.prod(shape)).reshape(shape)
    for part in parts:
        if part.span is not None:
            begin, end = part.span
            np.testing.assert_array_equal(part.cut(values.reshape(-1)[begin:end]), part.cut(values))


@pytest.mark.parametrize(
    ("cut", "is_view", "has_span"),
    [
        ("matrix", True, False),
        ("kernel", True, False),
        ("channels last", True, False),
        ("stack", True, True),
        ("blocks", True, True),
        ("rows", True, True),
        ("columns", True, False),
        ("pool", True, False),
        ("grouped", False, False),
    ],
)
def test_views_and_spans(cut: str, is_view: bool, has_span: bool) -> None:
    parts, shape = CUTS[cut](2, 3, 4, 2)
    values = np.zeros(shape)
    for part in parts:
        assert np.shares_memory(part.cut(values), values) is is_view
        assert (part.span is not None) is has_span


def test_groups_are_the_blocks_of_a_block_diagonal_matrix() -> None:
    """The spectrum of a grouped convolution at one position, but for the zeros that its structure forces."""
    weight = np.random.default_rng(0).standard_normal((12, 5, 1))
    (part,) = kernel(LayerType.CONV1D, weight.shape, 3)
    blocks = part.cut(weight)
    whole = np.zeros((12, 15))
    for group in range(3):
        whole[4 * group : 4 * group + 4, 5 * group : 5 * group + 5] = weight[4 * group : 4 * group + 4, :, 0]
    evals = np.sort(np.concatenate([np.linalg.svd(block, compute_uv=False) for block in blocks]))
    np.testing.assert_allclose(evals, np.sort(np.linalg.svd(whole, compute_uv=False)), rtol=1e-12)
