"""What a client did wrong, or what the server cannot do now: one form for every answer that is no answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from eyespot.errors import EyespotError

RETRY_SECONDS = 1


class Problem(EyespotError):
    """A refusal with its HTTP status.

    Args:
        status: The HTTP status.
        what: As for `EyespotError`.
        where: As for `EyespotError`.
        remedy: As for `EyespotError`.
        close: Whether the connection ends with the answer, because its body is not read to the end.
    """

    def __init__(self, status: int, what: str, *, where: object = None, remedy: str = "", close: bool = False) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.status = status
        self.close = close

    def as_dict(self) -> dict[str, Any]:
        """Return the document of RFC 9457, with eyespot's what, where and remedy."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": str(self),
            "what": self.what,
            "where": self.where,
            "remedy": self.remedy,
        }

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that go with the status."""
        found = {}
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            found["retry-after"] = str(RETRY_SECONDS)
        if self.status == HTTPStatus.UNAUTHORIZED:
            found["www-authenticate"] = "Bearer"
        if self.close:
            found["connection"] = "close"
        return found


def busy(what: str) -> Problem:
    """Return the refusal of a server that has enough to do."""
    return Problem(503, what, remedy=f"try again in {RETRY_SECONDS} s")
