"""The scenario by hvac."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable
from typing import Any

import hvac
import requests
from hvac.exceptions import VaultError


def run(url: str, token: str, odd: str) -> list[dict[str, Any]]:
    """What each step came to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what hvac's own `patch` leaves to a default
        return _run(url, token, odd)


def _run(url: str, token: str, odd: str) -> list[dict[str, Any]]:
    session = requests.Session()
    session.trust_env = False
    client = hvac.Client(url=url, token=token, session=session)
    kv2, kv1, transit = client.secrets.kv.v2, client.secrets.kv.v1, client.secrets.transit
    path, plain = "clients/hvac/one", base64.b64encode(b"plain").decode()
    outcomes: list[dict[str, Any]] = []

    def step(name: str, do: Callable[[], Any]) -> None:
        try:
            data = do()
        except VaultError as error:
            answered = error.json or {"text": error.text}
            outcomes.append({"step": name, "ok": False, "status": type(error).__name__, "data": answered})
        else:
            if isinstance(data, requests.Response):
                data = data.json() if data.content else data.status_code
            outcomes.append({"step": name, "ok": True, "data": data})

    def put(value: str, **options: Any) -> Any:
        return kv2.create_or_update_secret(path, secret={"v": value}, **options)

    step("is_authenticated", client.is_authenticated)
    step("lookup_self", client.auth.token.lookup_self)
    step("preflight", lambda: client.read(f"sys/internal/ui/mounts/secret/{path}"))
    step("health", lambda: client.sys.read_health_status(method="GET"))
    step("seal_status", client.sys.read_seal_status)
    step("leader", client.sys.read_leader_status)

    step("kv2_put", lambda: put("one"))
    step("kv2_put_again", lambda: put("two", cas=1))
    step("kv2_put_stale", lambda: put("three", cas=1))
    step("kv2_get", lambda: kv2.read_secret_version(path, raise_on_deleted_version=True))
    step("kv2_get_version", lambda: kv2.read_secret_version(path, version=1, raise_on_deleted_version=True))
    step("kv2_patch", lambda: kv2.patch(path, {"w": "more"}))
    step("kv2_subkeys", lambda: client.read(f"secret/subkeys/{path}"))
    step("kv2_list", lambda: kv2.list_secrets("clients/hvac"))
    step("kv2_list_root", lambda: "clients/" in kv2.list_secrets("")["data"]["keys"])
    step("kv2_metadata_put", lambda: kv2.update_metadata(path, max_versions=9, custom_metadata={"team": "x"}))
    step("kv2_metadata_get", lambda: kv2.read_secret_metadata(path))
    step("kv2_delete", lambda: kv2.delete_latest_version_of_secret(path))
    step("kv2_get_deleted", lambda: kv2.read_secret_version(path, raise_on_deleted_version=True))
    step("kv2_undelete", lambda: kv2.undelete_secret_versions(path, [3]))
    step("kv2_delete_versions", lambda: kv2.delete_secret_versions(path, [1, 2]))
    step("kv2_destroy", lambda: kv2.destroy_secret_versions(path, [2]))
    step("kv2_versions", lambda: kv2.read_secret_metadata(path))
    step("kv2_odd_put", lambda: kv2.create_or_update_secret(f"clients/hvac/{odd}", secret={"v": "odd"}))
    step("kv2_odd_get", lambda: kv2.read_secret_version(f"clients/hvac/{odd}", raise_on_deleted_version=True))
    step("kv2_odd_list", lambda: kv2.list_secrets("clients/hvac"))
    step("kv2_missing", lambda: kv2.read_secret_version("clients/hvac/none", raise_on_deleted_version=True))
    step("kv2_denied", lambda: kv2.read_secret_version("denied/x", raise_on_deleted_version=True))
    step("kv2_delete_all", lambda: kv2.delete_metadata_and_all_versions(f"clients/hvac/{odd}"))
    step("kv2_delete_all_too", lambda: kv2.delete_metadata_and_all_versions(path))

    step("kv1_put", lambda: kv1.create_or_update_secret(path, secret={"v": "one"}, mount_point="kv1"))
    step("kv1_put_again", lambda: client.write_data(f"kv1/{path}", data={"v": "two"}))
    step("kv1_get", lambda: kv1.read_secret(path, mount_point="kv1"))
    step("kv1_list", lambda: kv1.list_secrets("clients/hvac", mount_point="kv1"))
    step("kv1_delete", lambda: kv1.delete_secret(path, mount_point="kv1"))
    step("kv1_missing", lambda: kv1.read_secret(path, mount_point="kv1"))

    key = "clients-hvac"
    step("transit_create", lambda: transit.create_key(key, key_type="aes256-gcm96"))

    def round_trip() -> Any:
        ciphertext = transit.encrypt_data(key, plaintext=plain)["data"]["ciphertext"]
        ciphertext = transit.rewrap_data(key, ciphertext=ciphertext)["data"]["ciphertext"]
        return transit.decrypt_data(key, ciphertext=ciphertext)

    step("transit_round_trip", round_trip)
    step("transit_batch", lambda: transit.generate_hmac(key, hash_input=plain, algorithm="sha2-512"))
    step("transit_random", lambda: len(transit.generate_random_bytes(n_bytes=8)["data"]["random_bytes"]))
    step("transit_hash", lambda: transit.hash_data(hash_input=plain, algorithm="sha2-256"))
    step("transit_data_key", lambda: sorted(transit.generate_data_key(key, key_type="wrapped")["data"]))
    step("transit_rotate", lambda: transit.rotate_key(key))
    step("transit_read_key", lambda: transit.read_key(key))
    step("transit_list", transit.list_keys)

    step("foreign_mount", lambda: kv2.read_secret_version("app/db", mount_point="team/kv"))

    def in_namespace() -> Any:
        inner = hvac.Client(url=url, token=token, session=session, namespace="ns1")
        return inner.secrets.kv.v2.create_or_update_secret(path, secret={"v": "in ns1"})

    step("namespace", in_namespace)
    step("wrapped", lambda: client.read("secret/data/app/db", wrap_ttl="60s"))
    step("login", lambda: client.auth.userpass.login("alice", "alice-pass", use_token=False))
    step("renew_self", lambda: client.auth.token.renew_self(increment=60))
    step("revoke_self", client.auth.token.revoke_self)
    session.close()
    return outcomes
