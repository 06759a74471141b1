"""A request before it is bytes, and the grammar of those that every engine's table takes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from urllib.parse import quote

PLACES: Final = [
    *(("", "secret"), ("", "team/kv"), ("ns1", "secret"), ("ns1/child", "secret"), ("ns2", "secret")),
    ("ns2", "team/kv"),
]
"""The mounts of KV version 2: namespace and path."""
KV1: Final = [("", "kv1"), ("", "team/kv1"), ("ns1", "kv1"), ("ns1/child", "kv1")]
TRANSIT: Final = [("", "transit"), ("", "team/transit"), ("ns1", "transit")]
PKI: Final = [("", "pki"), ("ns1", "pki")]

WORDS: Final = ["data", "metadata", "delete", "undelete", "destroy", "subkeys", "config", "detailed-metadata"]
SEEDED: Final = ["app/db", "App/DB", "app/other", "public/readme", "private/key", "wr/a", "wr/b", "deep/a/b/c/d/e/f"]
NAMES: Final = [
    *WORDS,
    *("sys", "auth", "v1", "ns1", "secret", "root", "cubbyhole", "creds", "list", "scan", "help", "version", "keys"),
    *("a", "B", "x", "db", "DB", "Ab", "0", "007", "a.b", ".hidden", "...", "dot.", "a-b_c~d", "a b", "a+b", "a;b=c"),
    *(
        "a:b@c",
        "a,b",
        "a!b$c",
        "a'b(c)",
        "a&b=c",
        'a"b',
        "a%b",
        "a%2fb",
        "%2e%2e",
        "a?b",
        "a#b",
        "a\\b",
        "a|b",
        "{a}",
        "a[b]",
        "a^b",
        "<a>",
        "a`b",
    ),
    *("ünïcode", "u\u0308", "Straße", "ſ", "İ", "日本", "🔑", "e\u0301", "ﬁ", "Ω"),
]
"""One segment each, decoded; all of them names that OpenBao takes."""


@dataclass
class Draft:
    """One request in parts. `target` is raw; `body` is None where none is sent."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes | None = None
    version: bytes = b"HTTP/1.1"
    chunked: bool = False

    def head(self) -> bytes:
        """The head, framed as the body is."""
        lines = [b" ".join((self.method, self.target, self.version))]
        lines += [b": ".join(header) for header in self.headers]
        if self.body is not None:
            lines.append(b"Transfer-Encoding: chunked" if self.chunked else b"Content-Length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def render(self) -> bytes:
        """The request as bytes."""
        if self.body is None:
            return self.head()
        if not self.chunked:
            return self.head() + self.body
        half = len(self.body) // 2
        parts = [part for part in (self.body[:half], self.body[half:]) if part]
        return self.head() + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class Grammar:
    """Valid requests, all of them drawn from one source of chance."""

    def __init__(self, rng: Random, token: bytes) -> None:
        self._rng = rng
        self._token = token

    def draft(self) -> Draft:
        """A request that some table takes, spelt as some client might spell it."""
        rng = self._rng
        engines: list[Callable[[], Draft]] = [self._kv2, self._kv1, self._transit, self._pki, self._database]
        draft = rng.choices(engines, weights=[60, 14, 16, 6, 4])[0]()
        if rng.random() < 0.2:
            draft.headers.append(rng.choice(_HARMLESS))
        if rng.random() < 0.05:
            draft.headers.append((b"X-Correlation-ID", b"client-%016x" % rng.getrandbits(64)))
        if rng.random() < 0.15:
            rng.shuffle(draft.headers)
        draft.chunked = rng.random() < 0.15
        return draft

    def path(self) -> str:
        """A secret's path, encoded."""
        rng = self._rng
        if rng.random() < 0.4:
            return rng.choice(SEEDED)
        segments = [rng.choice(NAMES) for _ in range(rng.choices([1, 2, 3, 4], weights=[30, 45, 15, 10])[0])]
        return "/".join(self._encoded(segment) for segment in segments)

    def _encoded(self, segment: str) -> str:
        # As Go, Python's `requests` and browsers' libraries do it, and as curl does it.
        encoded = quote(segment, safe=self._rng.choice(["", "!$&'()*+,;=:@", "!$&'()*+,;=:@[]|^", _LEFT_RAW]))
        return encoded.lower() if encoded.upper() == encoded and self._rng.random() < 0.3 else encoded

    def json(self, value: Any) -> bytes:
        """JSON in one of the spellings that serialisers have."""
        spelling: dict[str, Any] = self._rng.choice(
            [{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}]
        )
        return json.dumps(value, **spelling).encode()

    # -- engines -------------------------------------------------------------------------------------------------
    def _kv2(self) -> Draft:
        rng = self._rng
        namespace, mount = rng.choices(PLACES, weights=[5, 2, 2, 2, 1, 1])[0]
        path = self.path()
        operation = rng.randrange(15)
        versions = {"versions": rng.choice([[1], [1, 2], ["1"], [99], "1,2"])}
        metadata = {"custom_metadata": {rng.choice(["a", "owner", "ü"]): "x"}, "max_versions": rng.randrange(9)}
        match operation:
            case 0 | 1 | 2 | 3:
                query = rng.choice(["", "", "?version=1", "?version=0", "?version=2"])
                return self._in(namespace, "GET", f"{mount}/data/{path}{query}")
            case 4 | 5 | 6:
                return self._in(namespace, rng.choice(["POST", "PUT"]), f"{mount}/data/{path}", self._secret())
            case 7:
                draft = self._in(namespace, "PATCH", f"{mount}/data/{path}", self._secret())
                draft.headers.append((b"Content-Type", b"application/merge-patch+json"))
                return draft
            case 8:
                return self._in(namespace, "DELETE", f"{mount}/{rng.choice(['data', 'data', 'metadata'])}/{path}")
            case 9:
                word = rng.choice(["delete", "undelete", "destroy"])
                return self._in(namespace, rng.choice(["POST", "PUT"]), f"{mount}/{word}/{path}", versions)
            case 10:
                query = rng.choice(["", "?depth=1", "?version=1&depth=2", "?version=1"])
                return self._in(namespace, "GET", f"{mount}/subkeys/{path}{query}")
            case 11:
                return self._in(namespace, "GET", f"{mount}/metadata/{path}")
            case 12:
                draft = self._in(namespace, rng.choice(["POST", "PUT", "PATCH"]), f"{mount}/metadata/{path}", metadata)
                if draft.method == b"PATCH":
                    draft.headers.append((b"Content-Type", b"application/merge-patch+json"))
                return draft
            case _:
                return self._list(namespace, f"{mount}/metadata/{rng.choice(['', path, path + '/'])}")

    def _kv1(self) -> Draft:
        namespace, mount = self._rng.choices(KV1, weights=[3, 1, 1, 1])[0]
        path = f"{mount}/{self.path()}"
        match self._rng.randrange(5):
            case 0 | 1:
                return self._in(namespace, "GET", path)
            case 2:
                return self._in(namespace, "PUT", path, {"v": self._rng.choice(["x", 1, 1.50, True, None, {"a": []}])})
            case 3:
                return self._in(namespace, "DELETE", path)
            case _:
                return self._list(namespace, self._rng.choice([f"{mount}/", mount, path, path + "/"]))

    def _transit(self) -> Draft:
        rng = self._rng
        namespace, mount = rng.choices(TRANSIT, weights=[3, 1, 1])[0]
        key = rng.choice(["k1", "ex", "sig", "K1", "none", "new", "a.b", "keys", "k1-x"])
        plain = base64.b64encode(rng.choice([b"x", b"secret", b""])).decode()
        batch = [{"plaintext": plain, "reference": "r"}] * rng.randrange(1, 4)
        choices: list[tuple[str, str, Any]] = [
            ("POST", f"encrypt/{key}", {"plaintext": plain}),
            ("PUT", f"encrypt/{key}", {"batch_input": batch}),
            ("POST", f"decrypt/{key}", {"ciphertext": "vault:v1:AAAA"}),
            ("POST", f"decrypt/{key}", {"batch_input": [{"ciphertext": "vault:v1:AAAA"}] * 2}),
            ("POST", f"rewrap/{key}", {"ciphertext": "vault:v1:AAAA"}),
            ("POST", f"sign/{key}", {"input": plain}),
            ("POST", f"sign/{key}/sha2-256", {"input": plain}),
            ("POST", f"verify/{key}", {"input": plain, "signature": "vault:v1:AAAA"}),
            ("POST", f"hmac/{key}", {"batch_input": [{"input": plain}]}),
            ("POST", f"datakey/{rng.choice(['plaintext', 'wrapped'])}/{key}", None),
            ("POST", rng.choice(["random", "random/8", "random/platform", "random/all/4"]), None),
            ("POST", rng.choice(["hash", "hash/sha2-256"]), {"input": plain}),
            (
                "GET",
                f"export/{rng.choice(['encryption-key', 'hmac-key'])}/{key}{rng.choice(['', '/1', '/latest'])}",
                None,
            ),
            ("POST", f"keys/{key}", {"type": "aes256-gcm96"}),
            ("POST", f"keys/{key}/rotate", rng.choice([None, {}])),
            ("GET", f"keys/{key}", None),
        ]
        if rng.random() < 0.08:
            return self._list(namespace, f"{mount}/keys")
        method, path, body = rng.choice(choices)
        return self._in(namespace, method, f"{mount}/{path}", body)

    def _pki(self) -> Draft:
        rng = self._rng
        namespace, mount = rng.choices(PKI, weights=[3, 1])[0]
        known = ["ca", "ca/pem", "ca_chain", "crl", "crl/pem", "crl/delta", "cert/ca", "cert/crl", "cert/ca_chain"]
        match rng.randrange(4):
            case 0:
                return self._in(
                    namespace, "POST", f"{mount}/issue/{rng.choice(['web', 'Web', 'none'])}", {"common_name": "a.test"}
                )
            case 1:
                return self._list(namespace, f"{mount}/{rng.choice(['certs', 'issuers', 'roles', 'certs/revoked'])}")
            case 2:
                serial = rng.choice(["0a:0b", "0A:0B", "0a-0b", "0a-0B"])
                return self._in(namespace, "GET", f"{mount}/cert/{serial}{rng.choice(['', '/raw', '/raw/pem'])}")
            case _:
                return self._in(namespace, "GET", f"{mount}/{rng.choice(known)}")

    def _database(self) -> Draft:
        role = self._rng.choice(["app", "App", "none", "a.b"])
        match self._rng.randrange(3):
            case 0:
                return self._in("", "GET", f"database/creds/{role}")
            case 1:
                return self._in("", "GET", f"database/static-creds/{role}")
            case _:
                return self._in("", "POST", f"database/rotate-role/{role}", self._rng.choice([None, {}]))

    # -- parts -----------------------------------------------------------------------------------------------------
    def _secret(self) -> dict[str, Any]:
        rng = self._rng
        values: list[Any] = ["x", "ü\u2028", 1, -0.0, 1.5, 10**20, 1e-7, True, None, [], {"deep": [{"er": ""}]}, ""]
        secret: dict[str, Any] = {"data": {rng.choice(["v", "V", "data", "ü", "a/b", ""]): rng.choice(values)}}
        if rng.random() < 0.2:
            secret["options"] = {"cas": rng.choice([0, 1, 2, "1"])}
        return secret

    def _list(self, namespace: str, path: str) -> Draft:
        rng = self._rng
        page = rng.choice(["", "", "", "after=app%2F", "limit=1", "after=app&limit=2", "after=", "after=a+b"])
        if rng.random() < 0.5:
            return self._in(namespace, "LIST", f"{path}?{page}" if page else path)
        truth = rng.choice(["true", "true", "1", "T", "TRUE"])
        return self._in(namespace, "GET", f"{path}?list={truth}" + (f"&{page}" if page else ""))

    def _in(self, namespace: str, method: str, path: str, body: Any = None) -> Draft:
        rng = self._rng
        credential = [(b"X-Vault-Token", self._token), (b"Authorization", b"Bearer " + self._token)]
        headers = [(b"Host", b"bao.test:8200"), rng.choices(credential, weights=[3, 1])[0]]
        if namespace and rng.random() < 0.5:
            path = f"{namespace}/{path}"
        elif namespace or rng.random() < 0.1:
            spelling = rng.choice(["{}", "{}", "/{}", "{}/", "/{}/"]) if namespace else rng.choice(["", "/", "root"])
            headers.append((b"X-Vault-Namespace", spelling.format(namespace).encode()))
        encoded = None if body is None else self.json(body)
        return Draft(method.encode(), f"/v1/{path}".encode(), headers, encoded)


_LEFT_RAW: Final = "!$&'()*+,;=:@[]|^\"<>`{}"
_HARMLESS: Final = [
    (b"X-Vault-Request", b"true"),
    (b"X-Vault-Wrap-TTL", b"0"),
    (b"X-Vault-Policy-Override", b"true"),
    (b"X-Vault-Index", b"abc"),
    (b"X-Vault-Forward", b"active-node"),
    (b"X-Vault-MFA", b"totp:1"),
    (b"User-Agent", b"curl/8"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"gzip, br"),
    (b"X-Forwarded-For", b"10.0.0.1"),
    (b"X-Forwarded-Prefix", b"/v1/secret/data/private"),
    (b"X-Original-URL", b"/v1/secret/data/private/key"),
    (b"X-Rewrite-URL", b"/v1/sys/mounts"),
    (b"Cookie", b"token=x"),
    (b"Connection", b"keep-alive"),
    (b"Connection", b"X-Vault-Namespace, X-Vault-Token"),
]
