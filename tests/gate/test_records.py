"""A record is the same, whether its layer was computed now or read from a baseline."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pytest_weightwatcher.baseline import (
    Baseline,
    BaselineEntry,
    read_baseline,
    reuse,
    write_baseline,
)
from pytest_weightwatcher.records import (
    TRAP_LEVEL,
    LayerRecord,
    complete_metrics,
    record_of,
    rounded,
    stored_metrics,
)
from spectral import LayerAnalysis, analyze
from tests.gate.conftest import flat, healthy_tensors, noise

NAMES = ("heavy", "flat", "trapped", "offset", "small", "tiny", "conv", "wide", "rank", "dead", "half", "huge", "faint")


@cache
def layers() -> dict[str, LayerAnalysis]:
    """Layers of every kind, with all that the gate can compute of them."""
    rng = np.random.default_rng(7)
    good = healthy_tensors()["head.weight"]
    trapped = noise((128, 100), seed=3)
    trapped[5, 6] = trapped[60, 2] = 4.0
    tensors = {
        "heavy": good,
        "flat": flat(),
        "trapped": trapped,
        "offset": noise((128, 100), seed=4) + np.float32(0.2),
        "small": good[:49].copy(),
        "tiny": noise((3, 2)),
        "conv": rng.normal(size=(70, 60, 3, 3)).astype(np.float32),
        "wide": rng.standard_t(3, size=(120, 300)).astype(np.float32),
        "rank": (rng.normal(size=(90, 5)) @ rng.normal(size=(5, 80))).astype(np.float32),
        "dead": good * (np.arange(96) > 10)[:, None],
        "half": good.astype(np.float16),
        "huge": good.astype(np.float64) * 1e60,
        "faint": good * np.float32(1e-20),
    }
    assert tuple(tensors) == NAMES
    analysis = analyze(
        {f"{name}.weight": values for name, values in tensors.items()},
        traps=True,
        noise_test=True,
        projections=True,
        min_evals=50,
        mp_fit=True,
        randomize=True,
        detX=True,
        vectors=True,
    )
    found = {layer.spec.name: layer for layer in analysis.layers}
    assert set(found) == set(NAMES)
    return found


def through_a_file(records: list[LayerRecord], folder: Path) -> dict[str, LayerRecord]:
    path = folder / "b.ww.json"
    entries = {record.name: BaselineEntry(record=record) for record in records}
    write_baseline(
        path, Baseline(label="b", version="1", options={"fit": "PL"}, entries=entries), {"name": "x", "version": "1"}
    )
    return {
        record.name: reuse(read_baseline(path).entries[record.name], record.name, record.rows, record.columns)
        for record in records
    }


def test_a_record_read_from_a_file_is_the_one_computed(tmp_path: Path) -> None:
    records = [record_of(layer) for layer in layers().values()]
    found = through_a_file(records, tmp_path)
    for record in records:
        assert found[record.name] == record
        assert found[record.name].evals is None
        for metric, value in found[record.name].metrics.items():
            assert type(value) is type(record.metrics[metric]), metric


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_the_core_to_nine_digits(name: str) -> None:
    layer = layers()[name]
    record = record_of(layer)
    assert set(record.metrics) <= set(layer.metrics)
    for metric, value in record.metrics.items():
        assert value == pytest.approx(layer.metrics[metric], rel=2e-8, abs=2e-7), metric
        if isinstance(layer.metrics[metric], int):
            assert value == layer.metrics[metric]


@pytest.mark.parametrize("name", NAMES)
def test_metrics_that_follow_from_others_are_not_stored(name: str) -> None:
    metrics = record_of(layers()[name]).metrics
    stored = stored_metrics(metrics)
    assert complete_metrics(stored, metrics["num_evals"]) == metrics  # type: ignore[arg-type]
    assert not {"num_evals", "lambda_max", "log_norm", "log_spectral_norm"} & stored.keys()


@given(
    metrics=st.fixed_dictionaries(
        {
            "norm": st.floats(1e-30, 1e30),
            "spectral_norm": st.floats(1e-30, 1e30),
            "num_evals": st.integers(1, 10**6),
            "rank_loss": st.integers(0, 3),
            "weak_rank_loss": st.integers(0, 3),
            "n_dead_rows": st.integers(0, 3),
            "n_dead_columns": st.integers(0, 3),
        },
        optional={
            "alpha": st.floats(1.001, 100),
            "num_pl_spikes": st.integers(2, 1000),
            "sigma": st.floats(1e-3, 10),
            "xmax": st.floats(1e-30, 1e30),
            "alpha_weighted": st.floats(-1e3, 1e3),
            "lambda_max": st.floats(1e-30, 1e30),
            "sv_max": st.floats(1e-30, 1e30),
            "stable_rank": st.floats(1, 1e3),
            "entropy": st.floats(0, 1),
        },
    )
)
def test_any_metrics_survive_a_file(metrics: dict[str, float | int]) -> None:
    """Also those of a form of matrix where xmax is not the spectral norm: what does not follow is kept."""
    complete = complete_metrics(metrics)
    for name, value in metrics.items():
        assert complete[name] == pytest.approx(value, rel=2e-7, abs=2e-7)
    stored = json.loads(json.dumps(stored_metrics(complete)))
    assert complete_metrics(stored, int(metrics["num_evals"])) == complete
    assert complete_metrics(complete) == complete


@given(value=st.floats(allow_nan=False, allow_infinity=False), digits=st.integers(1, 17))
def test_rounding_twice_changes_nothing(value: float, digits: int) -> None:
    once = rounded(value, digits)
    assert rounded(once, digits) == once
    assert json.loads(json.dumps(once)) == once


@pytest.mark.parametrize("name", NAMES)
def test_alpha_over_the_tail_is_alpha(name: str, tmp_path: Path) -> None:
    record = record_of(layers()[name])
    if record.tail is None:
        assert record.fit_failure is not None
        return
    n = record.tail.n
    assert n == record.metrics["num_pl_spikes"]
    assert record.alpha_at(n) == record.tail.alpha
    assert record.tail.alpha == pytest.approx(record.metrics["alpha"], rel=1e-6)
    assert record.tail.sigma == pytest.approx(record.metrics["sigma"], rel=1e-6)
    assert record.alpha_at(10**6) is None
    (stored,) = through_a_file([record], tmp_path).values()
    assert stored.alpha_at(n) == record.tail.alpha
    assert stored.alpha_at(n - 1) is None
    assert (record.alpha_at(n - 1) is None) == (n <= 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["heavy", "trapped", "offset", "conv", "wide"]), level=st.floats(-12, -1.302))
def test_traps_are_counted_as_by_the_core(name: str, level: float) -> None:
    layer = layers()[name]
    record = record_of(layer)
    assert layer.traps is not None
    assert record.traps is not None
    at = min(10.0**level, TRAP_LEVEL)
    # Levels are rounded to three digits.
    assume(all(abs(at / each - 1.0) > 0.01 for each in record.traps.levels if each > 0.0))
    assert record.traps.count(at) == layer.traps.n_traps(at)


def test_planted_traps_are_in_the_record() -> None:
    traps = record_of(layers()["trapped"]).traps
    assert traps is not None
    assert traps.count(1e-4) == 2
    assert list(traps.levels) == sorted(traps.levels)


def test_a_record_of_damage() -> None:
    analysis = analyze({"nan.weight": np.full((60, 60), np.nan), "same.weight": np.full((60, 60), 2.0)})
    nan, same = map(record_of, analysis.layers)
    assert nan.is_without_spectrum
    assert nan.reason == nan.damage
    assert nan.metrics == {}
    assert not same.is_without_spectrum
    assert same.damage == "every value of the layer is the same"
