"""Rules of where is served, for whom, and what stands behind: listeners, OpenBao, mounts, the tenant."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from sidecar.config.checks.places import check_address, check_files, check_node
from sidecar.config.private_file import NotPrivateError, read_private
from sidecar.config.problems import Problem
from sidecar.config.salts import salts_in
from sidecar.config.tree import Config

MAX_YAML_BYTES: Final = 256 * 1024
"""Of `yaml_provider.path`: a second of reading, in pure Python."""


def check_listen(config: Config) -> list[Problem]:
    """The listeners and their certificates."""
    listen, tls = config.listen, config.listen.tls
    found = check_address("listen.address", listen.address) + check_address("ops.address", config.ops.address)
    if (tls.cert_file is None) != (tls.key_file is None):
        found.append(Problem("listen.tls", "cert_file and key_file go together", "give both or neither"))
    if tls.client_cert != "none" and (tls.cert_file is None or tls.client_ca_file is None):
        found.append(
            Problem("listen.tls.client_cert", "needs cert_file, key_file and client_ca_file", "give all three")
        )
    if tls.client_crl_file is not None and tls.client_cert == "none":
        found.append(Problem("listen.tls.client_crl_file", "no client certificate is asked for", "set client_cert"))
    for url in listen.public_urls:
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        plain = parts.hostname and parts.username is None and parts.path in ("", "/") and not parts.query
        if parts.scheme not in ("http", "https") or not plain:
            found.append(Problem("listen.public_urls", "holds what is not an origin", "write https://host[:port]"))
    found += check_files(
        {
            "listen.tls.cert_file": tls.cert_file,
            "listen.tls.key_file": tls.key_file,
            "listen.tls.client_ca_file": tls.client_ca_file,
            "listen.tls.client_crl_file": tls.client_crl_file,
        }
    )
    return found


def check_upstream(config: Config) -> list[Problem]:
    """OpenBao: addresses, TLS, and how the sidecar logs in."""
    upstream, auth = config.upstream, config.upstream.auth
    found: list[Problem] = []
    token = auth.token.get_secret_value() if auth.token is not None else "none"
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        found.append(Problem("upstream.auth.token", "is not one printable word", "remove line ends and spaces"))
    if upstream.address is None:
        if config.yaml_provider.path is None:
            found.append(Problem("upstream.address", "is missing", "give OpenBao's URL here or in VAULT_URL"))
        return found
    found += check_node("upstream.address", upstream.address, config)
    for index, node in enumerate(upstream.cluster_addresses):
        found += check_node(f"upstream.cluster_addresses.{index}", node, config)
    tls = upstream.tls
    if (tls.cert_file is None) != (tls.key_file is None):
        found.append(Problem("upstream.tls", "cert_file and key_file go together", "give both or neither"))
    if auth.lease_role is not None and auth.mode != "broker":
        found.append(
            Problem("upstream.auth.lease_role", "leases belong to the caller's own token in this mode", "remove it")
        )
    if upstream.has_own_login:
        needs: dict[str, dict[str, object]] = {
            "token": {"token": auth.token},
            "token_file": {"token_file": auth.token_file},
            "approle": {"role_id": auth.role_id, "secret_id_file": auth.secret_id_file},
            "kubernetes": {"role": auth.role, "jwt_file": auth.jwt_file},
            "jwt": {"role": auth.role, "jwt_file": auth.jwt_file},
            "cert": {},  # the pair is in upstream.tls
        }
        found += [
            Problem(f"upstream.auth.{key}", f"is missing for method {auth.method}", "give it")
            for key, value in needs[auth.method].items()
            if value is None
        ]
    if auth.method == "cert" and upstream.has_own_login and tls.cert_file is None:
        found.append(Problem("upstream.tls.cert_file", "is missing for method cert", "give it, and its key_file"))
    if auth.mode == "exchange" and not config.identity.required:
        found.append(
            Problem(
                "identity.required", "false leaves exchange nothing to log callers in with", "remove it, or use broker"
            )
        )
    if auth.mode == "passthrough" and config.identity.pod.enabled:
        found.append(
            Problem("identity.pod.enabled", "the pod itself brings no OpenBao token along", "use broker or exchange")
        )
    if not upstream.has_own_login and config.mounts is None:
        found.append(
            Problem(
                "mounts",
                f"is missing, and mode {auth.mode} has no login of the sidecar's own to discover it with",
                "name the mounts, or give a login of the sidecar's own: token_file, approle, or a jwt_file",
            )
        )
    found += check_files(
        {
            "upstream.tls.ca_file": tls.ca_file,
            "upstream.tls.cert_file": tls.cert_file,
            "upstream.tls.key_file": tls.key_file,
            "upstream.auth.token_file": auth.token_file,
            "upstream.auth.secret_id_file": auth.secret_id_file,
            "upstream.auth.jwt_file": auth.jwt_file,
        }
    )
    return found


def check_mounts(config: Config) -> list[Problem]:
    """The table of mounts."""
    found: list[Problem] = []
    seen: set[str] = set()
    for index, mount in enumerate(config.mounts or ()):
        key = f"mounts.{index}"
        full = "/".join(part.strip("/") for part in (mount.namespace, mount.path) if part.strip("/"))
        if not full or any(segment in ("", ".", "..") for segment in full.split("/")):
            found.append(Problem(f"{key}.path", "is not a mount path", "write it without empty, . or .. segments"))
        if full in seen:
            found.append(Problem(f"{key}.path", f"{full!r} stands twice", "remove one"))
        seen.add(full)
    return found


def check_yaml_provider(config: Config) -> list[Problem]:
    """The file of secrets: nobody else's business."""
    path = config.yaml_provider.path
    if path is None:
        return []
    try:
        read_private(path, MAX_YAML_BYTES)
    except NotPrivateError as error:
        return [error.at("yaml_provider.path")]
    return []


