"""What a permit obliges to, on the whole chain: a PDP's words, the real sidecar, real OpenBao, real Kafka."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import getitem
from typing import Any

import pytest
import requests
from aiokafka import AIOKafkaConsumer

from tests.real.kafka import KafkaBroker
from tests.real.openbao import SEEDS, OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.scripted_pdp import ScriptedAuthzen
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

PREFIX = "obligations"
DATA, SUBKEYS = "/v1/secret/data/app/db", "/v1/secret/subkeys/app/db"
_subjects = itertools.count()


@dataclass
class House:
    """The sidecar and the PDP that it asks."""

    sidecar: SidecarProcess
    pdp: ScriptedAuthzen
    kafka: KafkaBroker

    def ask(self, path: str = DATA, method: str = "GET", body: Any = None, **claims: Any) -> requests.Response:
        """One request by somebody never seen before, unless `sub` says who."""
        token = self.sidecar.issuer.token(**{"sub": f"app{next(_subjects)}", **claims})
        headers = {"X-Vault-Token": token}
        return requests.request(method, self.sidecar.url + path, json=body, headers=headers, timeout=30)

    def last_record(self) -> dict[str, Any]:
        return self.sidecar.records()[-1]


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer, kafka: KafkaBroker
) -> Iterator[House]:
    asyncio.run(_make_topics(kafka))
    with openbao.mounted({"plain": "kv1", "transit": "transit"}), ScriptedAuthzen() as pdp:
        openbao.root().write_data("plain/many/keys", data={"user": "u1", "password": "p1-canary"})
        openbao.put("many/keys", {"user": "u", "password": "p-canary", "nested": {"user": "n"}})
        openbao.put("many/keys", {"user": "u2", "password": "p2-canary", "host": "h2"})
        overrides = {
            "identity": {"binding": "preferred"},
            "authorization": {"pdp": "authzen", "attributes": {"fetch": "off"}, "authzen": _authzen(pdp)},
            "mounts": [
                {"path": "secret", "engine": "kv2"},
                {"path": "plain", "engine": "kv1"},
                {"path": "transit", "engine": "transit"},
            ],
            "tenant": {"allowed_mounts": ["secret", "plain", "transit"]},
            "anti_replay": {"unbound_token": "off"},
            "grants": {"max_ttl_seconds": 600},
            "audit": {"kafka": {"bootstrap_servers": kafka.plaintext, "topic_prefix": PREFIX}},
        }
        with SidecarProcess(tmp_path_factory.mktemp("obligations"), openbao, issuer, overrides) as process:
            yield House(process, pdp, kafka)


def _authzen(pdp: ScriptedAuthzen) -> dict[str, Any]:
    return {"url": pdp.url, "timeout_ms": 2000}


async def _make_topics(kafka: KafkaBroker) -> None:
    await kafka.create_topics(*(f"{PREFIX}.secrets{suffix}" for suffix in (".audit", "", ".notifications")))


def code_of(answer: requests.Response) -> str:
    return str(answer.json().get("code", ""))


# -- release ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "where", "left"),
    [
        ("/v1/secret/data/many/keys", ("data", "data"), {"user": "u2"}),
        ("/v1/secret/data/many/keys?version=1", ("data", "data"), {"user": "u"}),
        ("/v1/secret/subkeys/many/keys", ("data", "subkeys"), {"user": None}),
        ("/v1/secret/subkeys/many/keys?version=1", ("data", "subkeys"), {"user": None}),
        ("/v1/plain/many/keys", ("data",), {"user": "u1"}),
    ],
)
def test_only_the_keys_in_every_release_leave(house: House, path: str, where: tuple[str, ...], left: Any) -> None:
    house.pdp.obliges(
        [
            {"id": "a", "release": {"fragments": ["user", "password"]}},
            {"id": "b", "release": {"fragments": ["user", "gone"]}},
        ]
    )
    answer = house.ask(path)
    assert answer.status_code == 200
    assert reduce(getitem, where, answer.json()) == left
    assert "canary" not in answer.text
    assert int(answer.headers["Content-Length"]) == len(answer.content)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/secret/metadata/many/keys", None),
        ("LIST", "/v1/secret/metadata/many", None),
        ("POST", "/v1/secret/data/many/keys", {"data": {"user": "mine"}}),
        ("DELETE", "/v1/secret/data/many/keys", None),
        ("LIST", "/v1/plain/many", None),
        ("PUT", "/v1/plain/many/keys", {"user": "mine"}),
        ("POST", "/v1/transit/encrypt/orders", {"plaintext": "YQ=="}),
        ("POST", "/v1/transit/encrypt/orders", {"batch_input": [{"plaintext": "YQ=="}, {"plaintext": "Yg=="}]}),
        ("POST", "/v1/transit/decrypt/orders", {"batch_input": [{"ciphertext": "vault:v1:YQ=="}]}),
    ],
)
def test_a_release_on_anything_but_kv_data_is_unmet_and_nothing_reaches_openbao(
    house: House, openbao: OpenBao, method: str, path: str, body: Any
) -> None:
    house.pdp.obliges([{"id": "a", "release": {"fragments": ["user"]}}])
    mark = openbao.mark()
    answer = house.ask(path, method, body)
    assert (answer.status_code, code_of(answer)) == (403, "OBLIGATION_UNMET")
    assert openbao.requests(since=mark) == []
    assert house.last_record()["code"] == "OBLIGATION_UNMET"


# -- numbers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", ["0", "-1", "-0", "1.0", "1.5", "1e3", "true", '"3"', "null", "[3]", f"{2**53}"])
@pytest.mark.parametrize("name", ["ttl_seconds", "max_uses"])
def test_a_number_that_is_no_integer_of_at_least_1_is_unmet(house: House, name: str, number: str) -> None:
    """As JSON text: what a reader makes of `1e3` or `-0` on the way is part of what is tried."""
    house.pdp.obliges(f'{{"{name}": {number}}}')
    assert code_of(house.ask()) == "OBLIGATION_UNMET"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "01", "+1", "0x10", "1_0", "", "1" * 5000])
def test_what_is_no_number_of_json_at_all_is_no_answer(house: House, number: str) -> None:
    house.pdp.obliges(f'{{"max_uses": {number}}}')
    assert code_of(house.ask()) in ("PDP_UNAVAILABLE", "OBLIGATION_UNMET")


@pytest.mark.parametrize(("ttl", "lives"), [(1, 1), (60, 60), (10**9, 600), (2**53 - 1, 600)])
def test_a_ttl_is_clipped_to_the_longest_that_is_configured(house: House, ttl: int, lives: int) -> None:
    house.pdp.obliges({"ttl_seconds": ttl, "max_uses": 2**53 - 1})
    answered = time.time()
    assert house.ask(exp=int(answered) + 3600).status_code == 200
    grant = house.last_record()["grant"]
    assert grant["uses_left"] == 2**53 - 2
    assert abs(datetime.fromisoformat(grant["expires_at"]).timestamp() - answered - lives) < 5


# -- step-up ---------------------------------------------------------------------------------------------------------
def test_a_step_up_asks_as_rfc_9470_says_and_the_next_token_satisfies_it(house: House) -> None:
    house.pdp.obliges([{"id": "a", "step-up": {"acr_values": ["urn:gold"], "max_age": 300}}])
    now = int(time.time())
    refused = house.ask(sub="stepper", acr="urn:silver", auth_time=now)
    assert (refused.status_code, code_of(refused)) == (401, "STEP_UP_REQUIRED")
    challenge = refused.headers["WWW-Authenticate"]
    assert re.findall(r'(\w+) error="([^"]*)"', challenge) == [
        (scheme, "insufficient_user_authentication") for scheme in ("DPoP", "Bearer")
    ]
    wanted = [("acr_values", "urn:gold"), ("max_age", "300")]
    assert re.findall(r'(acr_values|max_age)="([^"]*)"', challenge) == wanted * 2
    too_old = house.ask(sub="stepper", acr="urn:gold", auth_time=now - 301)
    assert code_of(too_old) == "STEP_UP_REQUIRED"
    without = house.ask(sub="stepper", acr="urn:gold")
    assert code_of(without) == "STEP_UP_REQUIRED"
    assert house.ask(sub="stepper", acr="urn:gold", auth_time=now - 10).status_code == 200
    assert house.ask(sub="stepper", amr=["urn:gold"], auth_time=now).status_code == 200


# -- session_termination -----------------------------------------------------------------------------------------------
def test_a_session_termination_ends_the_grants_of_whom_it_names_and_nobody_elses(house: House) -> None:
    house.pdp.obliges({"ttl_seconds": 600, "max_uses": 50})
    for subject in ("victim", "bystander"):
        house.ask(sub=subject)
        assert house.ask(sub=subject).status_code == 200
        assert house.last_record()["grant"]["hit"]
    house.pdp.obliges([{"id": "a", "session_termination": {"subject": "victim"}}], subject="officer")
    assert house.ask(sub="officer").status_code == 200
    for subject, hit in (("victim", False), ("bystander", True)):
        house.ask(sub=subject)
        assert house.last_record()["grant"]["hit"] is hit


def test_a_session_termination_beside_a_deny_ends_them_too_and_one_of_the_caller_itself_is_unmet(house: House) -> None:
    house.pdp.obliges({"ttl_seconds": 600, "max_uses": 50})
    for subject in ("fired", "stays"):
        house.ask(sub=subject)
    ends = json.dumps([{"id": "a", "session_termination": {"subject": "fired"}}])
    house.pdp.by_subject["guard"] = f'{{"decision": false, "context": {{"obligations": {ends}}}}}'
    assert code_of(house.ask(sub="guard")) == "POLICY_DENIED"
    for subject, hit in (("fired", False), ("stays", True)):
        house.ask(sub=subject)
        assert house.last_record()["grant"]["hit"] is hit
    house.pdp.obliges([{"id": "a", "session_termination": {"subject": "fired"}}], subject="fired")
    assert code_of(house.ask(DATA + "?version=1", sub="fired")) == "OBLIGATION_UNMET"


# -- notification ------------------------------------------------------------------------------------------------------
async def test_a_notification_reaches_its_topic_with_each_use_and_is_in_the_journal_first(house: House) -> None:
    text = {"to": "owner", "text": "äöü \u2028 read"}
    house.pdp.obliges(
        [{"id": "a", "notification": text}, {"id": "b", "usage_grant": {"max_uses": 3, "ttl_seconds": 600}}]
    )
    assert (await asyncio.to_thread(house.ask, sub="noticed")).status_code == 200
    assert (await asyncio.to_thread(house.ask, sub="noticed")).status_code == 200
    body = {"data": {"a": "1"}}
    assert (await asyncio.to_thread(house.ask, "/v1/secret/data/n/1", "POST", body, sub="noticed")).status_code == 200
    records = [record for record in house.sidecar.records() if (record.get("subject") or {}).get("sub") == "noticed"]
    carried = [(record["operation"], record["phase"]) for record in records if record.get("notifications") == [text]]
    assert carried == [("kv2.read", "outcome"), ("kv2.read", "outcome"), ("kv2.write", "intent")]

    consumer = AIOKafkaConsumer(
        f"{PREFIX}.secrets.notifications", bootstrap_servers=house.kafka.plaintext, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            published = [json.loads((await consumer.getone()).value) for _ in range(3)]
    finally:
        await consumer.stop()
    assert published == [record for record in records if record.get("notifications")]


def test_a_notification_beside_a_deny_is_published_once_however_often_it_is_asked(house: House) -> None:
    house.pdp.by_subject["nosy"] = json.dumps(
        {"decision": False, "context": {"obligations": [{"id": "a", "notification": {"to": "owner"}}]}}
    )
    for _ in range(3):
        assert code_of(house.ask(sub="nosy")) == "POLICY_DENIED"
    records = [record for record in house.sidecar.records() if (record.get("subject") or {}).get("sub") == "nosy"]
    assert [bool(record.get("notifications")) for record in records] == [True, False, False]


def test_without_kafka_a_notification_cannot_be_met(
    tmp_path_factory: pytest.TempPathFactory, house: House, openbao: OpenBao
) -> None:
    overrides = {
        "identity": {"binding": "preferred"},
        "authorization": {"pdp": "authzen", "attributes": {"fetch": "off"}, "authzen": _authzen(house.pdp)},
    }
    house.pdp.obliges([{"id": "a", "notification": {"to": "owner"}}])
    with SidecarProcess(tmp_path_factory.mktemp("mute"), openbao, house.sidecar.issuer, overrides) as process:
        mark = openbao.mark()
        answer = process.get(DATA, process.issuer.token(sub="app"))
        assert (answer.status_code, code_of(answer)) == (403, "OBLIGATION_UNMET")
        assert openbao.requests(since=mark) == []


def test_what_is_read_without_obligations_is_whole(house: House) -> None:
    house.pdp.obliges([])
    assert house.ask().json()["data"]["data"] == SEEDS["app/db"]
