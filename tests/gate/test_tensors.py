"""Tensors without a spectrum beside those of the baseline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pytest_weightwatcher import assert_no_regression
from pytest_weightwatcher.comparison import turn
from pytest_weightwatcher.tensors import (
    TensorRecord,
    compare_tensors,
    read_tensor,
    records_of_tensors,
    tensor_payload,
)
from spectral.analysis import describe
from tests.gate.conftest import LAYERS, Tensors, healthy_tensors

RECORD = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json", "--ww-update-baseline")
COMPARE = ("--ww-model=model.safetensors", "--ww-baseline=b.ww.json")


def model() -> Tensors:
    rng = np.random.default_rng(0)
    tensors = healthy_tensors()
    for name in LAYERS:
        tensors[f"{name}.bias"] = rng.normal(size=96).astype(np.float32)
    tensors["norm.weight"] = (1.0 + 0.1 * rng.normal(size=64)).astype(np.float32)
    tensors["stem.weight"] = rng.normal(size=(24, 1, 3, 3)).astype(np.float32)
    tensors["unused.bias"] = np.zeros(96, dtype=np.float32)
    return tensors


def save(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def recorded(pytester: pytest.Pytester) -> Path:
    save(pytester.path, model())
    assert pytester.runpytest(*RECORD).ret == pytest.ExitCode.OK
    return pytester.path / "b.ww.json"


def findings(pytester: pytest.Pytester, *arguments: str) -> dict[str, str]:
    """Return check -> verdict of what is wrong with the model as a whole, and nothing else may be."""
    pytester.runpytest(*COMPARE, *arguments, "--ww-report=json:out.json")
    (found,) = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["models"]
    wrong = [check for check in found["checks"] if check["verdict"] in ("warn", "fail")]
    assert all(check["layer"] is None for check in wrong)
    return {check["check"]: check["verdict"] for check in wrong}


def set_to(name: str, values: Any) -> Tensors:
    tensors = model()
    tensors[name] = np.broadcast_to(np.asarray(values, dtype=np.float32), tensors[name].shape).copy()
    return tensors


def without(name: str) -> Tensors:
    return {key: values for key, values in model().items() if key != name}


MOVED = "model.regression.tensors"


@pytest.mark.parametrize(
    ("tensors", "wrong"),
    [
        (model(), {}),
        ({name: values.astype(np.float16) for name, values in model().items()}, {}),
        (set_to("head.bias", 0.0), {MOVED: "fail"}),
        (set_to("norm.weight", 0.0), {MOVED: "fail"}),
        (set_to("stem.weight", 1e6), {MOVED: "fail"}),
        (set_to("unused.bias", 0.5), {MOVED: "fail"}),
        (set_to("norm.weight", 1.15 * model()["norm.weight"]), {MOVED: "warn"}),
        (set_to("norm.weight", math.nan), {MOVED: "fail", "integrity": "fail"}),
        (without("stem.weight"), {"baseline.layers": "fail"}),
        (without("head.bias"), {"baseline.layers": "warn"}),
        ({**model(), "head.bias": model()["head.bias"][:90].copy()}, {"baseline.layers": "fail"}),
        ({**model(), "new.bias": model()["head.bias"]}, {}),
    ],
    ids=[
        "same", "float16", "zeroed", "norm zeroed", "constant", "from nothing", "moved a little", "nan",
        "kernel missing", "vector missing", "reshaped", "new",
    ],
)  # fmt: skip
def test_what_is_found(pytester: pytest.Pytester, recorded: Path, tensors: Tensors, wrong: dict[str, str]) -> None:
    save(pytester.path, tensors)
    assert findings(pytester) == wrong


def test_the_tensor_is_named(pytester: pytest.Pytester, recorded: Path) -> None:
    save(pytester.path, set_to("stem.weight", 1e6))
    result = pytester.runpytest(*COMPARE)
    result.stdout.fnmatch_lines(
        ["*7 tensors without a spectrum: stem.weight moved by *%; at most 20% accepted; a warning*"]
    )
    result.stdout.fnmatch_lines(["*Biases, norms or kernels that have no spectrum are not those of the baseline*"])


def test_a_fine_tune_may_move_them_but_not_lose_them(pytester: pytest.Pytester, recorded: Path) -> None:
    save(pytester.path, set_to("head.bias", 3.0))
    assert findings(pytester, "--ww-profile=finetune") == {}
    save(pytester.path, without("stem.weight"))
    assert findings(pytester, "--ww-profile=finetune") == {"baseline.layers": "fail"}


def small_head(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(10, 64)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "values", "check"),
    [
        ("stem.weight", np.random.default_rng(9).normal(size=(24, 1, 3, 3)), "model.regression.kernels"),
        ("stem.weight", 1e6, "model.regression.kernels"),
        ("stem.weight", 0.0, "model.regression.kernels"),
        ("small.weight", small_head(7), "regression.turn"),
        ("small.weight", -small_head(1), "regression.turn"),
        ("small.weight", small_head(1) + 0.5 * small_head(2), None),
        ("stem.weight", model()["stem.weight"] + 0.3, None),
    ],
)
def test_a_fine_tune_must_leave_something_of_small_layers(
    pytester: pytest.Pytester, name: str, values: Any, check: str | None
) -> None:
    accepted = {**model(), "small.weight": small_head(1)}
    save(pytester.path, accepted)
    pytester.runpytest(*RECORD)
    changed = np.broadcast_to(np.asarray(values, dtype=np.float32), accepted[name].shape).copy()
    save(pytester.path, {**accepted, name: changed})
    pytester.runpytest(*COMPARE, "--ww-profile=finetune", "--ww-report=json:out.json")
    (found,) = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["models"]
    failing = {each["check"] for each in found["checks"] if each["verdict"] == "fail"}
    assert failing == ({check} if check else set())


def test_excluded_layers_may_turn(pytester: pytest.Pytester) -> None:
    """As the head for another task does."""
    save(pytester.path, model())
    pytester.makefile(".yaml", ww="version: 1\nregression: {profile: finetune}\nanalysis: {exclude: [head]}\n")
    pytester.runpytest(*RECORD)
    save(pytester.path, set_to("head.weight", np.random.default_rng(3).normal(size=(96, 64))))
    assert pytester.runpytest(*COMPARE).ret == pytest.ExitCode.OK


@given(
    st.lists(st.floats(-10, 10), min_size=3, max_size=3).filter(lambda v: np.linalg.norm(v) > 0.1),
    st.lists(st.floats(-10, 10), min_size=3, max_size=3).filter(lambda v: np.linalg.norm(v) > 0.1),
)
def test_the_turn_is_one_minus_the_cosine(now: list[float], before: list[float]) -> None:
    """The law of cosines."""
    new, old = np.array(now), np.array(before)
    change = float(np.linalg.norm(new - old) / np.linalg.norm(old))
    cosine = float(new @ old / (np.linalg.norm(new) * np.linalg.norm(old)))
    assert turn(float(new @ new), float(old @ old), change) == pytest.approx(1 - cosine, abs=1e-6)


@pytest.mark.parametrize("factor", [0.1, 1.0, 3.0, 10.0, 1e6])
def test_a_turn_does_not_depend_on_the_scale(factor: float) -> None:
    """The reviewer's case: depthwise kernels that were only scaled had a cosine of -1."""
    rng = np.random.default_rng(0)
    before = {f"dw.{n}.weight": rng.normal(size=(8, 1, 3, 3)).astype(np.float32) for n in range(40)}
    after = {name: (factor * values).astype(np.float32) for name, values in before.items()}
    drawn = {name: (factor * rng.normal(size=values.shape)).astype(np.float32) for name, values in before.items()}
    old, scaled, anew = (records_of_tensors(describe(tensors)) for tensors in (before, after, drawn))
    assert max(compare_tensors(scaled, old).turns.values()) < 1e-3
    turns = compare_tensors(anew, old).turns.values()
    assert 0.15 < np.std(list(turns)) < 0.3
    assert sum(value > 0.6 for value in turns) >= 36


