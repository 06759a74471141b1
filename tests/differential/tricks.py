"""What is done to a valid request to make it mean something else to somebody: to its parts, or to its bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Final

from tests.differential.draft import NAMES, WORDS, Draft, Grammar

Trick = Callable[[Random, Draft], None]
FramingTrick = Callable[[Random, Draft, Grammar], tuple[bytes, bool]]
"""The bytes, and whether the client then closes its side: where otherwise the server would wait for more."""


# -- targets -------------------------------------------------------------------------------------------------------
def path_piece(rng: Random, draft: Draft) -> None:
    """Puts something hard to read between or into the segments."""
    pieces = [
        *(b"//", b"/./", b"/../", b"/%2e/", b"/%2e%2e/", b"/%2E./", b"%2f", b"%2F", b"/..%2f", b"%252f", b"\\", b"%5c"),
        *(b"%00", b"%0a", b"%0d%0a", b"%7f", b"%09", b"\x01", b"\t", b" ", b"%c2%a0", b"%e2%80%8b", b"%ef%bb%bf"),
        *(b"%ff", b"%c0%af", b"%ed%a0%80", b"%f4%90%80%80", b"\xc3\xbc", b"\xff", b"%", b"%2", b"%zz", b"%u002f"),
        *(b";a=b", b"/;/", b"#", b"#x", b"*", b"/*", b"/+/", b"?", b"%3f", b"%23", b"%2a", b"%c2%ad", b"%ef%bc%8f"),
        *(
            b"%e2%80%ae",
            b"%f3%a0%80%81",
            b"%EE%80%80",
            b"/",
            b"%41",
            b"%2D",
            b"%7E",
            b"{}",
            b"[",
            b"^",
            b"|",
            b"<",
            b'"',
        ),
    ]
    path, mark, query = draft.target.partition(b"?")
    slashes = [at for at in range(len(path)) if path[at : at + 1] == b"/"]
    at = rng.choice([*slashes, len(path), rng.randrange(len(path) + 1)])
    draft.target = path[:at] + rng.choice(pieces) + path[at:] + mark + query


def encode_octet(rng: Random, draft: Draft) -> None:
    """Percent-encodes one octet of the path, in either case."""
    if len(draft.target) < 2:  # another trick has left nothing of the path
        return
    at = rng.randrange(1, len(draft.target))
    spelt = f"%{draft.target[at]:02x}"
    draft.target = draft.target[:at] + rng.choice([spelt, spelt.upper()]).encode() + draft.target[at + 1 :]


def change_segment(rng: Random, draft: Draft) -> None:
    """Drops, doubles, replaces or adds one segment, or changes its case."""
    path, mark, query = draft.target.partition(b"?")
    segments = path.split(b"/")
    at = rng.randrange(1, len(segments)) if len(segments) > 1 else 0
    match rng.randrange(5):
        case 0:
            del segments[at]
        case 1:
            segments.insert(at, segments[at])
        case 2:
            segments[at] = rng.choice(WORDS).encode()
        case 3:
            segments.insert(at, rng.choice([*WORDS, *NAMES[:24], "ns1", "ns2"]).encode())
        case _:
            segments[at] = rng.choice([bytes.upper, bytes.title, bytes.swapcase])(segments[at])
    draft.target = b"/".join(segments) + mark + query


def other_beginning(rng: Random, draft: Draft) -> None:
    """Another root than /v1/."""
    begin = [
        b"/V1/",
        b"//v1/",
        b"/v1//",
        b"/",
        b"/v2/",
        b"/v1/v1/",
        b"/./v1/",
        b"/x/../v1/",
        b"/ui/../v1/",
        b"/%761/",
        b"v1/",
    ]
    draft.target = rng.choice([*begin, b"/v1", b"/api/secrets", b"/v1/?x="]) + draft.target.removeprefix(b"/v1/")


def slash_behind(rng: Random, draft: Draft) -> None:
    """A slash at the end, or several."""
    path, mark, query = draft.target.partition(b"?")
    draft.target = path + rng.choice([b"/", b"/", b"//", b"/.", b"%2f", b"/%20"]) + mark + query


def query(rng: Random, draft: Draft) -> None:
    """A query that changes what is run, or that readers split differently."""
    queries = [
        *(
            b"list=true",
            b"list=false",
            b"list=1",
            b"list",
            b"list=",
            b"List=true",
            b"%6cist=true",
            b"list=yes",
            b"list=%74rue",
        ),
        *(
            b"scan=true",
            b"scan=1",
            b"scan",
            b"help=1",
            b"help=true",
            b"help",
            b"version=1",
            b"version=-1",
            b"version=01",
        ),
        *(b"version=1&version=2", b"version=1;list=true", b"version=1%26list=true", b"version=", b"version=0x1"),
        *(b"version=+1", b"version=9999999999999999999", b"version=1.0", b"Version=1", b"depth=1", b"x=1", b"x", b""),
        *(b"&", b"=", b"list=true&list=true", b"list=true&list=false", b"after=..", b"after=a/b", b"after=%2e%2e"),
        *(
            b"after=%00",
            b"limit=-1",
            b"limit=1&limit=2",
            b"%",
            b"a=%zz",
            b"cas=1",
            b"versions=1",
            b"path=secret/data/x",
        ),
        *(b"namespace=ns2", b"X-Vault-Namespace=ns2", b"token=x", b"_method=DELETE", b"wrap_ttl=60", b"list=true#x"),
    ]
    joint = b"&" if b"?" in draft.target else b"?"
    draft.target += joint + rng.choice(queries)


def other_target(rng: Random, draft: Draft) -> None:
    """Somewhere else: what is no secret, or what is not this tenant's."""
    targets = [
        *(
            "sys/mounts",
            "sys/health",
            "sys/seal-status",
            "sys/seal",
            "sys/step-down",
            "sys/raw/x",
            "sys/policies/acl/root",
        ),
        *("auth/token/lookup-self", "auth/token/renew-self", "auth/token/create", "auth/userpass/login/alice"),
        *(
            "auth/token/revoke-self/",
            "sys/leases/revoke/x",
            "sys/wrapping/unwrap",
            "sys/tools/random/8",
            "sys/host-info",
        ),
        *("sys/internal/ui/mounts", "sys/internal/ui/mounts/secret/data/x", "sys/internal/ui/mounts/foreign/x"),
        *("cubbyhole/mine", "identity/entity/name", "foreign/data/x", "foreign/metadata/?list=true", "totp/code/t1"),
        *("ssh/sign/r", "secret/config", "secret", "secret/", "secret/data", "secret/data/", "kv1", "kv1/", "transit/"),
        *("secret/detailed-metadata/?list=true", "transit/backup/ex", "transit/keys/del", "transit/keys/ex/config"),
        *("pki/root", "pki/config/urls", "pki/acme/directory", "pki/cert/0a", "pki/issuer/default/json", "pki/revoke"),
        *(
            "ns1/sys/mounts",
            "ns1/ns1/secret/data/x",
            "ns1/child/sys/mounts",
            "ns2/auth/token/lookup-self",
            "ns1/cubbyhole/x",
        ),
        *("database/config/x", "database/roles/app", "sys/workflows/execute/wfread", "sys/namespaces/ns1", "unknown/x"),
        *(
            "team",
            "team/kv",
            "team/data/x",
            "team/kv2/data/x",
            "secret2/data/x",
            "secre/data/x",
            "ns1",
            "ns3/secret/data/x",
        ),
    ]
    draft.target = b"/v1/" + rng.choice(targets).encode()


