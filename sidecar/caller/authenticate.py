"""Who is calling: credentials of one request become a `Caller`, or are refused.

The order is that of cost: what is missing or contradicts itself, the token (remembered or verified), how it is bound,
the proof's claims, the proof's signature. Only what passed all of that is marked as used.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Final

import aiohttp
import structlog

from sidecar.caller import jose, origins, spiffe
from sidecar.caller.access_token import AccessToken, Confirmation, TokenVerifier
from sidecar.caller.challenge import www_authenticate
from sidecar.caller.client_certificate import ClientCertificates
from sidecar.caller.dpop import ProofVerifier
from sidecar.caller.identity import Binding, BindingKind, Caller, Credential, Unproven
from sidecar.caller.issuer_keys import IssuerKeys
from sidecar.caller.nonce import LIFETIME_SECONDS, Nonces, SharedNonces
from sidecar.caller.origins import Origins
from sidecar.caller.pod import PodToken, pod_binding, why_not_the_pod
from sidecar.caller.replay import PROOF, TOKEN, ReplayStore
from sidecar.clock import Clock
from sidecar.config import Config
from sidecar.config.tree import TokenUse
from sidecar.door.head import Head, Peer
from sidecar.errors import Code, Refused
from sidecar.ops import metrics
from sidecar.shared_replays.store import SharedReplays

CLOCK_STEP_SECONDS: Final = 2
"""A wall clock that falls behind elapsed time by more was set back. Slewing moves both alike."""

_log = structlog.get_logger(__name__)


class _Scheme(Enum):
    """How the token was presented."""

    DPOP = auto()
    BEARER = auto()
    VAULT = auto()  # X-Vault-Token, which says nothing of a binding


class Authenticator:
    """Authenticates the requests of one listener. Use within one event loop."""

    def __init__(
        self, config: Config, clock: Clock, session: aiohttp.ClientSession, shared: SharedReplays | None = None
    ) -> None:
        """The listener's names follow from the configuration until `listens_on` says better. `session` fetches keys;
        `shared` is what replicas remember together, where they do."""
        identity, replay = config.identity, config.anti_replay
        self._config = config
        self._clock = clock
        self._keys = IssuerKeys(identity.issuers, session, clock)
        self._tokens = TokenVerifier(identity, self._keys, clock)
        svids = identity.client_certificates
        self._certificates = ClientCertificates(svids.trust_domain if svids.subject == "spiffe" else None)
        token_file = identity.pod.token_file if identity.pod.enabled else None
        self._pod = None if token_file is None else PodToken(token_file, clock)
        self._shared = shared
        self._nonces = Nonces(clock.elapsed()) if shared is None else _nonces_of(shared)
        self._passthrough = config.upstream.auth.mode == "passthrough"
        self._has_nonce = replay.dpop_nonce != "off"
        self._proofs = ProofVerifier(
            algorithms=identity.proof_algorithms,
            max_age_seconds=replay.proof_max_age_seconds,
            clock_skew_seconds=identity.clock_skew_seconds,
            nonce_mode=replay.dpop_nonce,
            nonces=self._nonces,
        )
        self.replays = ReplayStore(clock)
        self._wall_ahead = clock.wall() - clock.elapsed()
        self._bearer = identity.binding == "preferred" or config.listen.tls.client_cert != "none"
        self.listens_on([config.listen.address])

    def listens_on(self, addresses: Iterable[str]) -> None:
        """The addresses the listener is bound at, `host:port` or `unix://…`, where the system chose the port."""
        listen = self._config.listen
        tls = listen.tls.cert_file is not None
        self._origins = Origins.of(addresses, tls=tls, public_urls=listen.public_urls)
        self._proofs.listens_on(self._origins.urls)

    async def start(self) -> None:
        """Reads the issuers' keys and keeps them fresh. An issuer that cannot be reached is a matter of `ready`."""
        await self._keys.start()
        if self._pod is not None:
            await self._try_the_pods_token(self._pod)

    async def reload(self) -> None:
        """Reads the issuers' keys again, for SIGHUP; those by URI not sooner than their floor interval allows."""
        await self._keys.refresh()

    async def stop(self) -> None:
        """Ends the background work."""
        await self._keys.close()

    @property
    def ready(self) -> bool:
        """Whether any caller's token can be verified."""
        return self._keys.usable

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong with the keys, by issuer, and with the pod's own token, by its key of the configuration."""
        pod = self._pod.problem if self._pod is not None else ""
        return self._keys.problems if not pod else {**self._keys.problems, "identity.pod.token_file": pod}

    def cache_sizes(self) -> Mapping[str, int]:
        """Entries of each bounded table, by the name of its metric's label."""
        return {
            "tokens": self._tokens.remembered,
            "proof_keys": self._proofs.remembered_keys,
            "client_certificates": self._certificates.remembered,
            "replays": len(self.replays),
        }

    def check_origin(self, head: Head) -> None:
        """Refuses browsers and foreign `Host`s; before anything else of a request is looked at."""
        origins.check_origin(head, self._origins)

    def nonce_headers(self) -> Mapping[str, str]:
        """What every answer carries: the nonce for the next proof (RFC 9449, section 8.2)."""
        nonce = self._nonces.current(self._clock.elapsed()) if self._has_nonce else ""
        return {"DPoP-Nonce": nonce} if nonce else {}

    def challenge(self, refused: Refused) -> dict[str, str]:
        """The headers with which an answer to this refusal asks for what is missing; none where it asks for nothing."""
        value = www_authenticate(
            refused.code,
            refused.message,
            self._config.identity.proof_algorithms,
            bearer=self._bearer,
            wanted=refused.wanted,
        )
        return {"WWW-Authenticate": value} if value else {}

    async def authenticate(self, head: Head, peer: Peer, *, spend: bool = True) -> Caller:
        """The caller, proven.

        `spend` is false for what the sidecar answers itself: a token of single use is then not used up.

        Raises:
            Refused: with the code of what is wrong, and the challenge that goes with it; as `Unproven` where the
                token itself was good.
        """
        caller = await self._identified(head, peer, spend)
        return self._with_upstream_token(caller, head) if self._passthrough else caller

    async def _identified(self, head: Head, peer: Peer, spend: bool) -> Caller:
        token: AccessToken | None = None
        credential = ""
        try:
            given = _credential(head.headers, passthrough=self._passthrough)
            if given is not None:
                scheme, credential = given
                token = await self._tokens.verify(credential)
                caller = self._bound(token, credential, scheme, head, peer, spend)
                return caller if self._shared is None else await self._shared_use(self._shared, caller, token, spend)
            if peer.certificate is not None and "dpop" not in head.headers:
                certified = self._certificates.caller(peer.certificate, self._clock.wall())
                if certified is not None:
                    return certified
            if self._pod is not None and not (reason := why_not_the_pod(head, peer)):
                credential = self._pod.read()
                token = await self._verified(self._pod, credential)
                caller = self._as_the_pod(token, credential, peer, spend)
                return caller if self._shared is None else await self._shared_use(self._shared, caller, token, spend)
            return self._anonymous(head, reason if self._pod is not None else "this request needs an access token")
        except Refused as refusal:
            headers = refusal.headers
            if self._shared is not None and refusal.code is Code.PROOF_NONCE_REQUIRED:
                await self._shared.look()
            if refusal.status == 401:
                headers = {**headers, **self.challenge(refusal), **self.nonce_headers()}
            if token is not None:
                raise Unproven(refusal, headers, _caller(token, Binding(), "", credential)) from None
            raise Refused(refusal.code, refusal.message, headers=headers, detail=refusal.detail) from None

    async def still_good(self, caller: Caller) -> None:
        """Looks again at the credentials of a caller whose request goes on for long. Raises `Refused`: TOKEN_EXPIRED,
        TOKEN_INVALID where its issuer took back the key."""
        if caller.token is not None:
            await self._tokens.verify(caller.token.reveal())
        elif self._clock.wall() >= caller.expires_at:
            raise Refused(Code.TOKEN_EXPIRED, "the client certificate has expired")

    def _with_upstream_token(self, caller: Caller, head: Head) -> Caller:
        """The caller with the OpenBao token that came along, if one did."""
        given = head.headers.get("x-vault-token", "")
        if not given:
            return caller
        if not _is_token(given):
            raise Refused(Code.MALFORMED_REQUEST, "X-Vault-Token does not hold an OpenBao token")
        if caller.token is not None and caller.token.reveal() == given:
            raise Refused(
                Code.AMBIGUOUS_CREDENTIALS,
                "X-Vault-Token holds the access token; in passthrough mode it is for the caller's own OpenBao token",
            )
        return dataclasses.replace(caller, upstream_token=Credential(given))

    def _anonymous(self, head: Head, needed: str) -> Caller:
        if self._config.identity.required or "dpop" in head.headers:
            raise Refused(Code.TOKEN_MISSING, needed)
        return Caller("anonymous", "", expires_at=jose.LATEST_DATE)

    def _bound(
        self, token: AccessToken, credential: str, scheme: _Scheme, head: Head, peer: Peer, spend: bool
    ) -> Caller:
        """The token with its binding proven. Runs without a pause, so that what is used once is used once."""
        binding = _claimed_binding(token, scheme, "dpop" in head.headers)
        if binding.kind is not BindingKind.NONE:
            use = self._config.anti_replay.bound_token
        elif self._config.identity.binding == "required":
            raise Refused(Code.BINDING_REQUIRED, "the access token must be bound by DPoP or by a client certificate")
        elif scheme is _Scheme.DPOP:
            raise _mismatch("the access token is not bound to a DPoP key")
        else:
            use = self._config.anti_replay.unbound_token
        _check_jti(token, use)

        confirmation, proof_jti = token.confirmation, ""
        if confirmation.x5t_s256 is not None:
            self._certificates.check(peer.certificate, confirmation.x5t_s256, self._clock.wall())
        if confirmation.jkt is not None:
            proof_jti = self._prove(token.ath, confirmation.jkt, head)
        attributes = self._certified(token, peer) if confirmation.x5t_s256 is not None else ()
        if use == "single_use" and spend and self._shared is None:
            self._spend(token)
        return _caller(token, binding, proof_jti, credential, attributes)

    def _certified(self, token: AccessToken, peer: Peer) -> tuple[tuple[str, str], ...]:
        """The SPIFFE ID of the certificate that a token is bound to, for policies. A token that is itself for a
        SPIFFE ID must be for that one."""
        spiffe_id = self._certificates.spiffe_id(peer.certificate)
        if not spiffe_id:
            return ()
        if spiffe.trust_domain_of(token.subject) is not None and token.subject != spiffe_id:
            raise _mismatch("the access token and the client certificate name different workloads")
        return (("spiffe_id", spiffe_id),)

    # -- the pod itself --------------------------------------------------------------------------------------------
    async def _verified(self, pod: PodToken, credential: str) -> AccessToken:
        try:
            token = await self._tokens.verify(credential)
        except Refused as refusal:
            pod.verified(refusal)
            raise
        pod.verified(token)
        return token

    async def _try_the_pods_token(self, pod: PodToken) -> None:
        """So that readiness tells of it before the first request does."""
        try:
            await self._verified(pod, pod.read())
        except Refused as refusal:
            _log.warning("pod_token_unusable", code=refusal.code, reason=refusal.message, detail=refusal.detail)

    def _as_the_pod(self, token: AccessToken, credential: str, peer: Peer, spend: bool) -> Caller:
        if token.confirmation != Confirmation():
            raise _mismatch("the pod's own token is bound to a key")
        use = self._config.anti_replay.bound_token
        _check_jti(token, use)
        if use == "single_use" and spend and self._shared is None:
            self._spend(token)
        return _caller(token, pod_binding(peer), "", credential)

    # -- what replicas remember together -----------------------------------------------------------------------------
    async def _shared_use(self, shared: SharedReplays, caller: Caller, token: AccessToken, spend: bool) -> Caller:
        """The caller, whose proof and token no replica has seen used. The proof is marked as used in this process
        already, before the first pause: whoever is cancelled here cannot use it again, here or elsewhere."""
        if caller.proof_jti:
            losses = shared.losses
            # A proof is remembered for longer than its nonce is taken, so that no replica's clock matters.
            ttl = max(self._config.anti_replay.window_seconds, 2 * LIFETIME_SECONDS) + 10
            if await shared.claim(PROOF, f"{token.confirmation.jkt}{caller.proof_jti}", ttl) is None:
                raise _replayed_proof()
            if shared.losses != losses:
                # The store lost its memory since this proof was looked at: it may have been used.
                code = Code.PROOF_NONCE_REQUIRED if self._has_nonce else Code.PROOF_INVALID
                raise Refused(code, "the DPoP proof may be a replay: make another")
        replay = self._config.anti_replay
        use = replay.unbound_token if caller.binding.kind is BindingKind.NONE else replay.bound_token
        if use == "single_use" and spend:
            if await shared.claim(TOKEN, f"{token.issuer}\0{token.jti}", self._spent_for(token)) is None:
                raise _replayed_token()
            self._spend(token)
        return caller

    def _prove(self, ath: str, jkt: str, head: Head) -> str:
        """The `jti` of the request's proof, used for the first time."""
        wall, elapsed = self._clocks()
        if self._shared is not None:
            self._use_what_the_store_knows(self._shared)
        jti = self._proofs.verify(
            head.headers["dpop"], method=head.method, path=head.path, ath=ath, jkt=jkt, wall=wall, elapsed=elapsed
        )
        # The window holds from the first use; a proof's own life is shorter (see the check of the configuration).
        window = self._config.anti_replay.window_seconds + CLOCK_STEP_SECONDS
        if not self.replays.use_once(PROOF, f"{jkt}{jti}", window):
            raise _replayed_proof()
        return jti

    def _use_what_the_store_knows(self, shared: SharedReplays) -> None:
        """Without a nonce to tell what was used before the store began, older proofs are not taken."""
        generation = shared.generation
        if shared.problem or generation is None:
            raise shared.unavailable()
        self._proofs.distrust(generation.born)

    def _spend(self, token: AccessToken) -> None:
        """Remembered for as long as the token lives, and a window longer in case the wall clock is set back."""
        # A jti is printable, so that the separator ends the issuer.
        if not self.replays.use_once(TOKEN, f"{token.issuer}\0{token.jti}", self._spent_for(token)):
            raise _replayed_token()

    def _spent_for(self, token: AccessToken) -> float:
        return token.expires_at - self._clock.wall() + self._config.anti_replay.window_seconds

    def _clocks(self) -> tuple[float, float]:
        """Wall and elapsed time. A wall clock set back would make forgotten proofs young again: see ProofVerifier."""
        wall, elapsed = self._clock.wall(), self._clock.elapsed()
        ahead = wall - elapsed
        if ahead > self._wall_ahead:
            self._wall_ahead = ahead
        elif ahead < self._wall_ahead - CLOCK_STEP_SECONDS:
            _log.warning("wall_clock_set_back", seconds=round(self._wall_ahead - ahead, 3))
            self._proofs.clock_was_set_back(elapsed + self._wall_ahead, elapsed)
            self._wall_ahead = ahead
        return wall, elapsed


