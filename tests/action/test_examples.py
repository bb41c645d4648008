"""The examples that are no GitHub workflows are carried out; those that are belong together."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.action.conftest import Project
from tests.action.harness import ROOT, Harness
from tests.action.test_real_gate import record, write_model
from tests.gate.conftest import noise

EXAMPLES = ROOT / "docs" / "workflows"
CONFIG = "version: 1\nmodels: [{path: out/*.safetensors, baseline: baselines/model.ww.json}]\n"


def load(name: str) -> dict[Any, Any]:
    found = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def run_shell(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "CI": "true", **variables}
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def make_project(harness: Harness, project: Project) -> str:
    """Commit limits and a baseline, and leave the accepted checkpoint untracked."""
    (harness.workspace / "baselines").mkdir()
    write_model(harness.workspace / "out" / "model.safetensors")
    record(harness.workspace, "out/model.safetensors", "baselines/model.ww.json")
    return project.commit({".gitignore": "out\n", "ww.yaml": CONFIG})


def test_the_gitlab_job_judges_by_the_target_branch(harness: Harness, project: Project) -> None:
    base = make_project(harness, project)
    project.commit({"ww.yaml": "version: 1\nmodels: [{path: out/*.safetensors}]\n"})
    lines = "\n".join(load("gitlab-ci.yml")["checkpoint gate"]["script"])
    script = lines.replace("/opt/gate/bin/python", shlex.quote(sys.executable)).replace(
        "/tmp/base", str(harness.temp / "b")
    )
    good = run_shell(script, harness.workspace, CI_MERGE_REQUEST_DIFF_BASE_SHA=base)
    assert good.returncode == 0, good.stdout + good.stderr
    assert (harness.workspace / "ww-junit.xml").exists()
    write_model(harness.workspace / "out" / "model.safetensors", head=noise())
    bad = run_shell(script.replace("mkdir ", "mkdir -p "), harness.workspace, CI_MERGE_REQUEST_DIFF_BASE_SHA=base)
    assert bad.returncode == 1, bad.stdout + bad.stderr


def test_the_pre_commit_hook_runs_the_gate(harness: Harness, project: Project) -> None:
    make_project(harness, project)
    ((hook,),) = [each["hooks"] for each in load("pre-commit-config.yaml")["repos"]]
    assert hook["pass_filenames"] is False
    good = run_shell(hook["entry"], harness.workspace)
    assert good.returncode == 0, good.stdout + good.stderr
    write_model(harness.workspace / "out" / "model.safetensors", head=noise())
    assert run_shell(hook["entry"], harness.workspace).returncode == 1


def test_the_second_workflow_follows_the_first_and_takes_its_artifact() -> None:
    first = load("gate-a-finetune.yml")
    second = (EXAMPLES / "comment-on-forks.yml").read_text(encoding="utf-8")
    artifact = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["inputs"]["artifact-name"]["default"]
    assert f"workflows: [{first['name']}]" in second
    assert f"--name {artifact} " in second
