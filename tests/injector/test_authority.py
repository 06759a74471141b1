"""Certificates of the injector's own making: always one that is trusted, whoever renews, whoever is late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from sidecar.injector.authority import ANNOUNCED, Lives, Stored, renewed

NAMES = ("injector.openbao.svc", "injector.openbao", "injector")
LIVES = Lives(timedelta(days=30), timedelta(days=365))
START = datetime(2026, 1, 1, tzinfo=UTC)


def fresh(now: datetime = START, stored: Stored | None = None) -> Stored:
    made = renewed(stored or {}, now, NAMES, LIVES)
    assert made is not None
    return made


def listeners(stored: Stored) -> x509.Certificate:
    return x509.load_pem_x509_certificate(stored["tls.crt"])


def authorities(stored: Stored) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(stored["ca.crt"])


def trusted(certificate: x509.Certificate, stored: Stored) -> bool:
    """Whether an authority in the bundle has signed it; raises where one of that name has not."""
    for authority in authorities(stored):
        if certificate.issuer == authority.subject:
            certificate.verify_directly_issued_by(authority)
            return True
    return False


def test_what_is_missing_is_made_and_what_is_there_stays() -> None:
    made = fresh()
    assert set(made) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}
    assert trusted(listeners(made), made)
    names = listeners(made).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == list(NAMES)
    assert renewed(made, START + timedelta(days=1), NAMES, LIVES) is None


def test_a_certificate_is_made_anew_long_before_it_expires_by_the_same_authority() -> None:
    made = fresh()
    assert renewed(made, START + timedelta(days=19), NAMES, LIVES) is None
    later = fresh(START + timedelta(days=21), made)
    assert later["ca.crt"] == made["ca.crt"]
    assert later["tls.crt"] != made["tls.crt"]


def test_over_years_whoever_is_late_is_still_trusted() -> None:
    """A replica that serves what was stored two days ago, and an API server that trusts what was stored then, are both
    fine at every moment."""
    history = [fresh()]
    for day in range(1, 800):
        now = START + timedelta(days=day)
        stored = renewed(history[-1], now, NAMES, LIVES) or history[-1]
        late = history[max(len(history) - 2, 0)]
        assert trusted(listeners(late), stored)
        assert listeners(late).not_valid_after_utc > now
        assert trusted(listeners(stored), history[-1]), "its authority was not announced"
        assert len(authorities(stored)) <= 3
        history.append(stored)
    assert len({one["ca.crt"] for one in history}) > 4
    assert len({one["tls.crt"] for one in history}) > 30


def test_an_authority_signs_nothing_before_it_was_announced_for_a_day() -> None:
    made = fresh()
    half = START + timedelta(days=183)
    announced = fresh(half, made)
    assert len(authorities(announced)) == 2
    first, second = authorities(announced)
    assert listeners(announced).issuer == first.subject
    in_use = fresh(half + ANNOUNCED, announced)
    assert listeners(in_use).issuer == second.subject
    assert in_use["ca.crt"] == announced["ca.crt"]


def test_other_names_make_another_certificate() -> None:
    made = fresh()
    other = renewed(made, START, ("other.openbao.svc",), LIVES)
    assert other is not None
    assert other["ca.crt"] == made["ca.crt"]


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\xff"])
def test_what_cannot_be_read_is_made_anew(name: str, content: bytes) -> None:
    made = fresh(stored={**fresh(), name: content})
    assert trusted(listeners(made), made)
    assert renewed(made, START, NAMES, LIVES) is None


def test_a_key_of_another_certificate_is_not_served() -> None:
    one, two = fresh(), fresh()
    assert fresh(stored={**one, "tls.key": two["tls.key"]})["tls.key"] != two["tls.key"]
    assert fresh(stored={**one, "ca.key": two["ca.key"]})["ca.key"] not in (one["ca.key"], two["ca.key"])
