"""The reference's pages on what is asked: headers in both directions, and every operation of every engine."""

from __future__ import annotations

from sidecar.surface.engines import ENGINES
from sidecar.surface.headers import HEADERS, UNKNOWN
from sidecar.surface.table import MOUNT, Row
from sidecar.upstream.headers import RELEASED, SENT


def headers() -> str:
    """The page of all headers, in both directions."""
    lines = [
        "# Headers",
        "",
        "Written from `sidecar/surface/headers.py` and `sidecar/upstream/headers.py` by `make docs`. No header of a",
        "caller's reaches OpenBao, and of OpenBao's answer only those below reach the caller; what is named nowhere",
        "here passes in neither direction.",
        "",
        "## From the caller",
        "",
        "| header | is | because |",
        "|---|---|---|",
    ]
    lines += [f"| `{_spelt(name)}` | {each.done} | {each.why} |" for name, each in HEADERS.items()]
    lines += [
        f"| other `{_spelt(prefix)}*` | refused | what it would have meant is not known here |" for prefix in UNKNOWN
    ]
    lines += [
        "",
        "Refused is 403 `OPERATION_FORBIDDEN`. `X-Vault-Inline-Auth-*`, which log somebody in first, are among the",
        "others. Beside these `Authorization`, `DPoP`, `Host` and `Origin` are read to know the caller, `Content-Type`",
        "and `Content-Encoding` to read the body, `Content-Length`, `Transfer-Encoding`, `Connection` and `Expect` to",
        "frame it, `X-Correlation-ID` and `traceparent` for the record; none of them may stand twice.",
        "",
        "## To OpenBao",
        "",
        "| header | says |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {says} |" for name, says in SENT.items()]
    lines += ["", "## From OpenBao to the caller", "", "| header | says |", "|---|---|"]
    lines += [f"| `{name}` | {says} |" for name, says in RELEASED.items()]
    lines += [
        "",
        "The sidecar's own beside them: `Content-Type`, `Content-Length` or `Transfer-Encoding`, `Date`,",
        "`Cache-Control: no-store`, `X-Correlation-ID`, `Connection`; `DPoP-Nonce`, `WWW-Authenticate` and",
        "`Retry-After` where it has something to ask for.",
    ]
    return "\n".join(lines) + "\n"


def _spelt(name: str) -> str:
    """A header's name as it is written."""
    capitals = {"ttl": "TTL", "mfa": "MFA", "http": "HTTP"}
    return "-".join(capitals.get(word, word.capitalize()) for word in name.split("-"))


_ORDER = ("kv2", "kv1", "transit", "pki", "database")


def operations() -> str:
    """The page of all operations: every row of every engine's table."""
    lines = [
        "# Operations",
        "",
        "Written from `sidecar/surface/engines/` by `make docs`. What no row here names is 403",
        "`OPERATION_FORBIDDEN`, and every engine without a table 400 `UNSUPPORTED_ENGINE`",
        "([add one](../how-to/add-an-engine.md)). Paths stand below the mount: `{key}` is one segment, `{path...}`",
        "one or more, `{folder...}` none or more. POST and PUT are one; `LIST` is also `GET` with `?list=true`.",
        "A mutation's intent is recorded before it is forwarded.",
        "",
    ]
    for engine in sorted(ENGINES, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)):
        lines += [
            f"## {engine}",
            "",
            "| operation | purpose | method and path | URI | query | body |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_operation_row(row) for row in ENGINES[engine].rows]
        lines.append("")
    return "\n".join(lines)


def _operation_row(row: Row) -> str:
    paths = "<br>".join(f"`{row.verb} {shape}`" for shape in row.shapes)
    uri = "the mount" if row.uri == MOUNT else f"`{row.uri}`" if row.uri else "the path"
    query = ", ".join(f"`{name}`" for name in row.query)
    if row.body is None:
        body = ""
    elif row.body.fields is None:
        body = "any object"
    else:
        body = ", ".join(f"**`{n}`**" if n in row.body.required else f"`{n}`" for n in row.body.fields) or "empty"
    purpose = f"`{row.purpose}`{', a mutation' if row.mutation else ''}"
    return f"| `{row.operation}` | {purpose} | {paths} | {uri} | {query} | {body} |"
