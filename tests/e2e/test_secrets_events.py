"""What happened lately, shown to who may know of it: `GET /api/secrets/events` and `/audit`, on a real OpenBao."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import requests

from sidecar.surface.operation import SCOPE
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES: Final = """
@ttl_seconds("60") @max_uses("1000000")
permit (principal, action, resource) unless { principal in [Workload::"sees-some", Workload::"sees-none"] };
@ttl_seconds("60") @max_uses("1000000")
permit (
  principal == Workload::"sees-some", action == Action::"read_metadata", resource in Folder::"secret/events/some"
);
"""
SECONDS: Final = 30


class Streams:
    """A sidecar of a development environment, and callers of it."""

    def __init__(self, process: SidecarProcess) -> None:
        self.process = process

    def token(self, subject: str, **claims: Any) -> str:
        return self.process.issuer.token(sub=subject, **({"scope": " ".join(sorted(set(SCOPE.values())))} | claims))

    def ask(self, path: str, subject: str = "all", body: Any = None, **query: str) -> requests.Response:
        method = "GET" if body is None else "POST"
        url, bearer = f"{self.process.url}/api/secrets{path}", {"Authorization": f"Bearer {self.token(subject)}"}
        return requests.request(method, url, params=query, json=body, headers=bearer, timeout=SECONDS)

    def is_full(self, subject: str) -> bool:
        """Whether a further stream is refused."""
        bearer = {"Authorization": f"Bearer {self.token(subject)}"}
        url = f"{self.process.url}/api/secrets/events"
        with requests.get(url, headers=bearer, stream=True, timeout=SECONDS) as answer:
            return answer.status_code == 429

    def write(self, path: str) -> str:
        """Changes a secret; returns the correlation id."""
        answer = self.ask("", body={"uri": f"openbao+kv2://secret/events/{path}", "value": {"k": "canary-value"}})
        assert answer.ok, answer.text
        return answer.headers["X-Correlation-ID"]

    def records_of(self, correlation_id: str) -> list[dict[str, Any]]:
        return [record for record in self.process.records() if record.get("correlation_id") == correlation_id]

    def until_there_is_room(self, subject: str) -> None:
        """It takes a moment until the sidecar has heard that a stream's reader is gone."""
        deadline = time.monotonic() + SECONDS
        while self.is_full(subject):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @contextmanager
    def stream(self, subject: str = "all", token: str = "", last: str = "") -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a stream, each with its `event` and `data`, and `id` where it has one."""
        headers = {"Authorization": f"Bearer {token or self.token(subject)}"} | (
            {"Last-Event-ID": last} if last else {}
        )
        url = f"{self.process.url}/api/secrets/events"
        with requests.get(url, headers=headers, stream=True, timeout=SECONDS) as answer:
            assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/event-stream"), answer.text
            lines = answer.iter_lines(chunk_size=1)
            assert next(lines) in (b": open", b"event: lost")
            yield _events(lines)


def _events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.decode().partition(": ")
        if name:
            event[name] = value
        elif "data" in event:
            yield event | {"data": json.loads(event["data"])}
            event = {}
        elif not line:
            event = {}


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[Streams]:
    overrides = {
        "environment": "dev",
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "scopes": {"enforce": True},
        "events": {"max_streams": 6, "kept": 400},
    }
    process = SidecarProcess(tmp_path_factory.mktemp("events"), openbao, issuer, overrides)
    (process.policies / "policies.cedar").write_text(POLICIES)
    with process as running:
        yield Streams(running)


def of(events: Iterator[dict[str, Any]], correlation_id: str, count: int = 2) -> list[dict[str, Any]]:
    """The next events of one request."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        event = next(events)
        if event["data"].get("correlation_id") == correlation_id:
            found.append(event)
    return found


def test_what_happens_is_told_as_it_happens_by_reference_only(streams: Streams) -> None:
    """Intent and outcome; the same reference as the audit's; no path, no value, nobody's token id."""
    with streams.stream() as events:
        written = streams.write("some/one")
        told = of(events, written)
    assert [event["data"]["phase"] for event in told] == ["intent", "outcome"]
    assert [event["data"]["kv_version"] for event in told] == [None, 1]
    records = streams.records_of(written)
    assert [event["data"]["resource_ref"] for event in told] == [record["resource_ref"] for record in records]
    for event in told:
        assert event["id"] == event["data"]["id"]
        assert not {"some/one", "canary-value", "jti", "thumbprint"} & set(json.dumps(event).split('"'))
        assert "some/one" not in json.dumps(event)
    lately = streams.ask("/audit").json()["items"]
    assert [item for item in lately if item["correlation_id"] == written] == [told[1]["data"], told[0]["data"]]


