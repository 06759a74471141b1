"""Rules of who calls: issuers, the pod as caller, client certificates, what is remembered against replays."""

from __future__ import annotations

import ipaddress

from sidecar.config.checks.places import check_files, check_url, is_loopback, split_address
from sidecar.config.problems import Problem
from sidecar.config.store_address import store_address
from sidecar.config.tree import Config, Environment, Issuer, is_trust_domain


def check_identity(config: Config) -> list[Problem]:
    """Issuers, bindings, and who may do without."""
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
    found = check_files({"identity.pod.token_file": pod.token_file})
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
        found += check_url(f"{key}.jwks_uri", issuer.jwks_uri, config)
    elif issuer.jwks_file is None:
        found += [
            Problem(f"{key}.issuer", f"tells of no keys: {problem.message}", "give jwks_uri or jwks_file")
            for problem in check_url(key, issuer.issuer, config)
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
    found += check_files(
        {
            f"{key}.jwks_file": issuer.jwks_file,
            f"{key}.ca_file": issuer.ca_file,
            f"{key}.token_file": issuer.token_file,
        }
    )
    return found


def check_replay(config: Config) -> list[Problem]:
    """What is remembered against replays, and where."""
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
    found = check_files(files)
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
