"""One comment per pull request and key: found by its hidden marker, edited in place, left alone where it is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from action.github_api import ApiError
from action.markdown import shorten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from action.github_api import Client

TOO_LONG = 422
SHORT = 20_000
"""Bytes of the second attempt where GitHub finds the first too long."""

_PER_PAGE = 100
_MAX_PAGES = 50
_REFUSED = (401, 403, 404)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """The conversation of a pull request.

    Attributes
    ----------
    client : Client
        The API.
    repository : str
        Owner and name.
    number : int
        Of the pull request.
    """

    client: Client
    repository: str
    number: int

    def put(self, marker: str, body: str, *, may_create: bool) -> str:
        """Make the comment say something.

        Parameters
        ----------
        marker : str
            First line of the comment.
        body : str
            All of it.
        may_create : bool
            Whether there may be a new comment where there is none.

        Returns
        -------
        str
            What was done: ``created``, ``edited``, ``unchanged`` or ``not needed``.

        Raises
        ------
        ApiError
            GitHub refused, or did not answer.
        """
        known = self._find(marker)
        if known is None:
            return self._create(body) if may_create else "not needed"
        if _same_text(str(known["body"]), body):
            return "unchanged"
        self._write("PATCH", f"/repos/{self.repository}/issues/comments/{int(known['id'])}", body)
        return "edited"

    def _create(self, body: str) -> str:
        self._write("POST", f"/repos/{self.repository}/issues/{self.number}/comments", body)
        return "created"

    def _write(self, method: str, path: str, body: str) -> None:
        try:
            self.client.request(method, path, {"body": body})
        except ApiError as error:
            if error.status != TOO_LONG or len(body.encode()) <= SHORT:
                raise
            self.client.request(method, path, {"body": shorten(body, SHORT)})

    def _find(self, marker: str) -> Mapping[str, Any] | None:
        """Return our comment. One of somebody else may hold the marker, too: it could be edited behind our back."""
        for comment in self._comments():
            text = str(comment.get("body") or "")
            if text.partition("\n")[0].strip() == marker and self._is_ours(comment):
                return comment
        return None

    def _is_ours(self, comment: Mapping[str, Any]) -> bool:
        author = comment.get("user")
        if not isinstance(author, dict):
            return False
        try:
            answer = self.client.request("GET", "/user")
        except ApiError as error:
            if error.status not in _REFUSED:
                raise
            # The token of a workflow may not ask who it is; its comments are those of a bot.
            return author.get("type") == "Bot"
        if not isinstance(answer, dict):
            raise ApiError("GitHub answered something else than a user")
        return bool(author.get("login") == answer.get("login"))

    def _comments(self) -> Iterator[Mapping[str, Any]]:
        for page in range(1, _MAX_PAGES + 1):
            path = f"/repos/{self.repository}/issues/{self.number}/comments?per_page={_PER_PAGE}&page={page}"
            comments = self.client.request("GET", path)
            if not isinstance(comments, list) or not all(isinstance(comment, dict) for comment in comments):
                raise ApiError("GitHub answered something else than comments")
            yield from comments
            if len(comments) < _PER_PAGE:
                return


def _same_text(one: str, other: str) -> bool:
    """Compare as GitHub keeps them: with other line ends, and without blanks at the end."""
    return one.replace("\r\n", "\n").strip() == other.replace("\r\n", "\n").strip()
