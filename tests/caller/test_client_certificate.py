"""The client certificate that a token is bound to."""

from __future__ import annotations

import datetime
import time

import pytest

from sidecar.caller.client_certificate import ClientCertificates
from sidecar.errors import Code, Refused
from tests.support.certificates import DAY, Authority

AUTHORITY = Authority()


def code(der: bytes | None, thumbprint: str, wall: float | None = None) -> Code | None:
    try:
        ClientCertificates().check(der, thumbprint, time.time() if wall is None else wall)
    except Refused as refusal:
        return refusal.code
    return None


def test_the_tokens_certificate_is_taken() -> None:
    certificate = AUTHORITY.issue()
    assert code(certificate.der, certificate.thumbprint) is None


def test_another_certificate_none_and_garbage_are_refused() -> None:
    certificate, other = AUTHORITY.issue(), AUTHORITY.issue()
    for der in (other.der, None, b"", b"garbage", certificate.der + b"\x00", certificate.der[:-1]):
        assert code(der, certificate.thumbprint) is Code.BINDING_MISMATCH


def test_the_dates_are_looked_at_each_time() -> None:
    certificates = ClientCertificates()
    certificate = AUTHORITY.issue(ends_in=datetime.timedelta(hours=1))
    now = time.time()
    certificates.check(certificate.der, certificate.thumbprint, now)
    for wall in (now + 3700, now - 2 * DAY.total_seconds()):
        with pytest.raises(Refused):
            certificates.check(certificate.der, certificate.thumbprint, wall)
    certificates.check(certificate.der, certificate.thumbprint, now + 3500)
    assert certificates.remembered == 1
