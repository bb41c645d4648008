"""Where the spectrum of noise ends, for entries of any moments.

The Marchenko-Pastur edge and the width of the Tracy-Widom law hold for Gaussian entries. Let κ4 and κ6 be the fourth
and the sixth cumulant of entries of variance one, n = √(NM), r = (N + M)/n, x = κ4/n and y = κ6/n². The cumulant
expansion of the resolvent (Lee and Schnelli, Probab. Theory Relat. Fields 171, 2018, 543, for sparse Wigner matrices;
Hwang, Lee and Schnelli, Ann. Appl. Probab. 29, 2019, 3006, for XᵀX at the first order), taken here to the second
order for XᵀX, gives the spectrum as the image of

    λ(q)/n = (1 + r f + f²)/q,    f = q + x q² + y q³ + r x² q⁴,

where q is n times the product of the mean diagonal elements of the two resolvents. The last term of f comes from the
rows and columns whose energies differ, because their elements do. The minimum of λ over q > 0 is the edge; there the
density vanishes like a square root, whose coefficient sets the width. To the first order the edge moves by the factor
1 + x, which is as much as the law is wide for every size met in practice (uniform entries, 128 x 128: -0.4 widths).
"""

from __future__ import annotations

import math
from functools import lru_cache

from spectral.roots import bisect_root

MAX_KURTOSIS_SHARE = 0.05
"""The law is taken to hold up to an excess kurtosis of this share of M. The energies of N elements differ by the share
√(κ4/N) then, and the heaviest of M columns has an eigenvalue of its own where it exceeds the mean by the share √(M/N)
(Baik and Silverstein, J. Multivariate Anal. 97, 2006, 1382): at √0.05 of that, 4.5 standard deviations are needed."""

_SMALLEST_X = -0.1
"""κ4 is at least -2, so x is smaller for n < 20 alone, which is not tested."""

_LARGEST_Q = 4.0


@lru_cache(maxsize=1024)
def edge_factors(n_rows: int, n_columns: int, *, excess_kurtosis: float, sixth_cumulant: float) -> tuple[float, float]:
    """Return by which factors the edge of the spectrum and the width of the law differ from those of Gaussian entries.

    Parameters
    ----------
    n_rows, n_columns : int
        Shape, each at least 1.
    excess_kurtosis, sixth_cumulant : float
        κ4 and κ6 of the entries in units of their variance.

    Returns
    -------
    tuple of float
        (factor of the edge, factor of the width); (1, 1) for Gaussian entries.
    """
    n = math.sqrt(n_rows * n_columns)
    r = (n_rows + n_columns) / n
    x = max(excess_kurtosis / n, _SMALLEST_X)
    # A negative κ6 (clipped heavy tails) is next to nothing beside x; the series has no minimum for a large one.
    y = max(sixth_cumulant, 0.0) / n**2

    def series(q: float) -> tuple[float, float, float]:
        """Return f and its first two derivatives."""
        z = r * x * x
        return (
            q + x * q**2 + y * q**3 + z * q**4,
            1.0 + 2.0 * x * q + 3.0 * y * q**2 + 4.0 * z * q**3,
            2.0 * x + 6.0 * y * q + 12.0 * z * q**2,
        )

    def slope(q: float) -> float:
        """Return q²/n times the derivative of λ."""
        f, first, _ = series(q)
        return q * (r + 2.0 * f) * first - (1.0 + r * f + f * f)

    q = bisect_root(slope, 1e-9, _LARGEST_Q, xtol=1e-12)
    f, first, second = series(q)
    edge = (1.0 + r * f + f * f) / q / (2.0 + r)
    curvature = ((r + 2.0 * f) * second + 2.0 * first**2) / q / 2.0
    return edge, (edge * math.sqrt(curvature) / first) ** (2.0 / 3.0)
