"""Node ids and every way pytest selects by them."""

from __future__ import annotations

import pytest

from tests.gate.conftest import MakeModel, flat

pytestmark = pytest.mark.usefixtures("failing_model")

QUERY_ALPHA = "ww.yaml::model.safetensors::encoder.0.query::alpha"
FAILING = "ww.yaml::model.safetensors::head::alpha"


@pytest.fixture
def failing_model(make_model: MakeModel, pytester: pytest.Pytester) -> None:
    """A model of four layers; the alpha of `head` fails by the ww.yaml beside it."""
    make_model(head=flat())
    pytester.makefile(".yaml", ww="version: 1\nchecks: {alpha: {min: 2, max: 6}}\n")


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest("--ww-model=model.safetensors", *arguments)


def test_all_checks_run(pytester: pytest.Pytester) -> None:
    result = run(pytester)
    result.assert_outcomes(passed=16, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_node_ids_are_nested(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--collect-only", "-q")
    result.stdout.fnmatch_lines(["ww.yaml::model.safetensors::coverage", QUERY_ALPHA, FAILING])
    assert result.ret == pytest.ExitCode.OK


def test_collect_only_shows_the_tree_and_writes_nothing(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--co", "--ww-report=json:out.json")
    result.stdout.fnmatch_lines(
        [
            "*<ConfigFile ww.yaml>",
            "*<ModelCollector model.safetensors>",
            "*<CheckItem coverage>",
            "*<MatrixCollector encoder.0.key>",
            "*<CheckItem integrity>",
            "*<CheckItem alpha>",
        ]
    )
    result.stdout.no_fnmatch_line("*= weightwatcher =*")
    assert not (pytester.path / "out.json").exists()


def test_k(pytester: pytest.Pytester) -> None:
    run(pytester, "-k", "query and alpha").assert_outcomes(passed=2, deselected=16)


def test_m(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")
    run(pytester, ".", "-m", "ww").assert_outcomes(passed=16, failed=1, deselected=1)
    run(pytester, ".", "-m", "not ww").assert_outcomes(passed=1, deselected=18)


def test_strict_markers(pytester: pytest.Pytester) -> None:
    run(pytester, "--strict-markers").assert_outcomes(passed=16, failed=1)


@pytest.mark.parametrize(
    ("node_id", "n_selected"),
    [
        (QUERY_ALPHA, 1),
        ("ww.yaml::model.safetensors::encoder.0.query", 4),
        ("ww.yaml::model.safetensors", 18),
        ("ww.yaml", 18),
    ],
)
@pytest.mark.parametrize("has_file", [True, False], ids=["ww.yaml", "no ww.yaml"])
def test_node_id(pytester: pytest.Pytester, node_id: str, n_selected: int, has_file: bool) -> None:
    if not has_file:
        (pytester.path / "ww.yaml").unlink()
    result = run(pytester, node_id)
    outcomes = result.parseoutcomes()
    assert sum(outcomes.get(name, 0) for name in ("passed", "failed", "warned")) == n_selected


@pytest.mark.parametrize("has_file", [True, False], ids=["ww.yaml", "no ww.yaml"])
def test_node_id_that_does_not_exist(pytester: pytest.Pytester, has_file: bool) -> None:
    if not has_file:
        (pytester.path / "ww.yaml").unlink()
    result = run(pytester, "ww.yaml::model.safetensors::nope")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*not found: *nope*"])


def test_deselect(pytester: pytest.Pytester) -> None:
    run(pytester, "--deselect", FAILING).assert_outcomes(passed=16, deselected=1)
    run(pytester, "--deselect", "ww.yaml::model.safetensors::head").assert_outcomes(passed=14, deselected=4)


def test_exit_first(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", ww="version: 1\nchecks: {alpha: {max: 1.01}}\n")
    result = run(pytester, "-x")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["outcome: fail (3 pass, 1 fail)", "*stopping after 1 failures*"])


@pytest.mark.parametrize("has_file", [True, False], ids=["ww.yaml", "no ww.yaml"])
def test_last_failed(pytester: pytest.Pytester, make_model: MakeModel, has_file: bool) -> None:
    if not has_file:
        (pytester.path / "ww.yaml").unlink()
    policy = "--ww-fail-on=warn"
    run(pytester, policy).assert_outcomes(passed=16, failed=2)
    run(pytester, policy, "--lf").assert_outcomes(failed=2, deselected=16)
    make_model()
    run(pytester, policy, "--lf").assert_outcomes(passed=2, deselected=16)
    run(pytester, policy, "--lf").assert_outcomes(passed=18)


def test_last_failed_with_names_that_look_like_parameters(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    """An item named ``x[alpha]`` or ``a::b`` silently breaks --lf on pytest 9.2."""
    make_model(**{"odd[0]::name": flat()})
    run(pytester).assert_outcomes(passed=20, failed=1)
    run(pytester, "--lf").assert_outcomes(failed=1, deselected=21)


def test_junitxml(pytester: pytest.Pytester) -> None:
    import xml.etree.ElementTree as ET

    run(pytester, "--junitxml=out.xml")
    cases = ET.parse(pytester.path / "out.xml").getroot().iter("testcase")
    found = {(case.get("classname"), case.get("name")): case for case in cases}
    case = found["ww.yaml.model.safetensors.encoder.0.query", "alpha"]
    properties = {node.get("name"): node.get("value") for node in case.iter("property")}
    assert properties["ww_verdict"] == "pass"
    assert 2.0 < float(str(properties["ww_alpha"])) < 6.0


def test_plugin_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")
    pytester.runpytest("-p", "no:ww").assert_outcomes(passed=1)
    result = pytester.runpytest("-p", "no:ww", "--ww-model=model.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unrecognized arguments: --ww-model=model.safetensors*"])


def test_items_are_collected_once(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", ww="version: 1\nmodels: [{path: model.safetensors}]\n")
    for arguments in ((), (".",), (".", "ww.yaml"), (".", "--ww-model=model.safetensors")):
        outcomes = pytester.runpytest(*arguments).parseoutcomes()
        assert outcomes == {"passed": 16, "warned": 2}, arguments


def test_gate_alone_without_paths_and_beside_them_with_some(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")
    run(pytester).assert_outcomes(passed=16, failed=1)
    run(pytester, ".").assert_outcomes(passed=17, failed=1)
    pytester.mkdir("mine")
    (pytester.path / "test_gate_alone_without_paths_and_beside_them_with_some.py").rename("mine/test_mine.py")
    run(pytester, "mine").assert_outcomes(passed=17, failed=1)
    run(pytester, "mine/test_mine.py::test_mine").assert_outcomes(passed=17, failed=1)
    (pytester.path / "ww.yaml").unlink()
    assert run(pytester).parseoutcomes() == {"passed": 16, "warned": 2}
    assert run(pytester, ".").parseoutcomes() == {"passed": 17, "warned": 2}


def test_committed_config_is_collected_by_plain_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_mine(): pass")
    pytester.makefile(".yaml", ww="version: 1\nmodels: [{path: '*.safetensors'}]\n")
    assert pytester.runpytest().parseoutcomes() == {"passed": 17, "warned": 2}
    folder = pytester.mkdir("sub")
    (pytester.path / "ww.yaml").rename(folder / "ww.yaml")
    (pytester.path / "model.safetensors").rename(folder / "model.safetensors")
    result = pytester.runpytest("-v")
    assert result.parseoutcomes() == {"passed": 17, "warned": 2}
    result.stdout.fnmatch_lines(["sub/ww.yaml::model.safetensors::head::alpha WARN*"])