def _credential(headers: Mapping[str, str], *, passthrough: bool) -> tuple[_Scheme, str] | None:
    """The one token of the request and how it came; the same token twice is one. In passthrough mode it comes in
    `Authorization`, and `X-Vault-Token` is something else.

    Raises:
        Refused: AMBIGUOUS_CREDENTIALS, or TOKEN_MISSING where `Authorization` holds no token.
    """
    vault = headers.get("x-vault-token", "")
    authorization = headers.get("authorization")
    if "," in vault or (authorization is not None and "," in authorization):
        # Repeated fields, joined: no token has a comma in it.
        raise _ambiguous()
    if passthrough:
        vault = ""
    if authorization is None:
        return (_Scheme.VAULT, vault) if vault else None
    name, _, token = authorization.partition(" ")
    token = token.lstrip(" ")
    if vault and vault != token:
        raise _ambiguous()
    scheme = _SCHEMES.get(name.lower())
    if scheme is None or not token:
        raise Refused(Code.TOKEN_MISSING, "the Authorization header holds no access token")
    return scheme, token


_is_token: Final = re.compile(r"[!-+\--~]{1,4096}").fullmatch
"""Printable, without commas, which join repeated fields."""

_SCHEMES: Final = {"dpop": _Scheme.DPOP, "bearer": _Scheme.BEARER}


