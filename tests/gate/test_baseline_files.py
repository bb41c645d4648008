"""Baselines that are damaged, edited, missing or made up: each is refused, and the message says why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_weightwatcher.baseline import SEAL
from pytest_weightwatcher.report.result import tool_payload
from spectral.projections import N_PROJECTIONS
from tests.gate.baseline_files import N_CHECKS, failing_ids, payload_of, resealed
from tests.gate.conftest import COMPARE, RECORD, MakeModel, noise


def refusal(pytester: pytest.Pytester, path: Path) -> str:
    """Compare with a baseline, demand that it is refused and left as it is, and return the one line that says why."""
    before = path.read_bytes()
    result = pytester.runpytest(*COMPARE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert path.read_bytes() == before
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert "b.ww.json: " in line
    return line


EDITED = "edited since it was recorded (its seal does not fit); record it anew with --ww-update-baseline"


def test_an_edited_hash_hides_nothing(pytester: pytest.Pytester, make_model: MakeModel, recorded: Path) -> None:
    from spectral import analyze

    make_model(head=noise())
    payload = payload_of(recorded)
    hashes = {layer.name: layer.content_hash for layer in analyze(pytester.path / "model.safetensors").layers}
    payload["matrices"]["head"]["hash"] = hashes["head"]
    recorded.write_text(json.dumps(payload), encoding="utf-8")
    assert f"matrix 'head': {EDITED}" in refusal(pytester, recorded)


@pytest.mark.parametrize(
    "key", ["dtype", "metrics", "tail", "traps", "noise", "projections", "singular_values", "seal"]
)
def test_one_digit_of_an_entry_edited(pytester: pytest.Pytester, recorded: Path, key: str) -> None:
    text = recorded.read_text(encoding="utf-8")
    value = text.index(f'"{key}":', text.index('"encoder.1.query"')) + len(key) + 3
    # The last digit of the first number: no rule of plausibility finds so small a change.
    pattern = r"\d" if key in ("dtype", "seal") else r"\d\.\d*?(?=\d(?!\d))\d"
    found = re.compile(pattern).search(text, value)
    assert found is not None
    place = found.end() - 1
    digit = int(text[place])
    recorded.write_text(f"{text[:place]}{digit + 1 if digit < 9 else 8}{text[place + 1 :]}", encoding="utf-8")
    assert f"matrix 'encoder.1.query': {EDITED}" in refusal(pytester, recorded)


def test_a_spread_added_by_hand(pytester: pytest.Pytester, recorded: Path) -> None:
    payload = payload_of(recorded)
    payload["matrices"]["head"]["spread"] = {"spectrum": 1e6}
    recorded.write_text(json.dumps(payload), encoding="utf-8")
    assert f"matrix 'head': {EDITED}" in refusal(pytester, recorded)


def test_layout_is_no_edit(pytester: pytest.Pytester, recorded: Path) -> None:
    """A formatter of JSON in a pre-commit hook changes no fact."""
    recorded.write_text(json.dumps(payload_of(recorded), indent=4, sort_keys=True) + "\r\n", encoding="utf-8")
    assert pytester.runpytest(*COMPARE).parseoutcomes() == {"passed": N_CHECKS}


def edit_header(payload: dict[str, Any]) -> None:
    payload["options"]["min_evals"] = 51


def edit_version(payload: dict[str, Any]) -> None:
    payload["tool"]["version"] = "99"


def edit_environment(payload: dict[str, Any]) -> None:
    payload["environment"]["numpy"] = "1"


def edit_checkpoints(payload: dict[str, Any]) -> None:
    payload["checkpoints"].append("other.safetensors")


def remove_entry(payload: dict[str, Any]) -> None:
    del payload["matrices"]["head"]


def rename_entry(payload: dict[str, Any]) -> None:
    payload["matrices"]["tail"] = payload["matrices"].pop("head")


def swap_entries(payload: dict[str, Any]) -> None:
    matrices = payload["matrices"]
    matrices["head"], matrices["encoder.0.key"] = matrices["encoder.0.key"], matrices["head"]


def remove_seal(payload: dict[str, Any]) -> None:
    del payload[SEAL]


def add_key(payload: dict[str, Any]) -> None:
    payload["comment"] = "all fine"


@pytest.mark.parametrize(
    "edit",
    [
        edit_header,
        edit_version,
        edit_environment,
        edit_checkpoints,
        remove_entry,
        rename_entry,
        swap_entries,
        remove_seal,
        add_key,
    ],
)
def test_a_file_edited_between_its_entries(pytester: pytest.Pytester, recorded: Path, edit: Any) -> None:
    payload = payload_of(recorded)
    edit(payload)
    recorded.write_text(json.dumps(payload), encoding="utf-8")
    assert "edited or merged since it was recorded (its seal does not fit)" in refusal(pytester, recorded)
    assert pytester.runpytest(*RECORD).ret == pytest.ExitCode.USAGE_ERROR


def test_an_entry_taken_from_another_recording(
    pytester: pytest.Pytester, make_model: MakeModel, recorded: Path
) -> None:
    """As a merge of two branches does it: every entry is whole, and the file is one that nobody recorded."""
    payload = payload_of(recorded)
    make_model(head=noise())
    pytester.runpytest("--ww-model=model.safetensors", "--ww-baseline=c.ww.json", "--ww-update-baseline")
    payload["matrices"]["head"] = payload_of(pytester.path / "c.ww.json")["matrices"]["head"]
    recorded.write_text(json.dumps(payload), encoding="utf-8")
    assert "edited or merged since it was recorded" in refusal(pytester, recorded)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_baseline(pytester: pytest.Pytester, recorded: Path, share: float) -> None:
    content = recorded.read_bytes()
    recorded.write_bytes(content[: int(share * len(content))])
    assert "not a baseline, its JSON is damaged" in refusal(pytester, recorded)


def test_merge_conflict_markers(pytester: pytest.Pytester, recorded: Path) -> None:
    lines = recorded.read_text(encoding="utf-8").splitlines()
    ours = [*lines[:8], "<<<<<<< HEAD", lines[8], "=======", lines[8], ">>>>>>> other", *lines[9:]]
    recorded.write_text("\n".join(ours), encoding="utf-8")
    assert "not a baseline, its JSON is damaged" in refusal(pytester, recorded)


def test_a_baseline_for_another_number_of_eigenvalues(pytester: pytest.Pytester, recorded: Path) -> None:
    payload = payload_of(recorded)
    entry = payload["matrices"]["head"]
    entry["num_evals"] = 63
    entry["singular_values"] = entry["singular_values"][:63]
    del entry["tail"]
    recorded.write_text(json.dumps(resealed(payload)), encoding="utf-8")
    assert "matrix 'head': 63 eigenvalues, a matrix of its shape has 64" in refusal(pytester, recorded)


TAIL: dict[str, object] = {"tail": [2, 3.0]}
ENTRY: dict[str, object] = {
    "shape": [2, 2],
    "dtype": "float32",
    "hash": "0",
    "num_evals": 2,
    "metrics": {"norm": 1.25, "spectral_norm": 1.0},
    "projections": [0.5] * N_PROJECTIONS,
    "singular_values": [1.0, 0.5],
}
HEADER: dict[str, object] = {
    "format": 2,
    "tool": tool_payload(),
    "environment": {},
    "options": {"fit": "PL"},
    "checkpoints": ["model.safetensors"],
}


def file_with(entry: dict[str, object], **header: object) -> str:
    return json.dumps(resealed({**HEADER, **header, "matrices": {"head": entry}}))


def entry_changed(**changes: object) -> str:
    return file_with({**ENTRY, **changes})


def entry_without(key: str) -> str:
    return file_with({name: value for name, value in ENTRY.items() if name != key})


def header_changed(**changes: object) -> str:
    """Return a file whose seal cannot be had: what is wrong is found before."""
    return json.dumps({**HEADER, "matrices": {}, **changes})


NO_OBJECT = "not a baseline: {} must be an object"
CONTRADICTION = "the singular_values do not descend, or contradict the norm"
RANGES = "p-values and levels of traps must lie in their ranges"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a baseline, its JSON is damaged"),
        ("{", "not a baseline, its JSON is damaged"),
        ("[]", "not a baseline: no format"),
        ('{"format": 2}', "not a baseline: no format and matrices in it"),
        ('{"format": 1, "matrices": {}}', "baseline format '1', this version reads 2; record it anew"),
        ('{"format": 99, "matrices": {}}', "baseline format '99', this version reads 2; record it anew"),
        ('{"format": "2", "matrices": {}}', "baseline format '2', this version reads 2"),
        (header_changed(format=True), "baseline format 'True', this version reads 2"),
        (header_changed(matrices=[]), NO_OBJECT.format("matrices")),
        (header_changed(tool="x"), NO_OBJECT.format("tool")),
        (header_changed(options=None), NO_OBJECT.format("options")),
        (header_changed(environment=[]), NO_OBJECT.format("environment")),
        (header_changed(environment={"numpy": 2}), "environment must be names and versions"),
        (header_changed(checkpoints="m"), "checkpoints must be a list of names"),
        (header_changed(checkpoints=[1]), "checkpoints must be a list of names"),
        (header_changed(matrices={"head": []}), "matrix 'head': incomplete entry (not an object)"),
        (json.dumps(resealed({**HEADER, "matrices": {}})), "the baseline holds no matrices"),
        (file_with({}), "matrix 'head': incomplete entry"),
        *((entry_without(key), f"matrix 'head': incomplete entry ('{key}')") for key in ENTRY),
        (entry_changed(shape=[2, -2]), "the shape must be a list of positive integers"),
        (entry_changed(shape=4), "the shape must be a list of positive integers"),
        (entry_changed(dtype=32), "dtype and hash must be text"),
        (entry_changed(hash="\ud800"), "names must be text that can be written as UTF-8"),
        (entry_changed(num_evals=10**30), "num_evals must be a positive integer that fits the shape"),
        (entry_changed(num_evals=5), "num_evals must be a positive integer that fits the shape"),
        (entry_changed(num_evals=True), "num_evals must be a positive integer that fits the shape"),
        (entry_changed(shape=[2**40, 2**40]), "num_evals must be a positive integer that fits the shape"),
        (entry_changed(num_evals=3), "2 singular_values, expected 3 for 3 eigenvalues"),
        (entry_changed(singular_values=[1, "x"]), "singular_values must be a list of non-negative numbers"),
        (entry_changed(singular_values=[1, -1]), "singular_values must be a list of non-negative numbers"),
        (entry_changed().replace("1.0, 0.5", "1e999, 0.5"), "list of non-negative numbers"),
        (entry_changed().replace("1.0, 0.5", "NaN, 0.5"), "NaN is not JSON"),
        (entry_changed(singular_values=[0.5, 1.0]), CONTRADICTION),
        (entry_changed(metrics={"norm": 9.0, "spectral_norm": 1.0}), CONTRADICTION),
        (entry_changed(metrics={"norm": 1.0, "spectral_norm": 1.0}), CONTRADICTION),
        (entry_changed(projections=[]), f"projections must be {N_PROJECTIONS} numbers"),
        (entry_changed(projections=["x"] * N_PROJECTIONS), f"projections must be {N_PROJECTIONS} numbers"),
        (entry_changed(metrics=[]), "metrics must be names and numbers"),
        (entry_changed(metrics={"norm": True}), "metrics must be names and numbers"),
        (entry_changed(metrics={"norm": 10**400}), "metrics must be names and numbers"),
        (entry_changed(metrics={"norm": 0, "spectral_norm": 1.0}), "a norm and a spectral_norm above zero"),
        (entry_changed(metrics={"norm": 1.25}), "a norm and a spectral_norm above zero"),
        (entry_changed(tail=[5, 3.0]), "the tail must have between 2 and 2 eigenvalues"),
        (entry_changed(tail={"n": 2, "alpha": 3.0}), "the tail must have between 2 and 2 eigenvalues"),
        (entry_changed(tail=[2.0, 3.0]), "the tail must have between 2 and 2 eigenvalues"),
        (entry_changed(tail=[2, 1.0]), "the tail must have an alpha above 1"),
        (entry_changed(no_fit=["nope", "x"]), "no_fit must be a known reason and a sentence"),
        (entry_changed(no_fit=["no_spread"]), "no_fit must be a known reason and a sentence"),
        (entry_changed(reasons=["x"]), "reasons must be names and sentences"),
        (entry_changed(reasons={"traps": 1}), "reasons must be names and sentences"),
        (
            entry_changed(traps=[0.5, 1.0, []]),
            "traps must be a p-value, a limit, a list of levels and a list of eigenvalues",
        ),
        (entry_changed(traps=[1.5, 1.0, [], [1.0]]), RANGES),
        (entry_changed(traps=[0.5, 1.0, [0.02, 0.01], [1.0]]), RANGES),
        (entry_changed(traps=[0.5, 1.0, [0.9], [1.0]]), RANGES),
        (entry_changed(traps=[0.5, 1.0, [], []]), "the eigenvalues of traps must descend and not be negative"),
        (entry_changed(traps=[0.5, 1.0, [], [1.0, 2.0]]), "the eigenvalues of traps must descend and not be negative"),
        (entry_changed(noise=-0.1), "noise must be a p-value"),
        (entry_changed(noise=[0.5]), "noise must be a p-value"),
        (entry_changed(spread=[1.0]), "spread must be names and numbers"),
        (entry_changed(spread={"alpha": "x"}), "spread must be names and numbers"),
        (entry_changed(spread={"alpha": -1.0}), "a spread must not be negative"),
        (entry_changed().replace('"head": {', '"head": {}, "head": {'), "the name 'head' appears twice"),
        (file_with(ENTRY, options={"fit": "TPL"}), "recorded with fit 'TPL', this run has 'PL'"),
        (file_with(ENTRY, options={}), "recorded with fit 'None', this run has 'PL'"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_baselines(pytester: pytest.Pytester, make_model: MakeModel, content: str, message: str) -> None:
    make_model()
    path = pytester.path / "b.ww.json"
    path.write_text(content, encoding="utf-8")
    assert message in refusal(pytester, path)


def test_the_good_one_among_the_bad(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    """What the bad ones are changed from is read without complaint."""
    make_model()
    (pytester.path / "b.ww.json").write_text(entry_changed(**TAIL), encoding="utf-8")
    assert failing_ids(pytester.runpytest(*COMPARE)) == {"baseline.layers"}


def test_missing_baseline(pytester: pytest.Pytester, make_model: MakeModel) -> None:
    make_model()
    result = pytester.runpytest(*COMPARE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*b.ww.json: no such baseline; make it with --ww-update-baseline"])
