"""Callers, operations, configurations and PDPs of these tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sidecar.caller.identity import Binding, BindingKind, Caller
from sidecar.config.tree import Cedar, Config
from sidecar.decision.cedar import CedarPdp
from sidecar.decision.decide import Decider
from sidecar.decision.permit import Denied, Obligations, Permit, Question, Verdict
from sidecar.decision.question import question_of
from sidecar.surface.operation import Operation, Purpose, UpstreamRequest
from sidecar.surface.secret_uri import SecretUri
from tests.support.clock import FakeClock

NOW: Final = 1_900_000_000
ISSUER: Final = "https://idp.example"
DPOP: Final = Binding(BindingKind.DPOP, "a" * 43)
OTHER_KEY: Final = Binding(BindingKind.DPOP, "b" * 43)
DB: Final = SecretUri("openbao", "kv2", "secret", ("app", "db"))


def clock() -> FakeClock:
    return FakeClock(wall=NOW)


def config(**sections: Any) -> Config:
    """A tree with what decisions look at; sections are merged into it."""
    tree: dict[str, Any] = {"tenant": {"id": "acme", "allowed_mounts": ["secret", "database"]}}
    return Config.model_validate(tree | sections)


def caller(subject: str = "app", **fields: Any) -> Caller:
    """A caller bound by DPoP."""
    known: dict[str, Any] = {
        "issuer": ISSUER,
        "client_id": "app-client",
        "scopes": frozenset({"secrets.read"}),
        "audience": ("crud.secrets",),
        "token_jti": "jti-1",
        "issued_at": NOW - 10,
        "expires_at": NOW + 3600,
        "binding": DPOP,
    }
    return Caller(subject, **(known | fields))


def unbound(subject: str = "app", **fields: Any) -> Caller:
    """A caller with a token that anybody could present."""
    return caller(subject, **({"binding": Binding()} | fields))


def operation(name: str = "kv2.read", purpose: Purpose = Purpose.READ, uri: SecretUri = DB, uses: int = 1) -> Operation:
    return Operation(name, purpose, uri, UpstreamRequest("GET", "/v1/secret/data/app/db"), uses=uses)


def question(
    who: Caller | None = None,
    uri: SecretUri = DB,
    purpose: str = "read",
    name: str = "kv2.read",
    attributes: Mapping[str, str] | None = None,
) -> Question:
    return question_of(
        who or caller(), uri, purpose, name, tenant_id="acme", correlation_id="c-1234567", attributes=attributes
    )


@dataclass
class ScriptedPdp:
    """A PDP that says what it is told to. With `gate` set to an event it holds each answer until that is set."""

    answer: Callable[[Question], Verdict] = lambda _question: Verdict(True)
    gate: asyncio.Event | None = None
    asked: list[Question] = field(default_factory=list)

    async def evaluate(self, question: Question) -> Verdict:
        self.asked.append(question)
        if self.gate is not None:
            await self.gate.wait()
        return self.answer(question)

    async def evaluate_many(self, questions: Sequence[Question]) -> list[Verdict | Denied]:
        answers: list[Verdict | Denied] = []
        for question in questions:
            try:
                answers.append(await self.evaluate(question))
            except Denied as denied:
                answers.append(denied)
        return answers

    async def wait_until_asked(self, times: int = 1) -> None:
        async with asyncio.timeout(5):
            while len(self.asked) < times:
                await asyncio.sleep(0)


def permitting(**obligations: Any) -> ScriptedPdp:
    """A PDP that permits everything under these obligations."""
    verdict = Verdict(True, Obligations(**obligations), decision_id="d-1", policy_version="v-1")
    return ScriptedPdp(lambda _question: verdict)


def denying() -> ScriptedPdp:
    return ScriptedPdp(lambda _question: Verdict(False, decision_id="d-2", policy_version="v-1"))


@dataclass
class Desk:
    """A decider with all around it."""

    pdp: ScriptedPdp
    config: Config = field(default_factory=config)
    clock: FakeClock = field(default_factory=clock)
    decider: Decider = field(init=False)

    def __post_init__(self) -> None:
        self.decider = Decider(self.config, self.pdp, self.clock)

    async def permit(self, who: Caller | None = None, what: Operation | None = None, **arguments: Any) -> Permit:
        """A permit, its use not yet spent."""
        return await self.decider.permit(what or operation(), who or caller(), correlation_id="c-1234567", **arguments)

    async def spend(self, who: Caller | None = None, what: Operation | None = None) -> Permit:
        """A permit, its use spent."""
        permit = await self.permit(who, what)
        permit.reservation.commit()
        return permit


def cedar_folder(folder: Path, *texts: str, **named: str) -> Path:
    """A folder of policies: `texts` as `0.cedar`, `1.cedar`, …; others by name."""
    folder.mkdir(exist_ok=True)
    for name, text in {**{str(index): text for index, text in enumerate(texts)}, **named}.items():
        (folder / f"{name}.cedar").write_text(text, encoding="utf-8")
    return folder


def cedar(folder: Path, **paths: Path) -> CedarPdp:
    return CedarPdp(Cedar.model_validate({"policies": folder, **paths}))
