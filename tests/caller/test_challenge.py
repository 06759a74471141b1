"""Challenges as the RFCs spell them."""

from __future__ import annotations

import pytest

from sidecar.caller.challenge import www_authenticate
from sidecar.errors import STATUS, Code

ALGORITHMS = ("ES256", "EdDSA")


def test_a_missing_token_is_asked_for_without_an_error() -> None:
    assert www_authenticate(Code.TOKEN_MISSING, "x", ALGORITHMS) == 'DPoP algs="ES256 EdDSA"'
    assert www_authenticate(Code.TOKEN_MISSING, "x", ALGORITHMS, bearer=True) == 'DPoP algs="ES256 EdDSA", Bearer'


def test_a_missing_nonce_is_asked_for_as_rfc_9449_section_9_does() -> None:
    value = www_authenticate(Code.PROOF_NONCE_REQUIRED, "Needs a nonce.", ALGORITHMS)
    assert value == 'DPoP error="use_dpop_nonce", error_description="Needs a nonce.", algs="ES256 EdDSA"'


def test_a_missing_scope_is_named() -> None:
    value = www_authenticate(Code.SCOPE_MISSING, "More.", ALGORITHMS, bearer=True, wanted={"scope": "secrets.read"})
    assert value == (
        'DPoP error="insufficient_scope", error_description="More.", scope="secrets.read", algs="ES256 EdDSA", '
        'Bearer error="insufficient_scope", error_description="More.", scope="secrets.read"'
    )


def test_a_step_up_says_to_what() -> None:
    value = www_authenticate(Code.STEP_UP_REQUIRED, "More.", ALGORITHMS, wanted={"acr_values": "phr mfa"})
    assert value is not None
    assert 'error="insufficient_user_authentication"' in value
    assert 'acr_values="phr mfa"' in value


@pytest.mark.parametrize("code", list(Code))
def test_every_401_and_nothing_beyond_401_and_scopes_is_a_challenge(code: Code) -> None:
    expected = STATUS[code] == 401 or code is Code.SCOPE_MISSING
    assert (www_authenticate(code, "x", ALGORITHMS) is not None) is expected
