"""Checkpoints behind URLs: what is asked for, what a server may do wrong, and what is not followed."""

from __future__ import annotations

import io
import json
import pickle
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save as to_safetensors

from spectral.analysis import analyze
from spectral.errors import (
    CorruptCheckpointError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from spectral.loaders.locations import as_location
from spectral.loaders.opening import open_model
from spectral.loaders.protocol import StreamSource
from spectral.loaders.remote import RemotePath, RemoteReadError, http_connection, http_files, is_url, path
from spectral.loaders.remote.address import TRUSTED_URLS, parse_url
from spectral.loaders.remote.http_connection import is_public
from tests.core.builders import heavy_tailed
from tests.core.file_server import FileServer, Handler, serving

Tensors = dict[str, NDArray[Any]]


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_files, "_PAUSE_SECONDS", (0.0, 0.0))


def weights(n: int = 3, shape: tuple[int, int] = (60, 50)) -> Tensors:
    return {f"layers.{index}.weight": heavy_tailed(*shape, seed=index).astype(np.float32) for index in range(n)}


def npz(tensors: Tensors) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **tensors)  # type: ignore[arg-type]  # numpy's stubs mix the names up with its options
    return stream.getvalue()


def torch_zip(tensors: Tensors) -> bytes:
    torch = pytest.importorskip("torch")
    stream = io.BytesIO()
    torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, stream)
    return stream.getvalue()


WRITERS: dict[str, Callable[[Tensors], bytes]] = {
    "model.safetensors": to_safetensors,
    "model.npz": npz,
    "model.pt": torch_zip,
}


@pytest.mark.parametrize("name", WRITERS)
def test_opening_forty_megabytes_reads_little(server: FileServer, name: str) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"layers.{index}.weight": rng.random((1024, 1024), dtype=np.float32) for index in range(10)}
    server.files[f"/{name}"] = WRITERS[name](tensors)
    source = open_model(f"{server.url}/{name}")
    assert [info.shape for info in source.tensors()] == [(1024, 1024)] * 10
    assert server.n_bytes < 1_000_000
    assert len(server.requests) <= 15
    before = server.n_bytes
    assert source.load("layers.3.weight").tobytes() == tensors["layers.3.weight"].tobytes()
    assert server.n_bytes - before < 4_194_304 + 20_000
    assert isinstance(source, StreamSource)
    pieces = source.stream("layers.4.weight")
    assert pieces is not None
    assert b"".join(map(bytes, pieces)) == tensors["layers.4.weight"].tobytes()
    assert server.n_connections <= 1 + path._N_AT_ONCE


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_analysis_as_of_the_file(server: FileServer, tmp_path: Path, name: str) -> None:
    data = WRITERS[name](weights())
    server.files[f"/models/{name}"] = data
    (tmp_path / name).write_bytes(data)
    here, there = analyze(tmp_path / name), analyze(f"{server.url}/models/{name}")
    assert there.details.equals(here.details)
    assert [layer.content_hash for layer in there.layers] == [layer.content_hash for layer in here.layers]


def test_a_torch_file_of_many_tensors_is_opened_with_few_requests(server: FileServer) -> None:
    server.files["/model.pt"] = torch_zip({f"w{index}": np.ones((64, 65), np.float32) for index in range(500)})
    source = open_model(f"{server.url}/model.pt")
    assert len(source.tensors()) == 500
    assert len(server.requests) < 6
    assert source.load("w77").sum() == 64 * 65


def test_an_archive_that_lies_about_a_tensor_is_found_out_where_it_is_read(server: FileServer) -> None:
    data = bytearray(torch_zip({f"w{index}": np.full((70, 60), index, np.float32) for index in range(9)}))
    first = data.index(b"PK\x03\x04", data.index(b"/data/4") + 8)  # The header of the one after it.
    data[first : first + 4] = b"PK\x09\x09"
    server.files["/model.pt"] = bytes(data)
    source = open_model(f"{server.url}/model.pt")
    bad = []
    for info in source.tensors():
        try:
            assert set(source.load(info.name).ravel()) == {float(info.name[1:])}
        except CorruptCheckpointError as error:
            bad.append(str(error))
    assert len(bad) == 1
    assert "there is no entry" in bad[0]


