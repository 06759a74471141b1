"""`sidecar dev token`: an access token of the development issuer, and the DPoP proof that goes with one request."""

from __future__ import annotations

import http.client
import json
import shlex
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import jwt

from sidecar.client import DPoPKey
from sidecar.dev.certificates import Certificates, thumbprint
from sidecar.dev.files import FolderError, Layout
from sidecar.dev.issuer import SCOPES, Confirmation, DevIssuer
from sidecar.dev.state import WorldState

EXAMPLE: Final = "/v1/secret/data/app/db"

# Every answer of the sidecar carries the nonce; the first of these needs no token and leaves no record.
_NONCE_PATHS: Final = ("/v1/sys/health", "/v1/auth/token/lookup-self")


class WantedError(Exception):
    """What was asked for cannot be made; the text says why."""


class Output(StrEnum):
    """How the result is printed."""

    HEADERS = "headers"
    RAW = "raw"
    CURL = "curl"
    JSON = "json"
    ENV = "env"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The command's options. None: a default that depends on the world."""

    subject: str = "app"
    ttl: int = 300
    scope: str | None = None
    url: str | None = None
    method: str = "GET"
    nonce: str | None = None
    key: Path | None = None
    mtls: bool = False
    unbound: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A token and how to present it at one URL."""

    token: str
    url: str
    method: str
    proof: str
    key_file: Path | None
    """The DPoP key that the token is bound to."""
    certificates: Certificates

    @property
    def needs_proof(self) -> bool:
        """Whether each request needs a proof of its own."""
        return self.key_file is not None

    def headers(self) -> dict[str, str]:
        """The request's headers (RFC 9449, section 7.1; RFC 6750, section 2.1)."""
        if not self.needs_proof:
            return {"Authorization": f"Bearer {self.token}"}
        return {"Authorization": f"DPoP {self.token}", "DPoP": self.proof}

    def show(self, output: Output) -> str:
        """The text to print."""
        match output:
            case Output.RAW:
                return self.token
            case Output.HEADERS:
                return "\n".join(f"{name}: {value}" for name, value in self.headers().items())
            case Output.CURL:
                return self._curl()
            case Output.JSON:
                claims = jwt.decode(self.token, options={"verify_signature": False})
                shown: Mapping[str, Any] = {
                    "token": self.token,
                    "claims": claims,
                    "method": self.method,
                    "url": self.url,
                    "headers": self.headers(),
                }
                return json.dumps(shown, indent=2)
            case Output.ENV:
                return self._environment()

    def _curl(self) -> str:
        words = ["curl", "-sS"]
        if self.method != "GET":
            words += ["-X", self.method]
        if self._is_tls:
            tls = self.certificates
            words += ["--cacert", str(tls.ca), "--cert", str(tls.client.cert), "--key", str(tls.client.key)]
        for name, value in self.headers().items():
            words += ["-H", f"{name}: {value}"]
        return shlex.join([*words, self.url])

    def _environment(self) -> str:
        parts = urlsplit(self.url)
        if self.needs_proof:  # a Vault client cannot sign: for `sidecar secret`, which can
            bound = {"ADDR": f"{parts.scheme}://{parts.netloc}", "TOKEN": self.token, "DPOP_KEY": self.key_file}
            return "\n".join(f"export SIDECAR_{name}={shlex.quote(str(value))}" for name, value in bound.items())
        values: dict[str, object] = {"ADDR": f"{parts.scheme}://{parts.netloc}", "TOKEN": self.token}
        if self._is_tls:
            tls = self.certificates
            values |= {"CACERT": tls.ca, "CLIENT_CERT": tls.client.cert, "CLIENT_KEY": tls.client.key}
        # bao reads BAO_…, hvac and others VAULT_…
        return "\n".join(
            f"export {prefix}_{name}={shlex.quote(str(value))}"
            for prefix in ("BAO", "VAULT")
            for name, value in values.items()
        )

    @property
    def _is_tls(self) -> bool:
        return urlsplit(self.url).scheme == "https"


def make(folder: Path, wanted: Wanted, *, with_proof: bool = True) -> Made:
    """Mints what was asked for, in the world that runs in a folder.

    Raises:
        WantedError: with what is wrong, for the person who asked.
    """
    layout = Layout.of(folder)
    if wanted.mtls and wanted.unbound:
        raise WantedError("--mtls and --unbound exclude each other")
    try:
        world = WorldState.read(layout)
    except FolderError as error:
        raise WantedError(str(error)) from None
    certificates = Certificates.in_folder(layout.tls)
    url = wanted.url or (world.sidecar_mtls if wanted.mtls else world.sidecar).origin + EXAMPLE
    parts = _read_url(url)

    confirmation, key, key_file = Confirmation(), None, None
    if wanted.mtls:
        confirmation = Confirmation(x5t_s256=thumbprint(certificates.client.cert))
    elif not wanted.unbound:
        key_file = wanted.key or layout.keys / f"{_file_name(wanted.subject)}.pem"
        key = _dpop_key(key_file)
        confirmation = Confirmation(jkt=key.thumbprint)
    token = DevIssuer.from_file(world.issuer.origin, layout.issuer_key).mint(
        wanted.subject,
        audience=world.audience,
        ttl_seconds=wanted.ttl,
        scope=SCOPES if wanted.scope is None else wanted.scope,
        confirmation=confirmation,
    )
    proof = ""
    if key is not None and with_proof:
        nonce = wanted.nonce or fetch_nonce(parts, certificates)
        proof = key.proof(wanted.method, url, token, nonce)
    return Made(token, url, wanted.method, proof, key_file, certificates)


def _read_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise WantedError(f"{url!r} is not an http(s) URL")
    return parts


def _dpop_key(path: Path) -> DPoPKey:
    try:
        return DPoPKey.load_or_generate(path)
    except (OSError, ValueError, TypeError) as error:  # TypeError: the key is encrypted
        raise WantedError(f"{path} cannot be used as a DPoP key: {error}") from None


def _file_name(subject: str) -> str:
    """A subject as a file name of its own: one key each, and none outside the folder."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else f"%{ord(c):x}" for c in subject) or "%"


def fetch_nonce(at: SplitResult, certificates: Certificates) -> str | None:
    """The nonce that the server at an origin hands out now (RFC 9449, section 8); none where it does without.

    Raises:
        WantedError: nobody answers there.
    """
    connection: http.client.HTTPConnection
    if at.scheme == "https":
        context = ssl.create_default_context(cafile=str(certificates.ca))
        context.load_cert_chain(certificates.client.cert, certificates.client.key)
        connection = http.client.HTTPSConnection(at.hostname or "", at.port, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=10)
    try:
        for path in _NONCE_PATHS:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if nonce := answer.getheader("DPoP-Nonce"):
                return nonce
    except (OSError, http.client.HTTPException) as error:
        raise WantedError(f"no nonce to be had from {at.scheme}://{at.netloc}: {error}") from None
    finally:
        connection.close()
    return None
