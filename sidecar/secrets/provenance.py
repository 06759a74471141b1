"""Who made a secret: `owner`, `created_by`, `created_at` among its custom metadata, stamped by the first write or
rotation that finds none.

Best effort: the write stands whatever becomes of the stamp. A failure is recorded and counted. What is there already
is never changed, and neither is any other label.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import structlog
from cachetools import LRUCache

from sidecar.clock import Clock
from sidecar.errors import Refused
from sidecar.ops import metrics
from sidecar.secrets.desk import Desk
from sidecar.secrets.providers.port import Conflict, Missing, Provider, Work
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.operations import Act

OWNER: Final = "owner"
CREATED_BY: Final = "created_by"
CREATED_AT: Final = "created_at"
LONGEST: Final = 512
"""Characters of a label's value that OpenBao takes."""
_REMEMBERED: Final = 10_000

_log = structlog.get_logger(__name__)


class Provenance:
    """Stamps secrets. Remembers which it has seen stamped, so that their metadata is not read at each write."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stamped: LRUCache[str, bool] = LRUCache(_REMEMBERED)

    async def stamp(
        self, desk: Desk, work: Work, provider: Provider, uri: SecretUri, *, version: int | None = None
    ) -> None:
        """Stamps the secret that was just written in this version, where it has no maker yet. Never raises `Refused`.

        A first version is a new secret, whatever was there before: its metadata went with the old one.
        """
        if Act.METADATA not in provider.can:
            return
        secret = uri.without_fragment().without_version()
        name = str(secret)
        if name in self._stamped and version != 1:
            return
        try:
            labels = (await provider.metadata(work, secret)).labels
            if not labels.get(CREATED_BY):
                now = datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="seconds")
                made = {
                    OWNER: desk.caller.subject[:LONGEST],
                    CREATED_BY: desk.caller.subject[:LONGEST],
                    CREATED_AT: now.replace("+00:00", "Z"),
                }
                await provider.label(work, secret, {key: value for key, value in made.items() if not labels.get(key)})
            self._stamped[name] = True
        except (Refused, Missing, Conflict) as error:
            reason = error.detail or error.message if isinstance(error, Refused) else type(error).__name__
            metrics.PROVENANCE_FAILURES.inc()
            _log.warning("a secret was not stamped with its maker", reason=reason)
            await desk.note_unstamped(secret)
