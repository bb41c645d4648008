"""Which columns each option adds to the details."""

from __future__ import annotations

from spectral.det_x import DET_X_METRICS
from spectral.eigenvectors import EIGENVECTOR_METRICS
from spectral.largest import LARGEST_WEIGHT
from spectral.marchenko_pastur import MARCHENKO_PASTUR_METRICS, RANDOM_MARCHENKO_PASTUR_METRICS
from spectral.matrix_tests import NOISE_METRICS, TRAP_METRICS
from spectral.metrics import CUTOFF_METRICS, FINGER_METRICS
from spectral.random_twin import TWIN_METRICS
from spectral.tail_doubts import BOOTSTRAP_METRICS, COMPARISON_METRICS, GOODNESS_METRICS

METRICS_BY_OPTION: dict[str, tuple[str, ...]] = {
    "has_cutoff": CUTOFF_METRICS,
    "clips_fingers": FINGER_METRICS,
    "mp_fit": MARCHENKO_PASTUR_METRICS,
    "vectors": EIGENVECTOR_METRICS,
    "randomize": TWIN_METRICS + RANDOM_MARCHENKO_PASTUR_METRICS,
    "detX": DET_X_METRICS,
    "noise_test": NOISE_METRICS,
    "traps": TRAP_METRICS,
    "projections": (LARGEST_WEIGHT,),
    "farms": ("alpha_farms",),
    "bootstrap": BOOTSTRAP_METRICS,
    "goodness_of_fit": GOODNESS_METRICS,
    "compare_tails": COMPARISON_METRICS,
}
"""Option -> the columns that it adds, in the order of the reports."""
