"""The optimal hard threshold for singular values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from spectral.ranks import _median_of_law, _threshold_over_median, gavish_donoho_rank


@pytest.mark.parametrize(("beta", "published"), [(1.0, 2.8582), (0.5, 2.1711), (0.25, 1.8371), (0.1, 1.6089)])
def test_published_thresholds(beta: float, published: float) -> None:
    """Gavish and Donoho's table IV, and their cubic approximation, which is good to 0.02."""
    found = _threshold_over_median(1.0 / beta)
    assert found == pytest.approx(published, abs=2e-3)
    assert found == pytest.approx(0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43, abs=0.02)


@pytest.mark.parametrize("Q", [1.0, 1.5, 4.0, 80.0])
def test_median_halves_the_law(Q: float) -> None:
    low, high = (1 - Q**-0.5) ** 2, (1 + Q**-0.5) ** 2

    def density(x: float) -> float:
        return float(np.sqrt(max((high - x) * (x - low), 0.0)) * Q / (2 * np.pi * x))

    assert quad(density, _median_of_law(Q), high)[0] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("shape", [(300, 300), (400, 200), (600, 60)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_planted_directions_are_counted(shape: tuple[int, int], scale: float) -> None:
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.standard_normal((n, 5)))[0] for n in shape)
    noise = rng.standard_normal(shape)
    signal = left @ np.diag([9.0, 8.0, 7.0, 6.0, 5.0]) @ right.T * np.sqrt(sum(shape))
    for matrix, expected in ((noise, 0), (signal + noise, 5)):
        singular = np.asarray(np.linalg.svd(scale * matrix, compute_uv=False), dtype=np.float64)
        assert gavish_donoho_rank(singular, Q=max(shape) / min(shape)) == expected


@pytest.mark.parametrize(("singular", "Q"), [([], 1.0), ([1.0], 0.5), ([1.0], float("nan"))])
def test_misuse(singular: list[float], Q: float) -> None:
    with pytest.raises(ValueError, match=r"^expected Q >= 1 and some singular values, got Q = "):
        gavish_donoho_rank(np.array(singular), Q=Q)
