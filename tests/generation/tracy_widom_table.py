"""Print spectral/tracy_widom_table.py, from the Fredholm determinant that spectral/tracy_widom.py evaluates.

python -m tests.generation.tracy_widom_table > spectral/tracy_widom_table.py
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from spectral.tracy_widom import log_tracy_widom_cdf

EDGES = (-8.0, -4.0, 0.0, 6.0, 20.0, 80.0)
DEGREE = 24

HEAD = '''"""log(1 - F₁), F₁ the Tracy-Widom law, as Chebyshev series: made by tests/generation/tracy_widom_table.py.

Each piece is (left end, right end, coefficients) of log(1 - F₁(t)) on [left, right], good to 1e-12.
"""

from __future__ import annotations

PIECES: tuple[tuple[float, float, tuple[float, ...]], ...] = ('''


def log_survival(statistic: float) -> float:
    """Return log(1 - F₁(t)) from the determinant."""
    return float(np.log(-np.expm1(log_tracy_widom_cdf(statistic))))


def chebyshev_coefficients(left: float, right: float, degree: int) -> NDArray[np.float64]:
    """Return the series that interpolates log(1 - F₁) at the Chebyshev nodes of [left, right]."""
    order = np.arange(degree + 1)
    angles = np.pi * (order + 0.5) / (degree + 1)
    values = np.array([log_survival(left + (right - left) * (x + 1.0) / 2.0) for x in np.cos(angles)])
    coefficients = 2.0 / (degree + 1) * (np.cos(np.outer(order, angles)) @ values)
    coefficients[0] /= 2.0
    return np.asarray(coefficients, dtype=np.float64)


def main() -> None:
    print(HEAD)
    for left, right in pairwise(EDGES):
        print(f"    (\n        {left},\n        {right},\n        (")
        for coefficient in chebyshev_coefficients(left, right, DEGREE):
            print(f"            {float(coefficient)!r},")
        print("        ),\n    ),")
    print(")")


if __name__ == "__main__":
    main()
