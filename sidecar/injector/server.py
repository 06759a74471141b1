"""The webhook's HTTP surface: two paths that take an AdmissionReview and give one back. What is no review is refused
with a 4xx, which an API server takes for a failed call: with `failurePolicy: Fail` nothing comes in by it."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import structlog
from aiohttp import web

from sidecar.injector import metrics
from sidecar.injector.admit import Phase, Rules, admit
from sidecar.injector.refusal import Denied, Malformed
from sidecar.injector.review import Review, allowed, denied, parse_review
from sidecar.ops.health import quiet_faults

PATHS: Final[dict[str, Phase]] = {"/mutate": "mutate", "/validate": "validate"}
READ_SECONDS: Final = 3.0
"""For a whole body; an API server sends it at once."""
WAIT_SECONDS: Final = 6.0
"""For a turn to be read. Both together are less than the 10 seconds for which an API server waits."""
MOST_AT_ONCE: Final = 16
"""Reviews that are read at the same time: with `listen.max_body_mib` the memory that callers can take."""
_JSON: Final = "application/json"
_log = structlog.get_logger(__name__)


def webhook_app(rules: Rules, max_body_bytes: int) -> web.Application:
    """The application of the listener that the API server calls."""

    turns = asyncio.Semaphore(MOST_AT_ONCE)

    def handler(phase: Phase) -> Any:
        async def handle(request: web.Request) -> web.Response:
            started = time.perf_counter()
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await turns.acquire()
            except TimeoutError:
                return _refused(phase, 503, "too many reviews at once")
            try:
                async with asyncio.timeout(READ_SECONDS):
                    review = await _read(request)
            except Malformed as error:
                return _refused(phase, 400, str(error))
            except web.HTTPRequestEntityTooLarge:
                return _refused(phase, 413, f"the body is larger than {max_body_bytes} bytes")
            except web.HTTPUnsupportedMediaType:
                return _refused(phase, 415, f"the body is not {_JSON}")
            except TimeoutError:
                return _refused(phase, 408, "the body did not come in time")
            finally:
                turns.release()
            answer = answer_review(review, rules, phase)
            metrics.SECONDS.labels(phase).observe(time.perf_counter() - started)
            return web.json_response(answer)

        return handle

    app = web.Application(client_max_size=max_body_bytes, middlewares=[quiet_faults])
    for path, phase in PATHS.items():
        app.router.add_post(path, handler(phase))
    return app


async def _read(request: web.Request) -> Review:
    if request.content_type != _JSON or request.headers.get("Content-Encoding"):
        raise web.HTTPUnsupportedMediaType
    return parse_review(await request.read())


def _refused(phase: Phase, status: int, message: str) -> web.Response:
    metrics.ADMISSIONS.labels(phase, "malformed").inc()
    _log.warning("review refused", phase=phase, status=status, reason=message)
    return web.json_response({"error": message}, status=status)


def answer_review(review: Review, rules: Rules, phase: Phase) -> dict[str, Any]:
    """The AdmissionReview that is sent back. Whatever goes wrong, it does not let anything in."""
    try:
        found = admit(review, rules, phase)
    except Denied as error:
        result, answer = "denied", denied(review.uid, str(error))
    except Malformed as error:
        result, answer = "malformed", denied(review.uid, str(error), 400)
    except Exception:  # noqa: BLE001 - a fault of ours keeps the pod out, and is told as such
        _log.exception("a review could not be decided")
        result, answer = "failed", denied(review.uid, "the injector failed; see its log", 500)
    else:
        result = "injected" if found.patch else "unchanged"
        answer = allowed(review.uid, found.patch, found.warnings)
    metrics.ADMISSIONS.labels(phase, result).inc()
    _log.info(
        "review",
        phase=phase,
        result=result,
        operation=review.operation,
        subresource=review.subresource,
        namespace=review.namespace,
        pod=review.name,
        dry_run=review.dry_run,
        reason=answer["response"].get("status", {}).get("message", ""),
    )
    return answer
