"""How the running parts stand, for `/readyz` and the gauges. A part that is not ready takes the pod out of its traffic;
a warning does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from sidecar.ops import metrics
from sidecar.ops.health import Check

if TYPE_CHECKING:
    from sidecar.audit.journal import Journal
    from sidecar.audit.kafka import KafkaShipper
    from sidecar.caller.authenticate import Authenticator
    from sidecar.config_on_disk import ConfigOnDisk
    from sidecar.decision.candidate import Candidate
    from sidecar.decision.cedar import CedarPdp
    from sidecar.decision.decide import Decider
    from sidecar.decision.recording import Recorder
    from sidecar.door.tls import ListenerTls
    from sidecar.leases.book import LeaseBook
    from sidecar.mount_source import MountSource
    from sidecar.resource_attributes import ResourceAttributes
    from sidecar.revocation_feed import RevocationFeed
    from sidecar.secrets.providers.port import Provider
    from sidecar.shared_replays.store import SharedReplays
    from sidecar.upstream.health import UpstreamHealth
    from sidecar.upstream.lease_tokens import LeaseTokens
    from sidecar.upstream.logins import Logins


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """The parts that are looked at; those that the configuration left out are None."""

    is_serving: Callable[[], bool]
    journal: Journal
    logins: Logins
    authenticator: Authenticator
    mounts: MountSource
    decider: Decider
    leases: LeaseBook
    attributes: ResourceAttributes
    stores: Mapping[str, Provider]
    has_openbao: bool
    lease_tokens: LeaseTokens | None
    health: UpstreamHealth | None
    tls: ListenerTls | None
    shipper: KafkaShipper | None
    cedar: CedarPdp | None
    candidate: Candidate | None
    recorder: Recorder | None
    shared: SharedReplays | None
    feed: RevocationFeed | None
    on_disk: ConfigOnDisk | None

    @cached_property
    def checks(self) -> dict[str, Callable[[], Check]]:
        """By the part's name in `/readyz` and in the gauges."""
        checks: dict[str, Callable[[], Check]] = {
            "listener": self._listener,
            "audit": self._audit,
            "keys": self._keys,
            "leases": self._leases,
            "pdp": self._pdp,
        }
        if self.has_openbao:
            checks |= {"upstream": self._upstream, "mounts": self._mounts}
        checks |= {f"provider {scheme}": partial(_provider, store) for scheme, store in self.stores.items()}
        if self.shared is not None:
            shared = self.shared
            checks["replay store"] = lambda: Check(not shared.problem, shared.problem)
        if self.on_disk is not None:
            on_disk = self.on_disk
            checks["configuration"] = lambda: Check(True, warning=on_disk.problem)
        if self.feed is not None:
            feed = self.feed
            checks["revocations"] = lambda: Check(True, warning=feed.warning)
        return checks

    def refresh_gauges(self) -> None:
        """Before each scrape."""
        for name, look in self.checks.items():
            found = look()
            metrics.PART_READY.labels(name).set(found.ready)
            metrics.PART_WARNING.labels(name).set(bool(found.warning))
        metrics.POLICIES_REFUSED.set(bool(self.cedar and self.cedar.problem))
        metrics.MOUNTS_AGE_SECONDS.set(self.mounts.age)
        metrics.CACHE_ENTRIES.labels("leases").set(len(self.leases))
        metrics.CACHE_ENTRIES.labels("attributes").set(len(self.attributes))
        for part in (self.authenticator, self.decider.standing, self.logins):
            for cache, size in part.cache_sizes().items():
                metrics.CACHE_ENTRIES.labels(cache).set(size)

    def _audit(self) -> Check:
        status = self.journal.status()
        warning = self.shipper.status().warning if self.shipper else ""
        return Check(status.healthy, status.message, "; ".join(filter(None, (status.warning, warning))))

    def _upstream(self) -> Check:
        away = self.health.problem if self.health is not None else ""
        ready, problem = self.logins.ready and not away, self.logins.problem
        return Check(ready, "" if ready else "; ".join(filter(None, (away, problem))), problem if ready else "")

    def _keys(self) -> Check:
        problems = "; ".join(f"{issuer}: {what}" for issuer, what in self.authenticator.problems.items())
        ready = self.authenticator.ready
        return Check(ready, "" if ready else problems or "no keys", problems if ready else "")

    def _mounts(self) -> Check:
        known, problem = len(self.mounts.table) > 0, self.mounts.problem
        return Check(known, "" if known else problem, problem if known else "")

    def _pdp(self) -> Check:
        # Live grants go on without it: a pod whose PDP is away is still worth its traffic.
        # So is one whose newest policies were refused: the set in force stays.
        warnings = ["" if self.decider.available else "the PDP does not answer"]
        if self.cedar is not None:
            warnings.append(self.cedar.problem)
        warnings.append(self.candidate.warning if self.candidate is not None else "")
        warnings.append(self.recorder.problem if self.recorder is not None else "")
        return Check(True, warning="; ".join(filter(None, warnings)))

    def _leases(self) -> Check:
        problem = self.lease_tokens.problem if self.lease_tokens else ""
        return Check(True, warning="; ".join(filter(None, (self.leases.warning, problem))))

    def _listener(self) -> Check:
        warning = self.tls.problem if self.tls is not None else ""
        return Check(self.is_serving(), "" if self.is_serving() else "not serving yet, or draining", warning)


def _provider(store: Provider) -> Check:
    return Check(not store.problem, store.problem)
