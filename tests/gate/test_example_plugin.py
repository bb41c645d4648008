"""The worked example of docs/plugins.md: installed as any plugin is, and run by its entry point."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gate.conftest import LAYERS, healthy_tensors

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs/example-plugin"

CONFIG = """
version: 1
models: [{path: model.arrays, baseline: base.ww.json}]
checks: {excess_kurtosis: {max: 10}, correlation_traps: false}
regression: {profile: finetune, excess_kurtosis: {max_increase: 1}}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(EXAMPLE)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(autouse=True)
def environment(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture
def folder(pytester: pytest.Pytester) -> Path:
    write_model(pytester.path / "model.arrays")
    (pytester.path / "ww.yaml").write_text(CONFIG, encoding="utf-8")
    return pytester.path


def write_model(path: Path, outlier: float | None = None) -> None:
    tensors = healthy_tensors()
    if outlier is not None:
        tensors["head.weight"][3, 4] = outlier
    # By an open file: to a path numpy would add a suffix.
    with path.open("wb") as stream:
        np.savez(stream, **tensors)  # type: ignore[arg-type]  # numpy types the keywords as allow_pickle


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    reports = ("--ww-report=json:out.json", "--ww-report=md:out.md")
    return pytester.runpytest_subprocess("--ww-model=model.arrays", *reports, *arguments)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def verdicts(folder: Path, check: str) -> dict[str, str]:
    (model,) = read(folder / "out.json")["models"]
    return {each["layer"]: each["verdict"] for each in model["checks"] if each["check"] == check}


def test_from_recording_to_a_caught_regression(pytester: pytest.Pytester, folder: Path) -> None:
    result = run(pytester, "--ww-update-baseline")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["plugins:*ww-example-1.0*"])
    recorded = read(folder / "base.ww.json")
    assert recorded["options"]["plugin_metrics"] == {"excess_kurtosis": "1"}
    assert all("excess_kurtosis" in entry["metrics"] for entry in recorded["matrices"].values())

    assert run(pytester).ret == 0
    (model,) = read(folder / "out.json")["models"]
    assert model["n_reused"] == len(LAYERS)
    for check in ("excess_kurtosis", "regression.excess_kurtosis", "largest_direction"):
        assert verdicts(folder, check) == dict.fromkeys(LAYERS, "pass")
    weights = healthy_tensors()["head.weight"].astype(np.float64)
    expected = np.mean((weights - weights.mean()) ** 4) / np.var(weights) ** 2 - 3.0
    (head,) = [layer for layer in model["layers"] if layer["name"] == "head"]
    assert head["metrics"]["excess_kurtosis"] == pytest.approx(expected, rel=1e-8)

    write_model(folder / "model.arrays", outlier=50.0)
    result = run(pytester)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    for check in ("excess_kurtosis", "regression.excess_kurtosis", "largest_direction"):
        assert verdicts(folder, check) == {**dict.fromkeys(LAYERS, "pass"), "head": "fail"}
    assert read(folder / "out.json")["models"][0]["n_reused"] == len(LAYERS) - 1
    result.stdout.fnmatch_lines(["FAIL  head largest_direction: the largest singular value is *"])
    page = (folder / "out.md").read_text(encoding="utf-8")
    assert re.search(
        r"### Heaviest weights\n.*\n\| layer \| excess kurtosis \|\n\| --- \| --- \|\n\| head \|", page, re.S
    )


def test_the_same_with_xdist(pytester: pytest.Pytester, folder: Path) -> None:
    write_model(folder / "model.arrays", outlier=50.0)
    (folder / "ww.yaml").write_text(CONFIG.replace(", baseline: base.ww.json", ""), encoding="utf-8")
    serial = run(pytester).parseoutcomes()
    results = [(folder / name).read_bytes() for name in ("out.json", "out.md")]
    parallel = run(pytester, "-p", "xdist", "-n", "2", "--dist", "loadgroup").parseoutcomes()
    assert {key: parallel[key] for key in ("passed", "failed")} == {key: serial[key] for key in ("passed", "failed")}
    assert [(folder / name).read_bytes() for name in ("out.json", "out.md")] == results


def test_it_can_be_switched_off(pytester: pytest.Pytester, folder: Path) -> None:
    result = run(pytester, "-p", "no:ww_example")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *ww.yaml:5: regression.excess_kurtosis: nothing to compare by this name*"])


def test_unused_it_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_mine():
            assert "ww_example" in sys.modules
            assert not {"numpy", "spectral", "pydantic"} & sys.modules.keys()
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_without_the_gate_its_hooks_do_no_harm(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")
    pytester.runpytest_subprocess("-p", "no:ww").assert_outcomes(passed=1)


def test_the_docs_show_the_example_as_it_is() -> None:
    page = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    module = (EXAMPLE / "ww_example.py").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shown = [block for block in blocks if "# conftest.py" not in block]
    assert len(shown) >= 4
    for block in shown:
        for part in block.split("\n\n\n"):
            assert part.strip() in module
    for hook in ("pytest_ww_load_model", "pytest_ww_metrics", "pytest_ww_checks", "pytest_ww_report_section"):
        assert f"def {hook}" in module
        assert f"`{hook}`" in page
