"""A web server on the loopback address that sends parts of files, and that can be told to misbehave."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    """One request: path with its query, first byte, and bytes that were sent."""

    path: str
    begin: int
    n_sent: int
    headers: dict[str, str]


Answer = Callable[["Handler", str, int, int], bool]
"""Answers a request (path, first byte, past the last); False leaves it to the server."""


@dataclass
class FileServer:
    """Files by their paths; ``answer`` goes first."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    n_connections: int = 0
    tag: str = ""
    answer: Answer | None = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def n_bytes(self) -> int:
        """Bytes of files that were sent."""
        return sum(request.n_sent for request in self.requests)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 20
    files: FileServer

    def setup(self) -> None:
        super().setup()
        self.files.n_connections += 1

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        found = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", self.headers.get("Range", ""))
        begin, end = (int(found[1]), int(found[2]) + 1) if found else (0, 1 << 40)
        self.request_of_file = Request(self.path, begin, 0, dict(self.headers))
        self.files.requests.append(self.request_of_file)
        path = self.path.partition("?")[0]
        if self.files.answer is not None and self.files.answer(self, path, begin, end):
            return
        data = self.files.files.get(path)
        if data is None:
            self.say(404)
        elif begin >= len(data):
            self.say(416, {"Content-Range": f"bytes */{len(data)}"})
        else:
            self.send_part(data, begin, min(end, len(data)))

    def send_part(self, data: bytes, begin: int, end: int, **changes: str) -> None:
        """Send a part as it should be sent, but for the changed headers."""
        headers = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}", "ETag": self.files.tag}
        self.say(
            206, {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}, data[begin:end]
        )

    def say(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.request_of_file.n_sent += len(body)
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


@contextmanager
def serving(**files: bytes) -> Iterator[FileServer]:
    """Run a server, in a thread, as long as the context lasts."""
    state = FileServer(files={f"/{name}": data for name, data in files.items()})
    handler = type("BoundHandler", (Handler,), {"files": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a reader may go at any time
    server.block_on_close = False
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
