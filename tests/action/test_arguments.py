"""Inputs reach pytest word for word, and nothing in them is carried out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.action.harness import Harness, fake_result, noted_arguments, write_fake_python

HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "a b.pt",
    "--ww-fail-on=never",
    "-p",
    "'\"\\",
    "*|&<>",
    "${HOME}",
    "::error::pwned",
    "é 模型.pt",
)


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    return write_fake_python(tmp_path, fake_result("pass"))


@pytest.mark.parametrize("value", HOSTILE)
def test_models_reach_pytest_word_for_word(harness: Harness, fake: Path, value: str) -> None:
    outcome = harness.run(python=str(fake), install="false", model=f"first.pt\n{value}\n\n")
    (arguments,) = noted_arguments(fake.parent)
    assert [each for each in arguments if each.startswith("--ww-model=")] == [
        "--ww-model=first.pt",
        f"--ww-model={value}",
    ]
    assert not list(fake.parent.rglob("pwned"))
    assert outcome.outputs["outcome"] == "pass"
    assert not outcome.is_failed
    assert not outcome.orders


@pytest.mark.parametrize("value", HOSTILE)
def test_paths_reach_pytest_behind_their_option(harness: Harness, fake: Path, value: str) -> None:
    harness.run(python=str(fake), install="false", config=value, baseline=value, report_json=f"r/{value}/x.json")
    (arguments,) = noted_arguments(fake.parent)
    assert f"--ww-config={value}" in arguments
    assert f"--ww-baseline={value}" in arguments
    assert f"--ww-report=json:{harness.workspace}/r/{value}/x.json" in arguments
    assert not list(fake.parent.rglob("pwned"))


@pytest.mark.parametrize("value", HOSTILE)
def test_further_arguments_are_one_a_line(harness: Harness, fake: Path, value: str) -> None:
    harness.run(python=str(fake), install="false", args=f"-k\n{value}")
    (arguments,) = noted_arguments(fake.parent)
    assert arguments[: arguments.index("no:xdist") - 1][-2:] == ["-k", value]
    assert not list(fake.parent.rglob("pwned"))


@pytest.mark.parametrize(
    "argument",
    ["-n2", "-n", "-n=auto", "--numprocesses=2", "--dist=load", "--dist", "-d", "--tx=popen", "--looponfail"],
)
def test_workers_are_refused_in_a_sentence(harness: Harness, fake: Path, argument: str) -> None:
    outcome = harness.run(python=str(fake), install="false", args=argument)
    assert outcome.is_failed
    assert "no workers of pytest-xdist here" in outcome.of("error")[0].message
    assert not (fake.parent / "argv.json").exists()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("@more", "arguments are not read from a file"),
        ("ww_config=other.yaml", "has an input of its own"),
        ("-oww_baseline=x.json", "has an input of its own"),
        ("--override-ini=ww_model = x.pt", "has an input of its own"),
    ],
)
def test_what_would_hide_who_judges_is_refused(harness: Harness, fake: Path, argument: str, expected: str) -> None:
    outcome = harness.run(python=str(fake), install="false", args=f"-v\n{argument}")
    assert expected in outcome.of("error")[0].message
    assert not (fake.parent / "argv.json").exists()


def test_nothing_brings_the_workers_back(harness: Harness, fake: Path) -> None:
    harness.run(python=str(fake), install="false", args="-p\nxdist.plugin\n-vn2")
    (arguments,) = noted_arguments(fake.parent)
    assert arguments[-8:] == [
        "-p",
        "no:xdist",
        "-p",
        "no:xdist.plugin",
        "-p",
        "no:xdist.looponfail",
        "-p",
        "no:looponfail",
    ]


def test_settings_and_conftest_of_the_repository_are_not_read(harness: Harness, fake: Path) -> None:
    harness.run(python=str(fake), install="false", fail_on="warn", profile="finetune")
    (arguments,) = noted_arguments(fake.parent)
    settings = arguments[arguments.index("-c") + 1]
    assert Path(settings).read_text(encoding="utf-8") == "[pytest]\n"
    assert "--noconftest" in arguments
    assert "--ww-fail-on=warn" in arguments
    assert "--ww-profile=finetune" in arguments


def test_paths_inside_the_workspace_become_relative(harness: Harness, fake: Path) -> None:
    folder = harness.workspace
    harness.run(
        python=str(fake),
        install="false",
        config=f"{folder}/a/ww.yaml",
        baseline=f"{folder}/b.json",
        model=f"{folder}/*.pt",
    )
    (arguments,) = noted_arguments(fake.parent)
    assert {"--ww-config=a/ww.yaml", "--ww-baseline=b.json", "--ww-model=*.pt"} <= set(arguments)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("fail_on", "sometimes", "fail-on: expected one of nothing, fail, warn, never"),
        ("profile", "x\n::error::pwned", "profile: expected one of nothing, compression, finetune"),
        ("comment", "loud", "comment: expected one of always, changes, failures, off"),
        ("comment_key", "a --> b", "comment-key: expected 1 to 100 letters"),
    ],
)
def test_an_impossible_input_is_an_error_in_one_sentence(
    harness: Harness, fake: Path, name: str, value: str, expected: str
) -> None:
    outcome = harness.run(python=str(fake), install="false", **{name: value})
    assert outcome.outputs["outcome"] == "error"
    assert outcome.is_failed
    assert not (fake.parent / "argv.json").exists()
    first, last = outcome.of("error")
    assert expected in first.message
    assert "outcome: error" in last.message


@pytest.mark.parametrize(
    ("name", "value"), [("install", "perhaps"), ("extras", "torch]; touch pwned"), ("python", "no")]
)
def test_what_cannot_be_installed_fails_the_job(harness: Harness, fake: Path, name: str, value: str) -> None:
    outcome = harness.run(**{"python": str(fake), name: value})
    assert outcome.is_failed
    assert outcome.ran == ["Install the gate", "Verdict"]
    assert not list(fake.parent.rglob("pwned"))


def test_other_plugins_of_pytest_are_not_loaded(harness: Harness) -> None:
    body = "import os; print('autoload', os.environ.get('PYTEST_DISABLE_PLUGIN_AUTOLOAD'))\n" + fake_result("pass")
    fake = write_fake_python(harness.temp.parent, body)
    outcome = harness.run(python=str(fake), install="false", comment="off")
    assert "autoload 1" in outcome.log
    (arguments,) = noted_arguments(harness.temp.parent)
    assert arguments[arguments.index("ww") - 1] == "-p"