@pytest.mark.parametrize(
    ("limit", "verdict"), [("{max_change: 2}", None), ("{severity: warn}", "warn"), ("false", None)]
)
def test_its_limit_is_that_of_the_config(
    pytester: pytest.Pytester, recorded: Path, limit: str, verdict: str | None
) -> None:
    pytester.makefile(".yaml", ww=f"version: 1\nmodel: {{regression: {{tensors: {limit}}}}}\n")
    save(pytester.path, set_to("head.bias", 0.0))
    assert findings(pytester).get(MOVED) == verdict


def test_renamed_with_the_layers(pytester: pytest.Pytester, recorded: Path) -> None:
    save(pytester.path, {f"module.{name}": values for name, values in model().items()})
    assert findings(pytester) == {}
    save(pytester.path, {f"module.{name}": values for name, values in set_to("head.bias", 0.0).items()})
    assert findings(pytester) == {MOVED: "fail"}


def test_names_without_a_rule(pytester: pytest.Pytester, recorded: Path) -> None:
    names = {name: f"t{index * 7 % 13}q.{name.rpartition('.')[2]}" for index, name in enumerate(sorted(model()))}
    save(pytester.path, {names[name]: values for name, values in model().items()})
    assert findings(pytester) == {}


def test_excluded_layers_are_tensors(pytester: pytest.Pytester, recorded: Path) -> None:
    """What the recording analysed and this run excludes is still there, and the other way round."""
    pytester.makefile(".yaml", ww="version: 1\nanalysis: {exclude: [head]}\n")
    assert findings(pytester) == {"baseline.layers": "warn"}
    pytester.runpytest(*RECORD)
    assert findings(pytester) == {}
    save(pytester.path, set_to("head.weight", 1.0))
    assert findings(pytester) == {MOVED: "fail"}
    pytester.makefile(".yaml", ww="version: 1\n")
    save(pytester.path, model())
    assert findings(pytester) == {"baseline.layers": "warn"}


