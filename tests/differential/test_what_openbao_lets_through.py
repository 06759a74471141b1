"""The page `docs/explanation/what-openbao-lets-through.md`, row by row: the same bytes past the sidecar and through it.

Each request is sent through the sidecar first, whose policy permits everything: it is refused with the code that the
table says, OpenBao sees nothing, and nothing has changed. Then OpenBao alone gets it, and does what the table says.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from sidecar.errors import Code
from tests.differential.desk import Desk, executed, open_desk, rawhttp
from tests.support.tokens import Issuer

PAGE: Final = Path(__file__).parent.parent.parent / "docs" / "explanation" / "what-openbao-lets-through.md"
ROOT: Final = "root-token-corpus"
FENCED: Final = "fenced-token"
POLICY: Final = "".join(
    f"""
path "secret/{prefix}/*" {{ capabilities = ["create", "read", "update", "patch", "delete", "list", "scan"] }}
path "secret/{prefix}/fenced/*" {{ capabilities = ["deny"] }}
path "secret/{prefix}/wall/all" {{ capabilities = ["deny"] }}
"""
    for prefix in ("data", "metadata", "delete", "destroy")
)
VERSIONS: Final = b'{"versions":[1]}'
PASSWORD: Final = base64.urlsafe_b64encode(b'{"key":"password","value":"alice-pass"}').rstrip(b"=").decode()

Look = Callable[[Any], Any]


def raw(method: str, target: str, *lines: str, body: bytes = b"") -> bytes:
    """A request with its token left open."""
    head = [f"{method} {target} HTTP/1.1", "Host: bao.test:8200", "X-Vault-Token: @", *lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def filled(request: bytes, token: str | None) -> bytes:
    """The request with this token, or with none."""
    line = rb"X-Vault-Token: %b\1" % token.encode() if token else b""
    written, count = re.subn(rb"X-Vault-Token: @(\r?\n)", line, request)
    assert count == 1
    return written


def status(path: str) -> Look:
    """The status of a plain read."""
    return lambda lab: lab.api("GET", path, check=False)[0]


def value(path: str) -> Look:
    """The value `v` of a secret."""
    return lambda lab: ((lab.api("GET", path, check=False)[1].get("data") or {}).get("data") or {}).get("v")


def destroyed(path: str) -> Look:
    """Whether version 1 is destroyed."""
    return lambda lab: lab.api("GET", f"secret/metadata/{path}")[1]["data"]["versions"]["1"]["destroyed"]


@dataclass(frozen=True)
class Row:
    """One row: what is sent, what the sidecar says, and what OpenBao alone does.

    `look` before and after is `change`; `shown` stands in OpenBao's answer and not in the sidecar's; `audited` is what
    OpenBao's audit calls it, and `denied` a plain request for the same that OpenBao refuses to the same token.
    """

    request: bytes
    code: Code
    audited: tuple[tuple[str, str], ...]
    shown: bytes = b""
    look: Look = lambda _lab: None
    change: tuple[Any, Any] = (None, None)
    token: str | None = ROOT
    denied: bytes = b""


SLASHES = {
    "a denied secret wiped": Row(
        raw("DELETE", "/v1/secret/metadata/wall%2f%2fall"),
        Code.ILLEGAL_ENCODING,
        (("delete", "secret/metadata/wall//all"),),
        look=status("secret/metadata/wall/all"),
        change=(200, 404),
        token=FENCED,
        denied=raw("DELETE", "/v1/secret/metadata/wall/all"),
    ),
    "a denied version destroyed": Row(
        raw("POST", "/v1/secret/destroy/%2ffenced/destroyed", body=VERSIONS),
        Code.ILLEGAL_ENCODING,
        (("update", "secret/destroy//fenced/destroyed"),),
        look=destroyed("fenced/destroyed"),
        change=(False, True),
        token=FENCED,
        denied=raw("POST", "/v1/secret/destroy/fenced/destroyed", body=VERSIONS),
    ),
    "a denied secret deleted": Row(
        raw("DELETE", "/v1/secret/data/%2ffenced/deleted"),
        Code.ILLEGAL_ENCODING,
        (("delete", "secret/data//fenced/deleted"),),
        look=status("secret/data/fenced/deleted"),
        change=(200, 404),
        token=FENCED,
        denied=raw("DELETE", "/v1/secret/data/fenced/deleted"),
    ),
    "a denied version deleted": Row(
        raw("POST", "/v1/secret/delete/%2ffenced/version", body=VERSIONS),
        Code.ILLEGAL_ENCODING,
        (("update", "secret/delete//fenced/version"),),
        look=status("secret/data/fenced/version"),
        change=(200, 404),
        token=FENCED,
        denied=raw("POST", "/v1/secret/delete/fenced/version", body=VERSIONS),
    ),
    "denied metadata read": Row(
        raw("GET", "/v1/secret/metadata/%2ffenced/owned"),
        Code.ILLEGAL_ENCODING,
        (("read", "secret/metadata//fenced/owned"),),
        shown=b"owner-canary",
        token=FENCED,
        denied=raw("GET", "/v1/secret/metadata/fenced/owned"),
    ),
    "a denied folder listed": Row(
        raw("LIST", "/v1/secret/metadata/%2ffenced"),
        Code.ILLEGAL_ENCODING,
        (("list", "secret/metadata//fenced/"),),
        shown=b'"owned"',
        token=FENCED,
        denied=raw("LIST", "/v1/secret/metadata/fenced"),
    ),
    "a secret wiped as a folder": Row(
        raw("DELETE", "/v1/secret/metadata/row/folder/"),
        Code.PROVIDER_TRAILING_SLASH_MISMATCH,
        (("delete", "secret/metadata/row/folder/"),),
        look=status("secret/metadata/row/folder"),
        change=(200, 404),
    ),
    "a secret broken by a write": Row(
        raw("POST", "/v1/secret/data/row%2f%2fbroken", body=b'{"data":{"v":"x"}}'),
        Code.ILLEGAL_ENCODING,
        (("update", "secret/data/row//broken"),),
        look=status("secret/data/row/broken"),
        change=(200, 500),
    ),
    "slashes encoded": Row(
        raw("GET", "/v1/secret%2fdata%2fapp%2fdb"),
        Code.ILLEGAL_ENCODING,
        (("read", "secret/data/app/db"),),
        shown=b"CN[root|secret|app/db",
    ),
    "letters encoded": Row(
        raw("GET", "/v1/se%63ret/d%61ta/%70rivate/key"),
        Code.ILLEGAL_ENCODING,
        (("read", "secret/data/private/key"),),
        shown=b"CN[root|secret|private/key",
    ),
    "a redirect to another secret": Row(
        raw("GET", "/v1/secret/data/public/readme#/../../private/key"),
        Code.INVALID_URI,
        (),
        shown=b"/v1/secret/data/private/key",
    ),
    "another server's URL": Row(
        raw("GET", "http://elsewhere.example/v1/secret/data/app/db"),
        Code.MALFORMED_REQUEST,
        (("read", "secret/data/app/db"),),
        shown=b"CN[root|secret|app/db",
    ),
}
MEANINGS = {
    "a namespace by way of another": Row(
        raw("GET", "/v1/secret/data/app/db", "X-Vault-Namespace: ns1/../ns2"),
        Code.ILLEGAL_SEGMENT,
        (("read", "secret/data/app/db"),),
        shown=b"CN[ns2|secret|app/db]",
    ),
    "a namespace by header and path": Row(
        raw("GET", "/v1/child/secret/data/app/db", "X-Vault-Namespace: ns1"),
        Code.DOUBLE_MOUNT_SOURCE,
        (("read", "secret/data/app/db"),),
        shown=b"CN[ns1/child|secret|app/db]",
    ),
    "a name lower-cased before the audit": Row(
        raw("DELETE", "/v1/sys/policies/acl/SPARE"),
        Code.OPERATION_FORBIDDEN,
        (("delete", "sys/policies/acl/spare"),),
        look=status("sys/policies/acl/spare"),
        change=(200, 404),
    ),
    "a deletion answered 200 by help": Row(
        raw("DELETE", "/v1/secret/data/app/other?help=1"),
        Code.OPERATION_FORBIDDEN,
        (("help", "secret/data/app/other"),),
        shown=b'"help":',
    ),
    "a deletion that looks like a list": Row(
        raw("DELETE", "/v1/secret/data/row/listed?list=true"),
        Code.AMBIGUOUS_QUERY,
        (("delete", "secret/data/row/listed"),),
        look=status("secret/data/row/listed"),
        change=(200, 404),
    ),
    "a whole tree by SCAN": Row(
        raw("SCAN", "/v1/secret/metadata/deep"),
        Code.OPERATION_FORBIDDEN,
        (("scan", "secret/metadata/deep/"),),
        shown=b"a/b/c/d/e/f",
    ),
    "a version by another spelling": Row(
        raw("GET", "/v1/secret/data/app/db?version=0x1"),
        Code.AMBIGUOUS_QUERY,
        (("read", "secret/data/app/db"),),
        shown=b"CN[root|secret|app/db]",
    ),
    "two values of one key": Row(
        raw("POST", "/v1/secret/data/row/twice", body=b'{"data":{"v":"first"},"data":{"v":"second"}}'),
        Code.MALFORMED_REQUEST,
        (("create", "secret/data/row/twice"),),
        look=value("secret/data/row/twice"),
        change=(None, "second"),
    ),
    "a second document behind the first": Row(
        raw("POST", "/v1/secret/data/row/tail", body=b'{"data":{"v":"first"}}{"data":{"v":"second"}}'),
        Code.MALFORMED_REQUEST,
        (("create", "secret/data/row/tail"),),
        look=value("secret/data/row/tail"),
        change=(None, "first"),
    ),
    "a form that destroys": Row(
        raw(
            *("POST", "/v1/secret/destroy/row/form", "Content-Type: application/x-www-form-urlencoded"),
            body=b"versions=1",
        ),
        Code.MALFORMED_REQUEST,
        (("update", "secret/destroy/row/form"),),
        look=destroyed("row/form"),
        change=(False, True),
    ),
}
POWERS = {
    "a secret in a wrapping token": Row(
        raw("GET", "/v1/secret/data/private/key", "X-Vault-Wrap-TTL: 5m"),
        Code.OPERATION_FORBIDDEN,
        (("read", "secret/data/private/key"),),
        shown=b'"wrap_info":{"token":',
    ),
    "a login in the headers": Row(
        raw(
            *("GET", "/v1/secret/data/public/readme", "X-Vault-Inline-Auth-Path: auth/userpass/login/alice"),
            f"X-Vault-Inline-Auth-Parameter-p: {PASSWORD}",
        ),
        Code.OPERATION_FORBIDDEN,
        (("update", "auth/userpass/login/alice"), ("read", "secret/data/public/readme")),
        shown=b"CN[root|secret|public/readme]",
        token=None,
    ),
    "stepping down unaudited": Row(
        raw("PUT", "/v1/sys/step-down"),
        Code.OPERATION_FORBIDDEN,
        (),
        token=None,
    ),
    "the first of two tokens": Row(
        raw("GET", "/v1/secret/data/app/db", "X-Vault-Token: another"),
        Code.AMBIGUOUS_CREDENTIALS,
        (("read", "secret/data/app/db"),),
        shown=b"CN[root|secret|app/db",
    ),
    "the token's own cubbyhole": Row(
        raw("GET", "/v1/cubbyhole/mine"),
        Code.TENANT_MOUNT_MISMATCH,
        (("read", "cubbyhole/mine"),),
        shown=b"CN[root|cubbyhole|mine]",
    ),
}
CHUNKED = b'9\r\n{"data":{\r\na\r\n"v":"te"}}\r\n0\r\n\r\n'
FRAMES = {
    "two lengths": Row(
        raw("POST", "/v1/secret/data/row/framed", "Content-Length: 4", "Transfer-Encoding: chunked") + CHUNKED,
        Code.MALFORMED_REQUEST,
        (("create", "secret/data/row/framed"),),
        look=value("secret/data/row/framed"),
        change=(None, "te"),
    ),
    "bare line feeds": Row(
        raw("GET", "/v1/secret/data/app/db").replace(b"\r\n", b"\n"),
        Code.MALFORMED_REQUEST,
        (("read", "secret/data/app/db"),),
        shown=b"CN[root|secret|app/db",
    ),
    "a folded line": Row(
        raw("GET", "/v1/secret/data/app/db", "X-Vault-Namespace:", " ns1"),
        Code.MALFORMED_REQUEST,
        (("read", "secret/data/app/db"),),
        shown=b"CN[ns1|secret|app/db]",
    ),
}
ROWS: Final = SLASHES | MEANINGS | POWERS | FRAMES
LEASE: Final = "another lease revoked than the URL's"
"""The row that needs two leases made for it."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Desk]:
    with open_desk(tmp_path_factory.mktemp("let-through"), issuer) as opened:
        api = opened.lab.api
        api("POST", "sys/policies/acl/fenced", {"policy": POLICY})
        api("POST", "auth/token/create", {"id": FENCED, "policies": ["fenced"], "no_parent": True})
        fenced = ("destroyed", "deleted", "version", "owned")
        for path in ("wall/all", *(f"fenced/{name}" for name in fenced), "row/folder", "row/broken", "row/listed"):
            api("POST", f"secret/data/{path}", {"data": {"v": "x"}})
        api("POST", "secret/data/row/form", {"data": {"v": "x"}})
        api("POST", "secret/metadata/fenced/owned", {"custom_metadata": {"owner": "owner-canary"}})
        yield opened


