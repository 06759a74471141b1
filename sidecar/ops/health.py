"""The operations listener: `/healthz` (the process lives), `/readyz` (each dependency, truthfully), `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sidecar.ops.logs import mask


@dataclass(frozen=True, slots=True)
class Check:
    """One dependency. `warning` says what an operator should know while it is still ready."""

    ready: bool
    message: str = ""
    warning: str = ""


Checks = Mapping[str, Callable[[], Check]]

_log = structlog.get_logger(__name__)


@web.middleware
async def quiet_faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A fault of ours is told to the log. aiohttp would answer it with the traceback, messages and all, where asyncio
    is in its debug mode (PYTHONASYNCIODEBUG, PYTHONDEVMODE)."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception:  # noqa: BLE001 - the last resort of this listener
        _log.exception("internal fault")
        return _json(500, {"error": "internal fault; see the log"})


def operations_app(checks: Checks, registry: CollectorRegistry, before_scrape: Callable[[], None]) -> web.Application:
    """The aiohttp application of the operations listener. `before_scrape` refreshes gauges that are read, not set."""

    async def healthz(_request: web.Request) -> web.Response:
        return _json(200, {"status": "alive"})

    async def readyz(_request: web.Request) -> web.Response:
        results = {name: check() for name, check in checks.items()}
        ready = all(result.ready for result in results.values())
        body: dict[str, object] = {
            "status": "ready" if ready else "not ready",
            "checks": {
                name: {"ready": result.ready}
                | ({"message": mask(result.message)} if result.message else {})
                | ({"warning": mask(result.warning)} if result.warning else {})
                for name, result in results.items()
            },
        }
        return _json(200 if ready else 503, body)

    async def metrics(request: web.Request) -> web.Response:
        before_scrape()
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (ValueError, TypeError):  # an Accept that its library cannot read
            encode, content_type = choose_encoder("")
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    app = web.Application(middlewares=[quiet_faults])
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def _json(status: int, body: Mapping[str, object]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")
