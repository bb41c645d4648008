"""A pull request that edits what judges it: labelled, and judged by the base branch's files, too.

The fake pytest does what ww.yaml of its folder says, so that each run tells by whose files it judged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.action.conftest import Project, pull_request
from tests.action.harness import Harness, Outcome, noted_arguments, write_fake_python

RECORDING = json.dumps({"format": 2, "tool": {"name": "pytest-weightwatcher"}, "matrices": {}})
BODY = """
configs = [each.partition("=")[2] for each in arguments if each.startswith("--ww-config=")] or ["ww.yaml"]
text = open(configs[0]).read() if os.path.exists(configs[0]) else "outcome: pass"
words = dict(line.split(": ") for line in text.splitlines())
given = [each.partition("=")[2] for each in arguments if each.startswith("--ww-baseline=")]
name = given[0] if given else words.get("baseline", "")
held = open(name).read() if name and os.path.isfile(name) else ""
if "damaged" in held:
    sys.exit(4)
outcome = "fail" if "strict" in held else words["outcome"]
model = words.get("model", "model.safetensors")
print("MODEL", open(model).read() if os.path.isfile(model) else "none")
payload = {"format": 1, "outcome": outcome, "counts": {outcome: 1}, "models": [
    {"path": model, "baseline": os.path.basename(name) or None, "baseline_path": name and os.path.abspath(name),
     "checks": []}]}
