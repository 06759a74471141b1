"""The rules of the configuration that types cannot say: what goes together, what must exist, what `prod` refuses."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sidecar.config.problems import Problem
from sidecar.config.salts import salts_in
from sidecar.config.store_address import store_address
from sidecar.config.tree import Authzen, Cedar, Config, Environment, Issuer, is_trust_domain


def cross_checks(config: Config) -> list[Problem]:
    """Everything wrong with a tree whose single values are right."""
    found: list[Problem] = []
    for check in (
        _check_listen,
        _check_upstream,
        _check_mounts,
        _check_tenant,
        _check_identity,
        _check_authorization,
        _check_replay,
        _check_revocations,
        _check_audit,
        _check_ops,
        _check_not_built,
    ):
        found += check(config)
    return found


def is_loopback(host: str) -> bool:
    """True for `localhost` and loopback addresses."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(address: str) -> tuple[str, int]:
    """`host:port` → its parts. Raises ValueError where it is not one."""
    parts = urlsplit(f"//{address}")
    if parts.hostname is None or parts.port is None or parts.path or parts.username is not None:
        raise ValueError("not host:port")
    return parts.hostname, parts.port


def _check_address(key: str, address: str) -> list[Problem]:
    if address.startswith("unix:///"):
        return []
    try:
        split_address(address)
    except ValueError:
        return [Problem(key, f"{address!r} is not an address", "write host:port, or unix:///absolute/path")]
    return []


def _check_url(key: str, url: str, config: Config) -> list[Problem]:
    """https, or http to loopback, or http outside prod."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return [Problem(key, "not a URL", "write https://host[:port]")]
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        return [Problem(key, "not an http(s) URL", "write https://host[:port]")]
    if parts.scheme == "http" and config.environment is Environment.PROD and not is_loopback(host):
        return [Problem(key, "plain http where environment is prod", "use https; http is taken for loopback only")]
    return []


def _files(pairs: dict[str, Path | None]) -> list[Problem]:
    return [
        Problem(key, f"{path} is not a readable file", "create it, or correct the path")
        for key, path in pairs.items()
        if path is not None and not (path.is_file() and os.access(path, os.R_OK))
    ]


def _check_listen(config: Config) -> list[Problem]:
    listen, tls = config.listen, config.listen.tls
    found = _check_address("listen.address", listen.address) + _check_address("ops.address", config.ops.address)
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
    found += _files(
        {
            "listen.tls.cert_file": tls.cert_file,
            "listen.tls.key_file": tls.key_file,
            "listen.tls.client_ca_file": tls.client_ca_file,
            "listen.tls.client_crl_file": tls.client_crl_file,
        }
    )
    return found


def _check_node(key: str, address: str, config: Config) -> list[Problem]:
    """One node of OpenBao's."""
    bad_url = _check_url(key, address, config)
    parts = urlsplit("" if bad_url else address)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return [Problem(key, "has a path or a query", "write https://host[:port] only")]
    return bad_url


