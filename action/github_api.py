"""GitHub's REST API over the standard library: one request, one answer, one error."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT = 20.0
"""Seconds without a byte before a request is given up."""

_MAX_ANSWER = 32 * 1024 * 1024


class ApiError(Exception):
    """A request that GitHub refused (``status``), or that did not reach it (``status`` is None)."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the token goes to the address it is meant for."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The API as one token may use it.

    Attributes
    ----------
    url, token : str
        Address of the API and the token.
    timeout : float
        Seconds.
    """

    url: str
    token: str = field(repr=False)
    timeout: float = TIMEOUT

    def request(self, method: str, path: str, payload: Mapping[str, str] | None = None) -> Any:
        """Return the answer to a request.

        Parameters
        ----------
        method, path : str
            Such as ``GET`` and ``/user``.
        payload : mapping of str to str, optional
            Sent as JSON.

        Raises
        ------
        ApiError
            No answer, an answer other than 2xx, or one that is no JSON.
        """
        if not self.url.startswith(("https://", "http://")):
            raise ApiError(f"{self.url}: no address of an API")
        request = urllib.request.Request(  # noqa: S310 (checked above)
            f"{self.url}{path}",
            data=None if payload is None else json.dumps(payload).encode(),
            method=method,
            headers={
                "Authorization": f"Bearer {self.token}",
                "Accept": "application/vnd.github+json",
                "Content-Type": "application/json",
                "User-Agent": "ww-gate",
                "X-GitHub-Api-Version": "2022-11-28",
            },
        )
        return self._send(request)

    def _send(self, request: urllib.request.Request) -> Any:
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self.timeout) as answer:
                return json.loads(answer.read(_MAX_ANSWER))
        except urllib.error.HTTPError as error:
            with error:
                raise ApiError(f"GitHub answered {error.code} to {request.method}", error.code) from error
        except (OSError, HTTPException) as error:
            raise ApiError(f"GitHub did not answer {request.method}: {error}") from error
        except ValueError as error:
            raise ApiError(f"GitHub's answer to {request.method} is no JSON") from error