def test_a_folder_of_shards(server: FileServer) -> None:
    tensors = weights(4)
    names = list(tensors)
    index: dict[str, str] = {}
    for shard, held in {"a.safetensors": names[:2], "sub/b.safetensors": names[2:]}.items():
        server.files[f"/m/{shard}"] = to_safetensors({name: tensors[name] for name in held})
        index |= dict.fromkeys(held, shard)
    server.files["/m/model.safetensors.index.json"] = json.dumps({"weight_map": index}).encode()
    for url in (f"{server.url}/m", f"{server.url}/m/"):
        source = open_model(url)
        assert {info.name: source.load(info.name).tobytes() for info in source.tensors()} == {
            name: values.tobytes() for name, values in tensors.items()
        }


@pytest.mark.parametrize("shard", ["../x.safetensors", "/x.safetensors", "http://elsewhere/x.safetensors", "a/../../x"])
def test_shards_stay_in_their_folder(server: FileServer, shard: str) -> None:
    server.files["/m/model.safetensors.index.json"] = json.dumps({"weight_map": {"w": shard}}).encode()
    server.files["/x.safetensors"] = to_safetensors(weights(1))
    with pytest.raises((UnsafeCheckpointError, ModelNotFoundError), match=r"outside its folder|is missing"):
        open_model(f"{server.url}/m")
    assert all(request.path.startswith("/m/") for request in server.requests)


def test_a_folder_that_is_not_listed(server: FileServer) -> None:
    with pytest.raises(ModelError, match="a web server does not list folders: give the URL of a file"):
        open_model(f"{server.url}/folder")

    def deny(handler: Handler, *_: Any) -> bool:
        handler.say(403)
        return True

    server.answer = deny
    with pytest.raises(ModelError, match=r"does not list folders.* HTTP 403 Forbidden: no permission"):
        open_model(f"{server.url}/folder")


def test_side_files_that_are_denied_are_as_if_they_were_not_there(server: FileServer) -> None:
    """A bucket that does not list what it holds answers 403 for what it does not have."""
    server.files["/m/model.safetensors"] = to_safetensors(weights())

    def deny(handler: Handler, where: str, *_: Any) -> bool:
        if where in handler.files.files:
            return False
        handler.say(403)
        return True

    server.answer = deny
    assert len(open_model(f"{server.url}/m").tensors()) == 3


def test_pickled_paths_and_sources(server: FileServer) -> None:
    server.files["/model.pt"] = torch_zip(weights())
    source = pickle.loads(pickle.dumps(open_model(f"{server.url}/model.pt")))
    assert source.load("layers.1.weight").tobytes() == weights()["layers.1.weight"].tobytes()
    place = as_location(f"{server.url}/model.pt?signature=secret")
    again = pickle.loads(pickle.dumps(place))
    assert (again, str(again), hash(again)) == (place, str(place), hash(place))


def test_several_threads_share_a_source(server: FileServer) -> None:
    tensors = weights(16)
    server.files["/model.pt"] = torch_zip(tensors)
    source = open_model(f"{server.url}/model.pt")
    found: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: source.load(name).tobytes()})) for name in tensors
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: values.tobytes() for name, values in tensors.items()}


# What a server can do wrong.