def test_each_sees_what_policy_lets_it_know_of(streams: Streams) -> None:
    """Item by item; what is about no secret is its caller's own."""
    hidden, shown = streams.write("other/two"), streams.write("some/two")
    refused = streams.ask("/value", "sees-none", uri="openbao+kv2://secret/../x").headers["X-Correlation-ID"]
    seen = {
        subject: {item["correlation_id"] for item in streams.ask("/audit", subject, limit="400").json()["items"]}
        for subject in ("all", "sees-some", "sees-none")
    }
    assert {hidden, shown} <= seen["all"]
    assert (hidden in seen["sees-some"], shown in seen["sees-some"]) == (False, True)
    assert {hidden, shown} & seen["sees-none"] == set()
    assert [refused in seen[subject] for subject in ("all", "sees-some", "sees-none")] == [False, False, True]
    with streams.stream("sees-some") as events:
        unseen, told = streams.write("other/three"), streams.write("some/three")
        ids = [next(events)["data"]["correlation_id"] for _ in range(2)]
    assert (ids, unseen in ids) == ([told, told], False)


@pytest.mark.parametrize("path", ["/events", "/audit"])
def test_a_token_without_the_scope_sees_nothing(streams: Streams, path: str) -> None:
    token = streams.token("all", scope="secrets.read secrets.write")
    url, bearer = f"{streams.process.url}/api/secrets{path}", {"Authorization": f"Bearer {token}"}
    answer = requests.get(url, headers=bearer, timeout=SECONDS)
    assert (answer.status_code, answer.json()["code"]) == (403, "SCOPE_MISSING")
    (record,) = streams.records_of(answer.headers["X-Correlation-ID"])
    assert (record["effect"], record["code"], record["purpose"]) == ("deny", "SCOPE_MISSING", "read_metadata")


def test_a_stream_goes_on_after_the_last_event_that_was_read(streams: Streams) -> None:
    """Nothing twice, nothing left out; what is gone, or another process's, is said to be lost."""
    with streams.stream() as events:
        first = of(events, streams.write("some/four"))
    second = streams.write("some/four")
    with streams.stream(last=first[0]["id"]) as events:
        resumed = [next(events) for _ in range(3)]
    assert resumed[0]["data"] == first[1]["data"]
    assert [event["data"]["correlation_id"] for event in of(iter(resumed), second, 1)] == [second]
    for gone in ("00000000-1", f"{first[0]['id'].partition('-')[0]}-999999999"):
        bearer = {"Authorization": f"Bearer {streams.token('all')}", "Last-Event-ID": gone}
        url = f"{streams.process.url}/api/secrets/events"
        with requests.get(url, headers=bearer, stream=True, timeout=SECONDS) as answer:
            assert next(answer.iter_lines(chunk_size=1)) == b"event: lost"
    for wrong in ("x", "1", "00000000-01", "0" * 200):
        bearer = {"Authorization": f"Bearer {streams.token('all')}", "Last-Event-ID": wrong}
        answer = requests.get(url, headers=bearer, timeout=SECONDS)
        assert (answer.status_code, answer.json()["code"]) == (400, "MALFORMED_REQUEST")


def test_a_stream_ends_with_its_token(streams: Streams) -> None:
    token = streams.token("short", exp=int(time.time()) + 2)
    with streams.stream(token=token) as events:
        end = next(event for event in events if event.get("event") == "end")
        assert next(events, None) is None
    assert end["data"]["reason"] == "TOKEN_EXPIRED"


def test_a_stream_ends_when_access_is_taken_back(streams: Streams) -> None:
    """By an operator, or by the caller itself; another caller's stays."""
    ops = f"http://127.0.0.1:{streams.process.ops_port}/revalidate"
    with streams.stream("stays") as staying:
        with streams.stream("revoked") as events:
            assert requests.post(ops, json={"subject": "revoked"}, timeout=SECONDS).ok
            assert [event["data"]["reason"] for event in events if "event" in event] == ["REVOKED"]
        with streams.stream("leaves") as events:
            bearer = {"X-Vault-Token": streams.token("leaves")}
            assert requests.post(f"{streams.process.url}/v1/auth/token/revoke-self", headers=bearer, timeout=SECONDS).ok
            assert [event["data"]["reason"] for event in events if "event" in event] == ["REVOKED"]
        assert of(staying, streams.write("some/five"), 1)


def test_streams_are_counted(streams: Streams) -> None:
    """For each caller, and in all; who closes one makes room."""
    opened = []
    streams.until_there_is_room("crowd-0")
    try:
        for number in range(6):
            streams.until_there_is_room(f"crowd-{number // 4}")
            stream = streams.stream(f"crowd-{number // 4}")
            stream.__enter__()
            opened.append(stream)
        for subject in ("crowd-0", "crowd-9"):
            refused = streams.ask("/events", subject)
            assert (refused.status_code, refused.json()["code"]) == (429, "OVERLOADED")
            assert refused.headers["Retry-After"]
    finally:
        for stream in opened:
            stream.__exit__(None, None, None)
    streams.until_there_is_room("crowd-0")


def test_a_drain_ends_every_stream_and_waits_for_none(streams: Streams) -> None:
    with streams.stream() as events:
        begun = time.monotonic()
        assert streams.process.terminate() == 0
        reasons = [event["data"]["reason"] for event in events if event.get("event") == "end"]
    assert reasons == ["DRAINING"]
    assert time.monotonic() - begun < 20  # the drain itself would wait for 25
    streams.process.start()
