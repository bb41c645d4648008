"""A pull request whose files would have git obey them, or not see what they change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from action.programs import find_program
from tests.action.conftest import Project
from tests.action.harness import Harness
from tests.action.test_merge_base import RECORDING, judge

STRICT = "outcome: fail"
LOOSE = "outcome: pass"


def fresh_checkout(harness: Harness) -> None:
    """Make the workspace anew, as the runner does: with what was committed and nothing else."""
    origin = harness.workspace.rename(harness.workspace.with_name("origin"))
    environ = {"PATH": os.environ["PATH"], "HOME": str(harness.temp), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(
        ["git", "clone", "--quiet", "--no-hardlinks", str(origin), str(harness.workspace)], env=environ, check=True
    )


def commit_bare_repository(harness: Harness, project: Project, settings: str) -> None:
    """Commit what git takes for a bare repository at ``ci``, with all the history and an index."""
    copy = Project(folder=harness.temp.parent / "copy")
    project.git("clone", "--quiet", "--no-hardlinks", ".", str(copy.folder))
    inner = copy.folder / ".git"
    (inner / "config").write_text(
        f"[core]\n\trepositoryformatversion = 0\n\tbare = false\n{settings}", encoding="utf-8"
    )
    place = harness.workspace / "ci"
    for name in ("HEAD", "index"):
        shutil.copy(inner / name, place / name)
    shutil.copy(inner / "config", place / "config")
    shutil.copytree(inner / "objects", place / "objects")
    (place / "refs" / "heads").mkdir(parents=True)
    (place / "refs" / "heads" / "main").write_text(f"{project.git('rev-parse', 'HEAD')}\n", encoding="utf-8")
    (place / ".gitattributes").write_text("* filter=e diff=e\n", encoding="utf-8")
    project.commit({"evil/x": "x", "ci/README.md": "jello\n"})


@pytest.mark.parametrize("tree", ["../evil", ".", ".."])
def test_a_committed_repository_is_not_obeyed(harness: Harness, project: Project, tree: str) -> None:
    base = project.commit({"ci/ww.yaml": STRICT, "README.md": "hello\n"})
    project.commit({"ci/ww.yaml": LOOSE})
    pwned = harness.temp.parent / "pwned"
    command = f"touch {pwned}; cat"
    settings = (
        f'\tworktree = {tree}\n\tfsmonitor = "{command}"\n[filter "e"]\n\tclean = "{command}"\n'
        f'[diff "e"]\n\tcommand = "{command}"\n\ttextconv = "{command}"\n'
    )
    commit_bare_repository(harness, project, settings)
    fresh_checkout(harness)
    outcome = judge(harness, base, config="ci/ww.yaml")
    assert outcome.outputs["outcome"] == "fail"
    assert outcome.outputs["config-changed"] == "true"
    assert not pwned.exists()


def test_two_checkouts_within_each_other_are_judged_by_the_outer(harness: Harness, project: Project) -> None:
    """The inner one is that of the base branch: there nothing has changed."""
    base = project.commit({"ww.yaml": LOOSE, "good.json": f"{RECORDING} strict", ".gitignore": "base\n"})
    project.git("clone", "--quiet", ".", "base")
    project.commit({"good.json": RECORDING})
    assert judge(harness, base, config="base/ww.yaml", baseline="good.json").outputs["outcome"] != "pass"


def test_a_filter_and_an_encoding_hide_nothing(harness: Harness, project: Project) -> None:
    """What is committed stays the same, and what is checked out does not."""
    base = project.commit({"ww.yaml": STRICT})
    project.commit({".gitattributes": "ww.yaml filter=e\n"})
    project.git("config", "filter.e.smudge", f"sed s/fail/pass/; touch {harness.temp.parent / 'pwned'}")
    project.git("config", "filter.e.clean", f"sed s/pass/fail/; touch {harness.temp.parent / 'pwned'}")
    (harness.workspace / "ww.yaml").unlink()
    project.git("checkout", "--", "ww.yaml")
    assert (harness.workspace / "ww.yaml").read_text(encoding="utf-8") == LOOSE
    (harness.temp.parent / "pwned").unlink()
    outcome = judge(harness, base)
    assert outcome.outputs["outcome"] == "fail"
    assert outcome.outputs["config-changed"] == "true"
    assert not (harness.temp.parent / "pwned").exists()


def test_line_ends_of_windows_are_no_edit(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": f"{LOOSE}\nx: y\n"})
    (harness.workspace / "ww.yaml").write_bytes(f"{LOOSE}\r\nx: y\r\n".encode())
    assert judge(harness, base).outputs["config-changed"] == "false"
    (harness.workspace / "ww.yaml").write_bytes(f"{LOOSE}\r\nx: z\r\n".encode())
    assert judge(harness, base).outputs["config-changed"] == "true"


def test_line_ends_in_a_binary_file_are_an_edit(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": LOOSE, "good.bin": "a\0\nb"})
    (harness.workspace / "good.bin").write_bytes(b"a\0\r\nb")
    assert judge(harness, base, baseline="good.bin").outputs["config-changed"] == "true"


def test_a_checkpoint_of_git_lfs_that_is_as_it_was_is_no_edit(harness: Harness, project: Project) -> None:
    name = "9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0"  # SHA-256 of aaa
    base = project.commit({"good.bin": f"version https://git-lfs.github.com/spec/v1\noid sha256:{name}\nsize 3\n"})
    (harness.workspace / "good.bin").write_bytes(b"aaa")
    (harness.workspace / "ww.yaml").write_text(LOOSE, encoding="utf-8")
    assert judge(harness, base, baseline="good.bin").outputs["config-changed"] == "false"
    (harness.workspace / "good.bin").write_bytes(b"aab")
    assert "kept by git-lfs" in judge(harness, base, baseline="good.bin").of("error")[0].message


@pytest.mark.parametrize(
    "extra",
    [
        {"GIT_DIR": "{ci}"},
        {"GIT_WORK_TREE": "{ci}"},
        {"GIT_OBJECT_DIRECTORY": "{ci}"},
        {"GIT_INDEX_FILE": "{ci}/index"},
        {"GIT_NAMESPACE": "x"},
        {"GIT_CONFIG_GLOBAL": "{ci}/evil"},
        {"GIT_CONFIG_SYSTEM": "{ci}/evil"},
        {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "include.path", "GIT_CONFIG_VALUE_0": "{ci}/evil"},
        {"GIT_CONFIG_PARAMETERS": "'include.path={ci}/evil'"},
        {"GIT_EXTERNAL_DIFF": "touch {pwned}"},
        {"GIT_EXEC_PATH": "{ci}"},
        {"GIT_TRACE2": "{pwned}"},
        {"GIT_TRACE": "{pwned}"},
        {"HOME": "{ci}"},
        {"XDG_CONFIG_HOME": "{ci}"},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_the_environment_leads_git_nowhere(harness: Harness, project: Project, extra: dict[str, str]) -> None:
    base = project.commit({"ww.yaml": STRICT})
    pwned, ci = harness.temp.parent / "pwned", harness.workspace / "ci"
    evil = f'[core]\n\tfsmonitor = "touch {pwned}"\n\tbare = true\n\tworktree = {ci}\n[alias]\n\tx = "!touch {pwned}"\n'
    files = {f"ci/{name}": evil for name in ("evil", ".gitconfig", "git/config")}
    project.commit({"ww.yaml": LOOSE, **files})
    filled = {name: value.format(ci=ci, pwned=pwned) for name, value in extra.items()}
    outcome = judge(harness, base, filled)
    assert outcome.outputs["outcome"] == "fail"
    assert not pwned.exists()


def test_settings_that_include_a_file_of_the_work_tree_are_refused(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": LOOSE, ".gitconfig": "[alias]\n\tx = y\n"})
    project.git("config", "include.path", "../.gitconfig")
    outcome = judge(harness, base)
    assert outcome.outputs["outcome"] == "error"
    assert "the settings of git include .gitconfig" in outcome.of("error")[0].message


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
@pytest.mark.parametrize("place", [".", "tools"])
def test_a_git_of_the_pull_request_is_not_run(harness: Harness, project: Project, place: str) -> None:
    base = project.commit({"ww.yaml": STRICT})
    trap = harness.workspace / place / "git"
    trap.parent.mkdir(exist_ok=True)
    trap.write_text(f"#!/bin/sh\ntouch {harness.temp.parent / 'pwned'}\n", encoding="utf-8")
    trap.chmod(0o755)
    project.commit({"ww.yaml": LOOSE})
    folder = place if place == "." else str(trap.parent)
    harness.path = os.pathsep.join([folder, str(Path(sys.executable).parent), os.environ["PATH"]])
    assert judge(harness, base).outputs["outcome"] == "fail"
    assert not (harness.temp.parent / "pwned").exists()


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
def test_programs_come_from_whole_entries_of_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tool"
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", os.devnull]))
    assert find_program("tool") is None
    assert find_program("./tool") == str(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("tool") == str(program)
    assert find_program("tool", outside=[tmp_path]) is None
    program.chmod(0o644)
    assert find_program("tool") is None
