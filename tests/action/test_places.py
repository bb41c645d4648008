"""Where reports may go: a pull request can commit a link where the workflow names a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.action.harness import Harness, Outcome, fake_result, noted_arguments, write_fake_python


def run(harness: Harness, **inputs: str) -> Outcome:
    fake = write_fake_python(harness.temp.parent, fake_result("pass"))
    return harness.run(python=str(fake), install="false", comment="off", **inputs)


@pytest.mark.parametrize("target", ["../outside", "{outside}", ".git", ".git/hooks", "..", "chain"])
@pytest.mark.parametrize("kind", ["report_json", "report_md"])
def test_a_link_leads_no_report_out_of_the_workspace(harness: Harness, kind: str, target: str) -> None:
    outside = harness.workspace.with_name("outside")
    outside.mkdir()
    (harness.workspace / ".git" / "hooks").mkdir(parents=True)
    (harness.workspace / "chain").symlink_to("../outside")
    link = harness.workspace / "site"
    link.symlink_to(target.format(outside=outside))
    precious = link.resolve() / "index"
    precious.write_text("precious", encoding="utf-8")
    outcome = run(harness, **{kind: "site/index"})
    assert outcome.outputs["outcome"] == "error"
    assert f"{kind.replace('_', '-')}: site/index is led out of the workspace" in outcome.of("error")[0].message
    assert precious.read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize(
    "argument", ["--ww-report=sarif:site/x", "--junitxml=site/x", "site/x", "sarif:site/x", "--junitxml=a/../site/x"]
)
def test_nor_a_path_among_the_arguments(harness: Harness, argument: str) -> None:
    (harness.workspace / "site").symlink_to(harness.temp)
    outcome = run(harness, args=argument)
    assert "is led out of the workspace" in outcome.of("error")[0].message
    assert not (harness.temp.parent / "argv.json").exists()


def test_a_file_that_is_a_link_is_replaced(harness: Harness) -> None:
    outside = harness.workspace.with_name("outside")
    outside.write_text("precious", encoding="utf-8")
    (harness.workspace / "result.json").symlink_to(outside)
    assert not run(harness, report_json="result.json").is_failed
    assert outside.read_text(encoding="utf-8") == "precious"


def test_the_workflow_may_ask_for_a_place_outside(harness: Harness) -> None:
    place = harness.temp / "out.json"
    (harness.workspace / "inner").symlink_to("reports")
    (harness.workspace / "reports").mkdir()
    outcome = run(harness, report_json=str(place), report_md="inner/x.md", args="-k\na or b:c=d\n--maxfail=2")
    assert not outcome.is_failed
    assert place.exists()
    assert Path(outcome.outputs["report-json"]) == place
    assert (harness.workspace / "reports" / "x.md").exists()
    (arguments,) = noted_arguments(harness.temp.parent)
    assert "a or b:c=d" in arguments


@pytest.mark.parametrize("argument", ["--junitxml=site", "--ww-report=sarif:site"])
def test_a_path_among_the_arguments_is_no_link_itself(harness: Harness, argument: str) -> None:
    outside = harness.workspace.with_name("outside")
    outside.write_text("precious", encoding="utf-8")
    (harness.workspace / "site").symlink_to(outside)
    outcome = run(harness, args=argument)
    assert "is led out of the workspace" in outcome.of("error")[0].message
    assert outside.read_text(encoding="utf-8") == "precious"
