"""Each endpoint of the Secrets API over secrets made of canaries, and what its answer may carry of them.

An endpoint without a row here fails `test_no_leak.py`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from sidecar.dev.ports import LOOPBACK
from sidecar.errors import Code
from sidecar.secrets.watching import PER_CALLER
from sidecar.surface.secrets.endpoints import ROOT, ROWS, Endpoint
from tests.e2e.leaks import Answer, House, ask, connected
from tests.support.scripted_pdp import DENY

PATH, KEY, VALUE, OWNER, NOTE = "a path", "a key name", "a value", "an owner", "a note"
ROW_OF: Final = {row.endpoint: row for row in ROWS}


@dataclass(frozen=True)
class Try:
    """One request. `{uri}` is a secret with two versions, `{new}` none, `{key}` its key, `{yaml}` one in the file;
    `{value}` is a canary each time. `carries` is what the answer has of it, all of it and nothing else."""

    endpoint: Endpoint
    carries: tuple[str, ...]
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def bulk(op: str, uri: str = "{uri}", **more: Any) -> dict[str, Any]:
    return {"operations": [{"op": op, "uri": uri, **more}]}


TRIES: Final = (
    Try(Endpoint.WRITE, (PATH,), body={"uri": "{new}", "value": {"{key}": "{value}"}}),
    Try(Endpoint.WRITE, (PATH, KEY), body={"uri": "{uri}#{key}", "value": {"deep": ["{value}"]}}),
    Try(Endpoint.WRITE, (PATH, KEY), body={"uri": "{yaml}#{key}", "value": "{value}"}),
    Try(Endpoint.VALUE, (PATH, KEY, VALUE), {"uri": "{uri}"}),
    Try(Endpoint.VALUE, (PATH, KEY, VALUE), {"uri": "{uri}#{key}", "version": "1"}),
    Try(Endpoint.VALUE, (PATH, KEY, VALUE), {"uri": "{yaml}"}),
    Try(Endpoint.YAML, (KEY, VALUE), {"uri": "{yaml}"}),
    Try(Endpoint.YAML, (VALUE,), {"uri": "{yaml}#{key}"}),
    Try(Endpoint.DELETE, (PATH, KEY), {"uri": "{uri}#{key}"}),
    Try(Endpoint.DELETE, (PATH,), {"uri": "{uri}", "destroy": "true"}),
    Try(Endpoint.ROTATE, (PATH, KEY), body={"uri": "{uri}#{key}", "value": "{value}"}),
    Try(Endpoint.ROTATE, (PATH, KEY), body={"uri": "{uri}#{key}", "generate": {"length": 20}}),
    Try(Endpoint.ROTATE, (PATH, KEY), body={"uri": "{yaml}#{key}", "value": "{value}"}),
    Try(Endpoint.LIST, (PATH,), {"prefix": "{uri}"}),
    Try(Endpoint.LIST, (PATH,), {"prefix": "openbao+kv2://secret/leak/", "limit": "20"}),
    Try(Endpoint.KEYS, (PATH, KEY), {"uri": "{uri}"}),
    Try(Endpoint.DETAIL, (PATH, OWNER, NOTE), {"uri": "{uri}"}),
    Try(Endpoint.VERSIONS, (PATH,), {"uri": "{uri}"}),
    Try(Endpoint.UNDELETE, (PATH,), body={"uri": "{uri}", "versions": [1]}),
    Try(Endpoint.DESTROY, (PATH,), body={"uri": "{uri}", "versions": [1]}),
    Try(Endpoint.OWNER, (PATH, OWNER), body={"uri": "{uri}", "owner": "{owner}"}),
    Try(Endpoint.BULK, (PATH, KEY), body=bulk("set", "{uri}#{key}", value="{value}")),
    Try(Endpoint.BULK, (PATH,), body=bulk("rotate", value={"{key}": "{value}"})),
    Try(Endpoint.BULK, (PATH,), body=bulk("delete")),
    Try(Endpoint.BULK, (PATH,), body=bulk("undelete", versions=[1])),
    Try(Endpoint.BULK, (PATH,), body=bulk("destroy")),
    Try(Endpoint.BULK, (PATH,), body=bulk("set", value="{value}")),
    Try(Endpoint.COPY, (PATH,), body={"fromUri": "{uri}", "toUri": "{new}"}),
    Try(Endpoint.MOVE, (PATH,), body={"fromUri": "{uri}", "toUri": "{new}"}),
    Try(Endpoint.SEARCH, (PATH,), {"q": "{name}", "prefix": "openbao+kv2://secret/leak/"}),
    Try(Endpoint.EVENTS, ()),
    Try(Endpoint.AUDIT, (), {"limit": "200"}),
    Try(Endpoint.OPENAPI, ()),
)


def drive_secrets_api(house: House, name: str) -> None:
    """Each endpoint: as it should be, denied, without a token, under a PDP and an OpenBao that talk nonsense, and with
    a name that it does not know."""
    plant = house.canaries.plant
    house.pdp.by_subject |= {"denied": DENY, "garbled": f'{{"decision": "{plant("garbage")}"}}'}
    for each in TRIES:
        names = fresh(house)
        answer = sent(house, each, names)
        assert answer.status in (200, 201), (each, answer)
        found = house.canaries.found_in({"the answer": answer.head + answer.body})
        assert found == sorted(f"{what} in the answer" for what in each.carries), (each, answer)
        names = fresh(house)
        for subject in ("denied", "garbled"):
            if (each.endpoint, subject) == (Endpoint.EVENTS, "denied"):
                continue  # a stream in which nothing is to be seen does not end
            carries_no_more(house, each, sent(house, each, names, token=house.token(sub=subject)))
        if each.endpoint is Endpoint.OPENAPI:
            continue
        assert sent(house, each, names, token=None).code == Code.TOKEN_MISSING
        more: dict[str, Any] = {"query": {**each.query, plant("a query name"): plant("a query value")}}
        if each.body is not None:
            more = {"body": {**each.body, plant("a member"): plant("a value")}}
        refused = sent(house, Try(each.endpoint, (), **({"query": each.query, "body": each.body} | more)), names)
        assert refused.code in (Code.AMBIGUOUS_QUERY, Code.MALFORMED_REQUEST), (each, refused)
        house.upstream.lies[names["{name}"]] = lie(plant("a value"))
        carries_no_more(house, each, sent(house, each, names))
        house.upstream.lies.clear()


def drive_refusals_of_the_api(house: House, name: str) -> None:
    """What is refused for what is there, or for what was asked before."""
    plant, names = house.canaries.plant, fresh(house)
    uri = names["{uri}"]
    write = {"uri": uri, "value": {plant("a key name"): plant("a value")}}
    for method, path, body, headers, code in (
        ("POST", "", write | {"cas": 1}, {}, Code.VERSION_CONFLICT),
        ("POST", "/copy", {"fromUri": uri, "toUri": uri.replace(names["{name}"], name)}, {}, Code.TARGET_EXISTS),
        ("POST", "/rotate", {"uri": f"{uri}#{plant('a key name')}", "value": plant("a value")}, {}, Code.NOT_FOUND),
        ("PUT", f"/{plant('a path')}", write, {}, Code.OPERATION_FORBIDDEN),
        ("PUT", "", write, {}, Code.METHOD_NOT_ALLOWED),
        ("POST", "", write, {"If_Match": plant("a header")}, Code.MALFORMED_REQUEST),
        ("POST", "/rotate", write, {"Idempotency_Key": f"é{plant('a header')}"}, Code.MALFORMED_REQUEST),
        ("POST", "/rotate", write, {"Idempotency_Key": "leaky-key"}, ""),
        ("POST", "/rotate", {"uri": uri, "value": {}}, {"Idempotency_Key": "leaky-key"}, Code.IDEMPOTENCY_KEY_REUSED),
        ("GET", f"/value?uri={quote(uri)}&version=999", None, {}, Code.NOT_FOUND),
        ("GET", f"?uri={quote(uri)}", None, {}, Code.UNSUPPORTED_OPERATION),
        ("GET", f"/value?uri={plant('a path')}", None, {}, Code.INVALID_URI),
        ("GET", f"/keys?uri={quote(uri)}", None, {"X_Vault_Namespace": plant("a namespace")}, Code.DOUBLE_MOUNT_SOURCE),
        ("GET", f"/metadata?prefix={quote(uri)}&cursor={plant('a query value')}", None, {}, Code.MALFORMED_REQUEST),
        ("GET", "/events", None, {"Last_Event_ID": plant("a header")}, Code.MALFORMED_REQUEST),
    ):
        answer = house.ask(method, f"{ROOT}{path}", body, **headers)
        assert answer.code == code, (method, path, answer)
    with contextlib.ExitStack() as streams:
        for _ in range(PER_CALLER):
            connection = streams.enter_context(connected(house.process.port))
            given = f"Host: {LOOPBACK}:{house.process.port}\r\nX-Vault-Token: {house.token(sub='watcher')}"
            connection.sendall(f"GET {ROOT}/events HTTP/1.1\r\n{given}\r\n\r\n".encode())
            told = b""
            while b": open" not in told:
                chunk = connection.recv(4096)
                assert chunk, told
                told += chunk
        assert house.ask("GET", f"{ROOT}/events", token=house.token(sub="watcher")).code == Code.OVERLOADED


def drive_the_yaml_file(house: House, name: str) -> None:
    """The file is saved with what cannot be read, and left open to others."""
    file, plant = house.folder / "secrets.yaml", house.canaries.plant
    good, uri = file.read_text(), quote(house.yaml)
    for text in (
        f"secret: {{ {plant('a path')}: {{ {plant('a key name')}: {plant('a value')}",
        f"secret: {{ a: &{plant('a value')} {{ b: 1 }} }}",
        f'{plant("a path")}: {{ b: 1 }}\n{plant("a path")}: "\\x{plant("a value")}"',
        "\udcff" + plant("a value"),
        good,
    ):
        file.write_text(text, errors="surrogateescape")
        file.chmod(0o644 if text == good else 0o600)
        assert house.ask("GET", f"{ROOT}/value?uri={uri}").code == Code.UPSTREAM_UNAVAILABLE, text
        body = {"uri": f"{house.yaml}#{plant('a key name')}", "value": plant("a value")}
        assert house.ask("POST", ROOT, body).code == Code.UPSTREAM_UNAVAILABLE, text
        house.look(f"with a bad file {len(house.seen)}")
    file.chmod(0o600)
    assert house.ask("GET", f"{ROOT}/value?uri={uri}").status == 200


def fresh(house: House) -> dict[str, str]:
    """A secret, and names for it."""
    plant = house.canaries.plant
    name, key = plant(PATH), plant(KEY)
    for _ in range(2):
        house.openbao.put(f"leak/{name}", {key: plant(VALUE)})
    house.openbao.root().secrets.kv.v2.update_metadata(
        f"leak/{name}", custom_metadata={"owner": plant(OWNER), "note": plant(NOTE)}, mount_point="secret"
    )
    uri = f"openbao+kv2://secret/leak/{name}"
    new = f"openbao+kv2://secret/leak/{plant(PATH)}"
    return {"{uri}": uri, "{new}": new, "{name}": name, "{key}": key, "{yaml}": house.yaml}


def sent(house: House, each: Try, names: dict[str, str], token: str | None = "") -> Answer:
    """The request, filled with these names."""
    if "{yaml}" in json.dumps([each.query, each.body]):
        names = names | {"{key}": house.yaml_key}
    row = ROW_OF[each.endpoint]
    query = "&".join(f"{name}={quote(filled(house, text, names), safe='')}" for name, text in each.query.items())
    target, body = f"{ROOT}{row.path}{'?' if query else ''}{query}", filled(house, each.body, names)
    if each.endpoint is Endpoint.EVENTS and token is not None and not query:
        return stream(house, target, token or house.token())
    return house.ask(row.method, target, body, token=token)


def stream(house: House, target: str, token: str) -> Answer:
    """The stream until it has told of something, or ended."""
    newest = json.loads(house.ask("GET", f"{ROOT}/audit?limit=1").body)["items"][0]["id"]
    process, _, number = newest.partition("-")
    headers = {"X-Vault-Token": token, "Last-Event-ID": f"{process}-{max(0, int(number) - 20)}"}
    answer = ask(house.process.port, "GET", target, headers=headers, until=b"\ndata: ")
    house.seen[f"a stream of events {len(house.seen)}"] = answer.head + answer.body
    return answer


def carries_no_more(house: House, each: Try, answer: Answer) -> None:
    """Of whatever became of the request."""
    found = house.canaries.found_in({"the answer": answer.head + answer.body})
    assert set(found) <= {f"{what} in the answer" for what in each.carries}, (each, answer)


def lie(text: str) -> bytes:
    """OpenBao fails, and quotes what it failed on."""
    body = json.dumps({"errors": [text]}).encode()
    return b"HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def filled(house: House, value: Any, names: Mapping[str, str]) -> Any:
    """With names and fresh values in the places kept for them."""
    if isinstance(value, dict):
        return {filled(house, key, names): filled(house, each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(house, each, names) for each in value]
    if not isinstance(value, str):
        return value
    for place, text in names.items():
        value = value.replace(place, text)
    if "{value}" in value:
        value = value.replace("{value}", house.canaries.plant(VALUE))
    return value.replace("{owner}", house.canaries.plant(OWNER)) if "{owner}" in value else value
