"""``ww-gate check`` says what pytest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_weightwatcher.console.main import main
from tests.gate.conftest import MakeModel, noise

Capture = pytest.CaptureFixture[str]

WW_YAML = """\
version: 1
models: [{path: "*.safetensors", baseline: b.ww.json}]
checks: {alpha: {max: 6}}
waivers: [{match: head, check: "regression.noise", reason: known, expires: 2999-01-01}]
"""


@pytest.fixture
def recorded(pytester: pytest.Pytester, make_model: MakeModel) -> Path:
    make_model()
    run = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json", "--ww-update-baseline")
    assert pytester.runpytest(*run).ret == pytest.ExitCode.OK
    make_model(head=noise())
    return pytester.path


def console(capsys: Capture, *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["check", *arguments])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("profile", ["compression", "finetune"])
def test_its_result_is_that_of_pytest(pytester: pytest.Pytester, recorded: Path, capsys: Capture, profile: str) -> None:
    (recorded / "ww.yaml").write_text(WW_YAML, encoding="utf-8")
    run = pytester.runpytest(f"--ww-profile={profile}", "--ww-report=json:out.json", "--ww-model=model.safetensors")
    code, text = console(capsys, "model.safetensors", "--format=json", f"--profile={profile}")
    assert code == run.ret == pytest.ExitCode.TESTS_FAILED
    theirs: dict[str, Any] = json.loads((recorded / "out.json").read_text(encoding="utf-8"))
    assert json.loads(text) == theirs
    assert theirs["counts"]["waived"] == 1


def test_models_of_the_config_and_text(recorded: Path, capsys: Capture) -> None:
    (recorded / "ww.yaml").write_text(WW_YAML, encoding="utf-8")
    code, text = console(capsys)
    assert code == 1
    assert text.startswith("model.safetensors: 4 matrices, against b.ww.json, profile compression: ")
    assert "  FAIL  head regression.weights: the weights moved by " in text
    assert text.splitlines()[-1].startswith("outcome: fail (")


def test_exit_codes(recorded: Path, make_model: MakeModel, capsys: Capture) -> None:
    assert console(capsys, "model.safetensors", "--baseline=b.ww.json", "--fail-on=never")[0] == 0
    make_model()
    assert console(capsys, "model.safetensors", "--baseline=b.ww.json", "--fail-on=warn")[0] == 0
    assert console(capsys, "none.safetensors")[0] == 4
    assert console(capsys, "model.safetensors", "--baseline=none.json")[0] == 4
    assert console(capsys)[0] == 4
