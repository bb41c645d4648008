"""The assertions, with pytest and without: verdicts of the gate, impossible arguments, and the text of a failure."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pytest_weightwatcher
from pytest_weightwatcher import (
    assert_layers_well_trained,
    assert_metric,
    assert_no_correlation_traps,
    assert_no_regression,
    assert_rank_preserved,
    assert_spectra_close,
    assertions,
)
from pytest_weightwatcher.config import Config
from pytest_weightwatcher.errors import BaselineError
from pytest_weightwatcher.gate import Gate, layer_checks, model_checks
from pytest_weightwatcher.limits import DEFAULT_RULES
from pytest_weightwatcher.planning import Wish, plan_models
from pytest_weightwatcher.profiles import PROFILES
from pytest_weightwatcher.verdict import Verdict
from spectral import analyze
from spectral.errors import ModelError, OptionError
from tests.gate.conftest import LAYERS, MakeModel, Tensors, flat, healthy_tensors, noise

ABSOLUTE: tuple[Callable[..., Any], ...] = (
    assert_layers_well_trained,
    assert_no_correlation_traps,
    lambda model, **options: assert_metric(model, "stable_rank", min=1, **options),
)
PAIRED: tuple[Callable[..., Any], ...] = (assert_no_regression, assert_rank_preserved, assert_spectra_close)


def with_head(values: Any) -> Tensors:
    return {**healthy_tensors(), "head.weight": values}


def with_trap(size: float = 4.0) -> Tensors:
    values = healthy_tensors()["head.weight"].copy()
    values[3, 5] = size
    return with_head(values)


def failure_of(assertion: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assertion(*arguments, **options)
    return str(caught.value)


class TestWellTrained:
    def test_returns_the_analysis(self) -> None:
        analysis = assert_layers_well_trained(healthy_tensors())
        assert [layer.status for layer in analysis.layers] == ["success"] * 4

    def test_takes_a_path_and_an_analysis(self, make_model: MakeModel) -> None:
        path = make_model()
        analysis = assert_layers_well_trained(path)
        assert assert_layers_well_trained(analysis) is analysis
        assert assert_layers_well_trained(str(path)).summary == analysis.summary

    def test_names_the_layer_and_how_far(self) -> None:
        text = failure_of(assert_layers_well_trained, with_head(flat()))
        assert text.startswith("not well trained: 1 of 4 layers of the dict\n")
        assert "Worst, head: alpha 101.3 is 95.34 above the limit of 2 to 6" in text

    def test_range_is_inclusive_and_settable(self) -> None:
        # Bounds count to the nine digits of the gate.
        alphas = [float(f"{layer.metrics['alpha']:.9g}") for layer in analyze(healthy_tensors()).layers]
        assert_layers_well_trained(healthy_tensors(), alpha_range=(min(alphas), max(alphas)))
        assert_layers_well_trained(healthy_tensors(), (2, float("inf")))
        assert "4 of 4 layers" in failure_of(assert_layers_well_trained, healthy_tensors(), (2, min(alphas) - 1e-3))

    def test_excluded_and_chosen_layers(self) -> None:
        tensors = with_head(flat())
        assert_layers_well_trained(tensors, exclude=["head"])
        analysis = analyze(tensors)
        assert assert_layers_well_trained(analysis, exclude=["he*"]) is analysis
        assert_layers_well_trained(tensors, layers=["encoder.*"])
        assert_layers_well_trained(analysis, layers=["encoder.*"])
        assert "1 of 1 layer of" in failure_of(assert_layers_well_trained, analysis, layers=["head"])

    def test_a_large_layer_without_alpha_never_passes(self) -> None:
        text = failure_of(assert_layers_well_trained, with_head(np.eye(64)))
        assert "Worst, head: no alpha: all eigenvalues in the tail are equal" in text
        assert "no power-law tail" in text

    def test_nothing_judged_is_no_pass(self) -> None:
        small = {"small": np.random.default_rng(0).normal(size=(20, 20))}
        text = failure_of(assert_layers_well_trained, small)
        assert "No layer could be judged: the dict has 1 matrices, none with a fit over 50" in text
        assert "1x 20 eigenvalues, at least 50 are needed" in text
        assert_layers_well_trained(small, (1, 100), min_evals=20)
        assert "0.0% of the parameters were analysed" in failure_of(assert_layers_well_trained, small, exclude=["*"])
        no_coverage = {"exclude": ["*"], "min_coverage": None}
        assert "has 0 matrices" in failure_of(assert_layers_well_trained, small, **no_coverage)

    def test_fits_of_an_analysis_below_min_evals_do_not_count(self) -> None:
        """An analysis that fitted smaller layers, too, is judged as the gate judges: not by these fits."""
        small = {**healthy_tensors(), "small.weight": flat((40, 30))}
        analysis = analyze(small, min_evals=8)
        assert analysis.layers[-1].metrics["alpha"] > 6
        completed = assert_layers_well_trained(analysis)
        assert [layer.status for layer in completed.layers] == ["success"] * 4 + ["skipped"]
        assert completed.layers[0] is analysis.layers[0]
        assert "1 of 5 layers" in failure_of(assert_layers_well_trained, analysis, min_evals=20)


class TestTraps:
    def test_a_stray_weight(self) -> None:
        analysis = assert_no_correlation_traps(healthy_tensors())
        assert analysis.description.options.traps
        text = failure_of(assert_no_correlation_traps, with_trap())
        assert "correlation traps: 1 of 4 layers" in text
        assert "[3, 5] = 4" in text
        assert_no_correlation_traps(with_trap(), max_traps=1)

    def test_an_analysis_without_the_test_is_completed(self) -> None:
        bare = analyze(with_trap(), layers=["head"])
        assert "1 of 1 layer of" in failure_of(assert_no_correlation_traps, bare)
        completed = assert_no_correlation_traps(bare, max_traps=1)
        assert [layer.name for layer in completed.layers] == ["head"]
        assert assert_no_correlation_traps(completed, max_traps=1) is completed

    def test_one_rate_for_all_layers(self) -> None:
        """A trap that is one in a model of one layer is none at the same rate in a model of forty."""
        alone = {"head.weight": with_trap(2.0)["head.weight"]}
        found = [analyze(alone, traps=True, seed=seed).layers[0].traps for seed in range(30)]
        p_values = [test.p_value for test in found if test is not None]
        # The least rate at which the gate confirms the trap under its further permutations, for each first one.
        rates = [1.1 * max(p_values[seed], 2.0 * float(np.median(p_values[seed : seed + 9]))) for seed in range(22)]
        seed = int(np.argmax(np.divide(p_values[:22], rates)))
        rate = rates[seed]
        assert rate / 41 < p_values[seed] < 1e-3
        others = {
            f"{number}.{name}": values for number in range(10) for name, values in healthy_tensors(number).items()
        }
        text = failure_of(assert_no_correlation_traps, alone, false_alarm_rate=rate, seed=seed)
        assert "Worst, head: 1 correlation trap" in text
        assert "confirmed by 8 further permutations" in " ".join(text.split())
        assert_no_correlation_traps({**others, **alone}, false_alarm_rate=rate, seed=seed)


class TestMetric:
    def test_bounds(self) -> None:
        assert_metric(healthy_tensors(), "stable_rank", min=10, max=20)
        text = failure_of(assert_metric, healthy_tensors(), "stable_rank", max=10)
        assert "stable_rank out of bounds: 4 of 4 layers" in text
        assert "at most 10" in text

    @pytest.mark.parametrize("metric", ["alpha_farms", "mp_softrank", "num_traps", "noise"])
    def test_computes_what_the_metric_needs(self, metric: str) -> None:
        assert_metric(healthy_tensors(), metric, max=100)
        assert metric in failure_of(assert_metric, healthy_tensors(), metric, min=101)

    def test_a_metric_that_no_layer_has(self) -> None:
        text = failure_of(assert_metric, {"w": np.random.default_rng(0).normal(size=(30, 30))}, "alpha", min=1)
        assert "No layer could be judged" in text
        assert "none with a value of alpha" in text

    def test_unknown_metric(self) -> None:
        with pytest.raises(OptionError, match=r"^there is no metric 'stabel_rank'; did you mean 'stable_rank'\?$"):
            assert_metric(healthy_tensors(), "stabel_rank", min=1)


class TestRegression:
    def test_a_copy_is_no_regression(self) -> None:
        assert_no_regression(healthy_tensors(), healthy_tensors())

    @pytest.mark.parametrize("profile", ["compression", "finetune"])
    def test_a_layer_drawn_anew(self, profile: str) -> None:
        text = failure_of(assert_no_regression, with_head(noise()), healthy_tensors(), profile=profile)
        assert f"worse than the baseline ({profile}: " in text
        assert "1 of 4 layers" in text
        assert ("regression.weights" if profile == "compression" else "regression.drift") in text

    def test_the_profile_decides(self) -> None:
        base = healthy_tensors()
        tuned = {name: 1.3 * values for name, values in base.items()}
        assert "regression.weights" in failure_of(assert_no_regression, tuned, base)
        assert_no_regression(tuned, base, profile="finetune")

    def test_limits_of_a_config(self) -> None:
        config = Config.model_validate(
            {"regression": {"profile": "finetune", "drift": False, "alpha": {"severity": "fail"}}}
        )
        text = failure_of(assert_no_regression, with_head(noise()), healthy_tensors(), config=config)
        assert "finetune" in text
        assert "drift" not in text

    def test_absolute_limits_are_not_its_business(self) -> None:
        strange = with_head(flat())
        config = Config.model_validate({"checks": {"alpha": {"max": 6}}})
        assert_no_regression({name: values.copy() for name, values in strange.items()}, strange, config=config)

    def test_warnings_fail_where_the_policy_says_so(self) -> None:
        base = healthy_tensors()
        bigger = {**healthy_tensors(), "extra.weight": flat()}
        assert_no_regression(bigger, base)
        config = Config.model_validate({"policy": {"fail_on": "warn"}})
        assert "baseline.layers" in failure_of(assert_no_regression, bigger, base, config=config)
        never = Config.model_validate({"policy": {"fail_on": "never"}})
        assert "1 of 4" in failure_of(assert_no_regression, with_head(noise()), base, config=never)

    def test_missing_layers(self) -> None:
        fewer = {name: values for name, values in healthy_tensors().items() if "head" not in name}
        for assertion in PAIRED:
            assert "1 missing: head" in failure_of(assertion, fewer, healthy_tensors())

    def test_nothing_in_common(self) -> None:
        for assertion in PAIRED:
            assert "no layer is compared" in failure_of(assertion, {"other.weight": flat((70, 60))}, healthy_tensors())

    def test_a_recorded_file(self, pytester: pytest.Pytester, make_model: MakeModel, monkeypatch: Any) -> None:
        monkeypatch.delenv("CI", raising=False)
        path = make_model()
        run = pytester.runpytest("--ww-model=model.safetensors", "--ww-baseline=good.ww.json", "--ww-update-baseline")
        assert run.ret == 0
        recorded = pytester.path / "good.ww.json"
        for assertion in PAIRED:
            assert len(assertion(path, recorded).layers) == 4
            assert "1 of 4 layers" in failure_of(assertion, with_head(noise()), str(recorded))

    def test_an_analysis_is_the_state_it_was_made_of(self) -> None:
        """The baseline stays what it was, though the model behind it is trained on in place."""
        model = healthy_tensors()
        before = analyze(model, traps=True, noise_test=True, projections=True)
        bare = analyze(model)
        model["head.weight"][:] = noise()
        for assertion in PAIRED:
            assert "1 of 4 layers" in failure_of(assertion, model, before)
        assert "1 of 4 layers" in failure_of(assert_spectra_close, model, bare)
        with pytest.raises(OptionError, match="has changed since it was analysed"):
            assert_no_regression(model, bare)

    def test_an_analysis_that_lacks_something_is_completed(self) -> None:
        assert_no_regression(analyze(healthy_tensors()), analyze(healthy_tensors()))
        assert "1 of 4" in failure_of(assert_no_regression, analyze(with_head(noise())), analyze(healthy_tensors()))

    def test_layers_that_an_analysis_left_out_are_not_missing(self) -> None:
        part = analyze(healthy_tensors(), layers=["encoder.*"], traps=True, noise_test=True, projections=True)
        for assertion in PAIRED:
            assert assertion(part, analyze(healthy_tensors())) is part
            assert len(assertion(part, healthy_tensors()).layers) == 3

    def test_a_file_that_is_gone(self, make_model: MakeModel) -> None:
        path = make_model()
        analysis = analyze(path)
        path.unlink()
        text = failure_of(assert_layers_well_trained, analysis)
        assert "not well trained: model.safetensors as a whole" in text
        assert "Nothing is known of these values" in text
        with pytest.raises(ModelError, match="cannot be read"):
            assert_no_correlation_traps(analysis)

    def test_the_model_itself_is_no_baseline(self, make_model: MakeModel) -> None:
        model, path = healthy_tensors(), make_model()
        for assertion in PAIRED:
            with pytest.raises(BaselineError, match="the baseline is the model itself"):
                assertion(model, model)
            with pytest.raises(BaselineError, match="the baseline is the model itself"):
                assertion(path, str(path))
            with pytest.raises(BaselineError, match="shares its memory with the model"):
                assertion(model, dict(model))
        assert_no_regression({**healthy_tensors(), "head.weight": model["head.weight"]}, model)

    @pytest.mark.parametrize("baseline", [None, "nope.ww.json", "nope.safetensors"])
    def test_no_baseline(self, baseline: Any) -> None:
        with pytest.raises(BaselineError, match=r"no such baseline|is None"):
            assert_no_regression(healthy_tensors(), baseline)


class TestRankAndSpectra:
    def test_rank_in_both_directions(self) -> None:
        base = healthy_tensors()
        left, sizes, right = np.linalg.svd(base["head.weight"].astype(np.float64), full_matrices=False)
        fallen = with_head((left * np.where(np.arange(64) < 32, sizes, 0.0)) @ right)
        assert "regression.matrix_rank" in failure_of(
            assert_rank_preserved, fallen, base, effective_rank=None, stable_rank=None
        )
        assert "regression.effective_rank" in failure_of(assert_rank_preserved, fallen, base, matrix_rank=None)
        assert_rank_preserved(fallen, base, matrix_rank=0.5, effective_rank=0.5, stable_rank=0.5)
        risen = with_head((left * np.ones(64)) @ right)
        assert "stable_rank" in failure_of(assert_rank_preserved, risen, base)
        assert_rank_preserved(risen, base, effective_rank=(0.1, None), stable_rank=(0.1, None))

    def test_rounding_keeps_both(self) -> None:
        base = healthy_tensors()
        half = {name: values.astype(np.float16) for name, values in base.items()}
        assert_rank_preserved(half, base)
        assert_spectra_close(half, base, 0.001)

    def test_displacement(self) -> None:
        text = failure_of(assert_spectra_close, with_head(noise()), healthy_tensors())
        assert "spectra moved: 1 of 4 layers" in text
        assert "regression.spectrum" in text
        assert_spectra_close(with_head(noise()), healthy_tensors(), max_displacement=0.5)

    def test_a_layer_under_another_name(self) -> None:
        """An analysis without projections is matched by content and spectra."""
        renamed = {name.replace("head", "top"): values for name, values in with_head(flat()).items()}
        renamed["top.weight"] = renamed["top.weight"] * np.float32(1.001)
        assert_spectra_close(analyze(renamed), analyze(with_head(flat())))


class TestDamage:
    @pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
    def test_in_any_layer(self, value: float) -> None:
        damaged = with_head(np.full((96, 64), value))
        for assertion in ABSOLUTE:
            assert "Worst, head: " in failure_of(assertion, damaged)
            assert "Worst, head: " in failure_of(assertion, analyze(damaged))
        for assertion in PAIRED:
            assert "Worst, head: " in failure_of(assertion, damaged, healthy_tensors())

    def test_in_any_other_tensor(self) -> None:
        damaged = {**healthy_tensors(), "norm.bias": np.array([1.0, np.nan])}
        for assertion in ABSOLUTE:
            assert "other tensors: NaN or infinite values in norm.bias" in failure_of(assertion, damaged)
        for assertion in PAIRED:
            assert "other tensors: NaN" in failure_of(assertion, damaged, healthy_tensors())

    def test_coverage(self) -> None:
        partly = {**healthy_tensors(), "rotation.weight": np.ones((300, 300), dtype=np.int32)}
        coverage = analyze(partly).coverage
        assert coverage < 0.5
        for assertion in ABSOLUTE:
            assert "lower min_coverage" in failure_of(assertion, partly)
            assertion(partly, min_coverage=coverage - 0.01)
            assertion(partly, min_coverage=None)
        for assertion in PAIRED:
            assert "coverage" in failure_of(assertion, partly, healthy_tensors())
            assertion(partly, healthy_tensors(), min_coverage=coverage - 0.01)

    def test_values_change_between_analysis_and_assertion(self) -> None:
        model = healthy_tensors()
        analysis = analyze(model)
        model["head.weight"][3, 5] = 4.0
        with pytest.raises(OptionError, match=r"has changed since it was analysed \(layer head\)"):
            assert_no_correlation_traps(analysis)


IMPOSSIBLE: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (assert_layers_well_trained, {"alpha_range": (6, 2)}, "alpha_range must be"),
    (assert_layers_well_trained, {"alpha_range": (2, float("nan"))}, "alpha_range must be"),
    (assert_layers_well_trained, {"alpha_range": (float("inf"), float("inf"))}, "nothing lies between"),
    (assert_layers_well_trained, {"alpha_range": (None, None)}, "limits nothing"),
    (assert_layers_well_trained, {"alpha_range": 6}, "alpha_range must be"),
    (assert_layers_well_trained, {"min_evals": 1}, "min_evals: expected greater than or equal to 2, got 1"),
    (assert_layers_well_trained, {"exclude": "head"}, "exclude must be a sequence of patterns"),
    (assert_layers_well_trained, {"exclude": [3]}, "exclude must hold patterns"),
    (assert_layers_well_trained, {"layers": ["hed"]}, "matches no layer; close to it: head"),
    (assert_layers_well_trained, {"layers": 1.5}, "layers must be"),
    (assert_layers_well_trained, {"min_coverage": 90}, "min_coverage must be a share"),
    (assert_no_correlation_traps, {"max_traps": -1}, "max_traps must be"),
    (assert_no_correlation_traps, {"false_alarm_rate": 1.0}, "false_alarm_rate: expected less than 1"),
    (assert_no_correlation_traps, {"seed": 1.5}, "seed must be"),
    (assert_metric, {"metric": "alpha"}, "give min, max or both for alpha"),
    (assert_metric, {"metric": "alpha", "min": "2"}, r"\(min, max\) must be"),
    (assert_metric, {"metric": "correlation_traps", "min": 1}, "give max alone for correlation_traps"),
    (assert_no_regression, {"baseline": healthy_tensors(), "profile": "finetun"}, "did you mean 'finetune'"),
    (assert_no_regression, {"baseline": healthy_tensors(), "config": {}}, "config must be a Config"),
    (assert_rank_preserved, {"baseline": healthy_tensors(), "stable_rank": -0.1}, "stable_rank must be"),
    (assert_rank_preserved, {"baseline": healthy_tensors(), "stable_rank": (1, 2, 3)}, "one number, or"),
    (
        assert_rank_preserved,
        {"baseline": healthy_tensors(), "matrix_rank": None, "effective_rank": None, "stable_rank": None},
        "give a limit for one of",
    ),
    (assert_spectra_close, {"baseline": healthy_tensors(), "max_displacement": float("nan")}, "max_displacement must"),
    (assert_spectra_close, {"baseline": healthy_tensors(), "sigmas": True}, "sigmas must be"),
]


@pytest.mark.parametrize(("assertion", "options", "sentence"), IMPOSSIBLE)
def test_impossible_arguments(assertion: Callable[..., Any], options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        assertion(healthy_tensors(), **options)
    assert "\n" not in str(caught.value)


class TestText:
    def test_at_most_ten_layers(self) -> None:
        model = {f"layer.{index}.weight": flat(seed=index) for index in range(13)}
        text = failure_of(assert_layers_well_trained, model)
        assert "13 of 13 layers" in text
        assert len(re.findall(r"^  +\d+\. ", text, re.MULTILINE)) == 10
        assert "\n  ... and 3 more\n" in text
        assert len(text.splitlines()) < 30

    def test_the_worst_comes_first(self) -> None:
        tensors = with_head(flat())
        tensors["encoder.0.key.weight"] = noise()
        text = failure_of(assert_layers_well_trained, tensors, (2, 3))
        rows = re.findall(r"^\s+\d+\.\s+(\S+)", text, re.MULTILINE)
        assert rows[0] == "head"
        assert set(rows) == set(LAYERS)

    def test_all_parts_are_there(self) -> None:
        for text in (
            failure_of(assert_layers_well_trained, with_head(flat())),
            failure_of(assert_no_correlation_traps, with_trap()),
            failure_of(assert_metric, healthy_tensors(), "stable_rank", max=1),
            *(failure_of(assertion, with_head(noise()), healthy_tensors()) for assertion in PAIRED),
        ):
            for part in (
                "layer",
                "value",
                "accepted",
                "Worst, ",
                "How sure: ",
                "What it usually means: ",
                "What to do: ",
            ):
                assert part in text
            assert max(map(len, text.splitlines()[1:])) <= 120

    def test_several_kinds_of_checks_are_counted(self) -> None:
        text = failure_of(assert_no_regression, with_head(noise()), healthy_tensors())
        assert "Checks that failed: " in text
        assert "(+3 more checks)" in text

    @pytest.mark.parametrize("name", ["a\nb", "\n::error::pwned", "\x1b[31mred", "\u202eright", "z" * 5000])
    def test_hostile_names(self, name: str) -> None:
        model = {**healthy_tensors(), f"{name}.weight": flat(), f"{name}.bias": np.array([np.nan])}
        for text in (
            failure_of(assert_layers_well_trained, model),
            failure_of(assert_no_regression, model, healthy_tensors()),
        ):
            assert all(character.isprintable() or character == "\n" for character in text)
            assert "::" not in text
            assert len(text) < 5000

    def test_pytest_shows_no_lines_of_ours(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            import numpy as np
            from pytest_weightwatcher import assert_layers_well_trained

            def test_mine():
                assert_layers_well_trained({"w": np.zeros((64, 64))})
            """
        )
        result = pytester.runpytest()
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E * not well trained: 1 of 1 layer of the dict"])
        result.stdout.no_fnmatch_line("*_conclude*")


