"""One closed table per secrets engine. An engine that is not here is refused: UNSUPPORTED_ENGINE.

A further engine is one module with a `TABLE`, named here (docs/how-to/add-an-engine.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.surface.engines import database, kv1, kv2, pki, transit
from sidecar.surface.table import Table

ENGINES: Final[Mapping[str, Table]] = {
    module.TABLE.engine: module.TABLE for module in (kv2, kv1, transit, pki, database)
}
"""Each engine's table, by the engine's name in configuration and canonical URIs."""