def test_the_file_is_replaced_meanwhile(server: FileServer) -> None:
    server.files["/model.safetensors"] = to_safetensors(weights(3, (300, 300)))
    server.tag = '"one"'
    source = open_model(f"{server.url}/model.safetensors")
    server.tag = '"two"'
    with pytest.raises(ModelError, match="replaced by another file"):
        source.load("layers.2.weight")
    server.tag = '"one"'
    server.files["/model.safetensors"] += b"more"
    with pytest.raises(ModelError, match="replaced by another file"):
        source.load("layers.2.weight")
    # A new look at the same URL takes the file as it is now.
    with pytest.raises(CorruptCheckpointError, match="4 bytes follow"):
        open_model(f"{server.url}/model.safetensors")


def test_a_server_without_ranges(server: FileServer) -> None:
    small, large = to_safetensors(weights()), to_safetensors(weights(3, (700, 700)))
    server.files |= {"/small.safetensors": small, "/large.safetensors": large}

    def send_all(handler: Handler, where: str, *_: Any) -> bool:
        data = handler.files.files.get(where)
        handler.say(404 if data is None else 200, {}, data or b"")
        return True

    server.answer = send_all
    source = open_model(f"{server.url}/small.safetensors")
    assert source.load("layers.2.weight").tobytes() == weights()["layers.2.weight"].tobytes()
    with pytest.raises(UnsupportedModelError, match=r"sends whole files only .*all 5880\d+ bytes .*download the file"):
        open_model(f"{server.url}/large.safetensors")


def status(code: int, **headers: str) -> Any:
    def answer(handler: Handler, *_: Any) -> bool:
        handler.say(code, headers)
        return True

    return answer


def part(change: Any) -> Any:
    """Answer with a part that is not as it should be; what has no such file is not there."""

    def answer(handler: Handler, where: str, begin: int, end: int) -> bool:
        data = handler.files.files.get(where)
        if data is None:
            return False
        change(handler, data, begin, min(end, len(data)))
        return True

    return answer


