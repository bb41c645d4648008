"""A REST server that keeps the comments of one pull request, and refuses as it is told."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_COMMENT = 65_536
_LIST = re.compile(r"/repos/owner/project/issues/7/comments")
_ONE = re.compile(r"/repos/owner/project/issues/comments/(\d+)")
_PULLS = "/repos/owner/project/pulls"


class Rest(ThreadingHTTPServer):
    """Comments, and what was asked for.

    ``refuse`` maps a method to the status it is answered with; ``is_mute`` keeps it from answering at all;
    ``odd_answers`` maps the end of a path to what is read there instead.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.comments: list[dict[str, Any]] = []
        self.pulls: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.refuse: dict[str, int] = {}
        self.me: str | None = None
        self.is_mute = False
        self.odd_answers: dict[str, Any] = {}
        self.released = threading.Event()
        self.max_body = MAX_COMMENT

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def written(self) -> list[str]:
        return [method for method, _ in self.asked if method != "GET"]

    def add(self, body: str, *, login: str = "github-actions[bot]", kind: str = "Bot") -> dict[str, Any]:
        comment = {"id": 100 + len(self.comments), "body": body, "user": {"login": login, "type": kind}}
        self.comments.append(comment)
        return comment


class _Handler(BaseHTTPRequestHandler):
    server: Rest

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def _serve(self) -> None:
        rest = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        rest.asked.append((self.command, self.path))
        rest.tokens.add(self.headers.get("Authorization", ""))
        if rest.is_mute:
            rest.released.wait(20)
            return
        status, answer = self._answer(json.loads(body)["body"] if body else "")
        data = json.dumps(answer).encode()
        self.send_response(status)
        if status == 301:
            self.send_header("Location", f"{rest.url}/elsewhere")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, body: str) -> tuple[int, Any]:
        rest = self.server
        path, _, query = self.path.partition("?")
        for end, answer in rest.odd_answers.items():
            if path.endswith(end):
                return 200, answer
        if path == "/user":
            return (403, {}) if rest.me is None else (200, {"login": rest.me})
        if self.command in rest.refuse:
            return rest.refuse[self.command], {"message": "no"}
        if len(body.encode()) > rest.max_body:
            return 422, {"message": "body is too long"}
        return self._read(path, query) if self.command == "GET" else self._write(path, body)

    def _read(self, path: str, query: str) -> tuple[int, Any]:
        if path == _PULLS:
            return 200, self.server.pulls
        if not _LIST.fullmatch(path):
            return 404, {}
        page = int(re.findall(r"&page=(\d+)", query)[0])
        return 200, self.server.comments[100 * (page - 1) : 100 * page]

    def _write(self, path: str, body: str) -> tuple[int, Any]:
        one = _ONE.fullmatch(path)
        if self.command == "PATCH" and one:
            next(each for each in self.server.comments if each["id"] == int(one.group(1)))["body"] = body
            return 200, {}
        if self.command == "POST" and _LIST.fullmatch(path):
            return 201, self.server.add(body)
        return 404, {}


@contextmanager
def serve_rest() -> Iterator[Rest]:
    with Rest() as rest:
        thread = threading.Thread(target=rest.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield rest
        finally:
            rest.released.set()
            rest.shutdown()
            thread.join()