class TestSameVerdictsAsThePlugin:
    def verdicts(self, path: Path, baseline: Path | None, profile: str | None) -> dict[tuple[str, str], Verdict]:
        wish = Wish(
            patterns=(path.name,),
            folder=path.parent,
            baseline=None if baseline is None else str(baseline),
            profile=profile,
        )
        (model,) = plan_models(Config(), wish, path.parent)
        gate = Gate(n_jobs=1)
        checks = [*model_checks(model), *(c for spec in model.description.matrices for c in layer_checks(model, spec))]
        found = {(check.spec.name if check.spec else "", check.name): gate.judge(check).verdict for check in checks}
        gate.close()
        return found

    @pytest.mark.parametrize("profile", ["compression", "finetune"])
    def test_regression(self, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
        good = make_model("good.safetensors")
        bad = make_model("bad.safetensors", head=noise(), encoder__0__key=flat())
        seen: dict[tuple[str, str], Verdict] = {}
        conclude = assertions._conclude

        def spy(judged: Any, **options: Any) -> Any:
            seen.update({(c.spec.name if c.spec else "", c.name): j.verdict for c, j, _ in judged.outcomes})
            return conclude(judged, **options)

        monkeypatch.setattr(assertions, "_conclude", spy)
        failure_of(assert_no_regression, bad, good, profile=profile)
        expected = self.verdicts(bad, good, profile)
        assert Verdict.FAIL in seen.values()
        assert len(seen) > 30
        assert seen == {key: expected[key] for key in seen}
        assert {name for _, name in expected.keys() - seen.keys()} == {"alpha"}

    def test_traps(self, make_model: MakeModel) -> None:
        values = with_trap()["head.weight"]
        path = make_model(head=values)
        assert self.verdicts(path, None, None)["head", "correlation_traps"] is Verdict.WARN
        assert "Worst, head: 1 correlation trap" in failure_of(assert_no_correlation_traps, path)


def test_defaults_are_those_of_the_gate() -> None:
    rules = PROFILES["compression"].layer_rules
    assert rules["spectrum"].increase == assertions.MAX_DISPLACEMENT
    assert assertions.SIGMAS == rules["spectrum"].sigmas == rules["effective_rank"].sigmas
    assert DEFAULT_RULES["coverage"].minimum == assertions.MIN_COVERAGE
    assert Config().analysis.min_evals == assertions.MIN_EVALS
    assert Config().analysis.false_alarm_rate == assertions.FALSE_ALARM_RATE
    ranks = inspect.signature(assert_rank_preserved).parameters
    rule = rules["effective_rank"]
    assert ranks["effective_rank"].default == (rule.relative_decrease, rule.relative_increase)
    alpha = inspect.signature(assert_layers_well_trained).parameters["alpha_range"].default
    assert alpha == (DEFAULT_RULES["alpha"].minimum, DEFAULT_RULES["alpha"].maximum)


def test_all_are_exported_and_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/assertions.md").read_text(encoding="utf-8")
    for name in pytest_weightwatcher.__all__:
        assert inspect.getdoc(getattr(pytest_weightwatcher, name))
        assert f"`{name}`" in page


def test_works_without_pytest() -> None:
    code = """
        import sys
        sys.modules["pytest"] = None
        import numpy as np
        from pytest_weightwatcher import assert_layers_well_trained, assert_no_regression
        values = np.random.default_rng(0).normal(size=(64, 64))
        assert_no_regression({"w": values}, {"w": values.copy()})
        try:
            assert_layers_well_trained({"w": values}, alpha_range=(1, 1.1))
        except AssertionError as error:
            print("caught", error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("caught not well trained: 1 of 1 layer")