def _check_upstream(config: Config) -> list[Problem]:
    upstream, auth = config.upstream, config.upstream.auth
    found: list[Problem] = []
    token = auth.token.get_secret_value() if auth.token is not None else "none"
    if not token or not (token.isascii() and token.isprintable()) or " " in token:
        found.append(Problem("upstream.auth.token", "is not one printable word", "remove line ends and spaces"))
    if upstream.address is None:
        if config.yaml_provider.path is None:
            found.append(Problem("upstream.address", "is missing", "give OpenBao's URL here or in VAULT_URL"))
        return found
    found += _check_node("upstream.address", upstream.address, config)
    for index, node in enumerate(upstream.cluster_addresses):
        found += _check_node(f"upstream.cluster_addresses.{index}", node, config)
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
    found += _files(
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


def _check_mounts(config: Config) -> list[Problem]:
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


def _check_tenant(config: Config) -> list[Problem]:
    tenant = config.tenant
    found: list[Problem] = []
    if not tenant.id:
        found.append(Problem("tenant.id", "is missing", "give the tenant's id here or in TENANT_ID"))
    elif not tenant.id.isprintable() or "/" in tenant.id or ":" in tenant.id or len(tenant.id) > 128:
        found.append(Problem("tenant.id", "holds characters an identifier may not", "use letters, digits, - . _"))
    if not tenant.allowed_mounts and config.upstream.address is not None:
        found.append(Problem("tenant.allowed_mounts", "is empty, nothing would be allowed", "name the mounts"))
    if (tenant.salt is None) == (tenant.salt_file is None):
        found.append(
            Problem("tenant.salt", "give exactly one of salt and salt_file", "a random text of at least 16 bytes")
        )
    if tenant.salt is not None and len(tenant.salt.get_secret_value().encode()) < 16:
        found.append(Problem("tenant.salt", "is shorter than 16 bytes", "use a random text of at least 16 bytes"))
    unreadable = _files({"tenant.salt_file": tenant.salt_file})
    if tenant.salt_file is not None and not unreadable:
        try:
            salts_in(tenant.salt_file)
        except ValueError as error:
            remedy = "one random text of at least 16 bytes a line, the current one first"
            found.append(Problem("tenant.salt_file", str(error), remedy))
    return found + unreadable


def _check_identity(config: Config) -> list[Problem]:
    identity = config.identity
    found: list[Problem] = []
    if not identity.required and config.environment is Environment.PROD:
        found.append(
            Problem(
                "identity.required",
                "false is refused where environment is prod",
                "remove it, or set dev or test",
            )
        )
    if identity.required and not identity.issuers:
        found.append(Problem("identity.issuers", "is empty, nobody could call", "name at least one issuer"))
    if not identity.audience:
        found.append(Problem("identity.audience", "is empty", "name the audience that tokens must carry"))
    for index, issuer in enumerate(identity.issuers):
        found += _check_issuer(f"identity.issuers.{index}", issuer, config)
        others = identity.issuers[:index]
        if issuer.issuer in {other.issuer for other in others}:
            found.append(Problem(f"identity.issuers.{index}.issuer", "stands twice", "remove one"))
        elif (domain := issuer.svid_domain) and domain in {other.svid_domain for other in others}:
            found.append(
                Problem(f"identity.issuers.{index}.trust_domain", "two issuers have the same", "remove one issuer")
            )
    return found + _check_pod(config) + _check_client_certificates(config)


def _check_pod(config: Config) -> list[Problem]:
    pod, address = config.identity.pod, config.listen.address
    if not pod.enabled:
        return []
    found = _files({"identity.pod.token_file": pod.token_file})
    if pod.token_file is None:
        found.append(Problem("identity.pod.token_file", "is missing", "name the projected token's file"))
    if not address.startswith("unix:") and not _reaches_loopback(address):
        found.append(
            Problem(
                "identity.pod.enabled", "nobody inside the pod reaches the listener's address", "listen on loopback"
            )
        )
    if config.upstream.auth.mode == "passthrough":
        found.append(
            Problem("identity.pod.enabled", "passthrough needs each caller's own OpenBao token", "set it to false")
        )
    return found


def _reaches_loopback(address: str) -> bool:
    try:
        host, _ = split_address(address)
        return is_loopback(host) or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _check_client_certificates(config: Config) -> list[Problem]:
    certificates = config.identity.client_certificates
    key = "identity.client_certificates"
    if certificates.subject == "none":
        if certificates.trust_domain is None:
            return []
        return [Problem(f"{key}.trust_domain", "is for subject: spiffe", "set that, or remove it")]
    found: list[Problem] = []
    if certificates.trust_domain is None or not is_trust_domain(certificates.trust_domain):
        found.append(
            Problem(f"{key}.trust_domain", "is missing, or no trust domain's name", "write it as in spiffe://<it>/path")
        )
    if config.listen.tls.client_cert == "none":
        found.append(Problem(f"{key}.subject", "the listener asks for no client certificate", "set client_cert"))
    if config.upstream.auth.mode != "broker":
        found.append(
            Problem(f"{key}.subject", "who has a certificate and no token can use broker only", "set mode: broker")
        )
    return found


def _check_issuer(key: str, issuer: Issuer, config: Config) -> list[Problem]:
    found: list[Problem] = []
    if issuer.jwks_uri is not None and issuer.jwks_file is not None:
        found.append(Problem(f"{key}.jwks_uri", "jwks_uri and jwks_file are given", "remove one"))
    if issuer.jwks_uri is not None:
        found += _check_url(f"{key}.jwks_uri", issuer.jwks_uri, config)
    elif issuer.jwks_file is None:
        found += [
            Problem(f"{key}.issuer", f"tells of no keys: {problem.message}", "give jwks_uri or jwks_file")
            for problem in _check_url(key, issuer.issuer, config)
        ]
    is_domain = issuer.issuer.startswith("spiffe://")
    if is_domain and issuer.kind not in (None, "spiffe"):
        found.append(Problem(f"{key}.kind", "a spiffe:// issuer gives JWT-SVIDs", "write spiffe, or remove it"))
    elif issuer.kind != "spiffe" and not is_domain and issuer.trust_domain is not None:
        found.append(Problem(f"{key}.trust_domain", "is for JWT-SVIDs", "set kind: spiffe, or remove it"))
    elif issuer.kind == "spiffe" and not is_domain and issuer.trust_domain is None:
        found.append(Problem(f"{key}.trust_domain", "is missing", "name the trust domain of the JWT-SVIDs"))
    elif is_domain and issuer.trust_domain is not None:
        found.append(Problem(f"{key}.trust_domain", "the issuer names it already", "remove it"))
    elif issuer.svid_domain is not None and not is_trust_domain(issuer.svid_domain):
        found.append(Problem(f"{key}.trust_domain", "is no trust domain's name", "write it as in spiffe://<it>/path"))
    if issuer.token_file is not None and issuer.jwks_file is not None:
        found.append(Problem(f"{key}.token_file", "is for fetching keys, which come from a file", "remove it"))
    found += _files(
        {
            f"{key}.jwks_file": issuer.jwks_file,
            f"{key}.ca_file": issuer.ca_file,
            f"{key}.token_file": issuer.token_file,
        }
    )
    return found


def _check_authorization(config: Config) -> list[Problem]:
    authorization = config.authorization
    found: list[Problem] = []
    if not authorization.enabled and config.environment is not Environment.DEV:
        found.append(
            Problem("authorization.enabled", "false is refused unless environment is dev", "remove it, or set dev")
        )
    if not authorization.enabled:
        return found
    found += _check_pdp("authorization", authorization.pdp, authorization.cedar, authorization.authzen, config)
    candidate, recordings = authorization.candidate, authorization.recordings
    if candidate.pdp is not None:
        found += _check_pdp("authorization.candidate", candidate.pdp, candidate.cedar, candidate.authzen, config)
    if recordings.file is not None and not recordings.file.parent.is_dir():
        found.append(Problem("authorization.recordings.file", "its folder does not exist", "create it"))
    return found


def _check_pdp(key: str, kind: str, cedar: Cedar, authzen: Authzen, config: Config) -> list[Problem]:
    found: list[Problem] = []
    if kind == "cedar":
        policies = cedar.policies
        if policies is None:
            found.append(Problem(f"{key}.cedar.policies", "is missing", "name the folder of *.cedar files"))
        elif not policies.is_dir():
            found.append(Problem(f"{key}.cedar.policies", f"{policies} is not a folder", "create it"))
        found += _files({f"{key}.cedar.schema": cedar.schema_, f"{key}.cedar.entities": cedar.entities})
    elif authzen.url is None:
        found.append(Problem(f"{key}.authzen.url", "is missing", "give the PDP's URL"))
    else:
        found += _check_url(f"{key}.authzen.url", authzen.url, config)
        if not _is_json_pointer(authzen.obligations):
            found.append(
                Problem(f"{key}.authzen.obligations", "is not a JSON pointer (RFC 6901)", "write /obligations")
            )
    return found


def _is_json_pointer(text: str) -> bool:
    return (not text or text.startswith("/")) and "~" not in text.replace("~0", "").replace("~1", "")


def _check_replay(config: Config) -> list[Problem]:
    store, replay = config.anti_replay.store, config.anti_replay
    found: list[Problem] = []
    if store != "memory":
        found += _check_store(config)
    if replay.window_seconds < replay.proof_max_age_seconds + config.identity.clock_skew_seconds:
        found.append(
            Problem(
                "anti_replay.window_seconds",
                "is shorter than a proof may live, so a proof could be used twice",
                "make it at least proof_max_age_seconds + clock_skew_seconds",
            )
        )
    return found


def _check_store(config: Config) -> list[Problem]:
    """A password would stand in the configuration, in its print, in a pod's description: it is never repeated here."""
    replay = config.anti_replay
    files = {
        "anti_replay.store_password_file": replay.store_password_file,
        "anti_replay.store_ca_file": replay.store_ca_file,
        "anti_replay.store_cert_file": replay.store_cert_file,
        "anti_replay.store_key_file": replay.store_key_file,
    }
    found = _files(files)
    if (replay.store_cert_file is None) != (replay.store_key_file is None):
        found.append(
            Problem("anti_replay.store_cert_file", "store_cert_file and store_key_file go together", "give both")
        )
    try:
        address = store_address(replay.store)
    except ValueError as error:
        remedy = "write memory or valkey://host:port; a password goes into a file: anti_replay.store_password_file"
        return [*found, Problem("anti_replay.store", str(error), remedy)]
    if not address.tls and (replay.store_ca_file is not None or replay.store_cert_file is not None):
        found.append(Problem("anti_replay.store", "certificates are given, and it is not TLS", "write valkeys://"))
    return found


def _check_ops(config: Config) -> list[Problem]:
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


def _check_revocations(config: Config) -> list[Problem]:
    topic = config.revocations.topic
    found: list[Problem] = []
    if topic and (topic in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic)):
        found.append(Problem("revocations.topic", "is not a topic's name", "use letters, digits, . _ -"))
    if topic and config.audit.kafka.bootstrap_servers is None:
        found.append(
            Problem("revocations.topic", "needs the connection of audit.kafka", "give audit.kafka, or remove it")
        )
    written = f"{config.audit.kafka.topic_prefix}.secrets"
    if topic in (written, f"{written}.audit", f"{written}.notifications"):
        found.append(Problem("revocations.topic", "is one that the sidecar writes", "use a topic of its own"))
    token_file = config.ops.token_file
    unreadable = _files({"ops.token_file": token_file})
    if token_file is not None and not unreadable and len(token_file.read_bytes().strip()) < 16:
        found.append(Problem("ops.token_file", "holds less than 16 bytes", "use a random text of at least 16 bytes"))
    return found + unreadable


