"""The help of ww-gate: every command has it, every option is in the docs, and none waits for numpy."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from pytest_weightwatcher.console.main import main
from pytest_weightwatcher.console.parser import make_parser
from tests.gate.console import ROOT

DOCS = "".join((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("console", "calibration"))


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize("command", commands())
def test_each_command_has_help_and_a_place_in_the_docs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"ww-gate {command}" in capsys.readouterr().out
    assert f"ww-gate {command} " in DOCS
    assert f"\n## {command}\n" in DOCS


@pytest.mark.parametrize("command", ["init", "calibrate", "explain", "schema"])
def test_each_option_is_in_the_docs(command: str) -> None:
    for action in commands()[command]._actions:
        for name in action.option_strings:
            if name.startswith("--") and name != "--help":
                assert f"`{name}" in DOCS, name


def test_help_is_light() -> None:
    code = (
        "import sys; from pytest_weightwatcher.console.parser import make_parser; make_parser().format_help(); "
        "print(sorted({'numpy', 'scipy', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
