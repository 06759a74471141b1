"""From a request to an endpoint to its answer: one line an endpoint."""

from __future__ import annotations

from sidecar.clock import Clock
from sidecar.errors import Code, Refused
from sidecar.secrets import views
from sidecar.secrets.bulk import BulkRequests
from sidecar.secrets.changes import Changes
from sidecar.secrets.cursors import Cursors
from sidecar.secrets.desk import Desk, Reply, obtain_all, repeat_all
from sidecar.secrets.idempotency import Idempotency
from sidecar.secrets.listings import Listings
from sidecar.secrets.provenance import Provenance
from sidecar.secrets.transfers import Transfers
from sidecar.surface.secrets import bodies
from sidecar.surface.secrets.endpoints import Call, Endpoint


class SecretsApi:
    """The endpoints that reach secrets."""

    def __init__(self, clock: Clock, cursors: Cursors) -> None:
        self._listings = Listings(cursors)
        self._changes = Changes(Provenance(clock))
        self._bulk = BulkRequests(self._changes)
        self._transfers = Transfers(self._changes)
        self._idempotency = Idempotency(clock)

    async def answer(self, call: Call, body: bytes, desk: Desk) -> Reply:
        """Carries a request out. Raises `Refused`."""
        call.check_body(body)
        return await self._idempotency.once(
            call,
            desk.caller,
            body,
            lambda: self._answer(call, body, desk),
            lambda reply: self._again(call, body, desk, reply),
        )

    async def _again(self, call: Call, body: bytes, desk: Desk, reply: Reply) -> Reply:
        """An earlier answer once more, to who may have it now: permitted as a fresh request is, and not carried out."""
        match call.endpoint:
            case Endpoint.BULK:
                return await self._bulk.again(desk, bodies.read(bodies.Bulk, body), reply)
            case Endpoint.ROTATE:
                rotate = bodies.read(bodies.Rotate, body)
                permits = await obtain_all(desk, [Changes.wanted_for_rotation(desk.uri(rotate.uri), rotate)])
            case _:
                transfer = bodies.read(bodies.Transfer, body)
                permits = await Transfers.permits(desk, transfer, move=call.endpoint is Endpoint.MOVE)
        await repeat_all(permits)
        return reply

    async def _answer(self, call: Call, body: bytes, desk: Desk) -> Reply:
        query, changes = call.query, self._changes
        match call.endpoint:
            case Endpoint.WRITE:
                write = bodies.read(bodies.Write, body)
                return await changes.write(desk, desk.uri(write.uri), write.value, _cas(call, write.cas))
            case Endpoint.VALUE:
                return await views.read_value(desk, desk.uri(query["uri"]), query.get("version"))
            case Endpoint.YAML:
                return await views.read_yaml(desk, desk.uri(query["uri"]))
            case Endpoint.DELETE:
                destroy = query.get("destroy") == "true"
                return await changes.delete(desk, desk.uri(query["uri"]), destroy=destroy)
            case Endpoint.ROTATE:
                rotate = bodies.read(bodies.Rotate, body)
                return await changes.rotate(desk, desk.uri(rotate.uri), rotate, call.cas)
            case Endpoint.LIST | Endpoint.SEARCH:
                return await self._listings.answer(call, desk)
            case Endpoint.KEYS:
                return await views.list_keys(desk, desk.uri(query["uri"]))
            case Endpoint.DETAIL:
                return await views.read_metadata(desk, desk.uri(query["uri"]))
            case Endpoint.VERSIONS:
                return await views.list_versions(desk, desk.uri(query["uri"]))
            case Endpoint.UNDELETE:
                some = bodies.read(bodies.SomeVersions, body)
                return await changes.undelete(desk, desk.uri(some.uri), some.versions)
            case Endpoint.DESTROY:
                some = bodies.read(bodies.SomeVersions, body)
                return await changes.destroy(desk, desk.uri(some.uri), some.versions)
            case Endpoint.OWNER:
                owner = bodies.read(bodies.Owner, body)
                return await changes.set_owner(desk, desk.uri(owner.uri), owner.owner)
            case Endpoint.BULK:
                return await self._bulk.answer(desk, bodies.read(bodies.Bulk, body))
            case Endpoint.COPY | Endpoint.MOVE:
                moving = call.endpoint is Endpoint.MOVE
                transfer = bodies.read(bodies.Transfer, body)
                return await self._transfers.transfer(desk, transfer, move=moving, resumed=bool(call.idempotency_key))
            case _:
                raise Refused(Code.OPERATION_FORBIDDEN, "this endpoint is answered elsewhere")


def _cas(call: Call, given: int | None) -> int | None:
    """The one version that a write was made for, whichever way it was named."""
    if call.cas is not None and given is not None and call.cas != given:
        raise Refused(Code.MALFORMED_REQUEST, "If-Match and cas name two versions")
    return given if call.cas is None else call.cas
