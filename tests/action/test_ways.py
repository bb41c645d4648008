"""Links and submodules that a pull request changes: those that lead to what judges it, and all the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from action.changes import Changes, Judging
from action.overlay import make_overlay
from action.repository import Entry, Repository
from tests.action.conftest import Project
from tests.action.harness import Harness, noted_arguments
from tests.action.test_merge_base import RECORDING, judge

CFG = "outcome: pass\nbaseline: cfg/good.bin\nmodel: ../m.bin"
STRICT = RECORDING.replace("{}", '{"strict": 1}')


def link(harness: Harness, place: str, target: str) -> None:
    path = harness.workspace / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def add_submodule(harness: Harness, project: Project, place: str, files: dict[str, str | None]) -> Project:
    inner = Project(folder=harness.temp.parent / f"inner-{place}")
    inner.folder.mkdir()
    inner.git("init", "--quiet", "--initial-branch", "main")
    inner.commit(files)
    project.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.folder), place)
    return Project(folder=harness.workspace / place)


@pytest.mark.parametrize("baseline", ["", "baseline: good.ww.json"], ids=["no baseline", "a baseline of ww.yaml"])
def test_a_link_of_the_documentation_is_nobodys_business(harness: Harness, project: Project, baseline: str) -> None:
    files = {"ww.yaml": f"outcome: pass\n{baseline}".strip(), "good.ww.json": RECORDING}
    link(harness, "docs/latest", "v1")
    base = project.commit({**files, "docs/v1/x": "1", "docs/v2/x": "2"})
    link(harness, "docs/latest", "v2")
    project.commit({})
    outcome = judge(harness, base)
    assert not outcome.is_failed
    assert outcome.outputs["config-changed"] == "false"


def test_a_submodule_without_a_baseline_is_nobodys_business(harness: Harness, project: Project) -> None:
    base = project.commit({"ww.yaml": "outcome: pass\nbaseline: good.ww.json", "good.ww.json": RECORDING})
    inner = add_submodule(harness, project, "vendor", {"x.py": "1"})
    project.commit({})
    inner.commit({"x.py": "2"})
    project.commit({})
    outcome = judge(harness, base)
    assert not outcome.is_failed
    assert outcome.outputs["config-changed"] == "false"


def test_a_link_to_a_model_may_change(harness: Harness, project: Project) -> None:
    text = "outcome: pass\nbaseline: good.ww.json\nmodel: out/model.bin"
    link(harness, "out", "run1")
    base = project.commit({"ww.yaml": text, "good.ww.json": RECORDING, "run1/model.bin": "1", "run2/model.bin": "2"})
    link(harness, "out", "run2")
    project.commit({})
    outcome = judge(harness, base)
    assert not outcome.is_failed
    assert "MODEL 2" in outcome.log


def test_a_link_by_which_models_and_baseline_are_found_is_refused(harness: Harness, project: Project) -> None:
    """With the link as it was the old model would be judged, and with the new one the new baseline would judge."""
    text = "outcome: pass\nbaseline: data/good.ww.json\nmodel: data/model.bin"
    link(harness, "data", "v1")
    base = project.commit({"ww.yaml": text, "v1/good.ww.json": STRICT, "v1/model.bin": "1", "v2/model.bin": "2"})
    link(harness, "data", "v2")
    project.commit({"v2/good.ww.json": RECORDING})
    outcome = judge(harness, base)
    assert outcome.is_failed
    assert (
        "data: this pull request edits it, and both a model and what judges it are found"
        in outcome.of("error")[0].message
    )


@pytest.mark.parametrize(("place", "target"), [("out", "good"), ("out/model.bin", "../good/model.bin")])
@pytest.mark.parametrize("more", ["", "\nx: y"], ids=["", "ww.yaml edited, too"])
def test_a_model_that_becomes_a_link_to_its_baseline_is_refused(
    harness: Harness, project: Project, place: str, target: str, more: str
) -> None:
    """By its own files it would be compared with itself, and with the old baseline that with itself."""
    text = "outcome: pass\nbaseline: good/model.bin\nmodel: out/model.bin"
    base = project.commit({"ww.yaml": text, "good/model.bin": "strict", "out/model.bin": "1"})
    project.git("rm", "--quiet", "-r", "out")
    link(harness, place, target)
    project.commit({"ww.yaml": f"{text}{more}", "good/model.bin": "loose"})
    outcome = judge(harness, base)
    assert outcome.is_failed
    assert "good/model.bin: this pull request edits it, and both" in outcome.of("error")[0].message


def test_a_model_that_is_its_own_baseline_is_refused(harness: Harness, project: Project) -> None:
    """As where a pattern of ww.yaml finds the baseline, too."""
    text = "outcome: pass\nbaseline: out/good.bin\nmodel: out/good.bin"
    base = project.commit({"ww.yaml": text, "out/good.bin": "strict"})
    project.commit({"out/good.bin": "loose"})
    assert judge(harness, base).is_failed


def test_a_recording_beside_the_weights_of_a_model_is_that_of_the_base(harness: Harness, project: Project) -> None:
    text = "outcome: pass\nbaseline: out/good.ww.json\nmodel: out/model.bin"
    base = project.commit({"ww.yaml": text, "out/good.ww.json": STRICT, "out/model.bin": "1"})
    project.commit({"out/good.ww.json": RECORDING, "out/model.bin": "2"})
    outcome = judge(harness, base)
    assert outcome.outputs["outcome"] == "fail"
    assert outcome.log.count("MODEL 2") == 2


def test_a_link_behind_an_unchanged_link(harness: Harness, project: Project) -> None:
    """The changed one leads to a folder in which another link leads to the baseline."""
    link(harness, "bl/now", "v1")
    link(harness, "bl/v1/deep", "../strict")
    link(harness, "bl/v0/deep", "../loose")
    text = "outcome: pass\nbaseline: bl/now/deep/good.bin"
    base = project.commit({"ww.yaml": text, "bl/strict/good.bin": "strict", "bl/loose/good.bin": "loose"})
    assert judge(harness, base).outputs["outcome"] == "fail"
    link(harness, "bl/now", "v0")
    project.commit({})
    assert judge(harness, base).outputs["outcome"] == "fail"


def test_links_are_those_of_the_base_one_after_the_other(harness: Harness, project: Project) -> None:
    """ww.yaml leads elsewhere, and what it led to leads elsewhere, and that was edited."""
    link(harness, "ww.yaml", "a.yaml")
    link(harness, "a.yaml", "b.yaml")
    base = project.commit({"b.yaml": "outcome: fail", "c.yaml": "outcome: pass"})
    link(harness, "ww.yaml", "c.yaml")
    link(harness, "a.yaml", "c.yaml")
    project.commit({"b.yaml": "outcome: pass"})
    outcome = judge(harness, base)
    assert outcome.outputs["outcome"] == "fail"
    for name in ("ww", "a", "b"):
        assert f"<code>{name}&#46;yaml</code>" in outcome.summary


def test_a_folder_that_became_a_link(harness: Harness, project: Project) -> None:
    """All that was in the folder is back for the second run, also what only the old ww.yaml names."""
    base = project.commit({"cfg/ww.yaml": CFG, "cfg/good.bin": "strict"})
    project.git("rm", "--quiet", "-r", "cfg")
    project.commit({"other/ww.yaml": CFG.replace("cfg/good", "other/new"), "other/new.bin": "loose"})
    link(harness, "cfg", "other")
    project.commit({})
    assert judge(harness, base, config="cfg/ww.yaml").outputs["outcome"] == "fail"
    assert len(noted_arguments(harness.temp.parent)) == 2


def test_a_folder_of_the_base_has_nothing_from_behind_the_link_that_it_became(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "other").mkdir(parents=True)
    (workspace / "other" / "new").touch()
    (workspace / "cfg").symlink_to("other")
    make_overlay(workspace, tmp_path / "view", {"cfg": None, "cfg/old": b"old", "cfg/more/old": b"old"})
    view = tmp_path / "view"
    assert {path.relative_to(view).as_posix() for path in view.rglob("*") if path.is_file()} == {
        "cfg/old",
        "cfg/more/old",
        "other/new",
    }


def test_ww_yaml_behind_a_link_of_the_models_may_be_edited(harness: Harness, project: Project) -> None:
    """It is put back for the second run, and the model stays that of the pull request."""
    link(harness, "latest", "run1")
    base = project.commit({"run1/ww.yaml": "outcome: fail\nmodel: ../latest", "run1/model.bin": "1"})
    project.commit({"run1/ww.yaml": "outcome: pass\nmodel: ../latest", "run1/model.bin": "2"})
    outcome = judge(harness, base, config="run1/ww.yaml")
    assert outcome.outputs["outcome"] == "fail"
    assert "own files: **pass**" in outcome.summary


def test_a_link_that_became_a_folder(harness: Harness, project: Project) -> None:
    link(harness, "cfg", "other")
    base = project.commit({"other/ww.yaml": CFG, "other/good.bin": "strict"})
    (harness.workspace / "cfg").unlink()
    project.commit({"cfg/ww.yaml": CFG, "cfg/good.bin": "loose"})
    assert judge(harness, base, config="cfg/ww.yaml").outputs["outcome"] == "fail"


def test_a_new_link_to_a_new_ww_yaml_is_judged_without(harness: Harness, project: Project) -> None:
    base = project.commit({"a": "b"})
    link(harness, "cfg", "examples")
    project.commit({"examples/ww.yaml": "outcome: warn\nmodel: ../m.bin"})
    outcome = judge(harness, base, config="cfg/ww.yaml", model="m.bin")
    assert outcome.outputs["outcome"] == "warn"
    assert outcome.outputs["config-changed"] == "true"


@pytest.mark.parametrize("target", ["{outside}", "../outside", "../workspace/good", "{workspace}/good"])
def test_a_link_of_the_base_leads_where_it_led(harness: Harness, project: Project, target: str) -> None:
    outside = harness.workspace.with_name("outside")
    for folder in (outside, harness.workspace / "good"):
        folder.mkdir()
        (folder / "good.bin").write_text("strict", encoding="utf-8")
    link(harness, "bl", target.format(outside=outside, workspace=harness.workspace))
    base = project.commit({"ww.yaml": "outcome: pass\nbaseline: bl/good.bin", "loose/good.bin": "loose"})
    link(harness, "bl", "loose")
    project.commit({"good/good.bin": "loose"})
    assert judge(harness, base).outputs["outcome"] == "fail"


def test_the_workspace_by_another_name(harness: Harness, project: Project) -> None:
    """What the inputs call by another name is not read past the view of the base branch."""
    base = project.commit({"ww.yaml": "outcome: fail"})
    project.commit({"ww.yaml": "outcome: pass"})
    alias = harness.temp.parent / "alias"
    alias.symlink_to(harness.workspace)
    assert judge(harness, base, config=str(Path(alias, "ww.yaml"))).outputs["outcome"] == "fail"


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("b/m.onnx", {"b/m.onnx.data", "b/weights.bin", "b/config.json", "b/sub/w"}),
        ("b/ckpt.index", {"b/ckpt.data-00000-of-00001", "b/config.json"}),
        ("b/m-00001-of-00002.gguf", {"b/m-00002-of-00002.gguf", "b/m.onnx.data", "b/config.json"}),
        ("b/adapter_model.safetensors", {"b/config.json"}),
        ("b/m.ww.json", set()),
    ],
)
def test_what_is_read_beside_a_baseline_counts_as_it(baseline: str, expected: set[str], tmp_path: Path) -> None:
    names = (
        "b/m.onnx.data", "b/weights.bin", "b/config.json", "b/sub/w", "b/ckpt.data-00000-of-00001", "b/new.onnx",
        "b/m-00002-of-00002.gguf", "b/README.md", "c/config.json", "b/model.bin",
    )  # fmt: skip
    entries = {name: Entry(mode="100644", name="0" * 40) for name in names}
    repository = Repository(root=tmp_path, workspace=tmp_path)
    changes = Changes(repository=repository, revision="HEAD", before=entries, after={})
    found = changes._beside(Judging(paths=("ww.yaml",), baselines=(baseline,), models=("b/model.bin",)))
    assert expected <= found
    assert found.isdisjoint({"b/model.bin", "b/new.onnx", "b/README.md", "c/config.json"})
    if not baseline.endswith(".onnx"):
        assert found - {"b/m.onnx.data"} == expected - {"b/m.onnx.data"}
