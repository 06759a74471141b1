"""What single steps cost, in µs of CPU: the best of several rounds, so that a busy neighbour is not counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.caller.dpop import ProofVerifier
from sidecar.caller.nonce import Nonces
from sidecar.client.key import DPoPKey
from sidecar.door.head import parse_head
from sidecar.surface.mounts import Mount, MountTable
from sidecar.surface.vault_api import VaultApi

ROUNDS: Final = 7
RAW_CHECK: Final = "caller: the raw ES256 check"
PROOF: Final = "caller: a DPoP proof, all of RFC 9449 4.3"
_URL: Final = "http://127.0.0.1:8200/v1/secret/data/app/db"
_RAW: Final = (
    b"GET /v1/secret/data/app/db HTTP/1.1\r\nHost: 127.0.0.1:8200\r\nUser-Agent: python-requests/2.32\r\n"
    b"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n"
    b"X-Vault-Token: " + b"t" * 400 + b"\r\nX-Vault-Request: true\r\nDPoP: " + b"p" * 500 + b"\r\n\r\n"
)


def _best(work: Callable[[], object], count: int) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(count):
            work()
        best = min(best, (time.process_time() - began) / count)
    return round(best * 1e6, 2)


def micro() -> dict[str, float]:
    """Name of the step → µs."""
    head = parse_head(_RAW, max_header_bytes=65_536, max_uri_bytes=4096)
    table = MountTable([Mount("secret", "kv2"), Mount("team/kv", "kv2")], ["secret"])
    api = VaultApi(lambda: table)

    def name_it() -> object:
        route = api.route(head)
        return route.operation(b"")  # type: ignore[union-attr] # a KV path is no local answer

    key = DPoPKey.generate()
    with TemporaryDirectory() as folder:
        key.save(Path(folder) / "key.pem")
        private = _private(Path(folder) / "key.pem")
    signature = private.sign(b"data", ec.ECDSA(hashes.SHA256()))
    public, algorithm = private.public_key(), ec.ECDSA(hashes.SHA256())

    def naming(times: int) -> Callable[[], object]:
        """A path so many times as long: cost grows as the path does, never faster."""
        long = parse_head(
            _RAW.replace(b"/app/db ", b"/app/db" * times + b" "), max_header_bytes=65_536, max_uri_bytes=4096
        )
        return lambda: api.route(long).operation(b"")  # type: ignore[union-attr] # as above

    return {
        "door: one strict reading of a head": _best(
            lambda: parse_head(_RAW, max_header_bytes=65_536, max_uri_bytes=4096), 2000
        ),
        "surface: naming a KV read": _best(name_it, 2000),
        **{f"surface: the same, path of {7 * n} bytes": _best(naming(n), 1000) for n in (8, 16, 32, 64)},
        RAW_CHECK: _best(lambda: public.verify(signature, b"data", algorithm), 300),
        PROOF: _proof(key),
    }


def _proof(key: DPoPKey) -> float:
    nonces = Nonces(0.0)
    proofs = ProofVerifier(
        algorithms=["ES256"], max_age_seconds=60, clock_skew_seconds=5, nonce_mode="required", nonces=nonces
    )
    proofs.listens_on(frozenset({"http://127.0.0.1:8200"}))
    proof = key.proof("GET", _URL, token="token", nonce=nonces.current(0.0))
    ath = "PEaenWxYddN6Q_NT1PiOYfz4EsZu7jRXRlpAsNpBU-A"  # base64url(SHA-256("token"))
    wall = time.time()
    return _best(
        lambda: proofs.verify(
            proof, method="GET", path="/v1/secret/data/app/db", ath=ath, jkt=key.thumbprint, wall=wall, elapsed=0.0
        ),
        300,
    )


def _private(path: Path) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    loaded = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded
