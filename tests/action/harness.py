"""Runs a composite action as the runner does, without one: every ``run`` in bash, every ``uses`` recorded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.action.expressions import Context, fill, is_true

ROOT = Path(__file__).resolve().parents[2]
BASH = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail")
MAX_SUMMARY = 1024 * 1024
REPOSITORY = "owner/project"
SHA = "5" * 40

_HEREDOC = re.compile(r"([A-Za-z0-9_-]+)<<(\S+)")
_COMMAND = re.compile(r"::(\w[\w-]*)(?: ([^:]*))?::(.*)")
_ORDERS = ("error", "warning", "notice")


@dataclass(frozen=True, kw_only=True)
class Order:
    """A workflow command that the runner would have obeyed, unescaped."""

    name: str
    properties: Mapping[str, str]
    message: str


@dataclass(kw_only=True)
class Outcome:
    """What came of an action."""

    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    uses: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    log: str = ""
    orders: list[Order] = field(default_factory=list)
    summary: str = ""
    is_failed: bool = False
    outputs: dict[str, str] = field(default_factory=dict)

    def of(self, *names: str) -> list[Order]:
        return [order for order in self.orders if order.name in names]


@dataclass(kw_only=True)
class Harness:
    """A workspace, a temporary folder, an event, and a PATH."""

    workspace: Path
    temp: Path
    event_name: str = "push"
    event: Mapping[str, Any] = field(default_factory=dict)
    path: str = os.environ.get("PATH", "")
    api_url: str = "http://127.0.0.1:9"
    sha: str = SHA
    extra: Mapping[str, str] = field(default_factory=dict)

    def run(self, file: str = "action.yml", **inputs: str) -> Outcome:
        """Run an action with inputs, whose hyphens are written as underscores."""
        action = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        unknown = set(given) - set(action["inputs"])
        assert not unknown, unknown
        github = {"token": "the-token"}
        nothing = Context(inputs={}, github=github)
        values = {name: given.get(name, fill(each["default"], nothing)) for name, each in action["inputs"].items()}
        outcome = Outcome()
        for step in action["runs"]["steps"]:
            context = Context(inputs=values, github=github, steps=outcome.steps, is_failed=outcome.is_failed)
            self._take(step, context, outcome, (ROOT / file).parent)
        last = Context(inputs=values, github=github, steps=outcome.steps)
        outcome.outputs = {name: fill(each["value"], last) for name, each in action.get("outputs", {}).items()}
        return outcome

    def _take(self, step: Mapping[str, Any], context: Context, outcome: Outcome, folder: Path) -> None:
        if not is_true(step.get("if", "${{ '' == '' }}"), context):
            return
        outcome.ran.append(step["name"])
        if "uses" in step:
            outcome.uses.append((step["uses"], {k: fill(str(v), context) for k, v in step["with"].items()}))
            return
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
        files = self._files(len(outcome.ran))
        environ = self._environ(files, folder) | {k: fill(v, context) for k, v in step.get("env", {}).items()}
        script = self.temp / "step.sh"
        script.write_text(step["run"], encoding="utf-8")
        done = subprocess.run(
            [*BASH, str(script)],
            cwd=self.workspace,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        text = done.stdout.decode("utf-8")
        outcome.log += text
        outcome.orders += parse_orders(text)
        outcome.is_failed |= done.returncode != 0
        outcome.steps[step.get("id", step["name"])] = parse_outputs(files["GITHUB_OUTPUT"].read_text(encoding="utf-8"))
        summary = files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        assert len(summary.encode()) < MAX_SUMMARY
        outcome.summary += summary
        assert not files["GITHUB_ENV"].read_text()
        assert not files["GITHUB_PATH"].read_text()

    def _files(self, number: int) -> dict[str, Path]:
        names = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY")
        files = {name: self.temp / f"{name}-{number}" for name in names}
        for path in files.values():
            path.write_text("")
        return files

    def _environ(self, files: Mapping[str, Path], folder: Path) -> dict[str, str]:
        event = self.temp / "event.json"
        event.write_text(json.dumps(self.event), encoding="utf-8")
        return {
            "PATH": self.path,
            "HOME": str(self.temp),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(folder),
            "GITHUB_API_URL": self.api_url,
            "GITHUB_EVENT_NAME": self.event_name,
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "17",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_SHA": self.sha,
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.temp),
            **{name: str(path) for name, path in files.items()},
            **self.extra,
        }


def parse_outputs(text: str) -> dict[str, str]:
    """Read the file of outputs: ``name=value``, and ``name<<DELIMITER`` to the line that is the delimiter."""
    outputs: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        heredoc = _HEREDOC.fullmatch(line)
        if heredoc is None:
            name, sign, value = line.partition("=")
            assert sign, line
            outputs[name] = value
            continue
        held: list[str] = []
        for inner in lines:
            if inner == heredoc.group(2):
                break
            held.append(inner)
        else:
            raise AssertionError(f"no end of {line}")
        outputs[heredoc.group(1)] = "\n".join(held)
    return outputs


def parse_orders(text: str) -> list[Order]:
    """Return the commands that the runner would obey: none between stop-commands and its token."""
    orders: list[Order] = []
    token = None
    for line in text.splitlines():
        if token is not None:
            token = None if line == f"::{token}::" else token
            continue
        match = _COMMAND.match(line.lstrip())
        if match is None:
            continue
        name, properties, message = match.groups()
        if name == "stop-commands":
            token = message
            continue
        pairs = dict(pair.split("=", 1) for pair in (properties or "").split(",") if pair)
        orders.append(Order(name=name, properties={k: _plain(v) for k, v in pairs.items()}, message=_plain(message)))
    assert token is None
    assert {order.name for order in orders} <= {*_ORDERS, "add-mask"}
    for level in _ORDERS:
        assert sum(order.name == level for order in orders) <= 10
    return orders


def _plain(text: str) -> str:
    for escape, character in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(escape, character)
    return text


def write_fake_python(folder: Path, body: str) -> Path:
    """Write a Python that is real but for ``-m pytest``: there it notes its arguments and runs a few lines instead.

    Parameters
    ----------
    folder : Path
        Where it goes, as ``fake-python``; the arguments go to ``argv.json`` beside it, a list for each run.
    body : str
        Python lines that may use ``arguments`` and ``reports`` (type -> path), and end by ``sys.exit``.
    """
    inner = folder / "fake_pytest.py"
    inner.write_text(_FAKE.format(note=str(folder / "argv.json")) + body, encoding="utf-8")
    fake = folder / "fake-python"
    fake.write_text(
        f"#!/bin/bash\n"
        f'if [[ "$1 $2 $3" == "-I -m pytest" ]]; then shift 3; exec "{sys.executable}" -I "{inner}" "$@"; fi\n'
        f'if [[ "$1 $2" == "-I -c" ]]; then echo json md html; exit 0; fi\n'
        f'exec "{sys.executable}" "$@"\n',
        encoding="utf-8",
    )
    fake.chmod(0o755)
    return fake


def noted_arguments(folder: Path) -> list[list[str]]:
    """Return what the fake pytest was called with, run by run."""
    lines = (folder / "argv.json").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


_FAKE = """
import json, os, sys
arguments = sys.argv[1:]
with open({note!r}, "a") as stream:
    stream.write(json.dumps(arguments) + "\\n")
