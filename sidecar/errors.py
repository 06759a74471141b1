"""The one table of error codes, and the one exception that carries them.

A stage that will not go on raises `Refused`; `sidecar.enforcement` turns it, in one place, into an answer and an
audit record. Messages are written for the caller: they never hold a secret value, a token, a proof or another
tenant's path. What only an operator may read goes into `detail`, which reaches the masked log and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Final

import orjson


class Code(StrEnum):
    """Every code a caller can meet. The value is what stands in answers, audit records and metrics."""

    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    INVALID_URI = "INVALID_URI"
    ILLEGAL_SEGMENT = "ILLEGAL_SEGMENT"
    ILLEGAL_ENCODING = "ILLEGAL_ENCODING"
    INVALID_WILDCARD = "INVALID_WILDCARD"
    AMBIGUOUS_QUERY = "AMBIGUOUS_QUERY"
    AMBIGUOUS_MOUNT = "AMBIGUOUS_MOUNT"
    DOUBLE_MOUNT_SOURCE = "DOUBLE_MOUNT_SOURCE"
    AMBIGUOUS_CREDENTIALS = "AMBIGUOUS_CREDENTIALS"
    PROVIDER_TRAILING_SLASH_MISMATCH = "PROVIDER_TRAILING_SLASH_MISMATCH"
    UNSUPPORTED_ENGINE = "UNSUPPORTED_ENGINE"
    TENANT_MOUNT_MISMATCH = "TENANT_MOUNT_MISMATCH"

    TOKEN_MISSING = "TOKEN_MISSING"
    TOKEN_INVALID = "TOKEN_INVALID"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    AUDIENCE_MISMATCH = "AUDIENCE_MISMATCH"
    BINDING_REQUIRED = "BINDING_REQUIRED"
    BINDING_MISMATCH = "BINDING_MISMATCH"
    PROOF_INVALID = "PROOF_INVALID"
    PROOF_NONCE_REQUIRED = "PROOF_NONCE_REQUIRED"
    PROOF_REPLAYED = "PROOF_REPLAYED"
    STEP_UP_REQUIRED = "STEP_UP_REQUIRED"

    TOKEN_REPLAYED = "TOKEN_REPLAYED"
    BINDING_CHANGED = "BINDING_CHANGED"
    SCOPE_MISSING = "SCOPE_MISSING"
    POLICY_DENIED = "POLICY_DENIED"
    OBLIGATION_UNMET = "OBLIGATION_UNMET"
    OPERATION_FORBIDDEN = "OPERATION_FORBIDDEN"
    PROVIDER_READ_ONLY = "PROVIDER_READ_ONLY"

    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    TARGET_EXISTS = "TARGET_EXISTS"
    VERSION_CONFLICT = "VERSION_CONFLICT"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
    OVERLOADED = "OVERLOADED"
    UNSUPPORTED_OPERATION = "UNSUPPORTED_OPERATION"
    UPSTREAM_ERROR = "UPSTREAM_ERROR"
    PDP_UNAVAILABLE = "PDP_UNAVAILABLE"
    AUDIT_UNAVAILABLE = "AUDIT_UNAVAILABLE"
    UPSTREAM_UNAVAILABLE = "UPSTREAM_UNAVAILABLE"
    UPSTREAM_TIMEOUT = "UPSTREAM_TIMEOUT"


_CODES_BY_STATUS: Final[Mapping[int, tuple[Code, ...]]] = {
    400: (
        Code.MALFORMED_REQUEST,
        Code.INVALID_URI,
        Code.ILLEGAL_SEGMENT,
        Code.ILLEGAL_ENCODING,
        Code.INVALID_WILDCARD,
        Code.AMBIGUOUS_QUERY,
        Code.AMBIGUOUS_MOUNT,
        Code.DOUBLE_MOUNT_SOURCE,
        Code.AMBIGUOUS_CREDENTIALS,
        Code.PROVIDER_TRAILING_SLASH_MISMATCH,
        Code.UNSUPPORTED_ENGINE,
        Code.TENANT_MOUNT_MISMATCH,
    ),
    401: (
        Code.TOKEN_MISSING,
        Code.TOKEN_INVALID,
        Code.TOKEN_EXPIRED,
        Code.AUDIENCE_MISMATCH,
        Code.BINDING_REQUIRED,
        Code.BINDING_MISMATCH,
        Code.PROOF_INVALID,
        Code.PROOF_NONCE_REQUIRED,
        Code.PROOF_REPLAYED,
        Code.STEP_UP_REQUIRED,
    ),
    403: (
        Code.TOKEN_REPLAYED,
        Code.BINDING_CHANGED,
        Code.SCOPE_MISSING,
        Code.POLICY_DENIED,
        Code.OBLIGATION_UNMET,
        Code.OPERATION_FORBIDDEN,
        Code.PROVIDER_READ_ONLY,
    ),
    404: (Code.NOT_FOUND,),
    405: (Code.METHOD_NOT_ALLOWED,),
    409: (Code.TARGET_EXISTS, Code.VERSION_CONFLICT),
    413: (Code.BODY_TOO_LARGE,),
    422: (Code.IDEMPOTENCY_KEY_REUSED,),
    429: (Code.OVERLOADED,),
    431: (Code.HEADERS_TOO_LARGE,),
    501: (Code.UNSUPPORTED_OPERATION,),
    502: (Code.UPSTREAM_ERROR,),
    503: (Code.PDP_UNAVAILABLE, Code.AUDIT_UNAVAILABLE, Code.UPSTREAM_UNAVAILABLE),
    504: (Code.UPSTREAM_TIMEOUT,),
}

STATUS: Final[Mapping[Code, int]] = {code: status for status, codes in _CODES_BY_STATUS.items() for code in codes}
"""HTTP status of each code."""


class Refused(Exception):  # noqa: N818 - a refusal is an outcome of this product, not an error in it
    """The request stops here.

    `message` is for the caller, `detail` for the operator's log only. `headers` go into the answer as they are
    (`DPoP-Nonce`, `Retry-After`). `wanted` is what the answer's challenge asks for, by the challenge's own names
    (`scope`, `acr_values`); the challenge itself is written by `sidecar.caller.challenge`.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        wanted: Mapping[str, str] | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.headers: Mapping[str, str] = headers or {}
        self.wanted: Mapping[str, str] = wanted or {}
        self.detail = detail

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return STATUS[self.code]

    @property
    def is_fault(self) -> bool:
        """True where something failed (`SECRET_ERROR`), false where the request was denied (`SECRET_DENY`)."""
        return self.status >= 500


class Dialect(StrEnum):
    """The two shapes of an error body: the Vault API's and the Secrets API's."""

    VAULT = "vault"
    SECRETS = "secrets"

    @classmethod
    def of(cls, path: str) -> Dialect:
        """The dialect a request's path speaks. Anything that is not clearly the Secrets API is answered as Vault."""
        return cls.SECRETS if path == "/api" or path.startswith("/api/") else cls.VAULT


def error_body(code: Code, message: str, correlation_id: str, dialect: Dialect) -> bytes:
    """The JSON body of a refusal in either dialect."""
    if dialect is Dialect.SECRETS:
        return orjson.dumps(
            {
                "error": HTTPStatus(STATUS[code]).phrase,
                "code": code,
                "message": message,
                "correlation_id": correlation_id,
            }
        )
    return orjson.dumps({"errors": [message], "code": code, "correlation_id": correlation_id})
