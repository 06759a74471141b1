"""The names that a listener goes by."""

from __future__ import annotations

import pytest

from sidecar.caller.origins import Origins, check_origin, normalise
from sidecar.door.head import Head
from sidecar.errors import Code, Refused


def site_code(origins: Origins, **headers: str) -> Code | None:
    try:
        check_origin(Head("GET", "/v1/x", None, headers), origins)
    except Refused as refusal:
        return refusal.code
    return None


LOOPBACK = Origins.of(["127.0.0.1:8200"])


@pytest.mark.parametrize("host", ["127.0.0.1:8200", "localhost:8200", "LocalHost:8200", "localhost", "127.0.0.1"])
def test_the_loopback_names_are_taken(host: str) -> None:
    assert site_code(LOOPBACK, host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "localhost:8201",
        "127.0.0.1:80",
        "127.0.0.2:8200",
        "localhost.",
        "localhost:8200:8200",
        "user@localhost:8200",
        "localhost:8200, localhost:8200",
        "[::1]:8200",
        "0.0.0.0:8200",
        "127.1:8200",
        "2130706433:8200",
        "localhost:08200",
        " localhost:8200",
    ],
)
def test_any_other_host_is_refused(host: str) -> None:
    assert site_code(LOOPBACK, host=host) is Code.MALFORMED_REQUEST


def test_a_missing_host_is_refused() -> None:
    assert site_code(LOOPBACK) is Code.MALFORMED_REQUEST


@pytest.mark.parametrize("origin", ["http://localhost:8200", "https://evil.example", "null", ""])
def test_any_origin_is_a_browser(origin: str) -> None:
    assert site_code(LOOPBACK, host="localhost:8200", origin=origin) is Code.OPERATION_FORBIDDEN
    assert site_code(LOOPBACK, host="evil.example", origin=origin) is Code.OPERATION_FORBIDDEN


def test_public_urls_are_further_names() -> None:
    origins = Origins.of(["10.0.0.5:8200"], tls=True, public_urls=["https://Vault.Example/", "http://other:8080"])
    assert origins.urls == {"https://vault.example", "http://other:8080"}
    assert origins.hosts == {"vault.example", "vault.example:443", "other:8080"}


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "localhost"])
def test_a_wildcard_listener_is_every_loopback_name_and_no_other(host: str) -> None:
    origins = Origins.of([f"{host}:8200"])
    assert origins.urls == {"http://localhost:8200", "http://127.0.0.1:8200", "http://[::1]:8200"}


def test_an_ipv6_listener() -> None:
    origins = Origins.of(["[::1]:8200"], tls=True)
    assert origins.urls == {"https://[::1]:8200", "https://localhost:8200"}
    assert site_code(origins, host="[::1]:8200") is None


def test_a_unix_socket_is_localhost() -> None:
    origins = Origins.of(["unix:///run/sidecar/sidecar.sock"])
    assert origins.urls == {"http://localhost"}
    assert site_code(origins, host="localhost") is None
    assert site_code(origins, host="localhost:8200") is Code.MALFORMED_REQUEST


def test_a_name_that_is_no_address_has_no_loopback_name() -> None:
    assert Origins.of(["vault.internal:8200"]).hosts == frozenset()


@pytest.mark.parametrize("url", ["ftp://x", "https://x/path", "https://u@x", "https://x:0", "https://", "x"])
def test_what_is_no_origin_is_an_error_of_the_operator(url: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        Origins.of([], public_urls=[url])


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("HTTP://LOCALHOST:80", "http://localhost"),
        ("https://a:443", "https://a"),
        ("https://a:80", "https://a:80"),
        ("http://[::1]:8200", "http://[::1]:8200"),
        ("http://a\n", None),
        ("http://a:", None),
        ("http://a:00080", None),
    ],
)
def test_an_origin_has_one_normal_form(given: str, normal: str | None) -> None:
    assert normalise(given) == normal
