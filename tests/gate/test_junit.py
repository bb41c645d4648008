"""JUnit's XML: facts of the run on the test suite, and of each check on its test case."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_weightwatcher.report.junit import suite_properties
from tests.gate.conftest import MakeModel, flat
from tests.gate.synthetic_result import hostile_result


def properties(element: ET.Element) -> dict[str, str]:
    return {each.get("name", ""): each.get("value", "") for each in element.findall("properties/property")}


def suite(path: Path) -> ET.Element:
    (found,) = ET.parse(path).getroot().iter("testsuite")
    return found


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_suite_and_cases_carry_their_facts(
    pytester: pytest.Pytester, make_model: MakeModel, arguments: tuple[str, ...]
) -> None:
    make_model("good.safetensors")
    make_model(head=flat())
    pytester.runpytest(
        "--ww-model=model.safetensors",
        "--ww-baseline=good.safetensors",
        "--ww-profile=finetune",
        "--junitxml=out.xml",
        *arguments,
    )
    found = suite(pytester.path / "out.xml")
    facts = properties(found)
    assert facts.pop("ww_version")
    assert facts == {
        "ww_tool": "pytest-weightwatcher",
        "ww_models": "model.safetensors",
        "ww_baseline": "good.safetensors",
        "ww_profile": "finetune",
        "ww_outcome": "fail",
    }
    cases = {(case.get("classname"), case.get("name")): properties(case) for case in found.iter("testcase")}
    alpha = next(facts for (place, name), facts in cases.items() if name == "alpha" and "head" in str(place))
    assert alpha.keys() == {"ww_verdict", "ww_alpha", "ww_limit_min", "ww_limit_max"}
    assert (float(alpha["ww_limit_min"]), float(alpha["ww_limit_max"])) == (2.0, 6.0)
    moved = next(facts for (_, name), facts in cases.items() if name == "regression.stable_rank")
    assert {"ww_verdict", "ww_regression.stable_rank", "ww_baseline"} <= moved.keys()


@pytest.mark.parametrize("arguments", [("--junitxml=out.xml", "test_mine.py"), ("--ww-model=model.safetensors",)])
def test_without_the_gate_or_without_xml_nothing_is_added(
    pytester: pytest.Pytester, make_model: MakeModel, arguments: tuple[str, ...]
) -> None:
    make_model()
    (pytester.path / "test_mine.py").write_text("def test_it(): pass\n")
    result = pytester.runpytest(*arguments)
    assert result.ret == 0
    if (pytester.path / "out.xml").exists():
        assert properties(suite(pytester.path / "out.xml")) == {}


def test_hostile_paths_are_one_line() -> None:
    result = hostile_result()
    result["models"][0]["path"] = "a\nb\x1b" + "x" * 5000
    found = suite_properties(result)
    assert all(text.isprintable() and len(text) <= 2001 for text in found.values())
    assert found["ww_baseline"] == "good.ww.json"
