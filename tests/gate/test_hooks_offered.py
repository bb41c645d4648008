"""The hooks that conftest files and plugins may implement, one by one; docs/example-plugin has its own tests."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_weightwatcher.checks import REGRESSION
from pytest_weightwatcher.extensions import PluginMeasure, collect_extensions
from pytest_weightwatcher.plugins import Finding, LayerCheck, Metric, Section
from spectral.pipeline import NoMeasure
from tests.gate.conftest import MakeModel, healthy_tensors

METRIC = """
import numpy as np
from pytest_weightwatcher.plugins import Metric

def pytest_ww_metrics():
    return [Metric(name="peak", function={function}, version="{version}")]
"""

PEAK = "lambda layer, slices: float(np.abs(slices.astype(np.float64)).max())"

CHECK = """
from pytest_weightwatcher.plugins import Finding, LayerCheck

def judge(layer, reference):
    {body}

def pytest_ww_checks():
    return [LayerCheck(name="square", function=judge, meaning="It is no square.", action="Make it one.")]
"""

LOADER = """
import numpy as np
from pytest_weightwatcher.plugins import TensorInfo

class Source:
    label = "mine"

    def __init__(self, tensors):
        self.arrays = tensors

    def tensors(self):
        return [TensorInfo(name=name, shape=each.shape, dtype=each.dtype.name) for name, each in self.arrays.items()]

    def load(self, name):
        {load}

def pytest_ww_load_model(path):
    if path.suffix == ".arrays":
        with np.load(path) as archive:
            tensors = dict(archive)
        return {found}