def check_tenant(config: Config) -> list[Problem]:
    """The tenant: what it may use, its salt."""
    tenant = config.tenant
    found: list[Problem] = []
    if not tenant.id:
        found.append(Problem("tenant.id", "is missing", "give the tenant's id here or in TENANT_ID"))
    elif not tenant.id.isprintable() or "/" in tenant.id or ":" in tenant.id or len(tenant.id) > 128:
        found.append(Problem("tenant.id", "holds characters an identifier may not", "use letters, digits, - . _"))
    if not tenant.allowed_mounts:
        found.append(Problem("tenant.allowed_mounts", "is empty, nothing would be allowed", "name the mounts"))
    if (tenant.salt is None) == (tenant.salt_file is None):
        found.append(
            Problem("tenant.salt", "give exactly one of salt and salt_file", "a random text of at least 16 bytes")
        )
    if tenant.salt is not None and len(tenant.salt.get_secret_value().encode()) < 16:
        found.append(Problem("tenant.salt", "is shorter than 16 bytes", "use a random text of at least 16 bytes"))
    unreadable = check_files({"tenant.salt_file": tenant.salt_file})
    if tenant.salt_file is not None and not unreadable:
        try:
            salts_in(tenant.salt_file)
        except ValueError as error:
            remedy = "one random text of at least 16 bytes a line, the current one first"
            found.append(Problem("tenant.salt_file", str(error), remedy))
    return found + unreadable


def check_ops(config: Config) -> list[Problem]:
    """Spans hold no secret, so that a collector of the node's may be spoken to in plain http."""
    endpoint = config.ops.otlp_endpoint
    if not endpoint:
        return []
    try:
        parts = urlsplit(endpoint)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and not parts.query
        _ = parts.port
    except ValueError:
        right = False
    return [] if right else [Problem("ops.otlp_endpoint", "is no collector's URL", "write http(s)://host:4318")]