reports = dict(each.removeprefix("--ww-report=").split(":", 1) for each in arguments if each.startswith("--ww-report="))
hidden = [name for name in os.environ if name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STEP_SUMMARY", "WW_TOKEN")]
assert not hidden, hidden
"""


def fake_result(outcome: str, checks: Sequence[Mapping[str, Any]] = (), model: str = "model.safetensors") -> str:
    """Return lines for a fake pytest that write a result and a Markdown report."""
    verdicts = [check["verdict"] for check in checks]
    payload = {
        "format": 1,
        "outcome": outcome,
        "counts": {name: verdicts.count(name) for name in ("error", "fail", "warn", "inconclusive", "pass")},
        "models": [
            {"path": model, "baseline": "good.ww.json", "baseline_path": "good.ww.json", "checks": list(checks)}
        ],
    }
    code = {"pass": 0, "warn": 0, "fail": 1, "error": 1, "inconclusive": 5}[outcome]
    return (
        f"open(reports['json'], 'w').write({json.dumps(payload)!r})\n"
        f"open(reports['md'], 'w').write('## Checkpoint gate: {outcome}\\n\\nbody\\n')\n"
        f"sys.exit({code})\n"
    )


def check(verdict: str, layer: str, detail: str = "moved", line: int | None = None) -> dict[str, Any]:
    """Return a check as a result file has it."""
    return {"verdict": verdict, "layer": layer, "check": "alpha", "detail": detail, "line": line}
