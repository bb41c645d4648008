"""The gate on models that the Hugging Face cache of this machine holds."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from spectral.errors import ModelNotFoundError
from spectral.loaders.hub_cache import cache_folder
from spectral.loaders.opening import open_model
from tests.gate.conftest import healthy_tensors, noise

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "hf"
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(home))
    folder = home / "hub" / "models--org--name"
    for sub in ("refs", f"snapshots/{COMMIT}", "blobs"):
        (folder / sub).mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT, encoding="ascii")
    save_file(healthy_tensors(), folder / "blobs" / "abc")
    (folder / "snapshots" / COMMIT / "model.safetensors").symlink_to("../../blobs/abc")
    return folder


@pytest.mark.parametrize(
    "model", ["org/name", "hf-cache:org/name", f"hf-cache:org/name@{COMMIT}", "hf-cache:org/name@main"]
)
def test_a_model_in_the_cache(pytester: pytest.Pytester, cache: Path, model: str) -> None:
    run = pytester.runpytest(
        f"--ww-model={model}", "--ww-baseline={folder}-{stem}.ww.json", "--ww-update-baseline", "-v"
    )
    assert run.ret == 0
    run.stdout.fnmatch_lines(["*ww.yaml::org/name::head::alpha*"])
    assert (pytester.path / "org-name.ww.json").exists()
    (pytester.path / "ww.yaml").write_text(
        f"version: 1\nmodels: [{{path: '{model}', baseline: org-name.ww.json}}]\n", encoding="utf-8"
    )
    assert pytester.runpytest().ret == 0
    (pytester.path / "ww.yaml").unlink()
    save_file({**healthy_tensors(), "head.weight": noise()}, pytester.path / "tuned.safetensors")
    assert pytester.runpytest("--ww-model=tuned.safetensors", f"--ww-baseline={model}").ret == 1


def test_a_path_goes_before_the_cache(pytester: pytest.Pytester, cache: Path) -> None:
    (pytester.path / "org").mkdir()
    save_file({"only.weight": np.ones((70, 60), np.float32)}, pytester.path / "org" / "name")
    run = pytester.runpytest("--ww-model=org/name")
    assert run.ret == 4
    run.stderr.fnmatch_lines(["*org/name: no loader for a file without suffix*"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "org/other",
            "*org/other: no such file or folder, nor is there a model of this name in the Hugging Face cache*",
        ),
        (
            "hf-cache:org/other",
            "*hf-cache:org/other: the Hugging Face cache * has no such model; fetch it first*hf://*",
        ),
        ("hf-cache:org/name@v2", "*hf-cache:org/name@v2: * has no snapshot of the revision 'v2'*"),
        ("hf-cache:../x", "*expected hf-cache:organisation/model*"),
        ("hf-cache:org/name@../../x", "*expected hf-cache:organisation/model*"),
    ],
)
def test_what_the_cache_does_not_hold(
    pytester: pytest.Pytester, cache: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("the network was asked"))
    run = pytester.runpytest(f"--ww-model={model}")
    assert run.ret == 4
    run.stderr.fnmatch_lines([message])


def test_a_reference_that_leads_elsewhere(pytester: pytest.Pytester, cache: Path) -> None:
    (cache / "refs" / "main").write_text("../../../elsewhere", encoding="ascii")
    run = pytester.runpytest("--ww-model=hf-cache:org/name")
    assert run.ret == 4
    run.stderr.fnmatch_lines(["*has no snapshot of the revision 'main'*"])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"HF_HUB_CACHE": "/a"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c"}, "/b"),
        ({"HF_HOME": "/c", "XDG_CACHE_HOME": "/d"}, "/c/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
        ({"HOME": "/e"}, "/e/.cache/huggingface/hub"),
    ],
)
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: str) -> None:
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    assert cache_folder() == Path(expected)


def test_the_core_reads_it_too(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for model in ("org/name", "hf-cache:org/name"):
        assert open_model(model).label == str(cache / "snapshots" / COMMIT / "model.safetensors")
    with pytest.raises(ModelNotFoundError, match="nor is there a model of this name in the Hugging Face cache"):
        open_model("org/other")
    with pytest.raises(ModelNotFoundError, match=r"^runs/x\.safetensors: no such file or folder"):
        open_model("runs/x.safetensors")