def short_body(handler: Handler, data: bytes, begin: int, end: int) -> None:
    handler.close_connection = True
    handler.say(206, {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}", "Content-Length": str(end)}, data[:99])


WRONG = {
    "another range": (
        part(lambda handler, data, begin, end: handler.send_part(data, begin, end, Content_Range=f"bytes 7-9/{end}")),
        "was asked for bytes 0 to",
    ),
    "no range said": (
        part(lambda handler, data, begin, end: handler.send_part(data, begin, end, Content_Range="")),
        "without saying which",
    ),
    "nonsense": (
        part(lambda handler, data, begin, end: handler.send_part(data, begin, end, Content_Range="bytes ?/x\u00e9")),
        "without saying which",
    ),
    "2^200 bytes": (
        part(lambda handler, data, begin, end: handler.send_part(data, 0, end, Content_Range=f"bytes 0-1/{2**200}")),
        "without saying which",
    ),
    "packed": (
        part(lambda handler, data, begin, end: handler.send_part(data, begin, end, Content_Encoding="gzip")),
        r"packs the file \(gzip\)",
    ),
    "a body cut short": (part(short_body), "ended after 99 of"),
    "a longer body": (
        part(
            lambda handler, data, begin, end: handler.say(
                206, {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}, data[begin:end] + b"!"
            )
        ),
        "sends more than the",
    ),
    "403": (status(403), "HTTP 403 Forbidden: no permission"),
    "401": (status(401), "HTTP 401 Unauthorized: no permission"),
    "500": (status(500), "HTTP 500"),
    "503": (status(503), "HTTP 503"),
    "204": (status(204), "HTTP 204"),
    "416": (status(416), "no such range"),
    "a circle": (status(302, Location="/model.safetensors"), "more than 5 redirections"),
}


@pytest.mark.parametrize(("answer", "message"), WRONG.values(), ids=WRONG)
def test_wrong_answers(server: FileServer, answer: Any, message: str) -> None:
    server.files["/model.safetensors"] = to_safetensors(weights())
    server.answer = answer
    with pytest.raises(ModelError, match=message) as caught:
        open_model(f"{server.url}/model.safetensors")
    text = str(caught.value)
    assert text.startswith(f"{server.url}/model.safetensors: ")
    assert text.isprintable()
    assert len(text) < 500
    # No storm of tries.
    assert len(server.requests) <= 7


def test_nothing_there(server: FileServer) -> None:
    with pytest.raises(ModelNotFoundError, match=r"/model\.pt: no such file"):
        open_model(f"{server.url}/model.pt")
    # The second for what TensorFlow calls a checkpoint; over the same connection.
    assert [request.path for request in server.requests] == ["/model.pt", "/model.pt.index"]
    assert server.n_connections == 1
    server.files["/empty.safetensors"] = b""
    with pytest.raises(CorruptCheckpointError, match="the file is empty"):
        open_model(f"{server.url}/empty.safetensors")


def test_a_passing_trouble_passes(server: FileServer) -> None:
    server.files["/model.safetensors"] = to_safetensors(weights())
    troubles = iter([503, 429])

    def answer(handler: Handler, *_: Any) -> bool:
        code = next(troubles, None)
        if code is not None:
            handler.say(code)
        return code is not None

    server.answer = answer
    assert len(open_model(f"{server.url}/model.safetensors").tensors()) == 3
    assert len(server.requests) == 3


def test_tries_are_counted_for_a_model_as_a_whole(server: FileServer) -> None:
    server.files["/model.safetensors"] = to_safetensors(weights(30, (300, 300)))
    source = open_model(f"{server.url}/model.safetensors")
    server.answer = status(503)
    for name in [info.name for info in source.tensors()]:
        with pytest.raises(ModelError, match="HTTP 503"):
            source.load(name)
    assert len(server.requests) <= 1 + 30 + http_files._MAX_RETRIES


def test_an_answer_that_breaks_off_is_continued(server: FileServer) -> None:
    tensors = weights(1, (600, 600))
    data = to_safetensors(tensors)
    server.files["/model.safetensors"] = data
    source = open_model(f"{server.url}/model.safetensors")
    broken: list[int] = []

    def answer(handler: Handler, where: str, begin: int, end: int) -> bool:
        if broken:
            return False
        broken.append(begin)
        handler.close_connection = True
        length = {"Content-Length": str(end - begin), "Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}
        handler.say(206, length, data[begin : begin + 1000])
        return True

    server.answer = answer
    assert source.load("layers.0.weight").tobytes() == tensors["layers.0.weight"].tobytes()
    assert server.requests[-1].begin == broken[0] + 1000


def test_a_kept_connection_that_was_closed_is_no_trouble(server: FileServer) -> None:
    server.files["/model.safetensors"] = to_safetensors(weights(3, (300, 300)))

    def answer(handler: Handler, *_: Any) -> bool:
        # It does not say that it will.
        handler.close_connection = True
        return False

    server.answer = answer
    source = open_model(f"{server.url}/model.safetensors")
    for name in weights():
        source.load(name)
    assert server.n_connections == len(server.requests)


@pytest.mark.parametrize("kind", ["silent", "a drip in the headers", "a drip in the body"])
def test_a_server_that_hangs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "SILENT_SECONDS", 0.3 if kind == "silent" else 5.0)
    monkeypatch.setattr(http_connection, "LEAST_SECONDS", 0.5)
    monkeypatch.setattr(http_connection, "LEAST_BYTES_PER_SECOND", 1_000_000)
    begin = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 65536\r\nContent-Range: bytes 0-65535/99999\r\n"
    sent = {"silent": b"", "a drip in the headers": begin, "a drip in the body": begin + b"\r\n"}[kind]
    is_over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(sent)
            while not is_over.wait(0.05):
                try:
                    connection.sendall(b"" if kind == "silent" else b"x")
                except OSError:
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    started = time.monotonic()
    try:
        with pytest.raises(RemoteReadError, match=r"does not answer \(timeout\)|too slow"):
            open_model(f"http://127.0.0.1:{listener.getsockname()[1]}/model.safetensors")
    finally:
        is_over.set()
        listener.close()
        thread.join()
    assert time.monotonic() - started < 4


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RemoteReadError, match=r"/x\.pt: the connection failed: Connection refused"):
        open_model(f"http://127.0.0.1:{port}/x.pt")

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(RemoteReadError, match=r"^https://nowhere\.example/x\.pt: the connection failed: Name or"):
        open_model("https://nowhere.example/x.pt")


