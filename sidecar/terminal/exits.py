"""How a command ends: its exit status says which kind of thing went wrong, so that a script need not read words."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from sidecar.errors import STATUS, Code


class Exit(IntEnum):
    """Documented in docs/how-to/use-the-secrets-api.md."""

    OK = 0
    FAILED = 1
    """Something that is none of the others: an answer that is none of the Secrets API's."""
    USAGE = 2
    """The command, or what it asks for, is wrong (400, 405, 413, 422, 431)."""
    UNAUTHENTICATED = 3
    """Not known who asks (401)."""
    DENIED = 4
    """Known, and not allowed (403)."""
    NOT_FOUND = 5
    CONFLICT = 6
    """Another version, or the target exists (409)."""
    UNSUPPORTED = 7
    """The secret's provider cannot do this (501)."""
    UNAVAILABLE = 8
    """Try again later: nobody answers, or something behind does not (429, 502, 503, 504)."""


_BY_STATUS: Final = {
    400: Exit.USAGE,
    401: Exit.UNAUTHENTICATED,
    403: Exit.DENIED,
    404: Exit.NOT_FOUND,
    405: Exit.USAGE,
    409: Exit.CONFLICT,
    413: Exit.USAGE,
    422: Exit.USAGE,
    429: Exit.UNAVAILABLE,
    431: Exit.USAGE,
    501: Exit.UNSUPPORTED,
    502: Exit.UNAVAILABLE,
    503: Exit.UNAVAILABLE,
    504: Exit.UNAVAILABLE,
}


class Ended(Exception):  # noqa: N818 - an outcome, not an error in this program
    """The command ends here. The message may hold a server's words: it is made safe where it is shown. `body` is what
    the server said, for `--json`."""

    def __init__(self, status: Exit, message: str, body: object = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.body = body


def of_code(code: str) -> Exit:
    """The exit of a code of the API's that came without its status."""
    return of_status(STATUS[Code(code)]) if code in set(Code) else Exit.FAILED


def of_status(status: int) -> Exit:
    """The exit of an HTTP status that is no success."""
    return _BY_STATUS.get(status, Exit.FAILED)
