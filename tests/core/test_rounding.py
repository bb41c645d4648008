"""What a quantised layer had to lose, and channels that a quantiser cut off."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral.loaders.protocol import Quantization
from spectral.rounding import compare_rounding, round_to_nearest, why_no_floor
from tests.core.builders import heavy_tailed

if TYPE_CHECKING:
    from numpy.typing import NDArray


def said(
    bits: float = 4, block: tuple[int, ...] | None = (1, 32), code: str = "int", *, symmetric: bool = True
) -> Quantization:
    return Quantization(scheme="test", bits=bits, code=code, block=block, is_symmetric=symmetric)


def original(n: int = 48, m: int = 64, seed: int = 0) -> NDArray[np.float32]:
    return heavy_tailed(n, m, seed=seed, degrees=6).astype(np.float32)


EVERY_KIND = [
    said(8, (1, 64)),
    said(4),
    said(3, symmetric=False),
    said(2, (48, 64), symmetric=False),
    said(4, (20, 24)),
    said(4, (1, 64), "nf4"),
    said(4, (1, 64), "fp4"),
    said(4, (1, 32), "float4_e2m1fn"),
    said(6, (1, 32), "float6_e2m3fn"),
    said(8, (48, 64), "float8_e4m3fn"),
    said(8, (1, 64), "float8_e5m2"),
]


@pytest.mark.parametrize("quantization", EVERY_KIND, ids=str)
def test_rounding_itself_is_at_its_floor(quantization: Quantization) -> None:
    weights = original()
    found = compare_rounding(round_to_nearest(weights, quantization), weights, quantization)
    assert found is not None
    assert found.floor is not None
    assert found.error == found.floor > 0.0
    # What is on the levels already stays there.
    again = round_to_nearest(round_to_nearest(weights, quantization), quantization)
    np.testing.assert_allclose(again, round_to_nearest(weights, quantization), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_levels_by_hand(bits: int) -> None:
    weights = original()
    groups = weights.reshape(48, 2, 32)
    step = np.abs(groups).max(axis=2, keepdims=True) / (2 ** (bits - 1) - 1)
    np.testing.assert_array_equal(
        round_to_nearest(weights, said(bits)), (np.rint(groups / step) * step).reshape(48, 64)
    )


def test_uniform_noise_of_a_step_has_a_twelfth_of_its_square() -> None:
    weights = np.random.default_rng(0).uniform(-1, 1, (256, 256)).astype(np.float32)
    found = compare_rounding(round_to_nearest(weights, said(8, (256, 256))), weights, said(8, (256, 256)))
    assert found is not None
    expected = (1 / 127) / math.sqrt(12) / math.sqrt(float(np.mean(np.square(weights))))
    assert found.error == pytest.approx(expected, rel=0.02)


def test_floats_round_as_ml_dtypes_does() -> None:
    weights = original()
    scale = np.abs(weights).max() / 448
    expected = (weights / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    np.testing.assert_allclose(
        round_to_nearest(weights, said(8, (48, 64), "float8_e4m3fn")), expected, rtol=1e-6, atol=1e-7
    )


def test_a_wrong_scale_and_swapped_codes_stand_out() -> None:
    weights = original()
    rounded = round_to_nearest(weights, said())
    broken = {
        "scale": rounded * 1.3,
        "order": rounded.reshape(48, 32, 2)[:, :, ::-1].reshape(48, 64),
        "group": np.where(np.arange(64) < 32, rounded, 0.0),
        "bits": round_to_nearest(weights, said(2)),
    }
    for values in broken.values():
        found = compare_rounding(values, weights, said())
        assert found is not None
        assert found.excess is not None
        assert found.excess > 2.5


@pytest.mark.parametrize("damage", ["zero", "sign", "exchanged", "scale"])
def test_one_damaged_row_stands_out(damage: str) -> None:
    weights = heavy_tailed(600, 256, seed=3, degrees=6).astype(np.float32)
    rounded = round_to_nearest(weights, said(4, (1, 128)))
    healthy = compare_rounding(rounded, weights, said(4, (1, 128)))
    assert healthy is not None
    assert healthy.row_excess == pytest.approx(1.0)
    row = rounded[17].copy()
    rounded[17] = {"zero": row * 0, "sign": -row, "exchanged": rounded[18], "scale": row * np.float32(2.0)}[damage]
    found = compare_rounding(rounded, weights, said(4, (1, 128)))
    assert found is not None
    assert (found.row, found.excess is not None and found.excess < 1.5) == (17, True)
    assert found.row_excess is not None
    assert found.row_excess > 4.0


def test_what_powers_of_two_cut_off_is_their_own() -> None:
    weights = original()
    weights[:, 5] = 127.0
    microscaled = Quantization(scheme="mxfp4", bits=4, code="float4_e2m1fn", block=(1, 32))
    rounded = round_to_nearest(weights, microscaled)
    # By the standard the largest weight of a block may lose a quarter.
    assert np.abs(rounded[:, 5]).max() < 0.9 * np.abs(weights[:, 5]).max()
    found = compare_rounding(rounded, weights, microscaled)
    assert found is not None
    assert (found.excess, found.n_clipped) == (1.0, 0)


def test_an_original_on_the_levels_is_measured_in_the_noise_of_scales() -> None:
    weights = round_to_nearest(original(), said())
    found = compare_rounding(weights * np.float32(1 + 2.0**-11), weights, said())
    assert found is not None
    assert found.floor is not None
    assert found.floor < 1e-6
    assert found.excess is not None
    assert found.excess < 0.5


@pytest.mark.parametrize(
    ("quantization", "reason"),
    [
        (None, "does not say"),
        (said(block=None), "no block|not a block"),
        (said(code="lattice"), "levels are not known"),
        (said(2.5), "no number of levels"),
        (said(code="float8_e8m0fnu"), "levels are not known"),
    ],
)
def test_no_floor_without_levels(quantization: Quantization | None, reason: str) -> None:
    import re

    assert re.search(reason, why_no_floor(quantization))
    found = compare_rounding(original(), original(), quantization)
    assert found is not None
    assert (found.floor, found.excess, found.error) == (None, None, 0.0)
    assert re.search(reason, found.reason)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_clipped_outlier_channel_is_found(axis: int) -> None:
    weights = original()
    index = (7, slice(None)) if axis == 0 else (slice(None), 7)
    weights[index] *= 5
    clipped = weights.copy()
    limit = np.quantile(np.abs(original()), 0.99)
    clipped[index] = np.clip(clipped[index], -limit, limit)
    found = compare_rounding(clipped, weights, said())
    assert found is not None
    assert found.n_clipped == 1
    assert found.clipped.startswith(f"{('row', 'column')[axis]} 7 kept ")
    kept = compare_rounding(round_to_nearest(weights, said(8)), weights, said(8))
    assert kept is not None
    assert (kept.n_clipped, kept.clipped) == (0, "")


def test_equal_channels_are_no_outliers_and_a_zero_layer_is_nothing() -> None:
    found = compare_rounding(original() * np.float32(0.5), original(), said())
    assert found is not None
    assert found.n_clipped == 0
    assert compare_rounding(np.zeros((4, 5)), np.zeros((4, 5)), said()) is None
    for bad in (np.nan, np.inf, 3e38):
        weights = original()
        weights[0, 0] = bad
        assert compare_rounding(weights, original(), said()) is None
        assert compare_rounding(original(), weights, said()) is None


@given(
    st.sampled_from(EVERY_KIND),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.integers(0, 2**32 - 1),
    st.floats(1e-6, 1e6),
)
@settings(deadline=None)
def test_no_level_lies_nearer(quantization: Quantization, shape: tuple[int, int], seed: int, size: float) -> None:
    weights = (np.random.default_rng(seed).normal(size=shape) * size).astype(np.float32)
    rounded = round_to_nearest(weights, quantization)
    assert rounded.shape == weights.shape
    largest = np.abs(weights).max()
    # At worst the widest gap between levels, which is at most the largest weight.
    assert np.abs(rounded - weights).max() <= largest * (1 + 1e-5)
