"""The gate on models behind URLs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from safetensors.numpy import save

from tests.core.file_server import FileServer, serving
from tests.gate.conftest import healthy_tensors, noise

Run = Any


@pytest.fixture
def server() -> Iterator[FileServer]:
    changed = {**healthy_tensors(), "head.weight": noise()}
    with serving() as running:
        running.files["/m/model.safetensors"] = save(healthy_tensors())
        running.files["/m/tuned.safetensors"] = save(changed)
        yield running


def result_of(pytester: pytest.Pytester) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pytester.path / "r.json").read_text(encoding="utf-8"))
    return found


def test_a_url_and_a_baseline_behind_one(pytester: pytest.Pytester, server: FileServer) -> None:
    url = f"{server.url}/m/model.safetensors"
    run = pytester.runpytest(f"--ww-model={url}", f"--ww-baseline={url}?again", "--ww-report=json:r.json")
    assert run.ret == 0
    assert result_of(pytester)["models"][0]["path"] == url
    run = pytester.runpytest(f"--ww-model={server.url}/m/tuned.safetensors", f"--ww-baseline={url}")
    assert run.ret == 1
    run.stdout.fnmatch_lines(["*tuned.safetensors::head::*"])


def test_the_baseline_is_the_model_itself(pytester: pytest.Pytester, server: FileServer) -> None:
    url = f"{server.url}/m/model.safetensors"
    run = pytester.runpytest(f"--ww-model={url}", f"--ww-baseline={url}")
    assert run.ret == 4
    run.stderr.fnmatch_lines(["*the baseline is the model itself*"])


def test_a_recording_of_a_model_behind_a_url(pytester: pytest.Pytester, server: FileServer) -> None:
    url = f"{server.url}/m/model.safetensors"
    assert pytester.runpytest(f"--ww-model={url}", "--ww-baseline={stem}.ww.json", "--ww-update-baseline").ret == 0
    recorded = (pytester.path / "model.ww.json").read_bytes()
    assert pytester.runpytest(f"--ww-model={url}", "--ww-baseline={stem}.ww.json").ret == 0
    server.files["/model.ww.json"] = recorded
    assert pytester.runpytest(f"--ww-model={url}", f"--ww-baseline={server.url}/{{stem}}.ww.json").ret == 0
    run = pytester.runpytest(f"--ww-model={url}", f"--ww-baseline={server.url}/x.ww.json", "--ww-update-baseline")
    assert run.ret == 4
    run.stderr.fnmatch_lines(["*a baseline is recorded to a file of this machine*"])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_workers_of_xdist(pytester: pytest.Pytester, server: FileServer, workers: str) -> None:
    run = pytester.runpytest("-n", workers, f"--ww-model={server.url}/m/model.safetensors")
    assert run.ret == 0


def test_no_such_file(pytester: pytest.Pytester, server: FileServer) -> None:
    run = pytester.runpytest(f"--ww-model={server.url}/m/none.safetensors")
    assert run.ret == 4
    run.stderr.fnmatch_lines([f"*{server.url}/m/none.safetensors: no such file*"])
    assert "Traceback" not in run.stderr.str() + run.stdout.str()


def test_ww_yaml_does_not_lead_into_the_own_network(
    pytester: pytest.Pytester, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server.url}/m/model.safetensors"
    (pytester.path / "ww.yaml").write_text(f"version: 1\nmodels: [{{path: '{url}'}}]\n", encoding="utf-8")
    run = pytester.runpytest()
    assert run.ret == 4
    run.stdout.fnmatch_lines([f"*{url}: a file of the repository may name https:// and hf:// only*WW_TRUSTED_URLS*"])
    (pytester.path / "ww.yaml").write_text(
        "version: 1\nmodels: [{path: 'https://127.0.0.1/x.safetensors'}]\n", encoding="utf-8"
    )
    run = pytester.runpytest()
    assert run.ret == 4
    run.stdout.fnmatch_lines(["*https://127.0.0.1/x.safetensors: not followed: 127.0.0.1 is 127.0.0.1*"])
    assert not server.requests
    monkeypatch.setenv("WW_TRUSTED_URLS", f"{server.url}/m/")
    (pytester.path / "ww.yaml").write_text(
        f"version: 1\nmodels: [{{path: '{url}', baseline: '{server.url}/m/tuned.safetensors'}}]\n", encoding="utf-8"
    )
    assert pytester.runpytest().ret == 1
    assert server.requests
    # A baseline is held to the same.
    monkeypatch.setenv("WW_TRUSTED_URLS", url)
    run = pytester.runpytest()
    assert run.ret == 4
    run.stdout.fnmatch_lines(["*tuned.safetensors: a file of the repository may name*"])


def test_signatures_are_in_no_output(
    pytester: pytest.Pytester, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    from pytest_weightwatcher.console.main import main

    url = f"{server.url}/m/tuned.safetensors?X-Signature=hunter2"
    reports = [f"--ww-report={kind}:r.{kind}" for kind in ("json", "html", "md", "sarif")]
    run = pytester.runpytest(
        "-v", f"--ww-model={url}", f"--ww-baseline={server.url}/m/model.safetensors?hunter2", *reports
    )
    assert run.ret == 1
    written = [path.read_text(encoding="utf-8") for path in pytester.path.glob("r.*")]
    assert len(written) == 4
    assert all("hunter2" not in text for text in [run.stdout.str(), run.stderr.str(), *written])
    assert f"{server.url}/m/tuned.safetensors?…" in run.stdout.str() + written[0] + written[1] + written[2] + written[3]
    capsys.readouterr()
    for arguments in (
        ["analyze", url],
        ["describe", url, "--format=json"],
        ["compare", url, f"{server.url}/m/model.safetensors?hunter2"],
        ["check", url],
        ["analyze", f"{url}.none"],
    ):
        main(arguments)
        said = capsys.readouterr()
        assert "tuned.safetensors" in said.out + said.err
        assert "hunter2" not in said.out + said.err


def test_urls_that_look_the_same(pytester: pytest.Pytester, server: FileServer) -> None:
    url = f"{server.url}/m/model.safetensors"
    run = pytester.runpytest(f"--ww-model={url}?a", f"--ww-model={url}?b")
    assert run.ret == 4
    run.stderr.fnmatch_lines([f"*{url}?*: two models whose URLs differ only behind the question mark*"])


def test_fixtures_and_assertions(pytester: pytest.Pytester, server: FileServer) -> None:
    url = f"{server.url}/m/model.safetensors"
    pytester.makepyfile(
        f"""
        import pytest
        from pytest_weightwatcher import assert_no_regression

        @pytest.mark.ww(model="{url}", baseline="{server.url}/m/tuned.safetensors")
        def test_marked(ww_model, ww_analysis, ww_baseline):
            assert ww_model.name == "model.safetensors"
            assert len(ww_analysis.layers) == 4
            with pytest.raises(AssertionError):
                assert_no_regression(ww_model, ww_baseline)

        def test_cached(ww_analyze):
            assert ww_analyze("{url}") is ww_analyze("{url}")

        def test_given(ww_model):
            assert_no_regression("{url}", "{url}?other")
        """
    )
    run = pytester.runpytest(f"--ww-model={url}", "test_fixtures_and_assertions.py", "-m", "not ww or model")
    run.assert_outcomes(passed=2)
    assert run.ret == 0