def _ambiguous() -> Refused:
    return Refused(Code.AMBIGUOUS_CREDENTIALS, "the request holds two different credentials")


def _claimed_binding(token: AccessToken, scheme: _Scheme, has_proof: bool) -> Binding:
    """The binding that the token asks for, still to be proven, where the way it was presented fits.

    Raises:
        Refused: BINDING_MISMATCH. A bound token never passes as a Bearer token (RFC 9449, section 7.2), an unbound one
            never with a proof, which proves nothing about it.
    """
    confirmation = token.confirmation
    jkt, x5t = confirmation.jkt, confirmation.x5t_s256
    if confirmation.unknown:
        raise _mismatch("the access token is bound in a way that cannot be checked here")
    if jkt is None:
        if has_proof:
            raise _mismatch("the access token is not bound to a DPoP key")
        if x5t is None:
            return Binding()
        if scheme is _Scheme.DPOP:
            raise _mismatch("the access token is bound to a client certificate, not to a DPoP key")
        return Binding(BindingKind.MTLS, x5t)
    if scheme is _Scheme.BEARER:
        raise _mismatch("the access token is bound to a DPoP key: it is not a Bearer token")
    if not has_proof:
        raise _mismatch("the access token is bound to a DPoP key, and there is no proof")
    return Binding(BindingKind.DPOP, jkt) if x5t is None else Binding(BindingKind.DPOP_MTLS, f"{jkt}+{x5t}")


