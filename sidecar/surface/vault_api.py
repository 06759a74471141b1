"""The Vault API: one request's head → what is asked, or a refusal. Nothing else is let through.

The way: headers that would change the meaning, `X-Vault-Namespace`, the path (decoded once), the mount (the longest,
whoever's), the verb, and then the engine's table. The rest of a request that needs its body waits in the `Route`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sidecar.door.head import Head
from sidecar.errors import Code, Refused
from sidecar.surface import leases, local_answers
from sidecar.surface.encoding import split_path
from sidecar.surface.engines import ENGINES
from sidecar.surface.headers import check_headers
from sidecar.surface.mounts import MountTable, parse_namespace, unsupported_engine
from sidecar.surface.operation import LocalAnswer, Route
from sidecar.surface.query import split_query, take_list
from sidecar.surface.table import METHODS, Asked, Table, Verb
from sidecar.surface.token_calls import TokenCall, TokenCalls, recognise

_API: Final = "/v1/"


class VaultApi:
    """`/v1/…`. `table` gives the mounts as they are known now; it is asked once for each request."""

    def __init__(
        self,
        table: Callable[[], MountTable],
        engines: Mapping[str, Table] = ENGINES,
        token_calls: TokenCalls = TokenCalls.NONE,
    ) -> None:
        self._table = table
        self._engines = engines
        self._token_calls = token_calls

    @property
    def mounts(self) -> MountTable:
        """The mounts as they are known now."""
        return self._table()

    def token_call(self, head: Head) -> TokenCall | None:
        """The call about the caller's own OpenBao token that this is, where such are served; None for all else.

        Raises `Refused`: as `route` does.
        """
        if self._token_calls is TokenCalls.NONE or not head.path.startswith(f"{_API}auth/"):
            return None
        check_headers(head.headers)
        given = head.headers.get("x-vault-namespace")
        segments, folder = split_path(head.path[len(_API) :])
        if folder:
            return None
        logins = self._token_calls is TokenCalls.AND_LOGINS
        return recognise(head, segments, parse_namespace(given) if given else "", self._table(), logins=logins)

    def route(self, head: Head) -> Route | LocalAnswer:
        """Names the request, as far as that needs no body.

        Raises `Refused`: any code of 400 that speaks of paths, queries, mounts and engines, or OPERATION_FORBIDDEN.
        """
        if not head.path.startswith(_API):
            raise Refused(Code.OPERATION_FORBIDDEN, "only /v1/… and /api/secrets… are served here")
        headers = head.headers
        check_headers(headers)
        given = headers.get("x-vault-namespace")
        namespace = parse_namespace(given) if given else ""
        segments, folder = split_path(head.path[len(_API) :])
        if segments[:2] == leases.ROOT:
            return leases.LeaseRoute(head, segments, folder, namespace, self._table(), self._engines)
        if segments[0] in local_answers.OWNED:
            return local_answers.recognise(head, segments, folder, namespace)
        verb = METHODS.get(head.method)
        if verb is None:
            raise Refused(
                Code.OPERATION_FORBIDDEN, "this method is not served; GET, LIST, POST, PUT, PATCH, DELETE are"
            )
        query = split_query(head.query) if head.query else {}
        if verb is Verb.READ or verb is Verb.LIST:
            verb = Verb.LIST if query and take_list(query) else verb
        mounts = self._table()
        place, depth = mounts.resolve(namespace, segments)
        engine = self._engines.get(place.mount.engine)
        if engine is None:
            raise unsupported_engine()
        return engine.route(Asked(place, mounts.provider, verb, segments[depth:], folder, query, headers))
