"""The scenario by the `bao` CLI: each step is one command."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from sidecar.dev.openbao import find_binary

_PATH: Final = "clients/bao/one"


def run(url: str, token: str, odd: str, home: Path) -> list[dict[str, Any]]:
    """What each step came to. `home` is an empty folder, so that no token helper of the user's has a say."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BAO_", "VAULT_"))} | {
        "BAO_ADDR": url,
        "BAO_TOKEN": token,
        "BAO_FORMAT": "json",
        "HOME": str(home),
    }
    outcomes: list[dict[str, Any]] = []

    def step(name: str, *words: str, give: str | None = None, **variables: str) -> Any:
        done = subprocess.run(
            [str(find_binary()), *words],
            env=environment | variables,
            input=give,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = done.stdout if done.returncode == 0 else done.stderr
        try:
            data = json.loads(said)
        except ValueError:
            data = said
        outcomes.append({"step": name, "ok": done.returncode == 0, "status": done.returncode, "data": data})
        return data

    step("lookup_self", "token", "lookup")
    step("preflight", "read", f"sys/internal/ui/mounts/secret/{_PATH}")
    step("health", "read", "sys/health")
    step("seal_status", "status")
    step("leader", "read", "sys/leader")

    step("kv2_put", "kv", "put", f"secret/{_PATH}", "v=one")
    step("kv2_put_again", "kv", "put", "-cas=1", "-mount=secret", _PATH, "-", give='{"v": "two"}')
    step("kv2_put_stale", "kv", "put", "-cas=1", "-mount=secret", _PATH, "v=three")
    step("kv2_get", "kv", "get", f"secret/{_PATH}")
    step("kv2_get_version", "kv", "get", "-version=1", "-mount=secret", _PATH)
    step("kv2_patch", "kv", "patch", f"secret/{_PATH}", "w=more")
    step("kv2_patch_by_reading", "kv", "patch", "-method=rw", f"secret/{_PATH}", "x=yet more")
    step("kv2_subkeys", "read", f"secret/subkeys/{_PATH}")
    step("kv2_list", "kv", "list", "secret/clients/bao")
    step("kv2_list_slash", "list", "secret/metadata/clients/bao/")
    step("kv2_metadata_put", "kv", "metadata", "put", "-custom-metadata=team=x", "-max-versions=9", f"secret/{_PATH}")
    step("kv2_metadata_patch", "kv", "metadata", "patch", "-custom-metadata=stage=y", f"secret/{_PATH}")
    step("kv2_metadata_get", "kv", "metadata", "get", f"secret/{_PATH}")
    step("kv2_delete", "kv", "delete", f"secret/{_PATH}")
    step("kv2_get_deleted", "kv", "get", f"secret/{_PATH}")
    step("kv2_undelete", "kv", "undelete", "-versions=4", f"secret/{_PATH}")
    step("kv2_rollback", "kv", "rollback", "-version=1", f"secret/{_PATH}")
    step("kv2_delete_versions", "kv", "delete", "-versions=1,2", f"secret/{_PATH}")
    step("kv2_destroy", "kv", "destroy", "-versions=2", f"secret/{_PATH}")
    step("kv2_versions", "kv", "metadata", "get", "-mount=secret", _PATH)
    step("kv2_odd_put", "kv", "put", "-mount=secret", f"clients/bao/{odd}", "v=odd")
    step("kv2_odd_get", "kv", "get", "-mount=secret", f"clients/bao/{odd}")
    step("kv2_odd_list", "kv", "list", "-mount=secret", "clients/bao/")
    step("kv2_missing", "kv", "get", "secret/clients/bao/none")
    step("kv2_denied", "kv", "get", "secret/denied/x")
    step("kv2_delete_all", "kv", "metadata", "delete", "-mount=secret", f"clients/bao/{odd}")
    step("kv2_delete_all_too", "kv", "metadata", "delete", f"secret/{_PATH}")

    step("kv1_put", "kv", "put", f"kv1/{_PATH}", "v=one")
    step("kv1_get", "kv", "get", f"kv1/{_PATH}")
    step("kv1_list", "kv", "list", "kv1/clients/bao")
    step("kv1_delete", "kv", "delete", f"kv1/{_PATH}")
    step("kv1_missing", "kv", "get", f"kv1/{_PATH}")

    step("transit_create", "write", "-f", "transit/keys/clients-bao")
    sealed = step("transit_encrypt", "write", "transit/encrypt/clients-bao", "plaintext=cGxhaW4=")
    ciphertext = sealed["data"]["ciphertext"] if isinstance(sealed, dict) else "none"
    step("transit_round_trip", "write", "transit/decrypt/clients-bao", f"ciphertext={ciphertext}")
    batch = '{"batch_input": [{"input": "cGxhaW4="}, {"input": "cGxhaW4="}]}'
    step("transit_batch", "write", "transit/hmac/clients-bao", "-", give=batch)
    step("transit_rotate", "write", "-f", "transit/keys/clients-bao/rotate")
    step("transit_read_key", "read", "transit/keys/clients-bao")
    step("transit_list", "list", "transit/keys")

    step("foreign_mount", "kv", "get", "team/kv/app/db")
    step("namespace", "kv", "put", f"secret/{_PATH}", "v=in ns1", BAO_NAMESPACE="ns1")
    step("wrapped", "read", "-wrap-ttl=60s", "secret/data/app/db")
    step("login", "write", "auth/userpass/login/alice", "password=alice-pass")
    step("renew_self", "token", "renew")
    step("revoke_self", "token", "revoke", "-self")
    return outcomes
