"""Several operations in one request: decided in one question, carried out one after the other, answered each."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from sidecar.errors import Code, Refused
from sidecar.secrets.changes import Changes, check_unversioned, check_whole, to_value
from sidecar.secrets.desk import Desk, Held, Reply, Want, repeat_all
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets import bodies
from sidecar.surface.secrets.operations import Act

Operation = bodies.BulkSet | bodies.BulkDelete | bodies.BulkUndelete | bodies.BulkDestroy | bodies.BulkRotate


class BulkRequests:
    """`POST /api/secrets/bulk`."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    async def answer(self, desk: Desk, body: bodies.Bulk) -> Reply:
        """Carries out what is permitted; each failure is its own."""
        wanted: list[Want | Refused] = [_want(desk, each) for each in body.operations]
        asked = [want for want in wanted if isinstance(want, Want)]
        obtained = iter(await desk.obtain(asked))
        held = [next(obtained) if isinstance(want, Want) else want for want in wanted]
        results: list[dict[str, Any]] = []
        failed = False
        try:
            for each, want, permit in zip(body.operations, wanted, held, strict=True):
                if failed and not body.continueOnError:
                    results.append({"op": each.op, "uri": each.uri, "status": 424, "error": _skipped()})
                    continue
                try:
                    if isinstance(want, Refused) or isinstance(permit, Refused):
                        raise want if isinstance(want, Refused) else permit  # type: ignore[misc] # one of them is
                    status, done = await self._carry_out(desk, each, want.uri, permit)
                    results.append({"op": each.op, "uri": str(want.uri), "status": status, **done})
                except Refused as refused:
                    failed = True
                    uri = each.uri if isinstance(want, Refused) else str(want.uri)
                    said = await desk.note_refused(refused)
                    results.append({"op": each.op, "uri": uri, "status": said.status, "error": error_of(said)})
        finally:
            for permit in held:
                if not isinstance(permit, Refused):
                    permit.give_back()  # counts only where it was not used
        return Reply(200, {"results": results})

    async def again(self, desk: Desk, body: bodies.Bulk, reply: Reply) -> Reply:
        """An earlier answer once more: what may not be had any more is refused in its place."""
        wanted = [_want(desk, each) for each in body.operations]
        obtained = iter(await desk.obtain([want for want in wanted if isinstance(want, Want)]))
        results = [dict(result) for result in reply.body["results"]]
        permits: list[Held] = []
        for want, result in zip(wanted, results, strict=True):
            permit = next(obtained) if isinstance(want, Want) else want
            if "error" in result:
                if not isinstance(permit, Refused):
                    permit.give_back()
            elif not isinstance(permit, Refused):
                permits.append(permit)
            else:
                named = {"op": result["op"], "uri": result["uri"]}
                refused = await desk.note_refused(permit)
                result.clear()
                result.update(named, status=refused.status, error=error_of(refused))
        await repeat_all(permits)
        return Reply(reply.status, {"results": results})

    async def _carry_out(self, desk: Desk, each: Operation, uri: SecretUri, held: Held) -> tuple[int, dict[str, Any]]:
        changes = self._changes
        match each:
            case bodies.BulkSet():
                made = to_value(uri, each.value)
                changed = await held.use(lambda work, at: changes.put(desk, work, at, uri, made, each.cas))
                return 201 if changed.created else 200, {"version": changed.version}
            case bodies.BulkRotate():
                rotated = await changes.rotate_held(desk, held, uri, each, None)
                return 200, {name: value for name, value in rotated.body.items() if name != "uri"}
            case bodies.BulkDelete():
                await held.use(lambda work, at: changes.take_away(work, at, uri))
                return 200, {"deleted": True, "destroyed": False}
            case bodies.BulkUndelete():
                await held.use(lambda work, at: at.undelete(work, uri, each.versions))
                return 200, {"versions": each.versions}
            case bodies.BulkDestroy():
                versions = each.versions
                if versions is None:
                    await held.use(lambda work, at: at.delete_all(work, uri))
                    return 200, {"deleted": True, "destroyed": True}
                await held.use(lambda work, at: at.destroy(work, uri, versions))
                return 200, {"versions": versions}


def _want(desk: Desk, each: Operation) -> Want | Refused:
    """What one operation needs, as far as it can be read."""
    try:
        uri = desk.uri(each.uri)
        match each:
            case bodies.BulkSet():
                check_unversioned(uri)
                to_value(uri, each.value)
                return Want(Act.WRITE, uri)
            case bodies.BulkRotate():
                return Changes.wanted_for_rotation(uri, each)
            case bodies.BulkDelete():
                check_unversioned(uri)
                return Want(Act.DELETE, uri)
            case bodies.BulkUndelete():
                check_whole(uri)
                return Want(Act.UNDELETE, uri)
            case bodies.BulkDestroy():
                check_whole(uri)
                return Want(Act.DELETE_ALL if each.versions is None else Act.DESTROY, uri)
    except Refused as refused:
        return refused


def error_of(refused: Refused) -> dict[str, Any]:
    """An error as it stands in a result."""
    return {"error": HTTPStatus(refused.status).phrase, "code": refused.code, "message": refused.message}


def _skipped() -> dict[str, Any]:
    return {"error": HTTPStatus(424).phrase, "code": Code.MALFORMED_REQUEST, "message": "not tried after a failure"}
