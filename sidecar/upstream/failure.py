"""What goes wrong on the way to OpenBao, as one exception that says whether the request may have been executed."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.errors import Code, Refused


class UpstreamFailure(Refused):
    """No trustworthy answer came from OpenBao.

    `sent` is false only where OpenBao certainly executed nothing: the request was never written, or it was refused for
    the sidecar's own token. Where it is true a mutation's outcome is unknown.
    """

    def __init__(
        self, code: Code, message: str, *, sent: bool, headers: Mapping[str, str] | None = None, detail: str = ""
    ) -> None:
        super().__init__(code, message, headers=headers, detail=detail)
        self.sent = sent


def unavailable(message: str, detail: str = "") -> UpstreamFailure:
    """OpenBao, or the sidecar's login to it, is not there now; nothing was executed."""
    return UpstreamFailure(Code.UPSTREAM_UNAVAILABLE, message, sent=False, headers={"Retry-After": "1"}, detail=detail)


def untrustworthy(detail: str) -> UpstreamFailure:
    """Something came back, or the connection broke, after the request was written."""
    return UpstreamFailure(Code.UPSTREAM_ERROR, "OpenBao gave no usable answer", sent=True, detail=detail)
