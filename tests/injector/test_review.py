"""Reviews as they come over the wire, and the listener that takes them."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from sidecar.injector import server
from sidecar.injector.refusal import Malformed
from sidecar.injector.review import parse_review
from sidecar.injector.server import webhook_app
from tests.injector.making import pod, review, rules

LIMIT = 4 * 1024 * 1024
JSON = {"Content-Type": "application/json"}


def with_(**changes: Any) -> bytes:
    return json.dumps(review(pod(), **changes)).encode()


NOT_A_REVIEW = {
    "nothing": b"",
    "no JSON": b"{",
    "not UTF-8": b'{"kind": "\xff"}',
    "a list": b"[]",
    "another version": json.dumps(review(pod()) | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(),
    "another kind": json.dumps(review(pod()) | {"kind": "ConversionReview"}).encode(),
    "no request": json.dumps(review(pod()) | {"request": None}).encode(),
    "a repeated member": with_().replace(b'"dryRun": false', b'"dryRun": false, "dryRun": true'),
    "a repeated annotation": with_().replace(
        b'"openbao-sidecar.io/inject": "true"', b'"openbao-sidecar.io/inject": "true", "openbao-sidecar.io/inject": "x"'
    ),
    "NaN": with_(x=float("nan")),
    "too deep": b'{"a":' * 100_000,
    "no uid": with_(uid=""),
    "a uid of two lines": with_(uid="a\nb"),
    "no namespace": with_(namespace=""),
    "deletion": with_(operation="DELETE"),
    "another resource": with_(resource={"group": "", "version": "v1", "resource": "secrets"}),
    "another group": with_(resource={"group": "x", "version": "v1", "resource": "pods"}),
    "another kind of object": with_(kind={"group": "", "version": "v1", "kind": "Binding"}),
    "another subresource": with_(subResource="binding"),
    "a dry run that is a text": with_(dryRun="true"),
}


@pytest.mark.parametrize("raw", NOT_A_REVIEW.values(), ids=NOT_A_REVIEW.keys())
def test_what_is_no_review_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed) as refusal:
        parse_review(raw)
    assert str(refusal.value).isprintable()


@pytest.fixture
async def webhook() -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(webhook_app(rules(), LIMIT))) as client:
        yield client


async def post(
    webhook: TestClient[Any, Any], data: bytes, path: str = "/mutate", headers: dict[str, str] = JSON
) -> tuple[int, Any]:
    async with webhook.post(path, data=io.BytesIO(data), headers=headers) as answer:
        return answer.status, await answer.json()


async def test_a_review_is_answered_in_its_own_version_under_its_uid(webhook: TestClient[Any, Any]) -> None:
    status, answer = await post(webhook, with_(), "/mutate?timeout=10s")
    assert (status, answer["apiVersion"], answer["kind"]) == (200, "admission.k8s.io/v1", "AdmissionReview")
    assert answer["response"]["uid"] == review(pod())["request"]["uid"]
    assert answer["response"]["patchType"] == "JSONPatch"


@pytest.mark.parametrize("name", ["no JSON", "another version", "another kind of object"])
async def test_what_is_no_review_gets_no_answer_that_lets_it_in(webhook: TestClient[Any, Any], name: str) -> None:
    status, answer = await post(webhook, NOT_A_REVIEW[name])
    assert status == 400
    assert set(answer) == {"error"}


async def test_a_body_that_is_too_large_is_refused(webhook: TestClient[Any, Any]) -> None:
    status, answer = await post(webhook, with_(x="y" * LIMIT))
    assert status == 413
    assert str(LIMIT) in answer["error"]


async def test_a_large_pod_is_answered(webhook: TestClient[Any, Any]) -> None:
    tree = pod()
    tree["metadata"]["annotations"]["example.com/large"] = "x" * 3_000_000
    status, answer = await post(webhook, json.dumps(review(tree)).encode())
    assert status == 200
    assert answer["response"]["allowed"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        JSON | {"Content-Encoding": "deflate"},
    ],
)
async def test_another_content_type_is_refused(webhook: TestClient[Any, Any], headers: dict[str, str]) -> None:
    status, _ = await post(webhook, with_(), headers=headers)
    assert status in (400, 415)  # 400: its body is not in the encoding that its head says


async def test_other_paths_and_methods_are_not_there(webhook: TestClient[Any, Any]) -> None:
    async with webhook.get("/mutate") as answer:
        assert answer.status == 405
    async with webhook.post("/", data=with_(), headers=JSON) as answer:
        assert answer.status == 404


async def test_a_fault_of_the_injectors_keeps_the_pod_out(
    webhook: TestClient[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("of ours")

    monkeypatch.setattr(server, "admit", fail)
    status, answer = await post(webhook, with_())
    assert status == 200
    assert answer["response"]["allowed"] is False
    assert answer["response"]["status"]["code"] == 500
    assert "of ours" not in json.dumps(answer)


async def test_who_dawdles_is_let_go_and_others_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody in the cluster takes the injector's memory, or its turns, for longer than it takes to be let go."""
    monkeypatch.setattr(server, "MOST_AT_ONCE", 1)
    monkeypatch.setattr(server, "READ_SECONDS", 0.3)
    monkeypatch.setattr(server, "WAIT_SECONDS", 0.05)
    begun, end = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        begun.set()
        await end.wait()

    async with TestClient(TestServer(webhook_app(rules(), LIMIT))) as webhook:
        dawdler = asyncio.create_task(webhook.post("/mutate", data=slowly(), headers=JSON))
        await begun.wait()
        statuses = set()
        while 200 not in statuses:
            status, _ = await post(webhook, with_())
            statuses.add(status)
        assert statuses == {503, 200}
        end.set()
        async with await dawdler as answer:
            assert answer.status == 408
