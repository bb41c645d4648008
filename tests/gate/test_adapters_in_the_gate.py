"""The gate on LoRA adapters in PEFT's layout: alone, beside their base, and beside another adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tests.gate.conftest import LAYERS, MakeModel, healthy_tensors

Tensors = dict[str, NDArray[Any]]
MakeAdapter = Callable[..., Path]

ADAPTED = ("encoder.0.query", "encoder.1.query")
RANK = 4


@pytest.fixture
def make_adapter(pytester: pytest.Pytester) -> MakeAdapter:
    """Return a function that writes an adapter: ``size`` is the norm of an update over that of its weight."""

    def make(
        name: str = "adapter", *, size: float = 0.01, seed: int = 0, extra: Tensors | None = None, **config: Any
    ) -> Path:
        folder = pytester.path / name
        folder.mkdir()
        save_file({**factors(size, seed), **(extra or {})}, folder / "adapter_model.safetensors")
        settings = {
            "peft_type": "LORA",
            "r": RANK,
            "lora_alpha": 2 * RANK,
            "base_model_name_or_path": "org/base",
            **config,
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return folder

    return make


def factors(size: float, seed: int) -> Tensors:
    rng = np.random.default_rng(seed)
    found: Tensors = {}
    for layer in ADAPTED:
        a, b = rng.standard_normal((RANK, 64)), rng.standard_normal((96, RANK))
        wanted = size * np.linalg.norm(healthy_tensors()[f"{layer}.weight"])
        b *= wanted / np.linalg.norm(2 * b @ a)
        for end, values in (("A", a), ("B", b)):
            found[f"base_model.model.{layer}.lora_{end}.weight"] = values.astype(np.float32)
    return found


def result_of(pytester: pytest.Pytester) -> dict[str, Any]:
    (model,) = json.loads((pytester.path / "r.json").read_text(encoding="utf-8"))["models"]
    return dict(model)


@pytest.mark.parametrize("place", ["adapter", "adapter/adapter_model.safetensors"])
def test_an_adapter_alone(pytester: pytest.Pytester, make_adapter: MakeAdapter, place: str) -> None:
    make_adapter()
    run = pytester.runpytest(f"--ww-model={place}", "--ww-report=json:r.json")
    assert run.ret == 0
    run.stdout.fnmatch_lines(["*a LoRA adapter: its updates scale·B·A are checked alone*"])
    model = result_of(pytester)
    assert [(layer["name"], layer["shape"]) for layer in model["layers"]] == [
        (f"base_model.model.{layer}.lora_BA", [96, 64]) for layer in ADAPTED
    ]
    expected = [0.01 * np.linalg.norm(healthy_tensors()[f"{layer}.weight"]) for layer in ADAPTED]
    found = [10 ** (layer["metrics"]["log_norm"] / 2) for layer in model["layers"]]
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_adapter_beside_its_base(
    pytester: pytest.Pytester, make_adapter: MakeAdapter, make_model: MakeModel
) -> None:
    make_adapter()
    make_model("base/model.safetensors")
    run = pytester.runpytest("--ww-model=adapter", "--ww-baseline=base", "--ww-report=json:r.json")
    assert run.ret == 0
    run.stdout.fnmatch_lines(["*a LoRA adapter: checked as the base with the updates*"])
    model = result_of(pytester)
    assert sorted(layer["name"] for layer in model["layers"]) == sorted(LAYERS)
    assert model["profile"] == "finetune"
    assert model["baseline"] == "base"
    moved = {check["layer"] for check in model["checks"] if check["check"] == "weights" and check["value"]}
    assert moved <= set(ADAPTED)
    # The same verdicts as those of a merged checkpoint.
    tensors = healthy_tensors()
    low_rank = factors(0.01, 0)
    for layer in ADAPTED:
        name = f"base_model.model.{layer}.lora"
        tensors[f"{layer}.weight"] += (2 * low_rank[f"{name}_B.weight"] @ low_rank[f"{name}_A.weight"]).astype(
            np.float32
        )
    save_file(tensors, pytester.path / "merged.safetensors")
    run = pytester.runpytest(
        "--ww-model=merged.safetensors", "--ww-baseline=base", "--ww-profile=finetune", "--ww-report=json:r.json"
    )
    assert run.ret == 0
    merged = result_of(pytester)
    assert [(check["layer"], check["check"], check["verdict"]) for check in merged["checks"]] == [
        (check["layer"], check["check"], check["verdict"]) for check in model["checks"]
    ]


def test_an_adapter_that_overwhelms_its_base(
    pytester: pytest.Pytester, make_adapter: MakeAdapter, make_model: MakeModel
) -> None:
    make_adapter(size=3.0)
    make_model("base.safetensors")
    run = pytester.runpytest("--ww-model=adapter", "--ww-baseline=base.safetensors", "--ww-report=json:r.json")
    assert run.ret == 1
    failed = {check["layer"] for check in result_of(pytester)["checks"] if check["verdict"] == "fail"}
    assert failed
    assert failed <= {*ADAPTED, None}


def test_in_ww_yaml_and_in_the_console(
    pytester: pytest.Pytester, make_adapter: MakeAdapter, make_model: MakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    from pytest_weightwatcher.console.main import main

    make_adapter(size=3.0)
    make_model("base.safetensors")
    (pytester.path / "ww.yaml").write_text(
        "version: 1\nmodels: [{path: adapter, baseline: base.safetensors}]\n", encoding="utf-8"
    )
    assert pytester.runpytest().ret == 1
    capsys.readouterr()
    assert main(["check"]) == 1
    assert "note: a LoRA adapter: checked as the base" in capsys.readouterr().out


def test_adapters_are_recorded_and_compared_as_updates(pytester: pytest.Pytester, make_adapter: MakeAdapter) -> None:
    make_adapter()
    make_adapter("same", seed=0)
    make_adapter("other", seed=1)
    assert pytester.runpytest("--ww-model=adapter", "--ww-baseline=a.ww.json", "--ww-update-baseline").ret == 0
    for baseline in ("a.ww.json", "adapter"):
        run = pytester.runpytest("--ww-model=same", f"--ww-baseline={baseline}")
        assert run.ret == 0
        run.stdout.fnmatch_lines(["*its updates scale·B·A are checked alone*"])
        assert pytester.runpytest("--ww-model=other", f"--ww-baseline={baseline}").ret == 1


def test_a_recording_of_the_base_is_none_of_an_adapter(
    pytester: pytest.Pytester, make_adapter: MakeAdapter, make_model: MakeModel
) -> None:
    make_adapter()
    make_model("base.safetensors")
    assert pytester.runpytest("--ww-model=base.safetensors", "--ww-baseline=b.ww.json", "--ww-update-baseline").ret == 0
    run = pytester.runpytest("--ww-model=adapter", "--ww-baseline=b.ww.json")
    assert run.ret == 4
    run.stderr.fnmatch_lines(["*b.ww.json: was recorded of other layers than the updates of the LoRA adapter*"])


def test_another_base(pytester: pytest.Pytester, make_adapter: MakeAdapter) -> None:
    make_adapter()
    save_file({"elsewhere.weight": np.eye(70, 60, dtype=np.float32)}, pytester.path / "base.safetensors")
    run = pytester.runpytest("--ww-model=adapter", "--ww-baseline=base.safetensors")
    assert run.ret == 4
    run.stderr.fnmatch_lines(["*the base fits none of the 2 adapted layers*"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "*IA3*"),
        ({"r": 7}, "*rank 4, but the configuration says 7*"),
        ({"lora_alpha": "much"}, "*lora_alpha*"),
    ],
)
def test_adapters_that_are_not_read(
    pytester: pytest.Pytester, make_adapter: MakeAdapter, config: dict[str, Any], message: str
) -> None:
    make_adapter(**config)
    run = pytester.runpytest("--ww-model=adapter")
    assert run.ret == 4
    run.stderr.fnmatch_lines([message])


def test_an_update_that_is_zero_is_a_finding(pytester: pytest.Pytester, make_adapter: MakeAdapter) -> None:
    """PEFT initialises B with zeros: such an adapter was never trained."""
    make_adapter(size=0.0)
    run = pytester.runpytest("--ww-model=adapter")
    assert run.ret == 1
    run.stdout.fnmatch_lines(["*lora_BA::integrity*"])


def test_an_adapter_of_rank_one(pytester: pytest.Pytester, make_adapter: MakeAdapter) -> None:
    folder = make_adapter(r=1)
    rng = np.random.default_rng(0)
    name = "base_model.model.encoder.0.query.lora"
    one = {f"{name}_A.weight": rng.standard_normal((1, 64)), f"{name}_B.weight": rng.standard_normal((96, 1))}
    save_file({key: values.astype(np.float32) for key, values in one.items()}, folder / "adapter_model.safetensors")
    assert pytester.runpytest("--ww-model=adapter").ret == 0


def test_a_folder_with_a_whole_model_is_no_adapter(
    pytester: pytest.Pytester, make_adapter: MakeAdapter, make_model: MakeModel
) -> None:
    make_adapter()
    make_model("adapter/model.safetensors")
    assert pytester.runpytest("--ww-model=adapter", "--ww-report=json:r.json").ret == 0
    assert sorted(layer["name"] for layer in result_of(pytester)["layers"]) == sorted(LAYERS)


def test_fixtures_and_assertions(pytester: pytest.Pytester, make_adapter: MakeAdapter, make_model: MakeModel) -> None:
    make_adapter()
    make_adapter("loud", size=3.0)
    make_model("base.safetensors")
    pytester.makepyfile(
        """
        import pytest
        from pytest_weightwatcher import assert_no_regression

        def test_it(ww_model, ww_analysis, ww_baseline):
            assert [layer.spec.name for layer in ww_analysis.layers][0] == "encoder.0.key"
            assert_no_regression(ww_model, ww_baseline)
            assert_no_regression("adapter", "base.safetensors")
            with pytest.raises(AssertionError):
                assert_no_regression("loud", "base.safetensors")
        """
    )
    run = pytester.runpytest("--ww-model=adapter", "--ww-baseline=base.safetensors", "-k", "test_it", ".")
    run.assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_workers_of_xdist(
    pytester: pytest.Pytester, make_adapter: MakeAdapter, make_model: MakeModel, workers: str
) -> None:
    make_adapter()
    make_model("base.safetensors")
    assert pytester.runpytest("-n", workers, "--ww-model=adapter", "--ww-baseline=base.safetensors").ret == 0


@pytest.mark.parametrize(
    ("option", "text"), [("--ww-profile=compression", ""), ("-v", "regression: {profile: compression}\n")]
)
def test_another_profile_where_one_is_asked_for(
    pytester: pytest.Pytester, make_adapter: MakeAdapter, make_model: MakeModel, option: str, text: str
) -> None:
    make_adapter(size=0.3)
    make_model("base.safetensors")
    (pytester.path / "ww.yaml").write_text(f"version: 1\n{text}", encoding="utf-8")
    arguments = ["--ww-model=adapter", "--ww-baseline=base.safetensors", "--ww-report=json:r.json", option]
    assert pytester.runpytest(*arguments).ret == 1
    assert result_of(pytester)["profile"] == "compression"
