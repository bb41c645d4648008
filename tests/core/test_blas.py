"""BLAS called directly, beside numpy's products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral import blas
from spectral.blas import add_gram, add_product

if TYPE_CHECKING:
    from numpy.typing import NDArray

sizes = st.integers(1, 9)


def test_the_routines_are_those_of_scipy() -> None:
    # Otherwise everything below compares numpy with itself.
    assert blas._load_syrk() is not None
    assert blas._load_gemm() is not None


class TestGram:
    @pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (30, 20), (20, 30), (300, 64)])
    @pytest.mark.parametrize("with_routine", [True, False])
    def test_equals_the_product(
        self, shape: tuple[int, int], with_routine: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not with_routine:
            monkeypatch.setattr(blas, "_load_syrk", lambda: None)
        block = np.random.default_rng(0).standard_normal(shape)
        before = np.random.default_rng(1).standard_normal((shape[1], shape[1]))
        found = before.copy()
        add_gram(found, block)
        upper = np.triu_indices(shape[1])
        np.testing.assert_allclose(found[upper], (before + block.T @ block)[upper], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("which", [0, 1])
    def test_another_order_of_memory_is_refused(self, which: int) -> None:
        arrays = [np.zeros((20, 20)), np.zeros((30, 20))]
        arrays[which] = np.asfortranarray(arrays[which])
        with pytest.raises(ValueError, match=r"^gram and block must be C-ordered$"):
            add_gram(*arrays)


class TestProduct:
    @pytest.mark.parametrize("with_routine", [True, False])
    @given(
        shape=st.tuples(sizes, sizes, sizes), turned=st.tuples(st.booleans(), st.booleans()), margin=st.integers(0, 2)
    )
    def test_equals_numpys(
        self, shape: tuple[int, int, int], turned: tuple[bool, bool], margin: int, with_routine: bool
    ) -> None:
        m, n, k = shape
        rng = np.random.default_rng(0)
        target = block(rng, m, n, margin)
        left = block(rng, k, m, margin).T if turned[0] else block(rng, m, k, margin)
        right = block(rng, n, k, margin).T if turned[1] else block(rng, k, n, margin)
        expected = target - 0.5 * (left @ right)
        with pytest.MonkeyPatch.context() as patch:
            if not with_routine:
                patch.setattr(blas, "_load_gemm", lambda: None)
            add_product(target, left, right, factor=-0.5)
        np.testing.assert_allclose(target, expected, rtol=1e-12, atol=1e-12)

    @given(sizes, sizes, sizes)
    def test_only_the_block_is_written_to(self, m: int, n: int, k: int) -> None:
        whole = np.asfortranarray(np.full((m + 4, n + 4), 7.0))
        rng = np.random.default_rng(1)
        add_product(whole[2:-2, 2:-2], block(rng, m, k, 0), block(rng, k, n, 0))
        whole[2:-2, 2:-2] = 7.0
        assert np.all(whole == 7.0)

    def test_nothing_to_add(self) -> None:
        target = np.asfortranarray(np.ones((3, 2)))
        add_product(target, np.ones((3, 0), order="F"), np.ones((0, 2), order="F"))
        add_product(target[3:], np.ones((0, 4), order="F"), np.ones((4, 2), order="F"))
        assert np.all(target == 1.0)

    def test_a_target_in_another_order_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^target must be contiguous along its columns$"):
            add_product(np.ones((3, 2)), np.ones((3, 4), order="F"), np.ones((4, 2), order="F"))

    def test_a_scattered_block_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^a block must be contiguous along one axis, got strides \(16, 64\)$"):
            add_product(np.ones((2, 2), order="F"), np.ones((4, 4), order="F")[::2, ::2], np.ones((2, 2)))


def block(rng: np.random.Generator, n_rows: int, n_columns: int, margin: int) -> NDArray[np.float64]:
    """Return a block of a larger F-ordered matrix."""
    whole = np.asfortranarray(rng.standard_normal((n_rows + 2 * margin, n_columns + 2 * margin)))
    return whole[margin : margin + n_rows, margin : margin + n_columns]