open(reports["json"], "w").write(json.dumps(payload))
open(reports["md"], "w").write("## Checkpoint gate: " + outcome + "\\n\\nby " + outcome + "\\n")
sys.exit({"pass": 0, "warn": 0, "fail": 1}[outcome])
"""


def judge(
    harness: Harness, base: str, extra: Mapping[str, str] | None = None, *, body: str = BODY, **inputs: str
) -> Outcome:
    harness.event_name, harness.event = "pull_request", pull_request(base)
    harness.extra = {"WW_API_TIMEOUT": "0.2", **(extra or {})}
    fake = write_fake_python(harness.temp.parent, body)
    return harness.run(python=str(fake), install="false", comment="off", **inputs)


def test_a_pull_request_that_edits_neither_is_judged_once(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: pass"})
    project.commit({"train.py": "x", "other.json": "{}"})
    outcome = judge(harness, base)
    assert outcome.outputs["config-changed"] == "false"
    assert len(noted_arguments(harness.temp.parent)) == 1
    assert "changed in this pull request" not in outcome.summary


def test_loosening_ww_yaml_does_not_help(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: fail"})
    project.commit({"ww.yaml": "outcome: pass"})
    outcome = judge(harness, base)
    assert outcome.is_failed
    assert outcome.outputs["outcome"] == "fail"
    assert outcome.outputs["config-changed"] == "true"
    assert "**Baseline changed in this pull request**: <code>ww&#46;yaml</code>." in outcome.summary
    assert (
        f"own files: **pass**; by the files of the base branch (<code>{base[:12]}</code>): **fail**" in outcome.summary
    )
    assert outcome.summary.index("By the files of the base branch: fail") < outcome.summary.index(
        "By the files of this commit: pass"
    )
    assert (harness.workspace / "ww.yaml").read_text(encoding="utf-8") == "outcome: pass"


def test_the_label_stands_in_the_comment(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: pass"})
    project.commit({"ww.yaml": "outcome: pass\nx: y"})
    outcome = judge(harness, base)
    assert outcome.outputs["outcome"] == "pass"
    with open(outcome.outputs["comment-file"], encoding="utf-8") as stream:  # noqa: PTH123 (an output is a text)
        text = stream.read()
    assert "**Baseline changed in this pull request**" in text
    assert "ww-gate-create:no" in text  # the mode is off


@pytest.mark.parametrize("place", ["good.ww.json", "deep/er/good.ww.json"])
def test_loosening_a_baseline_does_not_help(harness: Harness, project: Project, place: str) -> None:
    strict = RECORDING.replace("{}", '{"strict": 1}')
    base = project.commit({"ww.yaml": f"outcome: pass\nbaseline: {place}", place: strict, "deep/x.txt": "x"})
    project.commit({place: RECORDING})
    outcome = judge(harness, base)
    assert outcome.outputs["outcome"] == "fail"
    assert outcome.outputs["config-changed"] == "true"
    project.commit({place: "no recording any more"})
    assert judge(harness, base).outputs["config-changed"] == "true"
    project.commit({place: None})
    assert judge(harness, base).outputs["outcome"] == "fail"


def test_a_damaged_baseline_is_labelled_and_both_verdicts_are_told(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: pass\nbaseline: good.ww.json", "good.ww.json": RECORDING})
    project.commit({"good.ww.json": "damaged"})
    outcome = judge(harness, base)
    assert outcome.outputs["outcome"] == "error"
    assert "own files: **error**" in outcome.summary
    assert "**pass**" in outcome.summary


def test_a_file_changed_by_an_earlier_step_of_the_job_is_seen(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: fail"})
    project.commit({"train.py": "x"})
    (harness.workspace / "ww.yaml").write_text("outcome: pass", encoding="utf-8")
    assert judge(harness, base).outputs["outcome"] == "fail"


def test_a_new_ww_yaml_is_judged_by_the_built_in_limits_too(harness: Harness, project: Project) -> None:
    base = project.commit({"a": "b"})
    project.commit({"ww.yaml": "outcome: warn", "good.ww.json": RECORDING})
    outcome = judge(harness, base, model="m.safetensors", config="ww.yaml", baseline="good.ww.json")
    own, by_base = noted_arguments(harness.temp.parent)
    assert {"--ww-config=ww.yaml", "--ww-baseline=good.ww.json"} <= set(own)
    assert not [each for each in by_base if each.startswith(("--ww-config", "--ww-baseline"))]
    assert outcome.outputs["outcome"] == "warn"


def test_untracked_and_changed_models_are_those_of_the_pull_request(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: pass\nmodel: out/model.safetensors", "out/model.safetensors": "old"})
    project.commit({"ww.yaml": "outcome: warn\nmodel: out/model.safetensors", "out/model.safetensors": "new"})
    outcome = judge(harness, base)
    assert outcome.log.count("MODEL new") == 2
    assert "MODEL old" not in outcome.log


def test_a_checkpoint_as_baseline_that_the_pull_request_edits_is_taken_from_the_base(
    harness: Harness, project: Project
) -> None:
    accepted = "accepted/model.safetensors"
    text = f"outcome: pass\nbaseline: {accepted}\nmodel: out/model.safetensors"
    base = project.commit({"ww.yaml": text, accepted: "strict", "out/model.safetensors": "old"})
    project.commit({accepted: "loose", "out/model.safetensors": "new"})
    outcome = judge(harness, base)
    assert outcome.outputs["outcome"] == "fail"
    assert "MODEL old" not in outcome.log


def test_two_edits_at_once_do_not_help_either(harness: Harness, project: Project) -> None:
    """Pointing ww.yaml elsewhere and loosening the checkpoint that the old ww.yaml names."""
    base = project.commit({"ww.yaml": "outcome: pass\nbaseline: a.bin", "a.bin": "strict"})
    project.commit({"ww.yaml": "outcome: pass\nbaseline: b.bin", "a.bin": "loose", "b.bin": "loose"})
    assert judge(harness, base).outputs["outcome"] == "fail"


def test_a_link_does_not_hide_the_file_behind_it(harness: Harness, project: Project) -> None:
    project.commit({"limits/ww.yaml": "outcome: fail"})
    (harness.workspace / "ww.yaml").symlink_to("limits/ww.yaml")
    (harness.workspace / "folder").symlink_to("limits")
    (harness.workspace / "all").symlink_to(".")
    base = project.commit({})
    project.commit({"limits/ww.yaml": "outcome: pass"})
    assert judge(harness, base).outputs["outcome"] == "fail"
    assert judge(harness, base, config="folder/ww.yaml").outputs["outcome"] == "fail"
    assert judge(harness, base, config="all/folder/ww.yaml").outputs["outcome"] == "fail"


def test_merge_base_judges_by_the_base_alone(harness: Harness, project: Project) -> None:
    text = "outcome: pass\nbaseline: good.ww.json"
    base = project.commit({"ww.yaml": text, "good.ww.json": RECORDING})
    project.commit({"ww.yaml": "outcome: fail"})
    outcome = judge(harness, base, baseline="merge-base")
    assert outcome.outputs["outcome"] == "pass"
    assert outcome.outputs["config-changed"] == "true"
    assert len(noted_arguments(harness.temp.parent)) == 1
    assert "the input asks for the merge base" in outcome.summary


def test_merge_base_without_a_baseline_there_is_an_error(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: pass"})
    project.commit({"ww.yaml": "outcome: pass\nbaseline: good.ww.json", "good.ww.json": RECORDING})
    outcome = judge(harness, base, baseline="merge-base")
    assert outcome.outputs["outcome"] == "error"
    assert "names no baseline for a model" in outcome.of("error")[0].message
    outcome = judge(harness, base, baseline="merge-base:good.ww.json")
    assert outcome.outputs["outcome"] == "error"
    assert f"the merge base {base[:12]} has no good.ww.json" in outcome.of("error")[0].message


def test_merge_base_with_a_path_takes_that_file_of_the_base(harness: Harness, project: Project) -> None:
    base = project.commit({"good.ww.json": RECORDING})
    project.commit({"good.ww.json": RECORDING.replace("{}", '{"strict": 1}')})
    assert judge(harness, base, baseline="merge-base:good.ww.json").outputs["outcome"] == "pass"
    assert judge(harness, base, baseline="good.ww.json").outputs["outcome"] == "fail"


def test_a_gate_that_does_not_say_where_the_baseline_is_is_too_old(harness: Harness, project: Project) -> None:
    """It can be only with ``install: false``."""
    base = project.commit({"ww.yaml": "outcome: pass\nbaseline: good.bin", "good.bin": "x"})
    body = BODY.replace('"baseline_path"', '"unknown"')
    outcome = judge(harness, base, body=body)
    assert outcome.outputs["outcome"] == "error"
    assert "it is older than this Action" in outcome.of("error")[0].message


def test_too_shallow_a_history_is_an_error_that_says_what_to_do(harness: Harness, project: Project) -> None:
    project.commit({"ww.yaml": "outcome: pass"})
    outcome = judge(harness, "e" * 40)
    assert outcome.outputs["outcome"] == "error"
    assert outcome.is_failed
    assert "fetch-depth: 0" in outcome.of("error")[0].message
    assert not (harness.temp.parent / "argv.json").exists()


def test_only_commits_are_base_commits(harness: Harness, project: Project) -> None:
    project.commit({"ww.yaml": "outcome: pass"})
    outcome = judge(harness, "--output=pwned")
    assert outcome.outputs["outcome"] == "error"
    assert "names no base commit" in outcome.of("error")[0].message


def test_git_lfs_is_an_error_that_says_what_to_do(harness: Harness, project: Project) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    base = project.commit({"good.bin": pointer})
    project.commit({"good.bin": pointer.replace("size 1", "size 2")})
    outcome = judge(harness, base, baseline="good.bin")
    assert "kept by git-lfs" in outcome.of("error")[0].message


def test_a_merge_queue_has_a_base_too(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: fail"})
    project.commit({"ww.yaml": "outcome: pass"})
    fake = write_fake_python(harness.temp.parent, BODY)
    harness.event_name, harness.event = "merge_group", {"merge_group": {"base_sha": base}}
    assert harness.run(python=str(fake), install="false").outputs["outcome"] == "fail"


def test_a_repository_below_the_workspace_is_found(harness: Harness, project: Project) -> None:
    shutil.rmtree(harness.workspace / ".git")
    inner = Project(folder=harness.workspace / "sub")
    inner.folder.mkdir()
    inner.git("init", "--quiet")
    (harness.workspace / "ww.yaml").write_text("outcome: pass", encoding="utf-8")
    base = inner.commit({"good.ww.json": RECORDING.replace("{}", '{"strict": 1}')})
    inner.commit({"good.ww.json": RECORDING})
    (harness.workspace / "ww.yaml").unlink()
    outcome = judge(harness, base, config="sub/ww.yaml", baseline="sub/good.ww.json")
    assert outcome.outputs["outcome"] == "fail"


def test_a_folder_by_another_way_does_not_help(harness: Harness, project: Project) -> None:
    """A link to a folder is flipped: no file that judges has changed, and yet others judge."""
    files = {"ww.yaml": "outcome: pass\nbaseline: bl/now/m.ww.json", "bl/v1/m.ww.json": f"{RECORDING} strict"}
    project.commit({**files, "bl/v0/m.ww.json": RECORDING})
    way = harness.workspace / "bl" / "now"
    way.symlink_to("v1")
    base = project.commit({"train.py": "1"})
    assert judge(harness, base).outputs["outcome"] == "fail"
    way.unlink()
    way.symlink_to("v0")
    project.commit({"train.py": "2"})
    outcome = judge(harness, base)
    assert outcome.outputs["outcome"] == "fail"
    assert "**Baseline changed in this pull request**: <code>bl/now</code>." in outcome.summary


def test_the_folder_of_the_config_by_another_way(harness: Harness, project: Project) -> None:
    project.commit({"a/ww.yaml": "outcome: fail\nmodel: ../m", "examples/ww.yaml": "outcome: pass\nmodel: ../m"})
    way = harness.workspace / "gate"
    way.symlink_to("a")
    base = project.commit({"train.py": "1"})
    assert judge(harness, base, config="gate/ww.yaml").outputs["outcome"] == "fail"
    way.unlink()
    way.symlink_to("examples")
    project.commit({"train.py": "2"})
    outcome = judge(harness, base, config="gate/ww.yaml")
    assert outcome.outputs["outcome"] == "fail"
    assert "own files: **pass**" in outcome.summary


def test_a_link_elsewhere_is_nobodys_business(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: pass", "good.ww.json": RECORDING, "docs/v1/x.md": "x"})
    (harness.workspace / "latest").symlink_to("docs")
    project.commit({"train.py": "1"})
    outcome = judge(harness, base, baseline="good.ww.json")
    assert not outcome.is_failed
    assert outcome.outputs["outcome"] == "pass"


def test_a_submodule_is_seen_whatever_gitmodules_says(harness: Harness, project: Project) -> None:
    """The pull request moves the submodule with the baseline, and tells git to look away."""
    inner = Project(folder=harness.temp.parent / "inner")
    inner.folder.mkdir()
    inner.git("init", "--quiet", "--initial-branch", "main")
    inner.commit({"good.ww.json": "strict"})
    allow = ("-c", "protocol.file.allow=always")
    project.git(*allow, "submodule", "--quiet", "add", str(inner.folder), "bl")
    base = project.commit({"ww.yaml": "outcome: pass\nbaseline: bl/good.ww.json"})
    inside = Project(folder=harness.workspace / "bl")
    inside.commit({"good.ww.json": "loose"})
    modules = (harness.workspace / ".gitmodules").read_text(encoding="utf-8")
    project.commit({".gitmodules": f"{modules}\tignore = all\n"})
    outcome = judge(harness, base)
    assert outcome.is_failed
    assert "bl: this pull request changes a submodule in which" in outcome.of("error")[0].message


def test_a_folder_that_became_a_submodule_is_seen(harness: Harness, project: Project) -> None:
    """The submodule may hold the base commit itself, so that nothing in it seems to have changed."""
    base = project.commit({"cfg/ww.yaml": "outcome: fail"})
    copy = harness.temp.parent / "copy"
    project.git("clone", "--quiet", ".", str(copy))
    project.git("rm", "--quiet", "-r", "cfg")
    allow = ("-c", "protocol.file.allow=always")
    project.git(*allow, "submodule", "--quiet", "add", str(copy), "cfg")
    (harness.workspace / "cfg" / "ww.yaml").write_text("outcome: pass", encoding="utf-8")
    project.commit({})
    outcome = judge(harness, base, config="cfg/ww.yaml")
    assert outcome.is_failed
    assert "changes a submodule in which" in outcome.of("error")[0].message


@pytest.mark.parametrize("inputs", [{}, {"baseline": "accepted.json"}], ids=["ww.yaml", "input"])
def test_a_link_between_two_links_is_seen(harness: Harness, project: Project, inputs: dict[str, str]) -> None:
    store = harness.workspace / "store"
    store.mkdir()
    (store / "current").symlink_to("v1")
    (harness.workspace / "accepted.json").symlink_to("store/current")
    yaml = "outcome: pass\nbaseline: accepted.json"
    base = project.commit({"ww.yaml": yaml, "store/v0": "loose", "store/v1": "strict"})
    (store / "current").unlink()
    (store / "current").symlink_to("v0")
    project.commit({})
    outcome = judge(harness, base, baseline=inputs.get("baseline", ""))
    assert outcome.is_failed
    assert outcome.outputs["outcome"] == "fail"
    assert "<code>store/current</code>" in outcome.summary


@pytest.mark.parametrize("inputs", [{}, {"baseline": "accepted"}], ids=["ww.yaml", "input"])
def test_what_the_links_of_a_baseline_lead_to_is_seen(
    harness: Harness, project: Project, inputs: dict[str, str]
) -> None:
    """As in a cache of Hugging Face: the file has one name, its bytes another."""
    folder = harness.workspace / "accepted"
    folder.mkdir()
    (folder / "good.json").symlink_to("../blobs/abc")
    yaml = "outcome: pass\nbaseline: accepted/good.json"
    base = project.commit({"ww.yaml": yaml, "blobs/abc": "strict"})
    project.commit({"blobs/abc": "loose"})
    outcome = judge(harness, base, baseline=inputs.get("baseline", ""))
    assert outcome.outputs["config-changed"] == "true"
    assert "blobs/abc" in outcome.summary
    if not inputs:
        assert outcome.outputs["outcome"] == "fail", "judged by what the base branch has there"


def test_a_file_that_was_not_fetched_is_no_file_that_was_not_there(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: fail"})
    blob = project.git("rev-parse", "HEAD:ww.yaml")
    project.commit({"ww.yaml": "outcome: pass"})
    (harness.workspace / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    outcome = judge(harness, base)
    assert outcome.is_failed
    assert outcome.outputs["outcome"] == "error"
    assert "git cat-file failed on ww.yaml" in outcome.of("error")[0].message


def test_very_long_names_leave_room_for_the_report(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: fail"})
    names = [f"{'_' * 200}/{'_' * 200}/{'_' * 200}/{'_' * 200}/{place}.json" for place in range(10)]
    project.commit({"ww.yaml": "outcome: pass", **dict.fromkeys(names, RECORDING)})
    outcome = judge(harness, base)
    comment = Path(outcome.outputs["comment-file"]).read_bytes()
    assert b"Baseline changed in this pull request" in comment
    assert b"by fail" in comment
    assert len(comment) < 20_000


@pytest.mark.parametrize("argument", ["--ww-config=other.yaml", "--ww-baseline=other.json", "--ww-model"])
def test_files_that_judge_are_inputs_and_no_arguments(harness: Harness, project: Project, argument: str) -> None:
    outcome = judge(harness, project.commit({"ww.yaml": "outcome: pass"}), args=argument)
    assert outcome.is_failed
    assert "has an input of its own" in outcome.of("error")[0].message