# What is not followed.


@pytest.mark.parametrize(
    "place",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://x/",
        "http://user:hunter2@127.0.0.1/x",
        "data:,x",
    ],
)
def test_redirections_elsewhere(server: FileServer, place: str) -> None:
    server.answer = status(302, Location=place)
    with pytest.raises(UnsafeCheckpointError, match="not followed") as caught:
        open_model(f"{server.url}/model.safetensors")
    assert "hunter2" not in str(caught.value)
    assert len(server.requests) == 1


def test_a_redirection_is_remembered_until_it_expires(server: FileServer) -> None:
    tensors = weights(3, (300, 300))
    server.files["/cdn"] = to_safetensors(tensors)
    live = ["1"]

    def answer(handler: Handler, where: str, begin: int, end: int) -> bool:
        if where == "/model.safetensors":
            handler.say(302, {"Location": f"/cdn?signature={live[0]}"})
            return True
        if handler.path.endswith(live[0]):
            return False
        handler.say(403)
        return True

    server.answer = answer
    source = open_model(f"{server.url}/model.safetensors")
    source.load("layers.1.weight")
    assert [request.path for request in server.requests] == ["/model.safetensors", *["/cdn?signature=1"] * 2]
    live[0] = "2"
    assert source.load("layers.2.weight").tobytes() == tensors["layers.2.weight"].tobytes()


def test_from_the_internet_no_way_leads_into_the_own_network(server: FileServer) -> None:
    """A public server that redirects to one of this machine: the second connection is not made."""
    server.files["/model.safetensors"] = to_safetensors(weights())
    public = http_connection.Target(url=f"{server.url}/model.safetensors", must_be_public=False)
    address = parse_url(public.url)
    moved = types.SimpleNamespace(headers={"Location": "http://127.0.0.1/secret"})
    target = http_files._redirected(address, public, moved, is_public=True)  # type: ignore[arg-type]  # the part used
    assert target.must_be_public
    files = http_files.HttpFiles()
    files._moved[address.url] = http_connection.Target(url=public.url, must_be_public=True)
    with pytest.raises(UnsafeCheckpointError, match=r"not followed: 127\.0\.0\.1 is 127\.0\.0\.1, an address of a"):
        files.read_into(address, 0, memoryview(bytearray(10)))
    assert not server.requests


