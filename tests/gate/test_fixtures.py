"""ww_model, ww_analysis, ww_details, ww_summary, ww_baseline, ww_config, ww_analyze and the marker in users' tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pytest_weightwatcher.analysis_cache import AnalysisCache
from spectral.options import AnalysisOptions
from tests.gate.conftest import MakeModel, flat, healthy_tensors, noise

USES_ALL = """
    def test_mine(ww_model, ww_analysis, ww_details, ww_summary, ww_config):
        assert ww_model.name.endswith(".safetensors")
        assert len(ww_analysis.layers) == len(ww_details) == 4
        assert 2 < ww_summary["alpha"] < 6
        assert ww_config.analysis.min_evals == 50
"""

COMPARES = """
    from pytest_weightwatcher import assert_no_regression

    def test_mine(ww_model, ww_baseline):
        assert_no_regression(ww_model, ww_baseline)
"""

OWN_MODEL = """
    import numpy as np
    import pytest

    @pytest.fixture(scope="session")
    def ww_model():
        values = np.random.default_rng(0).standard_t(3, (96, 64))
        return {"mine.weight": values}
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the tests of the test file alone, beside a gate that is there but filtered out."""
    return pytester.runpytest(*arguments, "-k", "test_", ".")


def record(pytester: pytest.Pytester, model: str, baseline: str) -> None:
    result = pytester.runpytest(
        f"--ww-model={model}", f"--ww-baseline={baseline}", "--ww-update-baseline", "--ww-update-in-ci"
    )
    assert result.ret == 0


class TestFixtures:
    def test_beside_the_gate(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makepyfile(USES_ALL)
        result = pytester.runpytest("--ww-model=model.safetensors", "-v", ".")
        assert result.ret == 0
        result.stdout.fnmatch_lines_random(["*::test_mine PASSED*", "ww.yaml::*::head::alpha PASSED*"])

    def test_once_for_each_model(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model("a.safetensors")
        make_model("b.safetensors")
        pytester.makepyfile(USES_ALL)
        result = run(pytester, "--ww-model=a.safetensors", "--ww-model=b.safetensors", "-v")
        assert result.parseoutcomes()["passed"] == 2
        result.stdout.fnmatch_lines(
            ["*::test_mine[[]a.safetensors[]] PASSED*", "*::test_mine[[]b.safetensors[]] PASSED*"]
        )

    def test_models_and_options_of_the_config(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makefile(
            ".yaml",
            ww="version: 1\nmodels: [{path: model.safetensors}]\nanalysis: {min_evals: 60, exclude: [head], seed: 7}\n",
        )
        pytester.makepyfile(
            """
            def test_mine(ww_analysis, ww_config, ww_analyze, ww_model):
                assert ww_config.analysis.min_evals == 60
                names = ["encoder.0.key", "encoder.0.query", "encoder.1.query"]
                assert [layer.name for layer in ww_analysis.layers] == names
                again = ww_analyze(ww_model, mp_fit=True)
                assert again.description.options.seed == 7
                assert again.description.options.mp_fit
                assert [layer.name for layer in again.layers] == names
            """
        )
        assert run(pytester).parseoutcomes()["passed"] == 1

    def test_the_analysis_is_that_of_the_gate(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makepyfile(
            """
            def test_one(ww_analysis, ww_model, request):
                from pytest_weightwatcher.plugin import gate_of
                gate = gate_of(request.config)
                layers = [gate._gate.layer(gate.models[0], layer.spec) for layer in ww_analysis.layers]
                assert all(mine is other for mine, other in zip(ww_analysis.layers, layers))
            """
        )
        assert run(pytester, "--ww-model=model.safetensors").parseoutcomes()["passed"] == 1

    def test_own_model(self, pytester: pytest.Pytester) -> None:
        """A project's own ww_model, made in its conftest, feeds the other fixtures; no option is needed."""
        pytester.makeconftest(OWN_MODEL)
        pytester.makepyfile("def test_mine(ww_details): assert list(ww_details.longname) == ['mine']")
        pytester.runpytest().assert_outcomes(passed=1)

    def test_no_model_is_a_clear_error(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("def test_mine(ww_summary): pass")
        result = pytester.runpytest()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["the test asks for ww_model, but no model is given: add --ww-model PATH*"])

    def test_missing_model_is_a_usage_error(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(USES_ALL)
        result = pytester.runpytest("--ww-model=nope.safetensors", ".")
        assert result.ret == pytest.ExitCode.USAGE_ERROR

    def test_internal_fixtures_are_not_listed(self, pytester: pytest.Pytester) -> None:
        result = pytester.runpytest("--fixtures")
        result.stdout.fnmatch_lines_random([f"ww_{name}*" for name in ("model", "baseline", "analysis", "config")])
        result.stdout.fnmatch_lines(["ww_analyze [[]session scope[]]*"])
        result.stdout.no_fnmatch_line("_ww_*")


class TestBaseline:
    @pytest.mark.parametrize("baseline", ["good.safetensors", "good.ww.json", "{stem}/../good.ww.json"])
    def test_of_the_command_line(self, pytester: pytest.Pytester, make_model: MakeModel, baseline: str) -> None:
        make_model("good.safetensors")
        make_model("same.safetensors")
        make_model("worse.safetensors", head=noise())
        record(pytester, "good.safetensors", "good.ww.json")
        pytester.makepyfile(COMPARES)
        assert run(pytester, "--ww-model=same.safetensors", f"--ww-baseline={baseline}").parseoutcomes()["passed"] == 1
        result = run(pytester, "--ww-model=worse.safetensors", f"--ww-baseline={baseline}")
        assert result.parseoutcomes()["failed"] == 1
        result.stdout.fnmatch_lines(["*worse than the baseline (compression: *1 of 4 layers of worse.safetensors"])

    def test_profile_and_limits_of_the_run(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model("good.safetensors")
        save_file({name: 1.3 * values for name, values in healthy_tensors().items()}, pytester.path / "new.safetensors")
        pytester.makepyfile(COMPARES)
        arguments = ("--ww-model=new.safetensors", "--ww-baseline=good.safetensors")
        assert run(pytester, *arguments).parseoutcomes()["failed"] == 1
        assert run(pytester, *arguments, "--ww-profile=finetune").parseoutcomes()["passed"] == 1
        pytester.makefile(".yaml", ww="version: 1\nregression: {profile: finetune}\n")
        assert run(pytester, *arguments).parseoutcomes()["passed"] == 1
        assert run(pytester, *arguments, "--ww-profile=compression").parseoutcomes()["failed"] == 1

    @pytest.mark.parametrize("baseline", ["good.safetensors", "good.ww.json"])
    def test_the_analysis_of_the_run_is_enough(
        self, pytester: pytest.Pytester, make_model: MakeModel, baseline: str
    ) -> None:
        make_model("good.safetensors")
        make_model()
        record(pytester, "good.safetensors", "good.ww.json")
        pytester.makepyfile(
            """
            from pytest_weightwatcher import assert_no_regression

            def test_mine(ww_analysis, ww_baseline):
                assert assert_no_regression(ww_analysis, ww_baseline) is ww_analysis
            """
        )
        result = run(pytester, "--ww-model=model.safetensors", f"--ww-baseline={baseline}")
        assert result.parseoutcomes()["passed"] == 1

    def test_of_the_config(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model("good.safetensors")
        make_model("worse.safetensors", head=noise())
        pytester.makefile(".yaml", ww="version: 1\nmodels: [{path: worse.safetensors, baseline: good.safetensors}]\n")
        pytester.makepyfile(COMPARES)
        assert run(pytester).parseoutcomes()["failed"] == 1

    def test_metrics(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        make_model("good.safetensors")
        record(pytester, "good.safetensors", "good.ww.json")
        pytester.makepyfile(
            """
            import dataclasses
            import pytest

            def test_mine(ww_baseline, ww_analysis):
                assert list(ww_baseline.metrics) == [layer.name for layer in ww_analysis.layers]
                for layer in ww_analysis.layers:
                    assert ww_baseline.metrics[layer.name]["alpha"] == pytest.approx(layer.metrics["alpha"])
                with pytest.raises(dataclasses.FrozenInstanceError):
                    ww_baseline.path = None
            """
        )
        for baseline in ("good.ww.json", "good.safetensors"):
            result = run(pytester, "--ww-model=model.safetensors", f"--ww-baseline={baseline}")
            assert result.parseoutcomes()["passed"] == 1

    def test_none_is_a_clear_error(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makepyfile(COMPARES)
        result = run(pytester, "--ww-model=model.safetensors")
        assert result.parseoutcomes()["errors"] == 1
        result.stdout.fnmatch_lines(["the test asks for ww_baseline, but no baseline is given: add --ww-baseline*"])

    def test_a_run_that_records_has_none(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makepyfile(COMPARES)
        result = pytester.runpytest(
            "--ww-model=model.safetensors",
            "--ww-baseline=new.ww.json",
            "--ww-update-baseline",
            "--ww-update-in-ci",
            ".",
        )
        assert result.ret == 0
        assert (pytester.path / "new.ww.json").exists()

    def test_of_a_model_in_memory(self, pytester: pytest.Pytester) -> None:
        pytester.makeconftest(OWN_MODEL)
        values = np.random.default_rng(0).standard_t(3, (96, 64))
        save_file({"mine.weight": values}, pytester.path / "good.safetensors")
        save_file({"mine.weight": noise()}, pytester.path / "other.safetensors")
        pytester.makepyfile(COMPARES)
        pytester.makeini("[pytest]\nww_baseline = good.safetensors\n")
        assert pytester.runpytest().parseoutcomes() == {"passed": 1}
        pytester.makeini("[pytest]\nww_baseline = other.safetensors\n")
        assert pytester.runpytest().parseoutcomes() == {"failed": 1}
        pytester.makeini("[pytest]\nww_baseline = {stem}.ww.json\n")
        result = pytester.runpytest()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*{stem} is the name of a checkpoint, and ww_model is in memory"])


class TestMarker:
    def test_goes_before_the_options(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model("a.safetensors")
        make_model("b.safetensors", head=flat())
        (pytester.path / "strict.yaml").write_text("version: 1\nanalysis: {min_evals: 60, seed: 3}\n")
        pytester.makepyfile(
            """
            import pytest

            @pytest.mark.ww(model="b.safetensors")
            def test_model(ww_model, ww_details):
                assert ww_model.name == "b.safetensors"
                assert ww_details.alpha.max() > 100

            def test_other(ww_model, ww_details, ww_config):
                assert ww_model.name == "a.safetensors"
                assert ww_details.alpha.max() < 6
                assert (ww_config.analysis.seed, ww_config.regression.profile) == (5, "finetune")

            @pytest.mark.ww(seed=11, profile="compression")
            class TestClass:
                def test_seed(self, ww_config, ww_analysis):
                    assert ww_config.analysis.seed == ww_analysis.description.options.seed == 11
                    assert ww_config.regression.profile == "compression"

                @pytest.mark.ww(seed=12)
                def test_nearest(self, ww_config):
                    assert ww_config.analysis.seed == 12
                    assert ww_config.regression.profile == "compression"

            @pytest.mark.ww(config="strict.yaml")
            def test_config(ww_config, ww_analysis):
                assert ww_config.analysis.min_evals == ww_analysis.description.options.min_evals == 60
                assert ww_config.analysis.seed == 5
            """
        )
        result = run(pytester, "--ww-model=a.safetensors", "--ww-seed=5", "--ww-profile=finetune")
        assert {name: n for name, n in result.parseoutcomes().items() if name != "deselected"} == {"passed": 5}

    def test_baseline_and_profile(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model("good.safetensors")
        make_model("worse.safetensors", head=noise())
        save_file({name: 1.3 * values for name, values in healthy_tensors().items()}, pytester.path / "new.safetensors")
        pytester.mkdir("tests")
        (pytester.path / "tests/test_it.py").write_text(
            "import pytest\n"
            "from pytest_weightwatcher import assert_no_regression\n"
            "@pytest.mark.ww(model='../new.safetensors', baseline='../good.safetensors', profile='finetune')\n"
            "def test_tuned(ww_model, ww_baseline): assert_no_regression(ww_model, ww_baseline)\n"
            "@pytest.mark.ww(model='../new.safetensors', baseline='../good.safetensors')\n"
            "def test_rounded(ww_model, ww_baseline): assert_no_regression(ww_model, ww_baseline)\n"
            "@pytest.mark.ww(baseline='../worse.safetensors')\n"
            "def test_base(ww_model, ww_baseline): assert ww_baseline.path.name == 'worse.safetensors'\n"
        )
        result = run(pytester, "--ww-model=good.safetensors", "-v", "-o", "ww_profile=")
        result.stdout.fnmatch_lines(["*::test_tuned PASSED*", "*::test_rounded FAILED*", "*::test_base PASSED*"])

    def test_chooses_one_of_several_models(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        for name in ("a", "b", "c"):
            make_model(f"{name}.safetensors")
        pytester.makepyfile(
            """
            import pytest

            @pytest.mark.ww(model="c.safetensors")
            def test_model(ww_model):
                assert ww_model.name == "c.safetensors"
            """
        )
        result = run(pytester, "--ww-model=a.safetensors", "--ww-model=b.safetensors")
        assert result.parseoutcomes()["passed"] == 1

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ("modle='x.pt'", "marker ww: there is no 'modle'; did you mean 'model'?"),
            ("profile='finetun'", "marker ww: there is no profile 'finetun'; did you mean 'finetune'?"),
            ("seed=-1", "marker ww: seed must be an integer from 0 to *, got -1"),
            ("seed=True", "marker ww: seed must be an integer from 0 to *, got True"),
            ("model=3", "marker ww: model must be a path, got 3"),
            ("'x.pt'", "marker ww: takes keywords only (model, baseline, *), got 'x.pt'"),
        ],
    )
    def test_slips(self, pytester: pytest.Pytester, arguments: str, sentence: str) -> None:
        pytester.makepyfile(
            f"import pytest\n@pytest.mark.ww({arguments})\ndef test_mine(): pass\ndef test_other(): pass"
        )
        result = pytester.runpytest()
        result.assert_outcomes(errors=1, passed=1)
        result.stdout.fnmatch_lines([sentence])

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ("model='nope.pt'", "marker ww: *nope.pt: no such model"),
            ("config='nope.yaml'", "*nope.yaml*"),
            ("model='model.safetensors', baseline='nope.pt'", "*nope.pt: no such baseline*"),
        ],
    )
    def test_what_is_missing(
        self, pytester: pytest.Pytester, make_model: MakeModel, arguments: str, sentence: str
    ) -> None:
        make_model()
        pytester.makepyfile(
            f"import pytest\n@pytest.mark.ww({arguments})\ndef test_mine(ww_config, ww_model, ww_baseline): pass"
        )
        result = pytester.runpytest()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines([sentence])
        result.stdout.no_fnmatch_line("*Traceback*")

    def test_without_keywords_it_only_selects(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("import pytest\n@pytest.mark.ww\ndef test_mine(): pass\ndef test_other(): pass")
        pytester.runpytest("-m", "ww").assert_outcomes(passed=1, deselected=1)

    def test_reports_of_its_config_are_not_written(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        (pytester.path / "other.yaml").write_text("version: 1\nreport: {json: other.json}\n")
        pytester.makepyfile("import pytest\n@pytest.mark.ww(config='other.yaml')\ndef test_mine(ww_analysis): pass")
        pytester.runpytest("--ww-model=model.safetensors", ".")
        assert not (pytester.path / "other.json").exists()

    def test_on_xdist(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model("a.safetensors")
        make_model("b.safetensors", head=flat())
        pytester.makepyfile(
            """
            import pytest

            @pytest.mark.ww(model="b.safetensors", baseline="a.safetensors")
            @pytest.mark.parametrize("n", range(3))
            def test_mine(ww_summary, ww_baseline, ww_model, n):
                assert (ww_model.name, ww_baseline.path.name) == ("b.safetensors", "a.safetensors")
            """
        )
        pytester.runpytest("-n2").assert_outcomes(passed=3)


class TestAnalyze:
    def test_equal_calls_are_computed_once(self, pytester: pytest.Pytester, make_model: MakeModel) -> None:
        make_model()
        pytester.makepyfile(
            """
            import pytest

            @pytest.fixture(scope="module")
            def base(ww_analyze):
                return ww_analyze("model.safetensors", exclude=["head"])

            def test_one(ww_analyze, base):
                assert ww_analyze("./model.safetensors", exclude=("head",)) is base
                assert ww_analyze("model.safetensors") is not base

            def test_two(ww_analyze, base):
                assert ww_analyze("model.safetensors", exclude=["head"]) is base
                with pytest.raises(ValueError, match="did you mean 'min_evals'"):
                    ww_analyze("model.safetensors", min_eval=3)
            """
        )
        pytester.runpytest().assert_outcomes(passed=2)

    def test_a_file_that_has_changed(self, tmp_path: Path) -> None:
        cache, options, path = AnalysisCache(), AnalysisOptions(), tmp_path / "model.safetensors"
        save_file({"w": noise()}, path)
        first = cache.analyze(path, options)
        assert cache.analyze(str(path), options) is first
        save_file({"w": flat()}, path)
        os.utime(path, ns=(1, 1))
        second = cache.analyze(path, options)
        assert second.layers[0].content_hash != first.layers[0].content_hash

    def test_a_folder_of_shards_that_has_changed(self, tmp_path: Path) -> None:
        cache, options = AnalysisCache(), AnalysisOptions()
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "one.safetensors"}}')
        save_file({"w": noise()}, tmp_path / "one.safetensors")
        first = cache.analyze(tmp_path, options)
        assert cache.analyze(tmp_path, options) is first
        save_file({"w": flat()}, tmp_path / "one.safetensors")
        os.utime(tmp_path / "one.safetensors", ns=(1, 1))
        assert cache.analyze(tmp_path, options).layers[0].content_hash != first.layers[0].content_hash

    def test_a_model_in_memory(self) -> None:
        """It is known by its identity, and by its weights, which training changes in place."""
        cache, options, model = AnalysisCache(), AnalysisOptions(), {"w": noise()}
        first = cache.analyze(model, options)
        assert cache.analyze(model, options) is first
        assert cache.analyze(dict(model), options) is not first
        model["w"][:] = flat()
        second = cache.analyze(model, options)
        assert second is not first
        assert cache.analyze(model, options) is second
        model["v"] = noise()
        assert len(cache.analyze(model, options).layers) == 2

    def test_models_that_are_gone_are_not_mistaken(self) -> None:
        cache, options = AnalysisCache(), AnalysisOptions()
        names = {cache.analyze({f"w{n}": noise()}, options).layers[0].name for n in range(20)}
        assert len(names) == 20

    def test_a_base_model_is_part_of_the_key(self) -> None:
        cache, options = AnalysisCache(), AnalysisOptions()
        model, base = {"w": noise()}, {"w": flat()}
        difference = cache.analyze(model, options, base_model=base)
        assert cache.analyze(model, options) is not difference
        assert cache.analyze(model, options, base_model=base) is difference
        base["w"][:] = 0.5 * base["w"]
        assert cache.analyze(model, options, base_model=base) is not difference