def _nonces_of(shared: SharedReplays) -> SharedNonces:
    def secret() -> bytes | None:
        return shared.generation.secret if shared.generation is not None else None

    return SharedNonces(secret, shared.server_time)


def _replayed_proof() -> Refused:
    metrics.REPLAYS.labels(PROOF).inc()
    return Refused(Code.PROOF_REPLAYED, "the DPoP proof was used before")


def _replayed_token() -> Refused:
    metrics.REPLAYS.labels(TOKEN).inc()
    return Refused(Code.TOKEN_REPLAYED, "the access token was used before")


def _mismatch(message: str) -> Refused:
    return Refused(Code.BINDING_MISMATCH, message)


def _check_jti(token: AccessToken, use: TokenUse) -> None:
    if use != "off" and not token.jti:
        raise Refused(Code.TOKEN_INVALID, "the access token needs a jti here")


def _caller(
    token: AccessToken, binding: Binding, proof_jti: str, credential: str, attributes: tuple[tuple[str, str], ...] = ()
) -> Caller:
    return Caller(
        subject=token.subject,
        issuer=token.issuer,
        client_id=token.client_id,
        act=token.act,
        attributes=token.attributes + attributes,
        scopes=token.scopes,
        audience=token.audience,
        acr=token.acr,
        amr=token.amr,
        auth_time=token.auth_time,
        token_jti=token.jti,
        issued_at=token.issued_at,
        expires_at=int(token.expires_at),
        binding=binding,
        proof_jti=proof_jti,
        workflow_run_id=token.workflow_run_id,
        node_id=token.node_id,
        system_id=token.system_id,
        token=Credential(credential),
    )
