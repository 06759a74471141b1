"""The steps of the tour, against a running world."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import hvac
import requests
from hvac.exceptions import VaultError

from sidecar.client import DPoPKey
from sidecar.client.requests import DPoPAuth
from sidecar.dev.certificates import Certificates, KeyPair, thumbprint
from sidecar.dev.evidence import (
    TIMEOUT_SECONDS,
    Canaries,
    Seen,
    UnexpectedError,
    audit_records,
    code_of,
    decisions,
    run_audit,
    tells,
)
from sidecar.dev.files import Layout
from sidecar.dev.issuer import Confirmation, DevIssuer
from sidecar.dev.openbao import FOREIGN_MOUNT
from sidecar.dev.state import SidecarServer, WorldState

_APP, _STRANGER = "app", "stranger"
_OPEN_TO_ANYBODY: Final = "/v1/sys/health"


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `act` returns what it got, or raises `UnexpectedError`."""

    name: str
    what: str
    expected: str
    act: Callable[[], str]


class Tour:
    """The steps, against a running world. Synchronous, as hvac is."""

    def __init__(self, state: WorldState, layout: Layout) -> None:
        self._state = state
        self._layout = layout
        self._certificates = Certificates.in_folder(layout.tls)
        self._issuer = DevIssuer.from_file(state.issuer.origin, layout.issuer_key)
        self._dpop_keys = {
            name: DPoPKey.load_or_generate(layout.keys / f"{name}.pem") for name in (_APP, _STRANGER, "thief")
        }
        self._seen: list[Seen] = []
        self._canaries = Canaries()

    def steps(self) -> list[Step]:
        """What is tried, in order: later steps read what earlier ones left in the audit."""
        return [
            Step("allowed", "hvac reads app/db, with DPoP", "200, the secret", self._allowed),
            Step("denied", "a subject without a policy reads it", "403 POLICY_DENIED", self._denied),
            Step("forbidden", "hvac reads app/frozen: a forbid beats the permit", "403 POLICY_DENIED", self._forbidden),
            Step("replayed", "the same proof is sent twice", "200, then 401 PROOF_REPLAYED", self._replayed),
            Step("stolen", "the token, with a proof of another key", "401 BINDING_MISMATCH", self._stolen),
            Step("downgraded", "the token as Bearer, without a proof", "401 BINDING_MISMATCH", self._downgraded),
            Step("exhausted", "three reads on a grant of two", "asked, granted, asked; 2 decisions", self._exhausted),
            Step("listed", "hvac lists app/", "200, the names", self._listed),
            Step("written", "hvac writes app/new and reads it back", "version 1, the same", self._written),
            Step(
                "rotated",
                "the transit key app gets a new version",
                "version 2, SECRET_ROTATED",
                self._rotated,
            ),
            Step("foreign", "a mount that is not the tenant's", "400 TENANT_MOUNT_MISMATCH", self._foreign),
            Step("mTLS allowed", "hvac reads app/db, with a client certificate", "200, the secret", self._mtls_allowed),
            Step("mTLS denied", "a subject without a policy reads it", "403 POLICY_DENIED", self._mtls_denied),
            Step("mTLS stolen", "the token, with another's certificate", "401 BINDING_MISMATCH", self._mtls_stolen),
            Step(
                "mTLS exhausted",
                "three reads on a grant of two",
                "asked, granted, asked; 2 decisions",
                self._mtls_exhausted,
            ),
            Step("audited", "the audit is compared with every answer", "a record of each", self._audited),
            Step("silent", "audit and logs are searched", "no value, path, token or proof", self._silent),
            Step("verified", "sidecar audit verify", "whole; an edited copy is not", self._verified),
        ]

    # -- DPoP ------------------------------------------------------------------------------------------------------
    def _allowed(self) -> str:
        return self._reads_the_example(self._with_dpop(_APP))

    def _denied(self) -> str:
        return self._refused(self._with_dpop(_STRANGER), 403, "POLICY_DENIED")

    def _forbidden(self) -> str:
        return self._refused(self._with_dpop(_APP), 403, "POLICY_DENIED", path="app/frozen")

    def _replayed(self) -> str:
        url = f"{self._state.sidecar.origin}/v1/secret/data/app/db"
        key = self._dpop_keys[_APP]
        token = self._token(_APP, jkt=key.thumbprint)
        with self._session() as session:
            nonce = session.get(self._state.sidecar.origin + _OPEN_TO_ANYBODY).headers["DPoP-Nonce"]
            proof = key.proof("GET", url, token, nonce)
            self._canaries.tokens.add(proof)
            answers = [session.get(url, headers={"Authorization": f"DPoP {token}", "DPoP": proof}) for _ in range(2)]
        first, second = answers[0].status_code, code_of(answers[1])
        return _must(first == 200 and second == "401 PROOF_REPLAYED", f"{first}, then {second}")

    def _stolen(self) -> str:
        return self._refused(self._with_dpop(_APP, key=self._dpop_keys["thief"]), 401, "BINDING_MISMATCH")

    def _downgraded(self) -> str:
        token = self._token(_APP, jkt=self._dpop_keys[_APP].thumbprint)
        with self._session() as session:
            answer = session.get(
                f"{self._state.sidecar.origin}/v1/secret/data/app/db", headers={"Authorization": f"Bearer {token}"}
            )
        return _must(code_of(answer) == "401 BINDING_MISMATCH", code_of(answer))

    def _exhausted(self) -> str:
        return self._spends_a_grant(self._state.sidecar, self._with_dpop(_APP))

    def _listed(self) -> str:
        names = self._with_dpop(_APP).secrets.kv.v2.list_secrets("app", mount_point="secret")["data"]["keys"]
        return _must("db" in names, f"200, {' '.join(names)}")

    def _written(self) -> str:
        client, value = self._with_dpop(_APP), self._fresh_value()
        kv = client.secrets.kv.v2
        version = kv.create_or_update_secret("app/new", secret={"value": value}, mount_point="secret")["data"][
            "version"
        ]
        same = self._read(client, "app/new") == {"value": value}
        return _must(version == 1 and same, f"version {version}, {'the same' if same else 'another value'}")

    def _rotated(self) -> str:
        transit = self._with_dpop(_APP).secrets.transit
        transit.rotate_key("app")
        rotation = self._seen[-1].correlation_id
        version = transit.read_key("app")["data"]["latest_version"]
        events = {
            record["event"]
            for record in audit_records(self._state.sidecar)
            if record.get("correlation_id") == rotation and record.get("phase") == "outcome"
        }
        return _must(version == 2 and events == {"SECRET_ROTATED"}, f"version {version}, {' '.join(events)}")

    def _foreign(self) -> str:
        return self._refused(self._with_dpop(_APP), 400, "TENANT_MOUNT_MISMATCH", mount=FOREIGN_MOUNT)

    # -- mutual TLS ------------------------------------------------------------------------------------------------
    def _mtls_allowed(self) -> str:
        return self._reads_the_example(self._with_certificate(_APP))

    def _mtls_denied(self) -> str:
        return self._refused(self._with_certificate(_STRANGER), 403, "POLICY_DENIED")

    def _mtls_stolen(self) -> str:
        client = self._with_certificate(_APP, presented=self._certificates.other_client)
        return self._refused(client, 401, "BINDING_MISMATCH")

    def _mtls_exhausted(self) -> str:
        return self._spends_a_grant(self._state.sidecar_mtls, self._with_certificate(_APP))

    # -- what both have in common ----------------------------------------------------------------------------------
    def _reads_the_example(self, client: Any) -> str:
        secret = self._read(client, "app/db")
        return _must(secret.keys() == {"username", "password"}, f"200, {' and '.join(sorted(secret))}")

    def _refused(self, client: Any, status: int, code: str, *, path: str = "app/db", mount: str = "secret") -> str:
        try:
            self._read(client, path, mount=mount)
        except VaultError:
            pass  # what was answered exactly is in the last answer seen
        last = self._seen[-1]
        return _must((last.status, last.code) == (status, code), f"{last.status} {last.code}".rstrip())

    def _spends_a_grant(self, server: SidecarServer, client: Any) -> str:
        """Reads three times what a policy grants twice."""
        decided = decisions(server)
        read = []
        for _ in range(3):
            self._read(client, "app/api")
            read.append(self._seen[-1].correlation_id)
        decided = decisions(server) - decided
        records = {record.get("correlation_id"): record for record in audit_records(server)}
        way = ["granted" if records[each]["grant"]["hit"] else "asked" for each in read]
        got = f"{', '.join(way)}; {decided} decisions"
        return _must(way == ["asked", "granted", "asked"] and decided == 2, got)

    # -- the audit -------------------------------------------------------------------------------------------------
    def _audited(self) -> str:
        records: dict[str, list[dict[str, Any]]] = {}
        for server in (self._state.sidecar, self._state.sidecar_mtls):
            for record in audit_records(server):
                records.setdefault(str(record.get("correlation_id")), []).append(record)
        missing = [
            seen
            for seen in self._seen
            if not any(tells(record, seen) for record in records.get(seen.correlation_id, []))
        ]
        if missing:
            raise UnexpectedError(f"{len(missing)} of {len(self._seen)} without: {missing[0].status} {missing[0].code}")
        mutations = [
            each for each in records.values() if {record.get("phase") for record in each} == {"intent", "outcome"}
        ]
        return _must(len(mutations) == 2, f"a record of each of {len(self._seen)}; {len(mutations)} intents")

    def _silent(self) -> str:
        searched = [file for folder in self._written_folders() for file in folder.rglob("*") if file.is_file()]
        found = self._canaries.found_in(searched)
        if found:
            raise UnexpectedError(f"found: {', '.join(found)}")
        size = sum(file.stat().st_size for file in searched)
        return f"none of {len(self._canaries)} in {size // 1024} KiB"

    def _verified(self) -> str:
        spools = [self._state.sidecar.spool, self._state.sidecar_mtls.spool]
        whole = [run_audit("verify", str(spool)).returncode for spool in spools]
        edited = self._layout.root / "edited"
        shutil.copytree(spools[0], edited)
        changed = 0
        for file in edited.rglob("*"):
            if file.is_file() and b"POLICY_DENIED" in (content := file.read_bytes()):
                file.write_bytes(content.replace(b"POLICY_DENIED", b"POLICY_PASSED", 1))
                changed += 1
        broken = run_audit("verify", str(edited)).returncode
        got = f"exit {' and '.join(map(str, whole))}; edited copy: exit {broken}"
        return _must(whole == [0, 0] and changed == 1 and broken == 1, got)

    def _written_folders(self) -> list[Path]:
        """Everything the sidecars write. OpenBao's own log is not theirs."""
        logs = self._state.sidecar.log.parent / "sidecars"
        logs.mkdir(exist_ok=True)
        for server in (self._state.sidecar, self._state.sidecar_mtls):
            shutil.copy(server.log, logs)
        return [self._state.sidecar.spool, self._state.sidecar_mtls.spool, logs]

    # -- clients ---------------------------------------------------------------------------------------------------
    def _token(self, subject: str, *, jkt: str = "", x5t: str = "") -> str:
        token = self._issuer.mint(
            subject, audience=self._state.audience, confirmation=Confirmation(jkt=jkt, x5t_s256=x5t)
        )
        self._canaries.add_token(token)
        return token

    def _session(self) -> requests.Session:
        """A plain session that notes what it was answered."""
        session = requests.Session()
        session.trust_env = False
        session.hooks["response"].append(self._note)
        return session

    def _with_dpop(self, subject: str, *, key: DPoPKey | None = None) -> Any:
        """hvac as it is; its requests session signs a proof for each request."""
        session = self._session()
        session.auth = DPoPAuth(key or self._dpop_keys[subject])
        token = self._token(subject, jkt=self._dpop_keys[subject].thumbprint)
        return hvac.Client(url=self._state.sidecar.origin, token=token, session=session, timeout=TIMEOUT_SECONDS)

    def _with_certificate(self, subject: str, *, presented: KeyPair | None = None) -> Any:
        """hvac as it is, with a client certificate."""
        mine = self._certificates.client
        pair = presented or mine
        session = self._session()
        session.verify = str(self._certificates.ca)
        session.cert = (str(pair.cert), str(pair.key))
        token = self._token(subject, x5t=thumbprint(mine.cert))
        return hvac.Client(url=self._state.sidecar_mtls.origin, token=token, session=session, timeout=TIMEOUT_SECONDS)

    def _read(self, client: Any, path: str, *, mount: str = "secret") -> dict[str, str]:
        answer = client.secrets.kv.v2.read_secret_version(path, mount_point=mount, raise_on_deleted_version=True)
        secret: dict[str, str] = answer["data"]["data"]
        self._canaries.values |= {value for value in secret.values() if len(value) > 8}
        return secret

    def _fresh_value(self) -> str:
        value = f"tour-{secrets.token_urlsafe(12)}"
        self._canaries.values.add(value)
        return value

    def _note(self, answer: requests.Response, *_args: object, **_options: object) -> None:
        if answer.request.path_url == _OPEN_TO_ANYBODY:
            return  # not recorded
        for each in (*answer.history, answer):  # the history: where the sidecar asked for its nonce first
            code = code_of(each).partition(" ")[2]
            self._seen.append(Seen(each.headers.get("X-Correlation-ID", ""), each.status_code, code))
            if isinstance(proof := each.request.headers.get("DPoP"), str):
                self._canaries.tokens.add(proof)


def _must(held: bool, got: str) -> str:
    if not held:
        raise UnexpectedError(got)
    return got
