"""huggingface_hub itself against a hub on the loopback address: which calls it makes, and with what token."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from spectral.errors import ModelError, ModelNotFoundError
from spectral.loaders.locations import as_location
from spectral.loaders.opening import open_model
from tests.core.file_server import FileServer, Handler, serving

hub: Any = pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def answer(handler: Handler, path: str, begin: int, end: int) -> bool:
    """Answer as the hub does: of models, of what is in them, and with files."""
    files = handler.files.files
    _, *parts = path.split("/")
    if parts[:1] == ["api"]:
        model = "/".join(parts[2:4])
        names = [name.removeprefix(f"/{model}/") for name in files if name.startswith(f"/{model}/")]
        if not names:
            handler.say(404, {"X-Error-Code": "RepoNotFound"})
        elif "tree" in parts:
            body = [
                {"type": "file", "oid": "0" * 40, "path": name, "size": len(files[f"/{model}/{name}"])}
                for name in names
            ]
            handler.say(200, {"Content-Type": "application/json"}, json.dumps(body).encode())
        elif "paths-info" in parts:
            handler.say(200, {"Content-Type": "application/json"}, b"[]")
        else:
            body_of_model = {"id": model, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            handler.say(200, {"Content-Type": "application/json"}, json.dumps(body_of_model).encode())
        return True
    if "resolve" in parts:
        data = files.get(f"/{parts[0]}/{parts[1]}/{'/'.join(parts[4:])}")
        if data is None:
            handler.say(404, {"X-Error-Code": "EntryNotFound"})
        else:
            handler.send_part(data, begin, min(end, len(data)))
        return True
    return False


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serving() as running:
        running.answer = answer
        constants = importlib.import_module("huggingface_hub.constants")
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(importlib.import_module("huggingface_hub.hf_api"), "ENDPOINT", running.url, raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
        yield running


def test_a_model_is_read_by_ranges(server: FileServer) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"layers.{index}.weight": rng.random((512, 512), dtype=np.float32) for index in range(10)}
    server.files["/org/model/model.safetensors"] = save(tensors)
    server.files["/org/model/config.json"] = b"{}"
    source = open_model("hf://org/model")
    assert [info.name for info in source.tensors()] == list(tensors)
    assert server.n_bytes < 100_000
    assert source.load("layers.7.weight").tobytes() == tensors["layers.7.weight"].tobytes()
    assert server.n_bytes < 1_200_000
    assert any("hf_hunter2" in str(request.headers) for request in server.requests)


def test_a_file_of_the_repository_sends_no_token(server: FileServer) -> None:
    server.files["/org/model/model.safetensors"] = save({"w": np.ones((70, 60), np.float32)})
    source = open_model(as_location("hf://org/model/model.safetensors", is_trusted=False))
    assert source.load("w").sum() == 70 * 60
    assert server.requests
    assert all("hunter2" not in str(request.headers) for request in server.requests)


def test_no_such_model_or_file(server: FileServer) -> None:
    server.files["/org/model/model.safetensors"] = b"x"
    for url in ("hf://org/absent", "hf://org/model/other.safetensors"):
        with pytest.raises(ModelNotFoundError, match=f"{url}: no such file"):
            open_model(url)


def test_a_hub_that_fails(server: FileServer) -> None:
    def fail(handler: Handler, *_: Any) -> bool:
        handler.say(403)
        return True

    server.answer = fail
    with pytest.raises(ModelError, match="hf://org/model: ") as caught:
        open_model("hf://org/model")
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).isprintable()
