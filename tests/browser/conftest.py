"""A headless Chromium, installed where it is missing: these tests do not skip where the project is checked."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright
from safetensors.numpy import save_file

from pytest_weightwatcher.console.main import main
from tests.gate.conftest import flat, healthy_tensors, noise

Result = dict[str, Any]


def _chromium() -> str:
    """Return the browser's path; where there is none, install Debian's in CI, and skip elsewhere."""
    found = shutil.which("chromium")
    if found is None and os.environ.get("CI"):
        subprocess.run(["apt-get", "update", "-q"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"], check=True)
        found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium on this machine; in CI it is installed")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The result of a model with damage of several kinds, beside its baseline."""
    folder = tmp_path_factory.mktemp("damaged")
    tensors = healthy_tensors()
    save_file(tensors, folder / "good.safetensors")
    tensors["head.weight"] = noise()
    tensors["encoder.0.key.weight"] = tensors["encoder.0.key.weight"].copy()
    tensors["encoder.0.key.weight"][3, 7] = 3.0
    tensors["encoder.1.query.weight"] = flat()
    save_file(tensors, folder / "bad.safetensors")
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        main(["check", str(folder / "bad.safetensors"), f"--baseline={folder / 'good.safetensors'}", "--format=json"])
    result: Result = json.loads(written.getvalue())
    return result


HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "::error::owned",
    "a|b|c",
    "x" * 10_000,
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "שלום",
    "\N{PILE OF POO}.weight",
    "{{ 7 * 7 }}",
    "</style><style>*{display:none}",
)


def with_names(result: Result, names: tuple[str, ...]) -> Result:
    """Return a result with layers of other names, each like one of its own in turn."""
    changed = copy.deepcopy(result)
    for model in changed["models"]:
        layers, checks = model["layers"], model["checks"]
        model["layers"], model["checks"] = [], [check for check in checks if check["layer"] is None]
        for place, name in enumerate(names):
            like = layers[place % len(layers)]
            model["layers"].append({**like, "name": name})
            model["checks"] += [
                {**check, "layer": name, "id": f"{check['id']}-{place}", "detail": f"{name[:500]}: {check['detail']}"}
                for check in checks
                if check["layer"] == like["name"]
            ]
    return changed


@pytest.fixture(scope="session")
def hostile(damaged: Result) -> Result:
    """A result whose layers have names that would like to act."""
    return with_names(damaged, HOSTILE)


@pytest.fixture(scope="session")
def large(damaged: Result) -> Result:
    """A result of 1,000 matrices, a quarter of them with findings."""
    result = with_names(damaged, tuple(f"model.layers.{n // 7}.block.{n % 7}.projection" for n in range(1000)))
    rng = np.random.default_rng(0)
    for model in result["models"]:
        for layer in model["layers"]:
            layer["metrics"] = {
                name: value * float(1.0 + 0.1 * rng.normal()) for name, value in layer["metrics"].items()
            }
    return result


@pytest.fixture(scope="session")
def several(damaged: Result) -> Result:
    """Results of three models, merged, the failing one last, with all that a report can have besides."""
    failing = damaged["models"][0]
    passing = copy.deepcopy(failing)
    passing["checks"] = [check for check in passing["checks"] if check["verdict"] == "pass"]
    broken = copy.deepcopy(failing)
    broken["layers"][0]["metrics"] = dict.fromkeys(broken["layers"][0]["metrics"])
    broken["layers"][0]["spectrum"] = None
    name = broken["layers"][0]["name"]
    of_layer = {"layer": name, "value": None, "limit": None, "baseline": None}
    broken["checks"] = [check for check in broken["checks"] if check["layer"] != name]
    integrity = next(check for check in failing["checks"] if check["check"] == "integrity")
    broken["checks"].append({**integrity, **of_layer, "verdict": "fail", "detail": "all values are zero"})
    reason = "a long reason " * 30
    waiver = {"match": "*", "check": "alpha", "reason": reason, "owner": "me", "expires": "2099-01-01", "n_used": 0}
    broken["waivers"] = [waiver]
    broken["unanalysed"] = [{"name": "b" * 300, "shape": [3], "dtype": "float32", "reason": "it has one dimension"}]
    columns = [f"column {number}" for number in range(15)]
    section = {"plugin": "p", "title": "More", "text": "", "columns": columns, "rows": [[True, 1.5, "words"] * 5]}
    models = [{**passing, "path": "a"}, {**passing, "path": "b"}, {**broken, "path": "c"}]
    merged = {"n_results": 3, "notes": ["they differ in fail_on"]}
    return {**damaged, "models": models, "sections": [section, section], "merged": merged}


@pytest.fixture
def page_of(tmp_path: Path) -> Any:
    """Return a function that writes the page of a result and gives its address."""
    from pytest_weightwatcher.report import render

    def write(result: Result) -> str:
        path = tmp_path / "report.html"
        path.write_text(render("html", result), encoding="utf-8")
        return path.as_uri()

    return write