def direct(desk: Desk, request: bytes, token: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """OpenBao's own answer, and what its audit says of the request."""
    mark = desk.lab.audit_mark()
    methods = [request.split(b" ", 1)[0].decode()]
    exchanged = rawhttp.exchange("127.0.0.1", desk.lab.port, filled(request, token), methods=methods)
    answer: dict[str, Any] = exchanged["responses"][0]
    return answer, executed(desk.lab.audit_since(mark))


def refused_by_the_sidecar(desk: Desk, request: bytes, row_code: Code) -> bytes:
    """Sends it through the sidecar: refused with that code, before OpenBao heard of it. The answer's body."""
    mark = desk.lab.audit_mark()
    answer = desk.exchange(filled(request, desk.token))[0]
    assert 400 <= answer["status"] < 500
    assert json.loads(answer["body"])["code"] == row_code
    assert executed(desk.lab.audit_since(mark)) == []
    body: bytes = answer["body"]
    return body


@pytest.mark.real
@pytest.mark.parametrize("name", ROWS)
def test_what_openbao_alone_lets_through_the_sidecar_refuses(desk: Desk, name: str) -> None:
    row = ROWS[name]
    before, after = row.change
    if row.denied:
        assert direct(desk, row.denied, row.token)[0]["status"] == 403
    assert row.look(desk.lab) == before
    said = refused_by_the_sidecar(desk, row.request, row.code)
    assert not row.shown or row.shown not in said
    assert row.look(desk.lab) == before

    answer, audited = direct(desk, row.request, row.token)
    assert answer["status"] in (200, 204, 307), answer
    assert row.shown in answer["body"]
    assert row.look(desk.lab) == after
    assert tuple((entry["operation"], entry["path"]) for entry in audited) == row.audited


@pytest.mark.real
def test_the_lease_in_the_body_is_revoked_and_not_that_of_the_url(desk: Desk) -> None:
    api = desk.lab.api
    leases = "sys/leases/lookup/auth/userpass/login/alice"
    tokens: list[str] = []
    names: list[str] = []
    for _ in range(2):
        seen = set(names) | set((api("LIST", leases, check=False)[1].get("data") or {}).get("keys", ()))
        login = api("POST", "auth/userpass/login/alice", {"password": "alice-pass"}, token=None)[1]
        tokens.append(login["auth"]["client_token"])
        names += [name for name in api("LIST", leases)[1]["data"]["keys"] if name not in seen]
    prefix = "auth/userpass/login/alice/"
    body = json.dumps({"lease_id": prefix + names[1], "sync": True}).encode()
    request = raw("PUT", f"/v1/sys/leases/revoke/{prefix}{names[0]}", body=body)

    def alive() -> list[int]:
        return [api("GET", "auth/token/lookup-self", token=token, check=False)[0] for token in tokens]

    refused_by_the_sidecar(desk, request, _codes()[LEASE])
    assert alive() == [200, 200]
    answer, audited = direct(desk, request, ROOT)
    assert answer["status"] == 204
    assert alive() == [200, 403]
    assert [entry["path"] for entry in audited] == [f"sys/leases/revoke/{prefix}{names[0]}"]


def _codes() -> dict[str, Code]:
    """The table's first and last column."""
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|.*\| `([A-Z_]+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a row stands twice"
    return {name: Code(code) for name, code in rows}


def test_the_page_has_a_row_for_each_case_and_a_case_for_each_row() -> None:
    codes = _codes()
    assert codes.pop(LEASE)
    assert codes == {name: row.code for name, row in ROWS.items()}


def test_the_page_shows_the_requests_that_are_sent() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, row in ROWS.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| **{name}** |"))
        method, target = row.request.decode("latin-1").split("\n", 1)[0].split(" ")[:2]
        assert f"`{method} {target}" in line, name
