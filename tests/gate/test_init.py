"""ww-gate init: a first ww.yaml that loads, says what was measured, and that the very model passes."""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_weightwatcher.config import load_config
from pytest_weightwatcher.options import PROFILE_NAMES
from pytest_weightwatcher.profiles import DEFAULT_PROFILE
from pytest_weightwatcher.starter import MAX_OVERRIDES, Measured, Outside, write_starter
from tests.gate.conftest import LAYERS, flat, healthy_tensors, noise
from tests.gate.console import run, with_element, write_model, write_named

Capture = pytest.CaptureFixture[str]

HOSTILE = (
    "a[0].*",
    "x\nwaivers: [{match: '*', check: '*', reason: x, expires: 9999-01-01}]\n#",
    "é: {[\u2028",
    "\"'# \\",
    "*",
    "...",
)


@pytest.fixture
def folder(pytester: pytest.Pytester) -> Path:
    """The current folder, in which inner runs begin, too."""
    return pytester.path


def gate(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest("-p", "no:cacheprovider", *arguments)


def heavy(seed: int = 3) -> NDArray[np.float32]:
    """A layer with a very heavy tail: alpha about 1.4."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.normal(size=(96, 64)))
    right, _ = np.linalg.qr(rng.normal(size=(64, 64)))
    product: NDArray[Any] = left * (np.arange(1, 65) / 64.0) ** -1.25 @ right
    return product.astype(np.float32)


def odd_tensors() -> dict[str, NDArray[Any]]:
    tensors = healthy_tensors()
    tensors |= {
        "low.weight": heavy(),
        "noise.weight": noise(),
        "trap.weight": with_element(5.0),
        "small.weight": noise((20, 20)),
        "embeddings.position_embeddings.weight": noise((128, 64), seed=5),
        "row": np.ones((1, 30_000), np.float32),
    }
    tensors |= {f"{name}.weight": flat(seed=place) for place, name in enumerate(HOSTILE)}
    return tensors


def test_a_healthy_model_passes_its_own_file(pytester: pytest.Pytester, folder: Path, capsys: Capture) -> None:
    write_model(folder / "m.safetensors")
    text = run(capsys, "init", "m.safetensors")
    assert "ww.yaml: written for 4 layers" in text
    assert "Next: pytest --ww-update-baseline, then pytest." in text
    config = load_config(folder / "ww.yaml")
    assert [(entry.path, entry.baseline) for entry in config.models] == [("m.safetensors", "baselines/{stem}.ww.json")]
    assert config.checks["alpha"] is not None
    assert (config.checks["alpha"].min, config.checks["alpha"].max) == (2, 6)
    assert config.overrides == ()
    assert config.waivers == ()
    assert config.regression.profile == DEFAULT_PROFILE
    assert gate(pytester, "--ww-update-baseline").ret == 0
    assert (folder / "baselines/m.ww.json").exists()
    passed = gate(pytester, "--ww-fail-on=warn")
    assert passed.ret == 0
    assert (folder / "ww-result.json").exists()


def test_an_odd_model_passes_its_own_file(pytester: pytest.Pytester, folder: Path, capsys: Capture) -> None:
    write_named(folder / "m.safetensors", odd_tensors())
    run(capsys, "init", "m.safetensors")
    text = (folder / "ww.yaml").read_text(encoding="utf-8")
    config = load_config(folder / "ww.yaml")
    names = {override.match for override in config.overrides}
    assert {"low", "a[[]0].[*]", "[*]"} <= names
    assert len(names) == len(config.overrides)
    assert config.waivers == ()
    for part in ('"small" (20)', '# exclude: ["embeddings.position_embeddings"]', '"trap" (1)', '"noise" (p = '):
        assert part in text
    assert config.checks["coverage"] is not None
    assert config.checks["coverage"].min == pytest.approx(0.73, abs=0.03)
    assert gate(pytester, "--ww-update-baseline").ret == 0
    result = gate(pytester)
    assert result.ret == 0
    assert result.parseoutcomes()["passed"] > 50


def test_a_new_layer_outside_fails(pytester: pytest.Pytester, folder: Path, capsys: Capture) -> None:
    write_model(folder / "m.safetensors", head__weight=flat())
    run(capsys, "init", "m.safetensors")
    assert gate(pytester, "--ww-update-baseline").ret == 0
    write_model(folder / "m.safetensors", head__weight=flat(), encoder__0__key__weight=flat(seed=2))
    result = gate(pytester)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED ww.yaml::m.safetensors::encoder.0.key::alpha*"])
    result.stdout.no_fnmatch_line("FAILED*head::alpha*")


def test_options_reach_the_file(pytester: pytest.Pytester, folder: Path, capsys: Capture) -> None:
    (folder / "conf").mkdir()
    (folder / "m[1]").mkdir()
    write_model(folder / "m[1]/a*.safetensors", head__weight=flat())
    write_model(folder / "m[1]/ab.safetensors")
    run(
        capsys,
        *("init", "m[1]/a*.safetensors", "--output=conf/gate.yaml", "--baseline=accepted/{stem}.json"),
        *("--profile=finetune", "--exclude=he[a]d", "--exclude=none"),
    )
    config = load_config(folder / "conf/gate.yaml")
    assert [(entry.path, entry.baseline) for entry in config.models] == [
        ("../m[[]1]/a[*].safetensors", "../accepted/{stem}.json")
    ]
    assert config.regression.profile == "finetune"
    assert config.analysis.exclude == ("he[a]d", "none")
    assert config.overrides == ()
    result = gate(pytester, "--ww-config=conf/gate.yaml", "--ww-baseline=m[1]/ab.safetensors")
    assert "head" not in result.stdout.str() or "missing" not in result.stdout.str()
    result.stdout.fnmatch_lines(["ww: 1 model, 3 matrices*"])


def test_an_existing_file_stays(folder: Path, capsys: Capture) -> None:
    write_model(folder / "m.safetensors")
    (folder / "ww.yaml").write_text("mine", encoding="utf-8")
    text = run(capsys, "init", "m.safetensors", code=4)
    assert text == "ww-gate: error: ww.yaml: exists already; --force writes over it\n"
    assert (folder / "ww.yaml").read_text(encoding="utf-8") == "mine"
    run(capsys, "init", "m.safetensors", "--force")
    assert load_config(folder / "ww.yaml").models


def test_one_that_appears_meanwhile_stays(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    # The one that main will import: pytester takes back what inner runs import.
    init = import_module("pytest_weightwatcher.console.init")
    write_model(folder / "m.safetensors")

    def write_meanwhile(measured: Measured) -> str:
        (folder / "ww.yaml").write_text("mine", encoding="utf-8")
        return write_starter(measured)

    monkeypatch.setattr(init, "write_starter", write_meanwhile)
    assert "exists already" in run(capsys, "init", "m.safetensors", code=4)
    assert (folder / "ww.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_damaged_model_has_no_limits(folder: Path, capsys: Capture, value: float) -> None:
    write_model(folder / "m.safetensors", head__weight=with_element(value))
    text = run(capsys, "init", "m.safetensors", code=4)
    assert "layer 'head'" in text
    assert "limits are fitted to sound models" in text
    assert text.count("\n") == 1
    assert not (folder / "ww.yaml").exists()


def test_a_layer_that_is_dead_on_purpose_is_left_out(pytester: pytest.Pytester, folder: Path, capsys: Capture) -> None:
    write_model(folder / "m.safetensors", **{"lora[b].weight": np.zeros((96, 64), np.float32)})
    assert "layer 'lora[b]'" in run(capsys, "init", "m.safetensors", code=4)
    run(capsys, "init", "m.safetensors", "--exclude=lora[[]b]")
    assert load_config(folder / "ww.yaml").analysis.exclude == ("lora[[]b]",)
    assert gate(pytester, "--ww-update-baseline").ret == 0
    assert gate(pytester).ret == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none.safetensors"], "none.safetensors"),
        (["m.safetensors", "--output=m.safetensors", "--force"], "no place for a report"),
        (["m.safetensors", "--output=."], "is a folder"),
        (["m.safetensors", "--output=m.safetensors/ww.yaml"], "is not a folder"),
        (["m.safetensors", "--exclude=*"], "no weight matrix"),
        (["m.safetensors", "--profile=pruning"], "invalid choice"),
        (["m.safetensors", "--output="], "empty"),
        ([], "required"),
    ],
)
def test_bad_input(folder: Path, capsys: Capture, arguments: list[str], problem: str) -> None:
    write_model(folder / "m.safetensors")
    before = sorted(folder.iterdir())
    text = run(capsys, "init", *arguments, code=4)
    assert problem in text
    assert text.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_the_default_profile_is_that_of_the_gate() -> None:
    assert PROFILE_NAMES[0] == DEFAULT_PROFILE


# The text alone


def measured(**changes: Any) -> Measured:
    defaults: dict[str, Any] = {
        "path": "m.pt",
        "baseline": "b.ww.json",
        "profile": "finetune",
        "exclude": (),
        "names": LAYERS,
        "n_fitted": 4,
        "min_evals": 50,
        "small": (),
        "outside": (),
        "traps": (),
        "noise": (),
        "coverage": None,
        "tool": "a tool",
    }
    return Measured(**(defaults | changes))


def test_so_many_outside_widen_the_limit(tmp_path: Path) -> None:
    outside = tuple(Outside(name=f"l{i}", alpha=6.5 + i / 10, sigma=0.5) for i in range(MAX_OVERRIDES))
    low = Outside(name="low", alpha=1.5, sigma=0.9)
    path = tmp_path / "ww.yaml"
    path.write_text(write_starter(measured(outside=outside)), encoding="utf-8")
    assert len(load_config(path).overrides) == MAX_OVERRIDES
    path.write_text(write_starter(measured(outside=(*outside, low))), encoding="utf-8")
    config = load_config(path)
    assert config.overrides == ()
    assert config.checks["alpha"] is not None
    assert (config.checks["alpha"].min, config.checks["alpha"].max) == (1, 27)


names = st.text(min_size=1, max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=names, other=names, alpha=st.floats(1.0, 1e6), coverage=st.none() | st.floats(0.1, 0.89))
def test_no_name_breaks_out(tmp_path: Path, name: str, other: str, alpha: float, coverage: float | None) -> None:
    named = name + "position"
    text = write_starter(
        measured(
            path=name,
            baseline=other,
            exclude=(name, other),
            names=(named, other),
            small=((name, 3), (other, 4)),
            outside=(Outside(name=name, alpha=alpha, sigma=0.3),),
            traps=((name, 1),),
            noise=((other, 0.5),),
            coverage=coverage,
            tool=name,
        )
    )
    path = tmp_path / "ww.yaml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    assert [(entry.path, entry.baseline) for entry in config.models] == [(name, other)]
    assert config.analysis.exclude == (name, other)
    (override,) = config.overrides
    assert fnmatchcase(name, override.match)
    assert fnmatchcase(other, override.match) == (other == name)
    assert config.waivers == ()
    assert set(config.checks) == ({"alpha"} if coverage is None else {"alpha", "coverage"})
    assert set(yaml.safe_load(text)) == {
        *("version", "models", "analysis", "checks", "regression", "overrides", "report"),
    }