# -- methods and headers -------------------------------------------------------------------------------------------
def method(rng: Random, draft: Draft) -> None:
    """Another method, served or not."""
    served = [b"GET", b"LIST", b"POST", b"PUT", b"PATCH", b"DELETE"]
    others = [
        b"HEAD",
        b"OPTIONS",
        b"SCAN",
        b"HELP",
        b"TRACE",
        b"QUERY",
        b"get",
        b"Post",
        b"PROPFIND",
        b"CONNECT",
        b"G@T",
        b"X",
    ]
    draft.method = rng.choice([*served, *served, *others])


def header(rng: Random, draft: Draft) -> None:
    """A header that OpenBao, or a proxy before it, would act on."""
    token = next((value for name, value in draft.headers if name == b"X-Vault-Token"), b"other")
    namespaces = [
        b"ns1/../ns2",
        b"ns2",
        b"../ns2",
        b"ns1/",
        b"//ns1",
        b"ns1//child",
        b"NS1",
        b"%6es1",
        b"ns1,ns2",
        b"ns1/.",
        b" ",
    ]
    inline = [b"auth/userpass/login/alice", b"userpass/login/alice", b""]
    headers = [
        *((b"X-Vault-Namespace", name) for name in namespaces),
        *((b"X-Vault-Inline-Auth-Path", path) for path in inline),
        *((name, b"DELETE") for name in (b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Method-Override")),
        *((b"X-Vault-Wrap-TTL", value) for value in (b"60", b"1h", b"-1", b"0.5", b"", b"0s")),
        (b"X-Vault-Inline-Auth-Operation", b"update"),
        (b"X-Vault-Inline-Auth-Parameter-password", b"e30"),
        (b"X-Vault-Inline-Auth-Namespace", b"ns1"),
        (b"X-Vault-Wrap-Format", b"jwt"),
        (b"X-Vault-Unknown", b"1"),
        (b"X-Bao-Namespace", b"ns2"),
        (b"X_Vault_Namespace", b"ns2"),
        (b"X-Vault_Namespace", b"ns2"),
        (b"x-vault-NAMESPACE", b"ns2"),
        (b"X-Vault-Token", token),
        (b"X-Vault-Token", b"root-token-corpus"),
        (b"X-Vault-Token", b""),
        (b"Authorization", b"Bearer root-token-corpus"),
        (b"Authorization", b"Basic eDp5"),
        (b"DPoP", b"x"),
        (b"Content-Type", b"application/x-www-form-urlencoded"),
        (b"Content-Type", b"application/merge-patch+json"),
        (b"Content-Type", b"application/json; charset=utf-16"),
        (b"Content-Type", b"multipart/form-data; boundary=x"),
        (b"Content-Type", b"text/plain"),
        (b"Content-Encoding", b"gzip"),
        (b"Upgrade", b"h2c"),
        (b"Upgrade", b"websocket"),
        (b"Expect", b"100-continue"),
        (b"Expect", b"200-ok"),
        (b"Trailer", b"X-Vault-Token"),
        (b"TE", b"trailers"),
        (b"Host", b"evil.test"),
        (b"Connection", b"close"),
        (b"Connection", b"close, X-Vault-Token"),
        (b"Connection", b"upgrade"),
        (b"Range", b"bytes=0-1"),
        (b"If-None-Match", b"*"),
        (b"X-Vault-Namespace", b"ns1\x00"),
        (b"X-Name", b"\xc3\xbc"),
        (b"Traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"),
    ]
    draft.headers.insert(rng.randrange(len(draft.headers) + 1), rng.choice(headers))


def repeat_header(rng: Random, draft: Draft) -> None:
    """One of its own headers twice, in another case or not."""
    name, value = rng.choice(draft.headers)
    draft.headers.append((rng.choice([name, name.lower(), name.upper()]), value))


def drop_header(rng: Random, draft: Draft) -> None:
    """One header less."""
    draft.headers.pop(rng.randrange(len(draft.headers)))


# -- bodies --------------------------------------------------------------------------------------------------------
def body(rng: Random, draft: Draft) -> None:
    """A body that readers read differently, or where none belongs."""
    own = draft.body or b"{}"
    inner = own.strip()[1:-1]
    more = b", " if inner.strip() else b""
    bodies = [
        b"{" + inner + more + inner + b"}",
        b"{" + inner + more + b'"data": {"v": 1}, "d\\u0061ta": {"v": 2}}',
        b"{" + inner + more + b'"DATA": {"v": 1}}',
        b"{" + inner + more + b'"path": "secret/data/private/key", "namespace": "ns2"}',
        b"{" + inner + more + b'"x": NaN}',
        b'{"data": {"v": NaN}}',
        b'{"data": {"v": 1, "v": 2}}',
        b'{"data": {"v": {"a": 1, "\\u0061": 2}}}',
        b'{"data": {"v": 1e400, "w": 12345678901234567890.123456789, "x": -0, "y": 1E5, "z": 1.0}}',
        b'{"data": {"v": "\\ud800"}}',
        b'{"data": {"v": "\\u0000\\ud83d\\udd11"}}',
        b'{"data": {"v": "\xff"}}',
        b'{"data": {"v": 01}}',
        b"{'data': {}}",
        b'{"data": {"v": 1},}',
        b'{"data": null}',
        b'{"data": []}',
        b'{"data": {}, "options": null}',
        b'{"data": {}, "options": {"cas": -1}}',
        b'{"data": {}, "options": {"CAS": 1}}',
        b'{"data": ' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"data": {"v": ' + b"[" * 30 + b"]" * 30 + b"}}",
        b'{"versions": []}',
        b'{"versions": [0]}',
        b'{"versions": [1.0]}',
        b'{"versions": "1,2,"}',
        b'{"versions": [1], "versions": [2]}',
        b'{"versions": null}',
        b'{"custom_metadata": {"created_by": "x"}}',
        b'{"custom_metadata": {"owner": {"a": 1}}}',
        b'{"batch_input": [], "plaintext": "eA=="}',
        b'{"batch_input": [{"plaintext": "eA==", "ciphertext": "x"}]}',
        b'{"batch_input": "[{}]"}',
        b"\xef\xbb\xbf" + own,
        own.decode("utf-8", "replace").encode("utf-16"),
        own + own,
        own + b" x",
        own + b"\x00",
        b" \r\n\t" + own + b"\n",
        b"[" + own + b"]",
        b"data=x&versions=1",
        b'"x"',
        b"null",
        b"{",
        b"",
        b"{}",
        json.dumps({"data": {str(n): n for n in range(rng.choice([10, 1200]))}}).encode(),
    ]
    draft.body = rng.choice(bodies)


PARTS: Final[tuple[tuple[Trick, int], ...]] = (
    (path_piece, 24),
    (encode_octet, 8),
    (change_segment, 16),
    (other_beginning, 4),
    (slash_behind, 5),
    (query, 16),
    (other_target, 10),
    (method, 8),
    (header, 18),
    (repeat_header, 3),
    (drop_header, 2),
    (body, 16),
)
"""Each with its weight."""


# -- framing -------------------------------------------------------------------------------------------------------
def odd_line(rng: Random, draft: Draft, _grammar: Grammar) -> tuple[bytes, bool]:
    """One line of the head as a lenient server would still take it."""
    lines = draft.head()[:-4].split(b"\r\n")
    request_line = b" ".join((draft.method, draft.target))
    lines = rng.choice(
        [
            [request_line + b" HTTP/1.0", *lines[1:]],
            [request_line + b" HTTP/1.0", *lines[1:], b"Connection: keep-alive"],
            [request_line + b" HTTP/1.2", *lines[1:]],
            [request_line + b" HTTP/2.0", *lines[1:]],
            [request_line + b" http/1.1", *lines[1:]],
            [request_line],
            [request_line + b"  HTTP/1.1", *lines[1:]],
            [request_line + b"\tHTTP/1.1", *lines[1:]],
            [request_line + b" HTTP/1.1 ", *lines[1:]],
            [draft.method + b" http://bao.test:8200" + draft.target + b" HTTP/1.1", *lines[1:]],
            [draft.method + b" HTTPS://evil.test" + draft.target + b" HTTP/1.1", *lines[1:]],
            [draft.method + b" bao.test:8200 HTTP/1.1", *lines[1:]],
            [draft.method + b" * HTTP/1.1", *lines[1:]],
            [b"", *lines],
            [b" " + lines[0], *lines[1:]],
            [lines[0], b" folded: yes", *lines[1:]],
            [*lines, b" folded"],
            [*lines[:2], b"\tX-Vault-Namespace: ns2", *lines[2:]],
            [*lines, b"X-Vault-Namespace : ns2"],
            [*lines, b" X-Vault-Namespace: ns2"],
            [*lines, b"X-Vault-Namespace:\tns2"],
            [*lines, b"X-Vault-Namespace: ns2\x00"],
            [*lines, b": ns2"],
            [*lines, b"nothing"],
            [*lines, b"X-A: b\rX-Vault-Namespace: ns2"],
            [*lines, b"X-A: b\nX-Vault-Namespace: ns2"],
            [*lines, *(b"X-N%d: 1" % n for n in range(120))],
            [*lines, b"X-Long: " + b"a" * 70_000],
        ]
    )
    eol = rng.choices([b"\r\n", b"\n", b"\r"], weights=[10, 1, 1])[0]
    return eol.join(lines) + eol + eol + (draft.body or b""), True


def odd_length(rng: Random, draft: Draft, grammar: Grammar) -> tuple[bytes, bool]:
    """Two lengths, none that all readers read alike, or another one than the body has; a request lies in wait."""
    own = draft.body or b"{}"
    hidden = grammar.draft().render()
    draft.body = None
    head = draft.head()[:-2]
    length = b"Content-Length: %d\r\n" % len(own)
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(own), own)
    te = b"Transfer-Encoding: chunked\r\n"
    choices = [
        (length + te, chunks),
        (te + length, own + hidden),
        (te + b"Content-Length: 0\r\n", b"0\r\n\r\n" + hidden),
        (length + length, own),
        (length + b"Content-Length: 0\r\n", own),
        (b"Content-Length: 0\r\n" + length, hidden),
        (b"Content-Length: %d, %d\r\n" % (len(own), len(own)), own),
        (b"Content-Length: +%d\r\n" % len(own), own),
        (b"Content-Length: 0%d\r\n" % len(own), own),
        (b"Content-Length: 0x%x\r\n" % len(own), own),
        (b"Content-Length: -1\r\n", own),
        (b"Content-Length:\r\n", own),
        (b"Content-Length: %d\r\n" % (len(own) + 10), own),
        (b"Content-Length: 0\r\n", own + hidden),
        (b"Content-Length: 99999999999\r\n", own),
        (b"Content_Length: %d\r\n" % len(own), own),
        (b"", own),
        (b"", hidden),
        (b"Transfer-Encoding: Chunked\r\n", chunks),
        (b"Transfer-Encoding: chunked, identity\r\n", chunks),
        (b"Transfer-Encoding: gzip, chunked\r\n", chunks),
        (b"Transfer-Encoding: identity\r\n", own),
        (b"Transfer-Encoding: xchunked\r\n" + length, own),
        (b"Transfer-Encoding:\tchunked\r\n", chunks),
        (b"Transfer-Encoding : chunked\r\n" + length, own),
        (te + te, chunks),
        (te, b"%x;ext=1\r\n%b\r\n0\r\n\r\n" % (len(own), own)),
        (te, b"%x\r\n%b\r\n0\r\nX-Vault-Namespace: ns2\r\n\r\n" % (len(own), own)),
        (te, b"0x%x\r\n%b\r\n0\r\n\r\n" % (len(own), own)),
        (te, b"%x\n%b\n0\n\n" % (len(own), own)),
        (te, b" %x\r\n%b\r\n0\r\n\r\n" % (len(own), own)),
        (te, b"%x\r\n%b\r\n" % (len(own), own)),
        (te, b"%x\r\n%bzz\r\n0\r\n\r\n" % (len(own), own)),
        (te, b"ffffffffffffffff1\r\n" + own),
        (te, b"0\r\n\r\n" + hidden),
        (te, chunks + hidden),
    ]
    framing, rest = rng.choice(choices)
    return head + framing + b"\r\n" + rest, True


def pipelined(rng: Random, draft: Draft, grammar: Grammar) -> tuple[bytes, bool]:
    """Several requests at once, the first of which may be refused with its body unread."""
    first = draft
    if rng.random() < 0.5:
        rng.choice([other_target, header, query, body])(rng, first)
    if rng.random() < 0.3:
        first.body = grammar.draft().render()  # a request as a body
    parts = [first.render(), *(grammar.draft().render() for _ in range(rng.randrange(1, 3)))]
    return rng.choice([b"", b"", b"", b"\r\n"]).join(parts), True


def cut(rng: Random, draft: Draft, _grammar: Grammar) -> tuple[bytes, bool]:
    """The client stops somewhere and closes its side."""
    raw = draft.render()
    return raw[: rng.randrange(1, len(raw))], True


FRAMING: Final[tuple[tuple[FramingTrick, int], ...]] = ((odd_line, 10), (odd_length, 10), (pipelined, 6), (cut, 3))
"""Each with its weight."""