def _check_audit(config: Config) -> list[Problem]:
    kafka = config.audit.kafka
    found: list[Problem] = _check_checkpoint_key(config.audit.checkpoint.key_file)
    if config.audit.retention_mib > config.audit.max_spool_mib:
        found.append(
            Problem("audit.retention_mib", "is more than max_spool_mib, so nothing would be dropped", "make it less")
        )
    if kafka.bootstrap_servers is None:
        return found
    if config.audit.retention_mib:
        found.append(
            Problem("audit.retention_mib", "is for a spool without Kafka, which drops what it sent", "remove one")
        )
    if kafka.security_protocol.startswith("SASL") and (kafka.sasl_mechanism is None or kafka.username is None):
        found.append(Problem("audit.kafka.sasl_mechanism", "SASL needs a mechanism and a username", "give both"))
    if (
        kafka.security_protocol in ("PLAINTEXT", "SASL_PLAINTEXT")
        and config.environment is Environment.PROD
        and not all(is_loopback(server.rpartition(":")[0]) for server in kafka.bootstrap_servers.split(","))
    ):
        found.append(
            Problem("audit.kafka.security_protocol", "plain text where environment is prod", "use SSL or SASL_SSL")
        )
    found += _files(
        {
            "audit.kafka.password_file": kafka.password_file,
            "audit.kafka.ca_file": kafka.ca_file,
            "audit.kafka.cert_file": kafka.cert_file,
            "audit.kafka.key_file": kafka.key_file,
        }
    )
    return found


def _check_checkpoint_key(file: Path | None) -> list[Problem]:
    key = "audit.checkpoint.key_file"
    problems = _files({key: file})
    if file is None or problems:
        return problems
    try:
        private = load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if isinstance(private, Ed25519PrivateKey):
        return []
    remedy = "make one: openssl genpkey -algorithm ed25519 -out FILE"
    return [Problem(key, "holds no Ed25519 private key (PEM, not encrypted)", remedy)]


def _check_not_built(config: Config) -> list[Problem]:
    """Keys the contract names and this version cannot honour yet: refused, never ignored."""
    found: list[Problem] = []
    later: list[tuple[str, bool, str]] = [
        ("yaml_provider.path", config.yaml_provider.path is not None, "remove it"),
    ]
    found += [Problem(key, "is not built in this version", remedy) for key, wanted, remedy in later if wanted]
    return found
