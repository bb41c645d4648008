"""Whatever is wrong with the input: one sentence that names file and place, exit code 4, no file touched."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from tests.gate.conftest import MakeModel


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "cache" not in str(path)
    }


def usage_error(pytester: pytest.Pytester, *arguments: str) -> str:
    """Run, demand exit code 4 and unchanged files, and return the one line of the error."""
    before = snapshot(pytester.path)
    result = pytester.runpytest("-p", "no:cacheprovider", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert snapshot(pytester.path) == before
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    return line


def test_missing_file(pytester: pytest.Pytester) -> None:
    assert "nope.safetensors: no such file" in usage_error(pytester, "--ww-model=nope.safetensors")


def test_pattern_without_match(pytester: pytest.Pytester) -> None:
    assert "out/*.safetensors: no file matches" in usage_error(pytester, "--ww-model=out/*.safetensors")


def test_folder_without_weights(pytester: pytest.Pytester) -> None:
    pytester.mkdir("folder")
    assert "holds no weights" in usage_error(pytester, "--ww-model=folder")


def test_unknown_format(pytester: pytest.Pytester) -> None:
    (pytester.path / "model.xyz").write_text("x", encoding="utf-8")
    assert "model.xyz: no loader for .xyz" in usage_error(pytester, "--ww-model=model.xyz")


def test_model_of_vectors_only(pytester: pytest.Pytester) -> None:
    header = json.dumps({"bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path = pytester.path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "holds no weight matrix" in usage_error(pytester, "--ww-model=model.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x00\x01", "truncated"),
        (struct.pack("<Q", 2**60) + b"{}", "header claims"),
        (struct.pack("<Q", 3) + b"{}x", "not valid JSON"),
        (
            struct.pack("<Q", 58) + b'{"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0'[:58] + b"\0" * 60,
            "not valid JSON",
        ),
    ],
    ids=["empty", "cut-in-length", "header-length", "header-no-json", "cut-in-header"],
)
def test_damaged_safetensors(pytester: pytest.Pytester, content: bytes, message: str) -> None:
    (pytester.path / "model.safetensors").write_bytes(content)
    line = usage_error(pytester, "--ww-model=model.safetensors")
    assert "model.safetensors: " in line
    assert message in line


def test_truncated_safetensors(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    path = make_model()
    path.write_bytes(path.read_bytes()[:-100])
    line = usage_error(pytester, "--ww-model=model.safetensors")
    assert "outside the file" in line
    assert "tensor 'head.weight'" in line or "tensor 'head.bias'" in line or "tensor 'encoder" in line


def test_header_that_points_outside_the_file(pytester: pytest.Pytester) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [64, 64], "data_offsets": [0, 16384]}}).encode()
    (pytester.path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(100))
    line = usage_error(pytester, "--ww-model=model.safetensors")
    assert "tensor 'w' ends at byte" in line
    assert "outside the file" in line


@pytest.mark.parametrize(
    ("shard", "message"),
    [("../../etc/passwd", "outside its folder"), ("gone.safetensors", "which is missing")],
)
def test_index_that_names_what_it_must_not(pytester: pytest.Pytester, shard: str, message: str) -> None:
    folder = pytester.mkdir("folder")
    index = {"weight_map": {"w": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    line = usage_error(pytester, "--ww-model=folder")
    assert "model.safetensors.index.json: names the shard" in line
    assert message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nchekcs: {}\n", "ww.yaml:2: chekcs: unknown key; did you mean 'checks'?"),
        ("version: 1\nchecks:\n  alpah: {min: 2}\n", "ww.yaml:3: checks.alpah: no such check; did you mean 'alpha'?"),
        ("version: 1\nchecks:\n  alpha: {mim: 2}\n", "ww.yaml:3: checks.alpha.mim: unknown key; did you mean 'min'?"),
        (
            "version: 1\nchecks:\n  alpha: {min: two}\n",
            "ww.yaml:3: checks.alpha.min: expected a valid number, got 'two'",
        ),
        ("version: 1\nchecks:\n  alpha: 3\n", "ww.yaml:3: checks.alpha: expected keys and values, got 3"),
        ("version: 1\nchecks:\n  alpha: {min: 7, max: 2}\n", "ww.yaml:3: checks.alpha: min 7 is larger than max 2"),
        ("version: 1\nchecks:\n  alpha: {min: .nan}\n", "ww.yaml:3: checks.alpha.min: expected a finite number"),
        ("version: 1\nchecks:\n  alpha:\n", "ww.yaml:3: checks.alpha: is empty"),
        ("version: 1\nchecks: [\n", "ww.yaml:3: not valid YAML"),
        ("version: 1\nchecks:\n\talpha: 1\n", "ww.yaml:3: not valid YAML"),
        ("version: 1\nversion: 1\n", "ww.yaml:2: version: appears twice"),
        ("version: 2\n", "ww.yaml:1: version: expected 1, got 2"),
        ("checks: {}\n", "ww.yaml:1: version is missing"),
        ("", "the file is empty"),
        ("[1, 2]\n", "ww.yaml:1: expected keys and values, got a list"),
        ("version: 1\nmodels: [{baseline: x}]\n", "ww.yaml:2: models[0].path: is missing"),
        ("version: 1\noverrides:\n- {match: h*, checks: {alpha: {min: 9}}}\n", "overrides[0].checks.alpha: min 9 is"),
        ("version: 1\nchecks: {stable_rank: {severity: warn}}\n", "ww.yaml:2: checks.stable_rank: gives neither"),
        ("version: 1\nreport: {json: ../out.json}\n", "ww.yaml:2: report.json: '../out.json' is outside the folder"),
        ("version: 1\nreport: {markdown: test.py}\n", "ww.yaml:2: report.markdown: 'test.py' must end in .md"),
        ("version: 1\nreport: {html: out.htm}\n", "ww.yaml:2: report.html: 'out.htm' must end in .html"),
        ("version: 1\nreport: {pdf: out.pdf}\n", "ww.yaml:2: report.pdf: unknown key"),
        ("version: 1\nregression: {alpha: {sigma: 3}}\n", "ww.yaml:2: regression.alpha.sigma: unknown key"),
        ("version: 1\nregression: {profile: compresion}\n", "ww.yaml:2: regression.profile: expected 'compression' or"),
        ("version: 1\nregression: {nrm: {max_increase: 1}}\n", "ww.yaml:2: regression.nrm: nothing to compare by this"),
        ("version: 1\nregression:\n  entropy: {severity: warn}\n", "ww.yaml:3: regression.entropy: gives no limit"),
        ("version: 1\nregression: {weights: {warn_at: 1}}\n", "ww.yaml:2: regression.weights.warn_at: "),
        ("version: 1\nregression: {correlation_traps: {max_new: -1}}\n", "regression.correlation_traps.max_new: "),
        ("version: 1\npolicy: {fail_on: always}\n", "ww.yaml:2: policy.fail_on: expected 'fail', 'warn' or 'never'"),
        ("version: 1\npolicy: {inconclusive: pass}\n", "ww.yaml:2: policy.inconclusive: expected 'skip', 'warn' or"),
        ("version: 1\nwaivers:\n- {match: x, check: alpha, reason: r}\n", "ww.yaml:3: waivers[0].expires: is missing"),
        (
            "version: 1\nwaivers:\n- {match: x, check: alpha, expires: 2027-01-01}\n",
            "ww.yaml:3: waivers[0].reason: is missing",
        ),
        (
            "version: 1\nwaivers:\n- {match: x, check: alpha, reason: r, expires: soon}\n",
            "ww.yaml:3: waivers[0].expires: expected a day such as 2027-03-01, got 'soon'",
        ),
        (
            "version: 1\nwaivers:\n- {match: x, check: alpha, reason: '', expires: 2027-01-01}\n",
            "ww.yaml:3: waivers[0].reason: ",
        ),
        ("a: &a [1, 2]\nb: &b [*a, *a, *a]\nversion: !!python/object/apply:os.getcwd []\n", "ww.yaml:3: "),
        ("- " * 5000, "ww.yaml: nested too deeply"),
        ("version: 1\nchecks: {alpha: {max: 010}}\n", "ww.yaml:2: checks.alpha.max: write '010' in plain digits"),
        ("version: 1\nchecks: {alpha: {max: 1:30}}\n", "ww.yaml:2: checks.alpha.max: write '1:30' in plain digits"),
        ("version: 1\nchecks: {alpha: {max: 0x1}}\n", "ww.yaml:2: checks.alpha.max: write '0x1' in plain digits"),
        ('version: 1\nchecks: {alpha: {max: "6"}}\n', "YAML takes '6' for text; write it as 6"),
        ("version: 1\nchecks: {alpha: {max: 1e-2}}\n", "YAML takes '1e-2' for text; write it as 0.01"),
        (
            "version: 1\nchecks: {alpha: {max: 1e400}}\n",
            "ww.yaml:2: checks.alpha.max: expected a valid number, got '1e400'",
        ),
        (f"version: 1{'0' * 5000}\n", "ww.yaml:1: version: cannot be read as int"),
        (
            "version: !thing 1\n",
            "ww.yaml:1: version: cannot be read: could not determine a constructor for the tag '!thing'",
        ),
        ("version: 1\nchecks: {zzz: false}\n", "(those of a plugin exist in runs of pytest that load it)"),
        ("version: 1\nmodels: [{pth: x}]\n", "models[0].pth: unknown key; did you mean 'path'?"),
        ("version: 1\noverrides: [{mtach: '*'}]\n", "overrides[0].mtach: unknown key; did you mean 'match'?"),
        (
            "version: 1\nregression: {spectrm: {max_displacement: 1}}\n",
            "regression.spectrm: nothing to compare by this",
        ),
        ("version: 1\nregression: {proflie: finetune}\n", "this name; did you mean 'profile'?"),
        ("version: 1\nmodel: {regression: {weigths: {max_change: 1}}}\n", "did you mean 'weights'?"),
        ("version: 1\nmodel: {regression: {profile: finetune}}\n", "belongs to the regression of the whole file"),
        ("version: 1\nchecks: {coverage: {min: 90}}\n", "90 is not between 0 and 1; did you mean 0.9?"),
        ("version: 1\nchecks: {integrity: false}\n", "is always made, and cannot be changed here"),
        (
            "version: 1\nwaivers: [{match: '*', check: alhpa, reason: x, expires: 2027-01-01}]\n",
            "waivers[0].check: no such check; did you mean 'alpha'?",
        ),
        (
            "version: 1\nwaivers: [{match: '*', check: alpha, reason: ' ', expires: 2027-01-01}]\n",
            "waivers[0].reason: is empty",
        ),
    ],
)
def test_bad_config(pytester: pytest.Pytester, make_model: MakeModel, text: str, message: str) -> None:
    make_model()
    (pytester.path / "ww.yaml").write_text(text, encoding="utf-8")
    assert message in usage_error(pytester, "--ww-model=model.safetensors")


def test_alias_bomb(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (pytester.path / "ww.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert "entries (aliases count each time)" in usage_error(pytester, "--ww-model=model.safetensors")


@pytest.mark.parametrize(
    "options", [(), ("-p", "xdist", "-n", "2"), ("--co",)], ids=["serial", "xdist", "collect only"]
)
@pytest.mark.parametrize("place", ["sub", "."])
def test_bad_config_of_a_plain_run(pytester: pytest.Pytester, options: tuple[str, ...], place: str) -> None:
    folder = pytester.path / place
    folder.mkdir(exist_ok=True)
    (folder / "ww.yaml").write_text("version: 1\nmodels: [{pth: x}]\n", encoding="utf-8")
    pytester.makepyfile("def test_mine(): pass")
    result = pytester.runpytest_subprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*ww.yaml:2: models[[]0[]].pth: unknown key; did you mean 'path'?"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert "Traceback" not in str(result.stderr)


def test_a_bad_config_of_the_users_own_tests(pytester: pytest.Pytester) -> None:
    (pytester.path / "ww.yaml").write_text("version: 1\ncheks: {}\n", encoding="utf-8")
    mine = pytester.makepyfile("def test_mine(ww_model): pass", test_other="def test_other(ww_analyze): pass")
    result = pytester.runpytest_subprocess(mine)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*ww.yaml:2: cheks: unknown key; did you mean 'checks'?"])
    assert "Traceback" not in str(result.stdout)
    assert "pluggy" not in str(result.stdout).replace("pluggy-", "")
    other = pytester.runpytest_subprocess("test_other.py")
    assert "During handling" not in str(other.stdout)
    assert "pydantic" not in str(other.stdout)


def test_a_bad_config_that_nobody_asked_for(pytester: pytest.Pytester) -> None:
    (pytester.path / "ww.yaml").write_text("version: 1\nmodels: [{pth: x}]\n", encoding="utf-8")
    result = pytester.runpytest_subprocess(pytester.makepyfile("def test_mine(): pass"))
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "overrides:\n- {match: 'hed*', checks: {alpha: false}}\n",
            "line 3 of ww.yaml: overrides: no layer is called 'hed*'",
        ),
        ("analysis: {exclude: [hed]}\n", "line 2 of ww.yaml: analysis: no layer is called 'hed'"),
        ("overrides:\n- {match: 'he*', checks: {alpha: false}}\n", None),
        ("analysis: {exclude: [head]}\noverrides: [{match: head, checks: {alpha: false}}]\n", None),
    ],
)
def test_a_pattern_without_a_layer_is_named(
    pytester: pytest.Pytester, make_model: MakeModel, text: str, note: str | None
) -> None:
    make_model("a.safetensors")
    make_model("b.safetensors")
    (pytester.path / "ww.yaml").write_text(f"version: 1\n{text}", encoding="utf-8")
    result = pytester.runpytest("--ww-model=*.safetensors")
    assert str(result.stdout).count(note or "no layer is called") == (0 if note is None else 1)


def test_everything_is_excluded(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    (pytester.path / "ww.yaml").write_text("version: 1\nanalysis: {exclude: ['*']}\n", encoding="utf-8")
    assert "but those that analysis.exclude of ww.yaml leaves out" in usage_error(
        pytester, "--ww-model=model.safetensors"
    )


@pytest.mark.parametrize(
    ("key", "name", "content"),
    [
        ("markdown", "README.md", "# Mine\n"),
        ("json", "package.json", '{"name": "mine"}'),
        ("json", "b.ww.json", '{"format": 1, "tool": {"name": "pytest-weightwatcher"}, "matrices": {}}'),
    ],
)
def test_a_config_cannot_write_over_other_files(
    pytester: pytest.Pytester, make_model: MakeModel, key: str, name: str, content: str
) -> None:
    """ww.yaml comes with a pull request."""
    make_model()
    (pytester.path / name).write_text(content, encoding="utf-8")
    (pytester.path / "ww.yaml").write_text(f"version: 1\nreport:\n  {key}: {name}\n", encoding="utf-8")
    line = usage_error(pytester, "--ww-model=model.safetensors")
    assert f"ww.yaml:3: report.{key}: '{name}' exists and is no report of this tool" in line


def test_a_config_writes_over_its_own_reports(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    (pytester.path / "ww.yaml").write_text("version: 1\nreport: {json: o.json, markdown: o.md}\n", encoding="utf-8")
    for _ in range(2):
        assert pytester.runpytest("--ww-model=model.safetensors").ret == pytest.ExitCode.OK


def test_missing_config(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    line = usage_error(pytester, "--ww-model=model.safetensors", "--ww-config=limits.yaml")
    assert "limits.yaml: no such file" in line


def test_model_of_the_config_that_does_not_exist(pytester: pytest.Pytester) -> None:
    (pytester.path / "ww.yaml").write_text("version: 1\nmodels:\n- path: out/*.pt\n", encoding="utf-8")
    line = usage_error(pytester, "--ww-config=ww.yaml")
    assert "ww.yaml:3: models[0].path: no file matches 'out/*.pt'" in line


@pytest.mark.parametrize(
    "option", ["--ww-baseline=x.json", "--ww-update-baseline", "--ww-update-new-only", "--ww-report=json:x.json"]
)
def test_option_without_a_model(pytester: pytest.Pytester, option: str) -> None:
    pytester.makepyfile("def test_mine(): pass")
    assert "no model: add --ww-model PATH" in usage_error(pytester, option)


def test_the_other_package_named_spectral(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPy, for hyperspectral images, has the same import name."""
    other = pytester.mkdir("elsewhere") / "spectral"
    other.mkdir()
    (other / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(other.parent))
    result = pytester.runpytest_subprocess("--ww-model=model.safetensors")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: the package 'spectral' at *elsewhere* is not the core of pytest-weightwatcher*"]
    )
