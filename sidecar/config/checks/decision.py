"""Rules of whether they may: the PDP, a candidate beside it, revocations."""

from __future__ import annotations

from sidecar.config.checks.places import check_files, check_url, is_topic
from sidecar.config.problems import Problem
from sidecar.config.tree import Authzen, Cedar, Config, Environment


def check_authorization(config: Config) -> list[Problem]:
    """The PDP, its attributes, a candidate."""
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
        found += check_files({f"{key}.cedar.schema": cedar.schema_, f"{key}.cedar.entities": cedar.entities})
    elif authzen.url is None:
        found.append(Problem(f"{key}.authzen.url", "is missing", "give the PDP's URL"))
    else:
        found += check_url(f"{key}.authzen.url", authzen.url, config)
        if not _is_json_pointer(authzen.obligations):
            found.append(
                Problem(f"{key}.authzen.obligations", "is not a JSON pointer (RFC 6901)", "write /obligations")
            )
    return found


def _is_json_pointer(text: str) -> bool:
    return (not text or text.startswith("/")) and "~" not in text.replace("~0", "").replace("~1", "")


def check_revocations(config: Config) -> list[Problem]:
    """Where revocations come from."""
    topic = config.revocations.topic
    found: list[Problem] = []
    if topic and not is_topic(topic):
        found.append(Problem("revocations.topic", "is not a topic's name", "use letters, digits, . _ -"))
    if topic and config.audit.kafka.bootstrap_servers is None:
        found.append(
            Problem("revocations.topic", "needs the connection of audit.kafka", "give audit.kafka, or remove it")
        )
    written = f"{config.audit.kafka.topic_prefix}.secrets"
    if topic in (written, f"{written}.audit", f"{written}.notifications"):
        found.append(Problem("revocations.topic", "is one that the sidecar writes", "use a topic of its own"))
    token_file = config.ops.token_file
    unreadable = check_files({"ops.token_file": token_file})
    if token_file is not None and not unreadable and len(token_file.read_bytes().strip()) < 16:
        found.append(Problem("ops.token_file", "holds less than 16 bytes", "use a random text of at least 16 bytes"))
    return found + unreadable