def test_beside_a_checkpoint_and_in_memory(pytester: pytest.Pytester) -> None:
    save(pytester.path, set_to("stem.weight", 0.0))
    save_file(model(), pytester.path / "good.safetensors")
    result = pytester.runpytest(
        *COMPARE[:1], "--ww-baseline=good.safetensors", "-k", "regression.tensors or baseline.layers"
    )
    result.assert_outcomes(failed=1, passed=1)
    assert_no_regression(model(), pytester.path / "good.safetensors")
    with pytest.raises(AssertionError, match=r"spectrum: stem\.weight moved by 100%"):
        assert_no_regression(pytester.path / "model.safetensors", pytester.path / "good.safetensors")
    with pytest.raises(AssertionError, match=r"spectrum: stem\.weight moved by 100%"):
        assert_no_regression(set_to("stem.weight", 0.0), model())


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")], ids=["serial", "xdist"])
def test_recorded_by_any_worker(pytester: pytest.Pytester, recorded: Path, workers: tuple[str, ...]) -> None:
    first = recorded.read_bytes()
    recorded.unlink()
    assert pytester.runpytest_subprocess(*workers, *RECORD).ret == pytest.ExitCode.OK
    assert recorded.read_bytes() == first


def test_a_partial_recording_keeps_them(pytester: pytest.Pytester, recorded: Path) -> None:
    before = json.loads(recorded.read_text(encoding="utf-8"))["tensors"]
    save(pytester.path, set_to("head.bias", 0.0))
    pytester.runpytest(*RECORD, "-k", "alpha")
    assert json.loads(recorded.read_text(encoding="utf-8"))["tensors"] == before
    save(pytester.path, without("stem.weight"))
    pytester.runpytest(*RECORD, "-k", "integrity")
    assert json.loads(recorded.read_text(encoding="utf-8"))["tensors"] == before
    save(pytester.path, set_to("head.bias", 0.0))
    pytester.runpytest(*COMPARE, "--ww-update-new-only")
    assert json.loads(recorded.read_text(encoding="utf-8"))["tensors"] == before
    pytester.runpytest(*RECORD)
    after = json.loads(recorded.read_text(encoding="utf-8"))["tensors"]
    assert {name for name in before if before[name] != after[name]} == {"head.bias"}


