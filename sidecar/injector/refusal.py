"""Why a pod is not admitted. The text is for its author and for the log: it quotes names, never what they stand for."""

from __future__ import annotations


class Denied(Exception):  # noqa: N818 - an answer, not a fault
    """The pod may not be as it is; the message says what is wrong and what to do."""


class Malformed(Exception):  # noqa: N818
    """What came is no review that an API server sends. Nothing is decided about it."""