def test_no_step_back_from_https() -> None:
    target = http_connection.Target(url="https://host/x.pt", must_be_public=False)
    moved = types.SimpleNamespace(headers={"Location": "http://host/x.pt"})
    with pytest.raises(UnsafeCheckpointError, match="from https:// to http://"):
        http_files._redirected(parse_url("https://host/x.pt"), target, moved, is_public=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:a9fe:a9fe::1", False),
        ("no address", False),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(address) is expected


REFUSED = {
    "file:///etc/passwd": "file:// is not followed: give the path itself",
    "local://x.safetensors": "local:// is not followed",
    "simplecache::https://host/x.pt": "chained protocols",
    "zip://x.pt::https://host/a.zip": "chained protocols",
    "reference://::https://host/x.json": "chained protocols",
    "ftp://host/x.pt": "ftp:// is not read; known are https://",
    "github://org:repo@main/x.pt": "is not read",
    "https://user:hunter2@host/x.pt": "user and password",
    "s3://user:hunter2@bucket/x.pt": "takes no user",
    "https://host/../x.pt": "'..'",
    "https://host/a/%2e%2e/x.pt": "'..'",
    "https://host/a/..%2fx.pt": "'..'",
    "s3://bucket/a/../b.pt": "'..'",
    "hf://../../x": "'..'|expected hf://",
    "hf://model": "expected hf://organisation/model",
    "hf://datasets/org/data/x.pt": "expected hf://organisation/model",
    "https:///x.pt": "no host",
    "https://host/x.pt#part": "'#'",
    "https://host:99999/x.pt": "no URL",
    "https://[::1/x.pt": "chained protocols",
    "https://[1.2.3.4/x.pt": "no URL",
    "https://host/a b.pt": "no URL",
    "https://host/a\\b.pt": "no URL",
    "https://host/\nx.pt": "no URL",
    "https://host/" + "x" * 5000: "too long",
    "s3://": "names no file",
}


@pytest.mark.parametrize(("url", "message"), REFUSED.items())
def test_refused_urls(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("something was looked up"))
    assert is_url(url)
    with pytest.raises((UnsafeCheckpointError, UnsupportedModelError), match=message) as caught:
        open_model(url)
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text", ["model.pt", "/a/b.pt", "C:\\x.pt", "c://x", "a:b", "https:", "out/x:y", "hf-cache:a/b"]
)
def test_paths_are_no_urls(text: str) -> None:
    assert not is_url(text)


def test_what_pathlib_makes_of_a_url(server: FileServer) -> None:
    server.files["/model.safetensors"] = to_safetensors(weights())
    folded = Path(f"{server.url}/model.safetensors")
    assert str(folded).startswith("http:/1")
    assert open_model(folded).label == f"{server.url}/model.safetensors"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/x.pt", "may name https:// and hf:// only"),
        ("gs://bucket/x.pt", "may name https:// and hf:// only"),
        ("http://host/x.pt", "may name https:// and hf:// only"),
        ("memory://x.pt", "may name https:// and hf:// only"),
    ],
)
def test_a_file_of_the_repository_may_name_less(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsafeCheckpointError, match=message):
        parse_url(url, is_trusted=False)
    for listed, is_listed in {
        url: True,
        url[: url.rindex("/") + 1]: True,
        url[:-1]: False,
        "https://other/": False,
    }.items():
        monkeypatch.setenv(TRUSTED_URLS, f"https://one/ {listed}")
        if is_listed:
            assert parse_url(url, is_trusted=False).is_trusted
        else:
            with pytest.raises(UnsafeCheckpointError, match=message):
                parse_url(url, is_trusted=False)


def test_a_file_of_the_repository_leads_to_no_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was made"))
    place = as_location("https://localhost:9/x.safetensors", is_trusted=False)
    with pytest.raises(UnsafeCheckpointError, match=r"^https://localhost:9/x\.safetensors: not followed: localhost is"):
        open_model(place)
    metadata = as_location("https://169.254.169.254/latest/x.safetensors", is_trusted=False)
    with pytest.raises(UnsafeCheckpointError, match="an address of a private network"):
        open_model(metadata)


def test_signatures_are_not_shown(server: FileServer) -> None:
    server.files["/model.safetensors"] = to_safetensors(weights())
    source = open_model(f"{server.url}/model.safetensors?X-Signature=secret")
    assert source.label == f"{server.url}/model.safetensors?…"
    assert server.requests[0].path == "/model.safetensors?X-Signature=secret"
    assert "secret" not in repr(source)
    server.files["/model.safetensors"] = b"damaged!"
    with pytest.raises(CorruptCheckpointError) as caught:
        open_model(f"{server.url}/model.safetensors?X-Signature=secret")
    assert "secret" not in str(caught.value)


