"""Steps on their own, where the harness would hide which of them refused."""

from __future__ import annotations

import io
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from action import install
from action.inputs import ActionError
from action.install import LOCK, requirement
from action.verdict import give_verdict

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("said", "code"),
    [({"WW_CONCLUSION": "success"}, 0), ({"WW_CONCLUSION": "failure"}, 1), ({"WW_CONCLUSION": ""}, 1), ({}, 1)],
)
def test_only_a_success_in_so_many_words_passes(said: dict[str, str], code: int) -> None:
    stream = io.StringIO()
    assert give_verdict(said, stream) == code
    assert ("::error" in stream.getvalue()) == (code == 1)


def test_extras_are_names() -> None:
    assert requirement(Path("/here"), " torch, plots ") == "/here[torch,plots]"
    assert requirement(Path("/here"), "") == "/here"


@pytest.mark.parametrize("extras", ["torch]; touch pwned", "a,,b", "--index-url=x", "[torch]"])
def test_other_extras_are_refused(extras: str) -> None:
    with pytest.raises(ActionError, match="extras: expected names with commas between"):
        requirement(Path("/here"), extras)


def locked() -> dict[str, list[str]]:
    """Return name -> the versions that the lock has of it, after checking that each has a hash."""
    found: dict[str, list[str]] = {}
    for line in LOCK.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("#"):
            continue
        assert "--hash=sha256:" in line
        name, _, rest = line.partition("==")
        found.setdefault(name.lower().replace("_", "-"), []).append(rest.split()[0])
    return found


def test_the_lock_holds_what_the_package_and_its_build_need() -> None:
    pinned = locked()
    needs = [Requirement(text) for text in metadata.requires("pytest-weightwatcher") or ()]
    assert "hatchling" in pinned
    for needed in needs:
        if needed.marker is not None:
            continue  # of an extra
        versions = pinned[needed.name.lower().replace("_", "-")]
        assert all(needed.specifier.contains(version) for version in versions), "run make lock"


@pytest.mark.parametrize("extras", ["", "plots"])
def test_all_but_the_extras_is_installed_by_hash(extras: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: called.append([*command]))
    monkeypatch.setattr(Path, "touch", lambda _: None)
    output = tmp_path / "output"
    output.write_text("", encoding="utf-8")
    environ = {"RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(output)}
    environ |= {"WW_EXTRAS": extras, "WW_PYTHON": sys.executable}
    assert install.install(environ, io.StringIO()) == 0
    assert "ww-gate-venv-" in output.read_text(encoding="utf-8")
    made, locked_step, own, *more = called
    assert made[1:4] == ["-I", "-m", "venv"]
    assert {"--require-hashes", "--only-binary=:all:", str(LOCK)} <= set(locked_step)
    assert {"--no-deps", "--no-build-isolation", str(ROOT)} <= set(own)
    assert [step[-1] for step in more] == ([f"{ROOT}[plots]"] if extras else [])