"""


@pytest.fixture(autouse=True)
def without_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a conftest.py anew that is written twice within one second."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def run(pytester: pytest.Pytester, *arguments: str, model: str = "model.safetensors") -> pytest.RunResult:
    return pytester.runpytest(f"--ww-model={model}", "--ww-report=json:out.json", *arguments)


def result_of(pytester: pytest.Pytester) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))
    return found


def verdicts(pytester: pytest.Pytester, check: str) -> list[str]:
    (model,) = result_of(pytester)["models"]
    return [each["verdict"] for each in model["checks"] if each["check"] == check]


def details(pytester: pytest.Pytester, check: str) -> str:
    (model,) = result_of(pytester)["models"]
    return " ".join(each["detail"] for each in model["checks"] if each["check"] == check)


def by_name(layers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {layer["name"]: layer for layer in layers}


def config(pytester: pytest.Pytester, text: str) -> None:
    pytester.makefile(".yaml", ww=f"version: 1\n{text}\n")


class TestLoadModel:
    @pytest.fixture(autouse=True)
    def model(self, pytester: pytest.Pytester) -> None:
        # By an open file: to a path numpy would add a suffix.
        with (pytester.path / "model.arrays").open("wb") as stream:
            np.savez(stream, **healthy_tensors())  # type: ignore[arg-type]  # taken for allow_pickle

    @pytest.mark.parametrize("found", ["tensors", "Source(tensors)"])
    def test_what_it_opens_is_judged_as_any_other(
        self, pytester: pytest.Pytester, make_model: MakeModel, found: str
    ) -> None:
        make_model()
        pytester.makeconftest(LOADER.format(found=found, load="return self.arrays[name]"))
        assert run(pytester).ret == 0
        expected = result_of(pytester)["models"][0]
        assert run(pytester, model="model.arrays").ret == 0
        model = result_of(pytester)["models"][0]
        assert model["path"] == "model.arrays"
        for layer in (*model["layers"], *expected["layers"]):
            del layer["index"]  # This loader lists the tensors in another order.
        assert by_name(model["layers"]) == by_name(expected["layers"])

    def test_a_baseline_checkpoint_is_opened_too(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makeconftest(LOADER.format(found="tensors", load="pass"))
        assert run(pytester, "--ww-baseline=model.arrays").ret == 0
        assert verdicts(pytester, REGRESSION + "spectrum") == ["pass"] * 4

    def test_none_leaves_it_to_the_gate(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest("def pytest_ww_load_model(path): return None")
        result = run(pytester, model="model.arrays")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: *model.arrays: no loader for .arrays; *"])

    def test_it_comes_before_the_gate(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makeconftest("import numpy as np\ndef pytest_ww_load_model(path): return {'mine': np.eye(64, 96)}")
        run(pytester)
        assert [layer["name"] for layer in result_of(pytester)["models"][0]["layers"]] == ["mine"]

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            ("[1]", "gave a list, expected a TensorSource, a mapping of arrays or None"),
            ("1 / 0", "pytest_ww_load_model failed: ZeroDivisionError: division by zero"),
            ("Source({})", "its source has no tensors*"),
        ],
    )
    def test_errors_end_the_run_and_name_the_plugin(self, pytester: pytest.Pytester, found: str, message: str) -> None:
        pytester.makeconftest(LOADER.format(found=found, load="pass"))
        result = run(pytester, model="model.arrays")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: *model.arrays: plugin conftest.py: *{message}"])

    @pytest.mark.parametrize(
        ("load", "message"),
        [
            ("raise OSError('gone')", "plugin conftest.py failed: OSError: gone"),
            ("return self.arrays[name][:1]", "plugin conftest.py announced float32 (96, 64), gave float32 (1, 64)"),
            ("return None", "plugin conftest.py announced float32 (96, 64), gave NoneType"),
        ],
    )
    def test_a_source_that_does_not_keep_its_word_is_an_error(
        self, pytester: pytest.Pytester, load: str, message: str
    ) -> None:
        pytester.makeconftest(LOADER.format(found="Source(tensors)", load=load))
        assert run(pytester, model="model.arrays").ret == pytest.ExitCode.TESTS_FAILED
        assert set(verdicts(pytester, "alpha")) == {"error"}
        assert message in details(pytester, "alpha")

    def test_a_missing_file_is_not_asked_for(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest("def pytest_ww_load_model(path): 1 / 0")
        result = run(pytester, model="other.arrays")
        result.stderr.fnmatch_lines(["ERROR: *other.arrays: no such file or folder"])


class TestMetrics:
    def test_limits_reports_and_overrides(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        head = healthy_tensors()["head.weight"].copy()
        head[3, 4] = 2.0
        make_model(head=head)
        pytester.makeconftest(METRIC.format(function=PEAK, version="1"))
        config(pytester, "checks: {peak: {max: 1.5}, correlation_traps: false, alpha: false}")
        assert run(pytester).ret == pytest.ExitCode.TESTS_FAILED
        assert verdicts(pytester, "peak") == ["pass", "pass", "pass", "fail"]
        (model,) = result_of(pytester)["models"]
        assert model["layers"][3]["metrics"]["peak"] == 2.0
        assert model["options"]["plugin_metrics"] == {"peak": "1"}
        config(pytester, "checks: {peak: {max: 1.5}}\noverrides: [{match: head, checks: {peak: {max: 3}}}]")
        assert run(pytester).ret == 0

    def test_no_number_never_passes(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        config(pytester, "checks: {peak: {max: 1.5}}")
        for function, verdict, message in (
            ("lambda layer, slices: float('nan')", "error", "metric 'peak' of plugin conftest.py gave nan"),
            ("lambda layer, slices: 'much'", "error", "gave 'much', which is no finite number"),
            ("lambda layer, slices: True", "error", "gave True"),
            ("lambda layer, slices: 1 / 0", "error", "plugin conftest.py failed: ZeroDivisionError: division by zero"),
            ("lambda layer, slices: None", "skipped", "plugin conftest.py is not defined for this layer"),
        ):
            pytester.makeconftest(METRIC.format(function=function, version="1"))
            result = run(pytester)
            assert result.ret == (pytest.ExitCode.TESTS_FAILED if verdict == "error" else 0)
            assert verdicts(pytester, "peak") == [verdict] * 4
            assert message in details(pytester, "peak")

    def test_a_policy_cannot_wave_an_error_through(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makeconftest(METRIC.format(function="lambda layer, slices: 1 / 0", version="1"))
        waiver = "{match: '*', check: '*', reason: r, expires: 2999-01-01}"
        config(pytester, f"checks: {{peak: {{max: 1.5, severity: warn}}}}\nwaivers: [{waiver}]")
        assert run(pytester).ret == pytest.ExitCode.TESTS_FAILED
        assert verdicts(pytester, "peak") == ["error"] * 4

    def test_baselines_hold_reuse_and_compare_them(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makeconftest(METRIC.format(function=PEAK, version="1"))
        config(pytester, "regression: {peak: {max_increase: 0.1}}")
        run(pytester, "--ww-baseline=b.json", "--ww-update-baseline")
        recorded = json.loads((pytester.path / "b.json").read_text(encoding="utf-8"))
        assert recorded["options"]["plugin_metrics"] == {"peak": "1"}
        assert all(entry["metrics"]["peak"] > 0.0 for entry in recorded["matrices"].values())
        assert run(pytester, "--ww-baseline=b.json").ret == 0
        (model,) = result_of(pytester)["models"]
        assert model["n_reused"] == 4
        assert {name: layer["metrics"]["peak"] for name, layer in by_name(model["layers"]).items()} == {
            name: entry["metrics"]["peak"] for name, entry in recorded["matrices"].items()
        }
        assert verdicts(pytester, "regression.peak") == ["pass"] * 4
        head = healthy_tensors()["head.weight"].copy()
        head[3, 4] = 2.0
        make_model(head=head)
        run(pytester, "--ww-baseline=b.json")
        assert verdicts(pytester, "regression.peak") == ["pass", "pass", "pass", "fail"]
        assert result_of(pytester)["models"][0]["n_reused"] == 3

    def test_another_version_is_neither_reused_nor_compared(
        self, pytester: pytest.Pytester, make_model: MakeModel
    ) -> None:
        make_model()
        pytester.makeconftest(METRIC.format(function=PEAK, version="1"))
        run(pytester, "--ww-baseline=b.json", "--ww-update-baseline")
        for text in (METRIC.format(function=PEAK, version="2"), ""):
            pytester.makeconftest(text)
            result = run(pytester, "--ww-baseline=b.json")
            assert result.ret == 0
            assert result_of(pytester)["models"][0]["n_reused"] == 0
            result.stdout.fnmatch_lines(["note: *plugin_metrics {'peak': '1'} (now *"])
        pytester.makeconftest(METRIC.format(function=PEAK, version="2"))
        config(pytester, "regression: {peak: {max_increase: 0.1}}")
        result = run(pytester, "--ww-baseline=b.json")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            ["ERROR: *b.json: recorded with version '1' of the metric 'peak', this run has version '2'; *"]
        )

    def test_a_baseline_without_the_metric_is_refused(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        run(pytester, "--ww-baseline=b.json", "--ww-update-baseline")
        pytester.makeconftest(METRIC.format(function=PEAK, version="1"))
        config(pytester, "regression: {peak: {max_increase: 0.1}}")
        result = run(pytester, "--ww-baseline=b.json")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: *b.json: recorded without the metric 'peak', *"])

    def test_what_failed_is_not_recorded(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makeconftest(METRIC.format(function="lambda layer, slices: 1 / 0", version="1"))
        result = run(pytester, "--ww-baseline=b.json", "--ww-update-baseline")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert not (pytester.path / "b.json").exists()
        result.stdout.fnmatch_lines(
            ["problem: *not recorded: encoder.0.key: metric 'peak' of plugin conftest.py failed*"]
        )

    def test_a_checkpoint_as_baseline_is_measured_too(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        head = healthy_tensors()["head.weight"].copy()
        head[3, 4] = 2.0
        make_model("base.safetensors")
        make_model(head=head)
        pytester.makeconftest(METRIC.format(function=PEAK, version="1"))
        config(pytester, "regression: {peak: {max_increase: 0.1}}")
        run(pytester, "--ww-baseline=base.safetensors")
        assert verdicts(pytester, "regression.peak") == ["pass", "pass", "pass", "fail"]

    def test_damaged_layers_fail_as_for_any_metric(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model(head=np.full((96, 64), np.nan, dtype=np.float32))
        pytester.makeconftest(METRIC.format(function=PEAK, version="1"))
        config(pytester, "checks: {peak: {max: 9}}")
        run(pytester)
        assert verdicts(pytester, "peak") == ["pass", "pass", "pass", "fail"]

    def test_names_are_known_with_their_plugin_only(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        config(pytester, "checks: {peak: {max: 9}}")
        result = run(pytester)
        result.stderr.fnmatch_lines(["ERROR: *ww.yaml:2: checks.peak: no such check*"])
        pytester.makeconftest(METRIC.format(function=PEAK, version="1"))
        config(pytester, "checks: {peek: {max: 9}}")
        run(pytester).stderr.fnmatch_lines(["ERROR: *ww.yaml:2: checks.peek: no such check; did you mean 'peak'?"])
        config(pytester, "regression: {peek: {max_increase: 9}}")
        run(pytester).stderr.fnmatch_lines(["ERROR: *ww.yaml:2: regression.peek: *; did you mean 'peak'?"])

    @pytest.mark.parametrize(
        ("hook", "message"),
        [
            ("return [Metric(name='alpha', function=len)]", "Metric 'alpha': the name belongs to the gate already"),
            ("return [Metric(name='a.b', function=len)]", "Metric 'a.b': a name is a letter*"),
            ("return [Metric(name='a', function=1)]", "Metric 'a': the function cannot be called"),
            ("return [Metric(name='a', function=len, version=2)]", "metric 'a': the version must be text"),
            (
                "return [Metric(name='a', function=len)] * 2",
                "Metric 'a': the name belongs to plugin conftest.py already",
            ),
            ("return ['a']", "pytest_ww_metrics gave a str, expected a Metric"),
            ("return 3", "pytest_ww_metrics failed: TypeError: *"),
            ("raise RuntimeError('no')", "pytest_ww_metrics failed: RuntimeError: no"),
        ],
    )
    def test_what_cannot_be_used_ends_the_run(
        self, pytester: pytest.Pytester, make_model: MakeModel, hook: str, message: str
    ) -> None:
        make_model()
        pytester.makeconftest(
            f"from pytest_weightwatcher.plugins import Metric\ndef pytest_ww_metrics():\n    {hook}\n"
        )
        result = run(pytester)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: plugin conftest.py: {message}"])

    def test_the_same_with_xdist(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makeconftest(METRIC.format(function=PEAK, version="1") + CHECK.format(body="return 3"))
        config(pytester, "checks: {peak: {max: 0.5}}")
        run(pytester)
        serial = (pytester.path / "out.json").read_bytes()
        arguments = ("--ww-model=model.safetensors", "--ww-report=json:out.json", "-p", "xdist", "-n", "2")
        pytester.runpytest_subprocess(*arguments, "--dist", "loadgroup")
        assert (pytester.path / "out.json").read_bytes() == serial


class TestChecks:
    def test_a_finding_is_a_verdict_like_any_other(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        body = "return Finding(verdict='fail', detail='96 x 64', value=1.5, limit={'max': 1.0})"
        pytester.makeconftest(CHECK.format(body=body))
        result = run(pytester)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(
            ["fail: head of model.safetensors: square (rule: plugin conftest.py)", "*What it means: It is no square."]
        )
        (found,) = [
            each
            for each in result_of(pytester)["models"][0]["checks"]
            if each["id"] == "ww.yaml::model.safetensors::head::square"
        ]
        assert (found["value"], found["limit"], found["detail"]) == (1.5, {"max": 1.0}, "96 x 64")
        assert (found["meaning"], found["action"], found["plugin"]) == (
            "It is no square.",
            "Make it one.",
            "conftest.py",
        )

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("checks: {square: {severity: warn}}", ["warn"] * 4),
            ("checks: {square: false}", []),
            ("overrides: [{match: head, checks: {square: false}}]", ["fail"] * 3),
            ("overrides: [{match: head, checks: {square: {severity: warn}}}]", ["fail"] * 3 + ["warn"]),
            ("waivers: [{match: head, check: square, reason: r, expires: 2999-01-01}]", ["fail"] * 3 + ["waived"]),
        ],
    )
    def test_ww_yaml_has_the_last_word(
        self, pytester: pytest.Pytester, make_model: MakeModel, text: str, expected: list[str]
    ) -> None:
        make_model()
        pytester.makeconftest(CHECK.format(body="return Finding(verdict='fail', detail='no')"))
        config(pytester, text)
        run(pytester)
        assert verdicts(pytester, "square") == expected

    def test_bounds_are_refused(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makeconftest(CHECK.format(body="return Finding(verdict='fail', detail='no')"))
        config(pytester, "checks: {square: {max: 3}}")
        run(pytester).stderr.fnmatch_lines(
            ["ERROR: *ww.yaml:2: checks.square.max: a check of a plugin judges by itself*"]
        )

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("1 / 0", "check 'square' of plugin conftest.py failed: ZeroDivisionError: division by zero"),
            ("return True", "check 'square' of plugin conftest.py gave a bool, expected a Finding"),
            ("return Finding(verdict='pass', detail='x', value=float('nan'))", "a value of nan cannot pass"),
            ("return Finding(verdict='ok', detail='x')", "the verdict must be one of pass, warn, fail"),
        ],
    )
    def test_what_fails_is_an_error(
        self, pytester: pytest.Pytester, make_model: MakeModel, body: str, message: str
    ) -> None:
        make_model()
        pytester.makeconftest(CHECK.format(body=body))
        assert run(pytester).ret == pytest.ExitCode.TESTS_FAILED
        assert verdicts(pytester, "square") == ["error"] * 4
        assert message in details(pytester, "square")

    def test_it_sees_the_baseline_and_the_same_whether_reused_or_not(
        self, pytester: pytest.Pytester, make_model: MakeModel
    ) -> None:
        make_model()
        body = "return Finding(verdict='pass', detail=f'{reference == layer} {layer.evals} {layer.sketch[0]}')"
        pytester.makeconftest(CHECK.format(body=body))
        run(pytester)
        assert details(pytester, "square").startswith("False None 2.")
        run(pytester, "--ww-baseline=b.json", "--ww-update-baseline")
        alone = details(pytester, "square")
        run(pytester, "--ww-baseline=b.json")
        assert result_of(pytester)["models"][0]["n_reused"] == 4
        assert details(pytester, "square").split()[2] == alone.split()[2]

    def test_numbers_and_text_of_any_kind_can_be_reported(
        self, pytester: pytest.Pytester, make_model: MakeModel
    ) -> None:
        make_model()
        value = "value=np.float32(1.5), limit={'max': np.int64(1)}"
        body = f"import numpy as np; return Finding(verdict='warn', detail='a\\n::error::b', {value})"
        pytester.makeconftest(CHECK.format(body=body))
        result = run(pytester)
        assert result.ret == 0
        result.stdout.no_fnmatch_line("::error::*")
        (found, *_) = [each for each in result_of(pytester)["models"][0]["checks"] if each["check"] == "square"]
        assert (found["value"], found["limit"], found["detail"]) == (1.5, {"max": 1.0}, "a\\n::error::b")

    def test_inconclusive_obeys_the_policy(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makeconftest(CHECK.format(body="return Finding(verdict='inconclusive', detail='who knows')"))
        run(pytester)
        assert verdicts(pytester, "square") == ["inconclusive"] * 4
        config(pytester, "policy: {inconclusive: fail}")
        run(pytester)
        assert verdicts(pytester, "square") == ["fail"] * 4


class TestReportSection:
    def section(self, pytester: pytest.Pytester, text: str) -> pytest.RunResult:
        pytester.makeconftest(
            f"from pytest_weightwatcher.plugins import Section\ndef pytest_ww_report_section(result):\n    {text}\n"
        )
        return run(pytester, "--ww-report=md:out.md")

    def test_it_is_appended_and_cannot_act(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        self.section(
            pytester,
            "return Section(title='# <b>T</b>', text='one\\ntwo\\n\\n**three**', columns=('a|b', 'c'), "
            "rows=[('<script>', 1.23456), (None, float('nan')), (True, 7)])",
        )
        assert result_of(pytester)["sections"] == [
            {
                "plugin": "conftest.py",
                "title": "# <b>T</b>",
                "text": "one\ntwo\n\n**three**",
                "columns": ["a|b", "c"],
                "rows": [["<script>", 1.23456], [None, None], [True, 7]],
            }
        ]
        page = (pytester.path / "out.md").read_text(encoding="utf-8")
        part = page[page.index("### &#35;&#8203; &#60;b&#62;T&#60;&#47;b&#62;") :]
        assert "\n\none two\n\n&#42;&#42;three&#42;&#42;\n\n" in part
        assert "| a&#124;b | c |\n| --- | --- |\n| &#60;script&#62; | 1.235 |\n| – | – |\n| yes | 7 |\n\n" in part
        assert "<script>" not in page

    def test_without_one_nothing_changes(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        run(pytester)
        expected = result_of(pytester)
        assert "sections" not in expected
        self.section(pytester, "result.clear()")
        assert result_of(pytester) == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("raise RuntimeError('no')", "plugin conftest.py: pytest_ww_report_section failed: RuntimeError: no"),
            ("return 'text'", "plugin conftest.py: pytest_ww_report_section gave a str, expected a Section"),
            ("return Section(title=' ')", "*failed: ValueError: a section needs a title, got ' '"),
            ("return Section(title='a', rows=[(1,)])", "*failed: ValueError: a row of 1 cells under 0 columns"),
        ],
    )
    def test_trouble_is_a_problem_and_the_report_is_written(
        self, pytester: pytest.Pytester, make_model: MakeModel, text: str, message: str
    ) -> None:
        make_model()
        result = self.section(pytester, text)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stdout.fnmatch_lines([f"problem: {message}"])
        assert "sections" not in result_of(pytester)

    def test_long_tables_are_cut_in_markdown_only(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        self.section(pytester, "return Section(title='T', columns=('n',), rows=[(n,) for n in range(60)])")
        assert len(result_of(pytester)["sections"][0]["rows"]) == 60
        assert "In the full report: 10 more rows." in (pytester.path / "out.md").read_text(encoding="utf-8")


def test_a_conftest_of_the_rootdir_is_heard_from_below(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("sub/model.safetensors")
    pytester.makeini("[pytest]")
    pytester.makeconftest(METRIC.format(function=PEAK, version="1"))
    (pytester.path / "sub/ww.yaml").write_text("version: 1\nchecks: {peak: {max: 9}}\n", encoding="utf-8")
    os.chdir(pytester.path / "sub")
    result = pytester.runpytest_subprocess("--ww-model=model.safetensors", "-k", "peak")
    assert result.parseoutcomes() == {"passed": 4, "deselected": 18}


def test_plugins_are_told_apart(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    metric = "from pytest_weightwatcher.plugins import Metric\ndef pytest_ww_metrics():\n    return [Metric(name='m', "
    pytester.makepyfile(first=f"{metric}function=len)]", second=f"{metric}function=len)]")
    pytester.syspathinsert()
    result = run(pytester, "-p", "first", "-p", "second")
    result.stderr.fnmatch_lines(["ERROR: plugin first: Metric 'm': the name belongs to plugin second already"])


def test_hooks_without_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import pytest\n@pytest.hookimpl(optionalhook=True)\ndef pytest_ww_metrics():\n    return []\n"
    )
    pytester.makepyfile("def test_mine(): pass")
    pytester.runpytest_subprocess("-p", "no:ww").assert_outcomes(passed=1)


def test_a_session_without_plugins_has_no_extensions(pytester: pytest.Pytester) -> None:
    extensions = collect_extensions(pytester.parseconfig())
    assert (extensions.measures, dict(extensions.checks), extensions.versions) == ((), {}, {})
    assert extensions.open_with(Path("model.arrays")) == Path("model.arrays")


@pytest.mark.parametrize("value", [np.float32(2.5), np.int64(2), 2, 2.5])
def test_numbers_become_those_of_python(value: Any) -> None:
    measure = PluginMeasure(plugin="p", metric=Metric(name="m", function=lambda layer, slices: value))
    found = measure(None, _Matrix())  # type: ignore[arg-type]  # the function looks at neither
    assert type(found) in (int, float)
    assert found == value


@pytest.mark.parametrize("value", [1e301, -np.inf, np.bool_(True), 10**400, np.zeros(1), 1j])
def test_other_things_are_no_numbers(value: Any) -> None:
    measure = PluginMeasure(plugin="p", metric=Metric(name="m", function=lambda layer, slices: value))
    found = measure(None, _Matrix())  # type: ignore[arg-type]  # the function looks at neither
    assert isinstance(found, NoMeasure)
    assert found.is_error
    assert "which is no finite number" in found.reason


class _Matrix:
    slices = None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Finding(verdict="waived", detail="x"), "the verdict must be one of"),  # type: ignore[arg-type]
        (lambda: Finding(verdict="pass", detail=""), "the detail must be a sentence"),
        (lambda: Finding(verdict="pass", detail="x", value=float("inf")), "a value of inf cannot pass"),
        (lambda: Finding(verdict="fail", detail="x", limit={"most": 1.0}), "a limit has min and max, got most"),
        (lambda: Section(title=""), "a section needs a title"),
        (lambda: Section(title="a", columns=("b",), rows=((1, 2),)), "a row of 2 cells under 1 columns"),
    ],
)
def test_records_are_checked_where_they_are_made(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_every_public_type_has_its_one_place() -> None:
    from pytest_weightwatcher import plugins

    assert {name for name in plugins.__all__ if getattr(plugins, name) is not None} == set(plugins.__all__)
    assert LayerCheck is plugins.LayerCheck
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = plugins.Nothing