def test_a_proxy_is_asked(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    data = to_safetensors(weights())

    def answer(handler: Handler, where: str, begin: int, end: int) -> bool:
        assert handler.path == "http://models.example/model.safetensors"
        handler.send_part(data, begin, min(end, len(data)))
        return True

    server.answer = answer
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//user:hunter2@"))
    monkeypatch.setenv("no_proxy", "")
    assert len(open_model("http://models.example/model.safetensors").tensors()) == 3
    assert server.requests[0].headers["Proxy-Authorization"] == "Basic dXNlcjpodW50ZXIy"


def test_nothing_of_a_remote_pickle_is_executed(server: FileServer, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": Evil()}))
    server.files["/model.pt"] = stream.getvalue()
    with pytest.raises(UnsafeCheckpointError, match="unsafe: its pickle"):
        open_model(f"{server.url}/model.pt")
    assert not (tmp_path / "executed").exists()


# Streams.


def test_streams_behave_like_files(server: FileServer, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    server.files["/x.bin"] = data
    (tmp_path / "x.bin").write_bytes(data)
    rng = np.random.default_rng(1)
    with as_location(f"{server.url}/x.bin").open("rb") as there, (tmp_path / "x.bin").open("rb") as here:
        for _ in range(300):
            if rng.random() < 0.5:
                whence = int(rng.integers(3))
                offset = int(
                    rng.integers({0: 0, 1: -1000, 2: -3_000_000}[whence], {0: 3_100_000, 1: 1000, 2: 50}[whence])
                )
                try:
                    position = here.seek(offset, whence)
                except OSError:
                    with pytest.raises(ValueError, match="negative"):
                        there.seek(offset, whence)
                    continue
                assert there.seek(offset, whence) == position
            length = int(rng.choice([0, 1, 8, 100, 5000, 70_000, 400_000]))
            assert there.read(length) == here.read(length)
            buffers = bytearray(length), bytearray(length)
            assert there.readinto(buffers[0]) == here.readinto(buffers[1])
            assert buffers[0] == buffers[1]
            assert there.tell() == here.tell()
        there.seek(2_999_990)
        assert there.read() == data[-10:]
    kept: dict[Any, bytes] = getattr(there, "_session")._kept  # noqa: B009 (of a RemoteStream)
    assert sum(map(len, kept.values())) <= path._KEPT_BYTES


def test_memory_of_kept_pieces_is_bounded(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "_KEPT_BYTES", 100_000)
    server.files["/x.bin"] = bytes(5_000_000)
    place = RemotePath(parse_url(f"{server.url}/x.bin"))
    with place.open() as stream:
        for position in range(0, 5_000_000, 40_000):
            stream.seek(position)
            assert stream.read(3) == bytes(3)
    session = place._session
    assert sum(map(len, session._kept.values())) == session._n_kept <= 100_000
    assert sorted(session._begins["http" + place.address.base[4:]]) == sorted(begin for _, begin in session._kept)


# Other protocols.


def test_memory_of_fsspec() -> None:
    fsspec = pytest.importorskip("fsspec")
    filesystem = fsspec.filesystem("memory")
    tensors = weights(4)
    names = list(tensors)
    index = {name: f"{name[-8]}.safetensors" for name in names}
    try:
        for name in names:
            filesystem.pipe(f"/run/model/{index[name]}", to_safetensors({name: tensors[name]}))
        filesystem.pipe("/run/model/model.safetensors.index.json", json.dumps({"weight_map": index}).encode())
        filesystem.pipe("/run/plain/a.pt", torch_zip(tensors))
        filesystem.pipe("/run/plain/readme.txt", b"no weights")
        for url in ("memory://run/model", "memory:///run/plain", "memory://run/plain/a.pt"):
            source = open_model(url)
            assert {info.name: source.load(info.name).tobytes() for info in source.tensors()} == {
                name: values.tobytes() for name, values in tensors.items()
            }
        with pytest.raises(ModelNotFoundError, match=r"memory://run/none\.pt: no such file"):
            open_model("memory://run/none.pt")
    finally:
        filesystem.rm("/run", recursive=True)


class Hub:
    """As much of HfFileSystem as is used, on files in memory."""

    made: ClassVar[list[dict[str, Any]]] = []
    files: ClassVar[dict[str, bytes]] = {}

    def __init__(self, **options: Any) -> None:
        self.made.append(options)

    def info(self, name: str) -> dict[str, Any]:
        if name in self.files:
            return {"name": name, "type": "file", "size": len(self.files[name])}
        if any(file.startswith(f"{name}/") for file in self.files):
            return {"name": name, "type": "directory", "size": 0}
        if "gated" in name:
            raise PermissionError("Access to model org/gated is restricted: https://hub/x?token=secret\nask for it")
        if "broken" in name:
            raise RuntimeError("401 Client Error\n\n(Request ID: 1)")
        raise FileNotFoundError(name)

    def ls(self, name: str, *, detail: bool) -> list[str]:
        assert not detail
        return [file for file in self.files if file.startswith(f"{name}/")]

    def open(self, name: str, *, mode: str, cache_type: str) -> io.BytesIO:
        assert (mode, cache_type) == ("rb", "none")
        return io.BytesIO(self.files[name])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    module: Any = types.ModuleType("huggingface_hub")
    module.HfFileSystem = Hub
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setattr(Hub, "made", [])
    monkeypatch.setattr(Hub, "files", {})
    return Hub


def test_a_model_of_the_hub(hub: type[Hub]) -> None:
    tensors = weights()
    for revision in ("", "@v1.0", "@refs%2Fpr%2F7"):
        hub.files[f"org/model.5{revision}/model.safetensors"] = to_safetensors(tensors)
    for url in ("hf://org/model.5", "hf://org/model.5@v1.0", "hf://org/model.5@refs/pr/7/model.safetensors"):
        source = open_model(url)
        assert source.load("layers.2.weight").tobytes() == tensors["layers.2.weight"].tobytes()
        assert source.label.startswith(url.replace("refs/pr/7", "refs%2Fpr%2F7"))
    assert all("token" not in options for options in hub.made)
    open_model(as_location("hf://org/model.5", is_trusted=False))
    assert hub.made[-1]["token"] is False


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("hf://org/absent/model.safetensors", ModelNotFoundError, "no such file"),
        ("hf://org/gated/model.safetensors", RemoteReadError, "no permission .*https://hub/x.… ask for it"),
        ("hf://org/broken", RemoteReadError, "RuntimeError: 401 Client Error"),
    ],
)
def test_trouble_with_the_hub(hub: type[Hub], url: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        open_model(url)
    assert str(caught.value).isprintable()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "extra"), [("hf://org/model", "hub"), ("s3://b/x.pt", "s3"), ("memory://x.pt", "remote")]
)
def test_without_the_package(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("huggingface_hub", "fsspec", "s3fs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf'pip install "pytest-weightwatcher\[{extra}\]"'):
        open_model(url)


def test_https_needs_no_package(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("huggingface_hub", "fsspec", "aiohttp", "requests", "urllib3"):
        monkeypatch.setitem(sys.modules, module, None)
    server.files["/model.safetensors"] = to_safetensors(weights())
    assert len(open_model(f"{server.url}/model.safetensors").tensors()) == 3


def test_nothing_of_the_network_is_imported_before_there_is_a_url() -> None:
    code = (
        "import sys, spectral.loaders.opening, spectral.loaders.remote\n"
        "print(sorted({'ssl', 'http.client', 'fsspec', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "host",
    [
        *("localhost.", "LOCALHOST", "127.1", "0x7f.1", "2130706433", "127.0.0.1.", "a.localhost", "10.0.0.1", "::1"),
        *("metadata.google.internal", "printer.local", "intranet"),
    ],
)
def test_names_that_mean_the_own_network_behind_a_proxy(host: str) -> None:
    assert not http_connection._sounds_public(host)
    assert all(http_connection._sounds_public(name) for name in ("huggingface.co", "8.8.8.8", "example.org."))
