"""The JSON Schema of ww.yaml: in step with the code, and of one mind with load_config about right and wrong files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from pytest_weightwatcher.checks import MODEL_CHECKS
from pytest_weightwatcher.config import load_config
from pytest_weightwatcher.errors import ConfigError
from pytest_weightwatcher.limits import (
    CHECK_NAMES,
    MODEL_METRICS,
    REGRESSION_NAMES,
)
from pytest_weightwatcher.profiles import MODEL_QUANTITIES
from pytest_weightwatcher.schema import DIALECT, FILE_NAME, make_schema, render_schema
from tests.gate.console import ROOT, run

SCHEMA = make_schema()
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=FormatChecker(["date"]))
COMMITTED = ROOT / "pytest_weightwatcher" / FILE_NAME


def plain(value: Any) -> Any:
    """Return data as an editor sees it: days are text."""
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return value.isoformat() if isinstance(value, date) else value


def is_valid(text: str) -> bool:
    return bool(VALIDATOR.is_valid(plain(yaml.safe_load(text))))


def load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ww.yaml"
    path.write_text(text, encoding="utf-8")
    load_config(path)


def examples() -> list[str]:
    """Return every block of the docs that is a whole ww.yaml."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    blocks = [block for text in texts for block in re.findall(r"^```ya?ml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]
    return [block for block in blocks if re.search(r"^version:", block, re.MULTILINE)]


def test_the_committed_schema_is_that_of_the_code() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == render_schema(), (
        f"out of step: run `ww-gate schema > pytest_weightwatcher/{FILE_NAME}`"
    )


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "schema")
    assert text == render_schema()
    assert text.isascii()


def test_it_is_a_schema_with_a_name() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == DIALECT
    assert SCHEMA["$id"]
    assert SCHEMA["title"]


def test_every_key_is_described_and_every_table_closed() -> None:
    def walk(node: Any, place: str) -> Iterator[str]:
        if not isinstance(node, dict):
            return
        for name, child in node.get("properties", {}).items():
            if "not" not in child:  # a condition, no key
                if not child.get("description", "").endswith("."):
                    yield f"{place}.{name}: no description"
                yield from walk(child, f"{place}.{name}")
        if "properties" in node and "required" not in node and node.get("additionalProperties") is not False:
            yield f"{place}: open"
        for name, child in node.get("$defs", {}).items():
            yield from walk(child, name)

    assert list(walk(SCHEMA, "")) == []


def test_names_are_enumerated() -> None:
    sections = SCHEMA["$defs"]
    own = {"profile", "ratchet"}
    assert set(SCHEMA["properties"]["checks"]["properties"]) == {*CHECK_NAMES, *MODEL_CHECKS}
    assert set(sections["RegressionSection"]["properties"]) == {*REGRESSION_NAMES, *own}
    assert set(sections["Override"]["properties"]["checks"]["properties"]) == set(CHECK_NAMES)
    assert set(sections["Override"]["properties"]["regression"]["properties"]) == set(REGRESSION_NAMES)
    assert set(sections["ModelSection"]["properties"]["checks"]["properties"]) == set(MODEL_METRICS)
    assert set(sections["ModelSection"]["properties"]["regression"]["properties"]) == set(MODEL_QUANTITIES)


def test_the_docs_have_examples() -> None:
    assert len(examples()) >= 1


@pytest.mark.parametrize("text", examples())
def test_every_example_of_the_docs_loads_and_is_valid(tmp_path: Path, text: str) -> None:
    load(tmp_path, text)
    assert is_valid(text), list(VALIDATOR.iter_errors(plain(yaml.safe_load(text))))


GOOD = [
    "version: 1\n",
    "version: 1\nchecks: {alpha: {min: 2, max: 6}, stable_rank: {min: 3, severity: warn}}\n",
    "version: 1\nchecks: {alpha: false, noise: false, coverage: {min: 0.5}}\n",
    "version: 1\nchecks: {alpha: {severity: fail}}\n",
    "version: 1\nchecks: {alpha: {min: null, max: 8}}\n",
    "version: 1\nregression: {profile: finetune, alpha: {max_increase: 1, sigmas: 2}, spectrum: false}\n",
    "version: 1\nregression: {profile: compression, weights: {max_change: 0.1, warn_at: 0.5}, ratchet: true}\n",
    "version: 1\nregression: {norm: {max_relative_decrease: 1}, noise: false, overlap: {max_decrease: 1}}\n",
    "version: 1\nregression: {intruders: {max_new: 1}, correlation_traps: {max_new: 0, severity: warn}}\n",
    "version: 1\nregression: {alpha: {severity: warn}}\n",
    "version: 1\noverrides: [{match: 'a*', checks: {alpha: {severity: warn}, norm: {max: 9}}}]\n",
    "version: 1\noverrides: [{match: 'a*', regression: {alpha: false, drift: {max_increase: 1}}}]\n",
    "version: 1\nmodel: {checks: {alpha: {max: 5}}, regression: {spectrum: {max_displacement: 0.1}}}\n",
    "version: 1\nmodel: {regression: {effective_rank: {max_relative_decrease: 0.1}, norm: false}}\n",
    "version: 1\nwaivers: [{match: '*', check: alpha, reason: known, expires: 2027-03-01, owner: me}]\n",
    "version: 1\nwaivers: [{match: '*', check: alpha, reason: known, expires: '2027-03-01'}]\n",
    "version: 1\npolicy: {fail_on: warn, inconclusive: fail}\nreport: {json: a.json, markdown: a.md}\n",
    "version: 1\nanalysis: {mp_fit: true, seed: 7, exclude: ['*pos*']}\nchecks: {num_spikes: {min: 1}}\n",
    "version: 1\nmodels: [{path: 'out/*.pt', baseline: 'b/{stem}.ww.json'}, {path: x, baseline: null}]\n",
]


@pytest.mark.parametrize("text", GOOD)
def test_both_accept(tmp_path: Path, text: str) -> None:
    load(tmp_path, text)
    assert is_valid(text), list(VALIDATOR.iter_errors(plain(yaml.safe_load(text))))


WRONG = [
    "models: []\n",
    "version: 2\n",
    "version: '1'\n",
    "version: true\n",
    "version: 1\ncheck: {}\n",
    "version: 1\nchecks:\n",
    "version: 1\nchecks: []\n",
    "version: 1\nchecks: {alhpa: {max: 6}}\n",
    "version: 1\nchecks: {alpha: }\n",
    "version: 1\nchecks: {alpha: true}\n",
    "version: 1\nchecks: {alpha: 6}\n",
    "version: 1\nchecks: {alpha: {}}\n",
    "version: 1\nchecks: {alpha: {maximum: 6}}\n",
    "version: 1\nchecks: {alpha: {max: '6'}}\n",
    "version: 1\nchecks: {alpha: {max: yes}}\n",
    "version: 1\nchecks: {alpha: {max: 1e3}}\n",
    "version: 1\nchecks: {alpha: {max: 6, severity: error}}\n",
    "version: 1\nchecks: {norm: {severity: fail}}\n",
    "version: 1\nchecks: {regression.alpha: {max: 6}}\n",
    "version: 1\nregression: {profile: pruning}\n",
    "version: 1\nregression: {spectrum: {max_increase: 0.1}}\n",
    "version: 1\nregression: {spectrum: {max_displacement: 0}}\n",
    "version: 1\nregression: {alpha: {max_increase: -1}}\n",
    "version: 1\nregression: {alpha: {warn_at: 1}}\n",
    "version: 1\nregression: {correlation_traps: {max_new: 0.5}}\n",
    "version: 1\nregression: {noise: {max_increase: 1}}\n",
    "version: 1\nregression: {entropy: {severity: warn}}\n",
    "version: 1\nregression: {coverage: {max_decrease: 0.1}}\n",
    "version: 1\nregression: {alpha: true}\n",
    "version: 1\noverrides: {match: '*'}\n",
    "version: 1\noverrides: [{checks: {alpha: false}}]\n",
    "version: 1\noverrides: [{match: '', checks: {alpha: false}}]\n",
    "version: 1\noverrides: [{match: '*', checks: {coverage: {min: 0.1}}}]\n",
    "version: 1\noverrides: [{match: '*', regression: {profile: finetune}}]\n",
    "version: 1\nmodel: {checks: {xmin: {max: 1}}}\n",
    "version: 1\nmodel: {checks: {alpha: {severity: warn}}}\n",
    "version: 1\nmodel: {regression: {alpha: {max_increase: 1}}}\n",
    "version: 1\nwaivers: [{match: '*', check: alpha, expires: 2027-03-01}]\n",
    "version: 1\nwaivers: [{match: '*', check: alpha, reason: x, expires: soon}]\n",
    "version: 1\nwaivers: [{match: '*', check: alpha, reason: x, expires: 2027-02-30x}]\n",
    "version: 1\npolicy: {fail_on: error}\n",
    "version: 1\npolicy: {inconclusive: pass}\n",
    "version: 1\nreport: {pdf: report.pdf}\n",
    "version: 1\nreport: {json: 3}\n",
    "version: 1\nmodels: [{baseline: x.json}]\n",
    "version: 1\nmodels: [a.pt]\n",
    "version: 1\nanalysis: {fit: TPL}\n",
    "version: 1\nanalysis: {min_evals: 1}\n",
    "version: 1\nanalysis: {min_evals: 50.5}\n",
    "version: 1\nanalysis: {false_alarm_rate: 1}\n",
    "version: 1\nanalysis: {mp_fit: 1}\n",
    "version: 1\nanalysis: {seed: -1}\n",
    "version: 1\nanalysis: {exclude: '*pos*'}\n",
    "[]\n",
    "text\n",
]


@pytest.mark.parametrize("text", WRONG)
def test_both_refuse(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"ww\.yaml"):
        load(tmp_path, text)
    assert not is_valid(text)


ONLY_LOADING = {
    "a bound above another": "version: 1\nchecks: {alpha: {min: 7, max: 6}}\n",
    "a bound above a built-in one": "version: 1\noverrides: [{match: '*', checks: {alpha: {min: 7}}}]\n",
    "a limit with no built-in one": "version: 1\noverrides: [{match: '*', checks: {norm: {severity: warn}}}]\n",
    "a metric that analysis does not compute": "version: 1\nchecks: {num_spikes: {min: 1}}\n",
    "a whole number written as a decimal": "version: 1\nanalysis: {min_evals: 50.0}\n",
    "infinity, which JSON does not have": "version: 1\nchecks: {alpha: {max: .inf}}\n",
    "a key that appears twice": "version: 1\nchecks: {alpha: {max: 6}, alpha: {max: 7}}\n",
}
"""What a schema cannot say, or an editor's own YAML reader loses."""


@pytest.mark.parametrize("text", ONLY_LOADING.values(), ids=ONLY_LOADING)
def test_only_loading_can_see(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"ww\.yaml"):
        load(tmp_path, text)
    assert is_valid(text)


def test_a_missing_limit_of_the_model_is_found(tmp_path: Path) -> None:
    text = "version: 1\nmodel: {regression: {norm: {severity: warn}}}\n"
    assert not is_valid(text)
    with pytest.raises(ConfigError, match="gives no limit"):
        load(tmp_path, text)


def test_the_file_is_json_of_its_own() -> None:
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == SCHEMA
