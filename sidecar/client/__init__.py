"""Helps an application sign DPoP proofs (RFC 9449). Depends on `cryptography` and nothing of the server's parts.

`sidecar.client.requests` (also for hvac), `sidecar.client.httpx` and `sidecar.client.aiohttp` plug a key into those
clients; each needs only its own.
"""

from sidecar.client.key import DPoPKey

__all__ = ["DPoPKey"]
