"""What the store itself must be, and the secret of its nonces, which lives and dies with its memory.

The secret is stored under a name made of the server's `run_id` and `master_replid`. A server that restarted, or that
was promoted in a failover, has another name, so another secret, even where it read older marks back from its disk; one
that was flushed has no secret. Either way every nonce handed out before is worthless: what may have been forgotten
cannot be replayed.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import blake2b

from sidecar.shared_replays.resp import ProtocolError

KEPT_SECONDS = 86_400
"""A secret that no sidecar has asked for in a day goes."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One secret of the nonces and the server's time (seconds since the epoch) at which it was made."""

    secret: bytes
    born: float

    @classmethod
    def new(cls, server_time: float) -> Generation:
        """A secret that nobody knows yet."""
        return cls(secrets.token_bytes(32), server_time)

    @classmethod
    def read(cls, stored: bytes) -> Generation:
        """Raises ProtocolError where somebody else wrote it."""
        version, _, rest = stored.partition(b":")
        born, _, secret = rest.partition(b":")
        if version != b"v1" or not born.isdigit() or len(born) > 16 or len(secret) != 64:
            raise ProtocolError("something else is stored under the name of the nonces' secret")
        try:
            return cls(bytes.fromhex(secret.decode("ascii")), int(born) / 1e6)
        except ValueError:
            raise ProtocolError("the nonces' secret cannot be read") from None

    def stored(self) -> bytes:
        """As it is stored, and read by `read`."""
        return b"v1:%d:%b" % (int(self.born * 1e6), self.secret.hex().encode())


class Unfit(Exception):  # noqa: N818 - a state of the store
    """The server answers, and cannot keep what it is given."""


def identity_of(info: bytes) -> str:
    """The name of the server's memory as INFO tells it.

    Raises:
        Unfit: a server that evicts, a replica, one that is too old.
    """
    fields: dict[str, str] = {}
    for line in info.decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields[name] = value.strip()
    if fields.get("role") != "master":
        raise Unfit("it is a replica: give the primary's address")
    if fields.get("maxmemory_policy") != "noeviction":
        raise Unfit("it forgets under pressure: set its maxmemory-policy to noeviction")
    major = fields.get("redis_version", "").partition(".")[0]
    if not major.isdigit() or int(major) < 7:
        raise Unfit("it is older than Valkey 7.2 or Redis 7.0")
    run_id, replid = fields.get("run_id", ""), fields.get("master_replid", "")
    if not run_id or not replid:
        raise Unfit("INFO tells no run_id and master_replid")
    return blake2b(f"{run_id}|{replid}".encode(), digest_size=16).hexdigest()


def time_of(reply: object) -> float:
    """Seconds since the epoch, from the reply to TIME. Raises ProtocolError."""
    if not isinstance(reply, list) or len(reply) != 2 or not all(part.isdigit() and len(part) < 16 for part in reply):
        raise ProtocolError("no answer to TIME")
    return int(reply[0]) + int(reply[1]) / 1e6
