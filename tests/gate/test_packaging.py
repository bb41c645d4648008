"""What is shipped, and that files which say the same thing agree."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def declared_bounds() -> set[str]:
    block = re.search(r"^dependencies = \[(.*?)^\]", PROJECT, re.DOTALL | re.MULTILINE)
    assert block is not None
    return set(re.findall(r'"([^"]+)"', block.group(1)))


def test_oldest_requirements_are_the_declared_bounds() -> None:
    lines = (ROOT / "tests/oldest-requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {line for line in lines if line and not line.startswith("#")}
    bounds = {re.sub(r">=(\d+\.\d+)$", r">=\1.0", bound) for bound in declared_bounds()}
    assert {pin.replace("==", ">=") for pin in pins} == bounds


def test_entry_point() -> None:
    (point,) = [point for point in entry_points(group="pytest11") if point.name == "ww"]
    assert point.value == "pytest_weightwatcher.plugin"


def test_classifiers() -> None:
    assert '"Framework :: Pytest"' in PROJECT
    assert 'requires-python = ">=3.10"' in PROJECT
    assert 'license = "Apache-2.0"' in PROJECT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_packages_types_and_templates(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "spectral/py.typed",
        "spectral/loaders/safetensors.py",
        "pytest_weightwatcher/py.typed",
        "pytest_weightwatcher/plugin.py",
        "pytest_weightwatcher/result.schema.json",
        "pytest_weightwatcher/templates/report.md.jinja",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests/", "demo/", "benchmarks/", "templates/"))]


def test_templates_are_found_in_the_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "from pytest_weightwatcher.report.templates import templates_folder; print(templates_folder())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env={"PYTHONPATH": "."}
    )
    assert Path(done.stdout.strip()) == tmp_path / "pytest_weightwatcher/templates"
