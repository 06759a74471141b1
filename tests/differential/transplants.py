"""The corpus' own tricks, moved to other engines, namespaces, secrets and methods: what was tried on one mount only."""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from random import Random
from typing import Final

from tests.differential.desk import CORPUS

_PLACEHOLDER: Final = b"root-token-corpus"
_MOUNTS: Final = (
    *(
        b"secret",
        b"team/kv",
        b"kv1",
        b"transit",
        b"pki",
        b"database",
        b"ns1/secret",
        b"ns1/child/secret",
        b"ns2/secret",
    ),
    *(b"team/kv1", b"team/transit", b"ns1/kv1", b"ns1/transit", b"ns1/child/kv1", b"ns2/team/kv", b"totp", b"foreign"),
)
_BELOW: Final = (
    *(b"data/", b"metadata/", b"delete/", b"undelete/", b"destroy/", b"subkeys/", b"encrypt/", b"keys/", b"sign/", b""),
    *(b"export/encryption-key/", b"issue/", b"cert/", b"creds/", b"static-creds/", b"rotate-role/", b"hmac/"),
)
_NAMES: Final = (
    b"app/db",
    b"private/key",
    b"wr/a",
    b"wr",
    b"k1",
    b"ex",
    b"web",
    b"app",
    b"deep/a/b",
    b"a%7cb",
    b"0a:0b",
)
_METHODS: Final = (b"GET", b"LIST", b"POST", b"PUT", b"PATCH", b"DELETE", b"SCAN", b"HEAD")
_NAMESPACES: Final = (b"ns1", b"ns1/child", b"ns2", b"/ns1/", b"ns1/../ns2", b"root", b"child")

_mount: Final = re.compile(rb"(?<=/)(?:ns1/|ns2/)?(?:secret|kv1|transit|pki|team/kv)(?=/)")
_below: Final = re.compile(rb"(?<=/)(?:data|metadata|delete|undelete|destroy|subkeys|encrypt|decrypt|keys)/")
_name: Final = re.compile(rb"app/db|private/key|public/readme|wr/[a-d]|(?<=/)k1\b")


@cache
def _corpus() -> tuple[bytes, ...]:
    with (CORPUS / "public.jsonl").open() as lines:
        return tuple(base64.b64decode(json.loads(line)["request_b64"]) for line in lines)


def transplant(rng: Random, token: bytes) -> bytes:
    """One request of the corpus, changed in one to four places, with this credential."""
    head, separator, body = rng.choice(_corpus()).partition(b"\r\n\r\n")
    line, end, rest = head.partition(b"\r\n")
    if rng.random() < 0.7:
        line = _mount.sub(lambda _: rng.choice(_MOUNTS), line, count=1)
    if rng.random() < 0.5:
        line = _below.sub(lambda _: rng.choice(_BELOW), line, count=1)
    if rng.random() < 0.4:
        line = _name.sub(lambda _: rng.choice(_NAMES), line, count=1)
    if rng.random() < 0.25:
        line = rng.choice(_METHODS) + b" " + line.partition(b" ")[2]
    if rng.random() < 0.2:
        rest = b"X-Vault-Namespace: " + rng.choice(_NAMESPACES) + b"\r\n" + rest
    if rng.random() < 0.15:
        other_head, _, other_body = rng.choice(_corpus()).partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *\d+", other_head)
        if length and b"ontent-" not in rest and b"ransfer-" not in rest:  # another's body, well framed
            rest, body = rest + length[0], other_body
    return (line + end + rest).replace(_PLACEHOLDER, token) + separator + body
