"""The verifier of proofs by itself. What bad proofs get stands in tests/attack/test_dpop.py."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sidecar.caller import dpop
from sidecar.caller.dpop import ProofVerifier
from sidecar.caller.nonce import Nonces
from sidecar.errors import Refused
from tests.support.desk import ORIGIN, PATH
from tests.support.proofs import ProofKey, ath

TOKEN = "a.b.c"
URL = f"{ORIGIN}{PATH}"


def verifier(**bent: Any) -> ProofVerifier:
    settings: dict[str, Any] = {
        "algorithms": ["ES256"],
        "max_age_seconds": 60,
        "clock_skew_seconds": 5,
        "nonce_mode": "off",
        "nonces": Nonces(0.0),
    }
    made = ProofVerifier(**settings | bent)
    made.listens_on({ORIGIN})
    return made


def verify(proofs: ProofVerifier, key: ProofKey, proof: str) -> str:
    return proofs.verify(proof, method="GET", path=PATH, ath=ath(TOKEN), jkt=key.jkt, wall=time.time(), elapsed=0.0)


def test_the_example_of_rfc_9449_section_7_1_verifies() -> None:
    """Figure 12: the proof that goes with the access token of that figure."""
    proof = (
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0Rs"
        "cEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2"
        "In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90"
        "ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFb"
        "yJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
    )
    proofs = verifier()
    proofs.listens_on({"https://resource.example.org"})
    jti = proofs.verify(
        proof,
        method="GET",
        path="/protectedresource",
        ath="fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
        jkt="0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
        wall=1562262620.0,
        elapsed=0.0,
    )
    assert jti == "e1j3V_bKic8-LAEB"


def test_members_that_other_libraries_put_into_a_key_are_taken() -> None:
    """WebCrypto's exportKey, and issuers' key ids."""
    key, proofs = ProofKey(), verifier()
    jwk = key.jwk | {"ext": True, "key_ops": ["verify"], "use": "sig", "alg": "ES256", "kid": "x"}
    assert verify(proofs, key, key.proof(TOKEN, url=URL, header={"jwk": jwk, "kid": "x"}, jti="a")) == "a"


def test_a_key_is_remembered_by_its_header_once_it_has_proved_itself() -> None:
    key, proofs = ProofKey(), verifier()
    with pytest.raises(Refused):
        verify(proofs, key, key.proof(TOKEN, url=URL)[:-4] + "AAAA")
    assert proofs.remembered_keys == 0
    for _ in range(3):
        verify(proofs, key, key.proof(TOKEN, url=URL))
    assert proofs.remembered_keys == 1


def test_a_remembered_key_excuses_nothing() -> None:
    key, other, proofs = ProofKey(), ProofKey(), verifier()
    verify(proofs, key, key.proof(TOKEN, url=URL))
    good = key.proof(TOKEN, url=URL)
    for bad in (good[:-4] + "AAAA", key.proof(TOKEN, "POST", URL), key.proof("another", url=URL)):
        with pytest.raises(Refused):
            verify(proofs, key, bad)
    with pytest.raises(Refused):
        verify(proofs, other, good)


def test_the_memory_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpop, "MAX_REMEMBERED_KEYS", 3)
    proofs = verifier()
    for _ in range(6):
        key = ProofKey()
        verify(proofs, key, key.proof(TOKEN, url=URL))
    assert proofs.remembered_keys == 3
