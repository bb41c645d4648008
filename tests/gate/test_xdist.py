"""With pytest-xdist: the same outcomes, reports and baselines, written once, by the controller."""

from __future__ import annotations

import json

import pytest

from tests.gate.conftest import MakeModel, flat, noise

MODES = [("-n", "0"), ("-n", "2"), ("-n", "2", "--dist", "loadgroup"), ("-n", "2", "--dist", "loadfile")]


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "xdist", "--ww-model=model.safetensors", *arguments)


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
def test_outcomes_and_reports(pytester: pytest.Pytester, make_model: MakeModel, mode: tuple[str, ...]) -> None:
    make_model(head=flat())
    serial = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:serial.json")
    assert serial.parseoutcomes() == {"passed": 16, "warned": 2}
    result = run(pytester, *mode, "--ww-report=json:out.json")
    assert result.parseoutcomes() == {"passed": 16, "warned": 2}
    result.stdout.fnmatch_lines(["outcome: warn (16 pass, 2 warn)"])
    assert (pytester.path / "out.json").read_bytes() == (pytester.path / "serial.json").read_bytes()


@pytest.mark.parametrize("mode", MODES[1:3], ids=" ".join)
def test_selection(pytester: pytest.Pytester, make_model: MakeModel, mode: tuple[str, ...]) -> None:
    make_model(head=flat())
    assert run(pytester, *mode, "-k", "query").parseoutcomes() == {"passed": 8}
    assert run(pytester, *mode, "-m", "ww").parseoutcomes() == {"passed": 16, "warned": 2}
    node_id = "ww.yaml::model.safetensors::head::alpha"
    assert run(pytester, *mode, node_id).parseoutcomes() == {"warned": 1}
    assert run(pytester, *mode, "--deselect", node_id).parseoutcomes() == {"passed": 16, "warned": 1}


@pytest.mark.parametrize("mode", MODES[1:3], ids=" ".join)
def test_last_failed(pytester: pytest.Pytester, make_model: MakeModel, mode: tuple[str, ...]) -> None:
    make_model(head=flat())
    pytester.makefile(".yaml", ww="version: 1\nchecks: {alpha: {max: 6}}\n")
    assert run(pytester, *mode).parseoutcomes() == {"passed": 16, "failed": 1, "warned": 1}
    if "loadgroup" not in mode:  # loadgroup changes the ids that pytest's cache keeps, for every plugin
        assert run(pytester, "-n", "0", "--lf").parseoutcomes() == {"failed": 1, "deselected": 17}


@pytest.mark.parametrize("mode", MODES[1:3], ids=" ".join)
def test_beside_other_tests(pytester: pytest.Pytester, make_model: MakeModel, mode: tuple[str, ...]) -> None:
    make_model()
    pytester.makepyfile("def test_mine(): pass")
    assert run(pytester, *mode, ".").parseoutcomes() == {"passed": 19}


@pytest.mark.parametrize("mode", MODES[1:3], ids=" ".join)
def test_plain_run_with_a_committed_config(
    pytester: pytest.Pytester, make_model: MakeModel, mode: tuple[str, ...]
) -> None:
    make_model("sub/model.safetensors", head=flat())
    (pytester.path / "sub/ww.yaml").write_text(
        "version: 1\nmodels: [{path: model.safetensors}]\nreport: {json: out.json}\n", encoding="utf-8"
    )
    result = pytester.runpytest_subprocess("-p", "xdist", *mode)
    assert result.parseoutcomes() == {"passed": 16, "warned": 2}
    assert json.loads((pytester.path / "sub/out.json").read_text(encoding="utf-8"))["counts"]["warn"] == 2


@pytest.mark.parametrize("mode", MODES[1:3], ids=" ".join)
def test_baselines(pytester: pytest.Pytester, make_model: MakeModel, mode: tuple[str, ...]) -> None:
    make_model()
    pytester.runpytest("--ww-model=model.safetensors", "--ww-baseline=serial.ww.json", "--ww-update-baseline")
    run(pytester, *mode, "--ww-baseline=b.ww.json", "--ww-update-baseline")
    assert (pytester.path / "b.ww.json").read_bytes() == (pytester.path / "serial.ww.json").read_bytes()
    make_model(head=noise())
    result = run(pytester, *mode, "--ww-baseline=b.ww.json")
    assert result.parseoutcomes() == {"passed": 36, "failed": 4, "warned": 1}


def test_usage_errors(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.makefile(".yaml", ww="version: 1\nchekcs: {}\n")
    result = run(pytester, "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *ww.yaml:2: chekcs: unknown key; did you mean 'checks'?"])


def test_junitxml(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    run(pytester, "-n", "2", "--junitxml=out.xml")
    assert '<property name="ww_alpha" value="' in (pytester.path / "out.xml").read_text(encoding="utf-8")


def test_without_xdist(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    result = pytester.runpytest_subprocess("-p", "no:xdist", "--strict-markers", "--ww-model=model.safetensors")
    assert result.parseoutcomes() == {"passed": 16, "warned": 2}