def test_a_recording_from_before_there_were_any(pytester: pytest.Pytester, recorded: Path) -> None:
    from tests.gate.baseline_files import payload_of, resealed

    payload = payload_of(recorded)
    del payload["tensors"]
    recorded.write_text(json.dumps(resealed(payload)), encoding="utf-8")
    save(pytester.path, set_to("head.bias", 0.0))
    result = pytester.runpytest(*COMPARE, "-k", "regression.tensors", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*not compared with the baseline: it was recorded without them*"])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "tensors must be names and records"),
        ({"x": []}, "tensor 'x': must be shape, hash, norm and projections"),
        ({"x": [[0], "h", 1.0, [0.0] * 8]}, "tensor 'x': the shape must be positive integers"),
        ({"x": [[2], 1, 1.0, [0.0] * 8]}, "tensor 'x': the shape must be positive integers and the hash text"),
        ({"x": [[2], "h", -1.0, [0.0] * 8]}, "tensor 'x': norm and 8 projections must be finite numbers"),
        ({"x": [[2], "h", 1.0, [0.0] * 7]}, "tensor 'x': norm and 8 projections must be finite numbers"),
        ({"x": [[2], "h", "1", [0.0] * 8]}, "tensor 'x': norm and 8 projections must be finite numbers"),
    ],
)
def test_a_recording_that_cannot_be(pytester: pytest.Pytester, recorded: Path, tensors: Any, message: str) -> None:
    from tests.gate.baseline_files import payload_of, resealed

    recorded.write_text(json.dumps(resealed({**payload_of(recorded), "tensors": tensors})), encoding="utf-8")
    result = pytester.runpytest(*COMPARE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*b.ww.json: {message}*"])


# the records themselves


def refuse(problem: str) -> ValueError:
    return ValueError(problem)


def test_what_is_written_is_read() -> None:
    records = records_of_tensors(describe({**model(), "bad.bias": np.array([np.nan, 1.0], dtype=np.float32)}))
    assert records["bad.bias"].norm is None
    assert {
        name: read_tensor(name, json.loads(json.dumps(tensor_payload(r))), refuse) for name, r in records.items()
    } == (records)


def test_a_tied_tensor_is_not_recorded_twice() -> None:
    tensors: dict[str, NDArray[Any]] = dict(model())
    tensors["lm_head.weight"] = tensors["head.weight"]
    assert set(records_of_tensors(describe(tensors))) == {
        name for name in model() if not name.endswith("weight") or name in ("norm.weight", "stem.weight")
    }


names = st.lists(st.sampled_from([f"{letter}.{number}" for letter in "ab" for number in range(4)]), unique=True)


@settings(deadline=None)  # the first pair loads scipy.optimize
@given(now=names, before=names)
def test_every_tensor_of_the_baseline_is_paired_missing_or_reshaped(now: list[str], before: list[str]) -> None:
    def record(name: str, size: int) -> TensorRecord:
        return TensorRecord(
            name=name,
            shape=(size,),
            content_hash=name,
            norm=1.0,
            projections=tuple(np.eye(8)[sum(map(ord, name)) % 8].tolist()),
        )

    old = {name: record(name, 3) for name in before}
    found = compare_tensors({name: record(name, 4 if name == "a.0" else 3) for name in now}, old)
    assert set(found.changes) <= set(now)
    assert len(found.changes) + len(found.missing) + len(found.reshaped) == len(before)
    assert not set(found.missing) & set(now)
    assert set(found.reshaped) <= {"a.0"}
