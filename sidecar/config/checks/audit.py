"""Rules of the record: the spool, Kafka, checkpoints."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sidecar.config.checks.places import check_files, is_loopback, is_topic
from sidecar.config.problems import Problem
from sidecar.config.tree import Config, Environment


def check_audit(config: Config) -> list[Problem]:
    """The spool, Kafka and checkpoints."""
    kafka = config.audit.kafka
    found: list[Problem] = _check_checkpoint_key(config.audit.checkpoint.key_file)
    if config.audit.retention_mib > config.audit.max_spool_mib:
        found.append(
            Problem("audit.retention_mib", "is more than max_spool_mib, so nothing would be dropped", "make it less")
        )
    if kafka.bootstrap_servers is None:
        return found
    if not is_topic(f"{kafka.topic_prefix}.secrets.notifications"):
        found.append(Problem("audit.kafka.topic_prefix", "gives no topics' names", "use letters, digits, . _ -"))
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
    found += check_files(
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
    problems = check_files({key: file})
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
