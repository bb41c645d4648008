"""--ww-model, --ww-config, --ww-report, --ww-fail-on, --ww-jobs: command line, ini file, precedence."""

from __future__ import annotations

import json

import pytest

from tests.gate.conftest import MakeModel, flat


def counts_of(pytester: pytest.Pytester, *arguments: str) -> dict[str, int]:
    return pytester.runpytest(*arguments).parseoutcomes()


def test_model_is_repeatable_and_takes_patterns(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    for name in ("a/model.safetensors", "b/model.safetensors", "c.safetensors"):
        make_model(name)
    result = pytester.runpytest("--ww-model=?/model.safetensors", "--ww-model=c.safetensors", "--co", "-q")
    names = {line.split("::")[1] for line in result.outlines if "::" in line}
    assert names == {"a/model.safetensors", "b/model.safetensors", "c.safetensors"}


def checked_models(pytester: pytest.Pytester, *arguments: str) -> set[str]:
    lines = pytester.runpytest("--co", "-q", *arguments).outlines
    return {line.split("::")[1] for line in lines if "::" in line}


def test_findings_of_several_models_name_theirs(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("a.safetensors", head=flat())
    make_model("b.safetensors")
    result = pytester.runpytest("--ww-model=*.safetensors")
    result.stdout.fnmatch_lines(["WARN  a.safetensors: head alpha: *"])
    assert "a.safetensors: head" not in str(pytester.runpytest("--ww-model=a.safetensors").stdout)


def test_a_file_named_like_a_pattern_hides_no_other(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("odd[1].safetensors")
    assert checked_models(pytester, "--ww-model=odd[1].safetensors") == {"odd%5B1%5D.safetensors"}
    make_model("odd1.safetensors")
    both = {"odd%5B1%5D.safetensors", "odd1.safetensors"}
    assert checked_models(pytester, "--ww-model=odd[1].safetensors") == both


def test_the_current_folder_is_no_pattern(
    pytester: pytest.Pytester, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model("job[12]/mine.safetensors")
    make_model("job1/theirs.safetensors")
    monkeypatch.chdir(pytester.path / "job[12]")
    assert checked_models(pytester, "--ww-model=*.safetensors", "--rootdir=.") == {"mine.safetensors"}


def test_one_file_by_two_names_is_checked_once(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model("a/model.safetensors")
    (pytester.path / "b").symlink_to("a")
    arguments = ("--ww-model=a/model.safetensors", "--ww-model=b/../a/model.safetensors", "--ww-model=b/*")
    assert pytester.runpytest(*arguments).parseoutcomes() == {"passed": 18}


@pytest.mark.parametrize("option", ["--ww-model=", "--ww-config=", "--ww-baseline="])
def test_an_empty_value_is_refused(pytester: pytest.Pytester, make_model: MakeModel, option: str) -> None:
    """An unset variable in CI must not switch the gate off."""
    make_model()
    result = pytester.runpytest("--ww-model=model.safetensors", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the value is empty*"])


@pytest.mark.parametrize("config", ["../limits.yaml", "../sub/../ww.yaml", ".github/ww.yaml"])
@pytest.mark.parametrize("paths", [(), (".",), ("test_mine.py",)], ids=["alone", "folder", "file"])
def test_the_model_of_the_command_line_is_checked_wherever_the_config_lies(
    pytester: pytest.Pytester,
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    paths: tuple[str, ...],
) -> None:
    make_model("sub/named.safetensors")
    make_model("other.safetensors")
    folder = pytester.path / "sub"
    target = folder / config
    target.parent.mkdir(exist_ok=True)
    target.write_text("version: 1\nmodels: [{path: '*/../other.safetensors'}]\n", encoding="utf-8")
    (folder / "test_mine.py").write_text("def test_mine(): pass", encoding="utf-8")
    monkeypatch.chdir(folder)
    result = pytester.runpytest("--ww-model=named.safetensors", f"--ww-config={config}", "-v", *paths)
    assert result.parseoutcomes() == {"passed": 18 + bool(paths)}
    result.stdout.fnmatch_lines(["*::named.safetensors::head::alpha PASSED*"])


def test_a_conftest_cannot_hide_the_config(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    pytester.makefile(".yaml", ww="version: 1\nchecks: {alpha: {max: 6}}\n")
    pytester.makeconftest("collect_ignore_glob = ['*.yaml']")
    pytester.makepyfile("def test_mine(): pass")
    pytester.runpytest("--ww-model=model.safetensors", ".").assert_outcomes(passed=17, failed=1)


def test_an_ini_model_leaves_the_own_tests_running(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.makeini("[pytest]\nww_model = model.safetensors\n")
    pytester.makepyfile("def test_mine(): assert 0")
    pytester.runpytest().assert_outcomes(passed=18, failed=1)


@pytest.mark.parametrize("arguments", [("--ww-config=ww.yaml",), ("--ww-report=json:r.json", "test_mine.py")])
def test_asked_for_and_without_models(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makefile(".yaml", ww="version: 1\n")
    (pytester.path / "test_mine.py").write_text("def test_mine(): pass", encoding="utf-8")
    result = pytester.runpytest(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*ww.yaml: no models to check: add --ww-model PATH, or models: to ww.yaml"])


def test_a_config_that_is_a_dangling_link(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    (pytester.path / "ww.yaml").symlink_to("nowhere")
    result = pytester.runpytest("--ww-model=model.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*ww.yaml: no such file"])


def test_control_characters_do_not_reach_the_terminal(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--ww-model=a\n::error::x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert not [line for line in result.errlines if line.startswith("::")]


def test_a_report_over_an_input_is_refused(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    path = make_model()
    before = path.read_bytes()
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:model.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*is a model, a baseline or a configuration of this run, no place for a report"])
    assert path.read_bytes() == before


def test_two_reports_to_one_place_are_refused(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:x", "--ww-report=md:x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*two reports would be written to *x"])


def test_a_report_into_a_pipe_leaves_the_pipe(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    import os
    import stat
    import threading

    make_model()
    pipe = pytester.path / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    pytester.runpytest("--ww-model=model.safetensors", f"--ww-report=md:{pipe}")
    reader.join(timeout=10)
    assert received[0].startswith("## Checkpoint gate: pass")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_skip_marker_on_an_item(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.makeconftest(
        """
        import pytest

        def pytest_collection_modifyitems(items):
            for item in items:
                if "head" in item.nodeid:
                    item.add_marker(pytest.mark.skip(reason="mine"))
        """
    )
    result = pytester.runpytest("--ww-model=model.safetensors")
    assert result.parseoutcomes() == {"passed": 14, "skipped": 4}
    result.stdout.fnmatch_lines(["only 14 of 18 checks ran"])


def test_new_first(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    """--nf looks at the file of each item, which may not exist."""
    make_model()
    assert pytester.runpytest("--ww-model=model.safetensors", "--nf").parseoutcomes() == {"passed": 18}


def test_an_item_that_is_lost_is_no_pass(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_call(item):
            if item.nodeid.endswith("head::alpha"):
                raise RuntimeError("broken")
        """
    )
    pytester.makefile(".yaml", ww="version: 1\n")
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["outcome"] == "error"


@pytest.mark.parametrize(("policy", "code"), [("fail", 0), ("warn", 1), ("never", 0)])
def test_fail_on_with_a_warning(pytester: pytest.Pytester, make_model: MakeModel, policy: str, code: int) -> None:
    make_model(head=flat())
    result = pytester.runpytest("--ww-model=model.safetensors", f"--ww-fail-on={policy}", "-v")
    assert result.ret == code
    result.stdout.fnmatch_lines(["*::head::alpha FAILED*" if code else "*::head::alpha WARN *"])
    result.stdout.fnmatch_lines(["outcome: warn (16 pass, 2 warn)"])


@pytest.mark.parametrize(("policy", "code"), [("fail", 1), ("warn", 1), ("never", 0)])
def test_fail_on_with_a_failure(pytester: pytest.Pytester, make_model: MakeModel, policy: str, code: int) -> None:
    make_model(head=flat())
    pytester.makefile(".yaml", ww="version: 1\nchecks: {alpha: {max: 6}}\n")
    result = pytester.runpytest("--ww-model=model.safetensors", f"--ww-fail-on={policy}", "-v")
    assert result.ret == code
    result.stdout.fnmatch_lines(["*::head::alpha FAILED*" if code else "*::head::alpha FAIL (not enforced)*"])
    result.stdout.fnmatch_lines(["outcome: fail (16 pass, 1 warn, 1 fail)"])


def test_fail_on_refuses_other_words(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--ww-fail-on=maybe")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--ww-fail-on*invalid choice: 'maybe'*"])


def test_config_elsewhere(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    folder = pytester.mkdir("limits")
    (folder / "strict.yaml").write_text("version: 1\nchecks: {alpha: {max: 6}}\n", encoding="utf-8")
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-config=limits/strict.yaml")
    result.assert_outcomes(passed=16, failed=1)
    result.stdout.fnmatch_lines(["*(rule: strict.yaml:2)"])


def test_rule_points_at_its_line(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    pytester.makefile(
        ".yaml", ww="version: 1\nchecks:\n  alpha: {max: 99}\noverrides:\n- match: h*\n  checks:\n    alpha: {max: 6}\n"
    )
    result = pytester.runpytest("--ww-model=model.safetensors")
    result.stdout.fnmatch_lines(["fail: head of model.safetensors: alpha (rule: ww.yaml:7)"])


def test_overrides_change_only_what_they_name(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    pytester.makefile(
        ".yaml",
        ww="version: 1\nchecks: {alpha: {min: 2, max: 6}}\noverrides:\n- {match: 'he*', checks: {alpha: {max: 500}}}\n",
    )
    assert counts_of(pytester, "--ww-model=model.safetensors") == {"passed": 17, "warned": 1}
    pytester.makefile(
        ".yaml",
        ww="version: 1\nchecks: {alpha: {min: 2, max: 6}}\noverrides:\n- {match: head, checks: {alpha: false}}\n",
    )
    assert counts_of(pytester, "--ww-model=model.safetensors") == {"passed": 16, "warned": 1}


def test_any_metric_can_be_limited(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    pytester.makefile(
        ".yaml", ww="version: 1\nchecks: {stable_rank: {min: 1000, severity: warn}, matrix_rank: {min: 64}}\n"
    )
    assert counts_of(pytester, "--ww-model=model.safetensors") == {"passed": 22, "warned": 4}


def test_exclude_is_no_gap_in_coverage(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    pytester.makefile(".yaml", ww="version: 1\nanalysis: {exclude: [head]}\n")
    assert counts_of(pytester, "--ww-model=model.safetensors") == {"passed": 14}


def test_coverage_below_its_limit_fails(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    import numpy as np

    make_model(big=np.zeros((300, 300), np.int8))
    result = pytester.runpytest("--ww-model=model.safetensors")
    result.assert_outcomes(passed=17, failed=1)
    result.stdout.fnmatch_lines(["*21.4% of the parameters were analysed, in 4 matrices*"])


def test_reports(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    arguments = ("--ww-model=model.safetensors", "--ww-report=json:new/out.json", "--ww-report=md:out.md")
    result = pytester.runpytest(*arguments)
    result.stdout.fnmatch_lines(["json: *new/out.json", "md: *out.md"])
    payload = json.loads((pytester.path / "new/out.json").read_text(encoding="utf-8"))
    assert payload["format"] == 1
    assert payload["outcome"] == "pass"
    assert (pytester.path / "out.md").read_text(encoding="utf-8").startswith("## Checkpoint gate: pass")
    before = (pytester.path / "new/out.json").read_bytes(), (pytester.path / "out.md").read_bytes()
    pytester.runpytest(*arguments)
    assert before == ((pytester.path / "new/out.json").read_bytes(), (pytester.path / "out.md").read_bytes())


@pytest.mark.parametrize("value", ["json", "json:", "pdf:out.pdf", ":x"])
def test_report_refuses_what_it_cannot_write(pytester: pytest.Pytester, value: str) -> None:
    result = pytester.runpytest(f"--ww-report={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--ww-report: expected TYPE:PATH with TYPE one of json, md*"])


def test_report_into_a_folder_is_refused_at_once(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:.")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*is a folder, expected a file for the json report"])


def test_report_that_cannot_be_written_is_no_pass(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    (pytester.path / "blocked").write_text("a file, not a folder", encoding="utf-8")
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:blocked/out.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *out.json: *blocked is not a folder"])


def test_report_that_turns_out_unwritable_is_no_pass(
    pytester: pytest.Pytester, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    result = pytester.runpytest("--ww-model=model.safetensors", "--ww-report=json:out.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["problem: *out.json: the report cannot be written: No space left on device"])
    assert not (pytester.path / "out.json").exists()


def test_report_of_the_config_through_a_link_is_refused(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    outside = pytester.path.parent / f"{pytester.path.name}-outside"
    outside.mkdir()
    (pytester.path / "link").symlink_to(outside)
    pytester.makefile(".yaml", ww="version: 1\nreport: {json: link/out.json}\n")
    result = pytester.runpytest("--ww-model=model.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'link/out.json' is outside the folder of ww.yaml"])
    assert not list(outside.iterdir())


def test_command_line_goes_before_ini_goes_before_config(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    for name in ("cli.safetensors", "ini.safetensors", "yaml.safetensors"):
        make_model(name)

    def checked(*arguments: str) -> set[str]:
        lines = pytester.runpytest("--co", "-q", *arguments).outlines
        return {line.split("::")[1] for line in lines if "::" in line}

    pytester.makefile(".yaml", ww="version: 1\nmodels: [{path: yaml.safetensors}]\n")
    assert checked() == {"yaml.safetensors"}
    pytester.makeini("[pytest]\nww_model =\n    ini.safetensors\n")
    assert checked() == {"ini.safetensors"}
    assert checked("--ww-model=cli.safetensors") == {"cli.safetensors"}


def test_every_option_is_an_ini_option(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    pytester.makefile(".yaml", other="version: 1\nchecks: {alpha: {max: 6, severity: warn}}\n")
    pytester.makeini(
        """
        [pytest]
        ww_model = model.safetensors
        ww_config = other.yaml
        ww_report = json:out.json
        ww_fail_on = warn
        ww_jobs = 1
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=16, failed=2)
    assert (pytester.path / "out.json").exists()
    result = pytester.runpytest("--ww-fail-on=never")
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ww_fail_on = maybe", "ini option ww_fail_on: expected one of fail, warn, never, got 'maybe'"),
        ("ww_jobs = -1", "ini option ww_jobs: expected a positive number or auto, got '-1'"),
        ("ww_report = pdf:x", "ini option ww_report: expected TYPE:PATH*"),
    ],
)
def test_ini_options_are_checked(pytester: pytest.Pytester, make_model: MakeModel, line: str, message: str) -> None:
    make_model()
    pytester.makeini(f"[pytest]\n{line}\n")
    result = pytester.runpytest("--ww-model=model.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])


def test_jobs_do_not_change_the_result(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    contents = []
    for jobs in ("1", "3", "auto"):
        pytester.runpytest("--ww-model=model.safetensors", f"--ww-jobs={jobs}", "--ww-report=json:out.json")
        contents.append((pytester.path / "out.json").read_bytes())
    assert len(set(contents)) == 1


def test_nothing_checked_is_never_a_pass(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"w": np.ones((9, 4), np.float32) * np.arange(4, dtype=np.float32)}, pytester.path / "small.safetensors")
    result = pytester.runpytest("--ww-model=small.safetensors", "-k", "alpha")
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(["outcome: inconclusive (1 skipped)"])
    assert pytester.runpytest("--ww-model=small.safetensors", "-k", "nope").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_quiet_and_no_header(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model(head=flat())
    result = pytester.runpytest("--ww-model=model.safetensors", "-q")
    result.stdout.fnmatch_lines(["outcome: warn (16 pass, 2 warn)"])
    result.stdout.no_fnmatch_line("WARN*")
    result = pytester.runpytest("--ww-model=model.safetensors", "--no-header")
    result.stdout.no_fnmatch_line("ww: *")
    result = pytester.runpytest("--ww-model=model.safetensors")
    result.stdout.fnmatch_lines(["ww: 1 model, 4 matrices; built-in limits; baseline: none; fail on: fail"])
