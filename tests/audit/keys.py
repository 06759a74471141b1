"""Key pairs for signed checkpoints."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from sidecar.audit.checkpoint import Checkpoints
from sidecar.clock import Clock, SystemClock


class Keys:
    """A key pair in files."""

    def __init__(self, folder: Path, name: str = "key") -> None:
        key = Ed25519PrivateKey.generate()
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.pub"
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def checkpoints(self, every: int = 10, seconds: float = 3600, clock: Clock | None = None) -> Checkpoints:
        return Checkpoints(self.private, every, seconds, clock or SystemClock())
