"""The commands, as a person or a script meets them: exit codes, clear errors, no traceback, no secret shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_config import minimal, with_

RUN_SECONDS = 240
"""After which a command hangs. On a machine whose cores are all taken the start alone can last a minute."""

# Each call is a process of its own, as for a person; a test has a few.
pytestmark = [pytest.mark.real, pytest.mark.timeout(4 * RUN_SECONDS)]

SECRET = "hunter2secret"
POLICY = '@id("all")\n@max_uses("3")\npermit (principal == Workload::"app", action == Action::"read", resource);\n'


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *words],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, object]:
    tree = minimal(tmp_path)
    (tmp_path / "policies" / "all.cedar").write_text(POLICY)
    return tree


def written(tmp_path: Path, tree: object) -> str:
    path = tmp_path / "sidecar.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return str(path)


def test_check_shows_the_effective_configuration_without_secrets(tmp_path: Path, tree: dict[str, object]) -> None:
    with_(tree, "upstream.auth.token", SECRET)
    with_(tree, "authorization.authzen", {"url": f"https://u:{SECRET}@pdp", "extra_context": {"key": SECRET}})
    with_(tree, "identity.issuers", [{"issuer": "i", "jwks_uri": f"https://idp/jwks?key={SECRET}"}])
    done = run("check", "--config", written(tmp_path, tree))
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["tenant"]["id"] == "acme"
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "text",
    [
        f"tenant: {{salt: !{SECRET}}}",
        f"tenant: {{salt: *{SECRET}}}",
        f"tenant: {{{SECRET}: 1, {SECRET}: 2}}",
        f"tenant: {{salt: !!int {SECRET}}}",
        f"tenant: {{salt: !!float {SECRET}}}",
        f"tenant: {{salt: !!timestamp {SECRET}}}",
        "tenant: " + "[" * 20_000,
        "tenant: &a [*a]",
        'tenant: {salt: "\\ud800 and more than sixteen"}',
        f"upstream: {{auth: {{token: '{SECRET}\n\n'}}}}",
    ],
)
def test_a_broken_file_gives_exit_2_no_traceback_and_no_secret(tmp_path: Path, text: str) -> None:
    done = run("check", "--config", written(tmp_path, text))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_a_broken_environment_gives_exit_2_and_no_secret(tmp_path: Path, tree: dict[str, object]) -> None:
    path = written(tmp_path, tree)
    for value in (f"[!!int {SECRET}]", "[" * 20_000, f"[&a {SECRET}, *a]"):
        done = run("check", "--config", path, SIDECAR__TENANT__ALLOWED_MOUNTS=value)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "condition",
    ["(" * 20_000 + "true" + ")" * 20_000, "if true then true else " * 20_000 + "true", "[" * 5_000],
    ids=["brackets", "conditionals", "unclosed"],
)
def test_a_policy_nested_too_deep_is_refused_with_its_line(
    tmp_path: Path, tree: dict[str, object], condition: str
) -> None:
    (tmp_path / "policies" / "deep.cedar").write_text(
        f'@id("deep")\npermit (principal, action, resource)\nwhen {{ {condition} }};\n'
    )
    done = run("check", "--config", written(tmp_path, tree))
    assert done.returncode == 2
    assert "deep.cedar:3" in done.stderr


def test_explain_prints_what_a_request_is_and_needs_no_network(tmp_path: Path, tree: dict[str, object]) -> None:
    path = written(tmp_path, tree)
    done = run("explain", "GET", "/v1/secret/data/app/db?version=3", "--config", path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "canonical_uri": "openbao+kv2://secret/app/db?version=3",
        "operation": "kv2.read",
        "purpose": "read",
        "upstream": {"method": "GET", "path": "/v1/secret/data/app/db", "query": "version=3", "namespace": ""},
    }
    body = tmp_path / "body.json"
    body.write_text('{"data": {"a": "1"}}')
    done = run("explain", "PUT", "/v1/secret/data/app/db", "--body", str(body), "--config", path)
    assert json.loads(done.stdout)["operation"] == "kv2.write"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("GET", "/v1/secret/data/app%2fdb"), "ILLEGAL_ENCODING"),
        (("GET", "/v1/secret/data/../x"), "ILLEGAL_SEGMENT"),
        (("GET", "/v1/other/data/x"), "TENANT_MOUNT_MISMATCH"),
        (("HEAD", "/v1/secret/data/x"), "OPERATION_FORBIDDEN"),
        (("GET", "/v1/secret/data/x?version=1&version=2"), "AMBIGUOUS_QUERY"),
        (("GET", "/v1/secret/data/x", "--header", "Host: x"), "MALFORMED_REQUEST"),
        (("GET", "http://h/v1/secret/data/x"), "MALFORMED_REQUEST"),
    ],
)
def test_explain_prints_the_error_and_exits_1(
    tmp_path: Path, tree: dict[str, object], words: tuple[str, ...], code: str
) -> None:
    done = run("explain", *words, "--config", written(tmp_path, tree))
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == code


def test_explain_says_whether_a_caller_may_and_why(tmp_path: Path, tree: dict[str, Any]) -> None:
    words = ("explain", "GET", "/v1/secret/data/app/db?version=3", "--config", written(tmp_path, tree))
    done = run(*words, "--subject", "app")
    explained = json.loads(done.stdout)
    assert (done.returncode, explained["canonical_uri"]) == (0, "openbao+kv2://secret/app/db?version=3")
    decision = explained["decision"]
    assert (decision["effect"], decision["operation"], decision["policies"]) == ("permit", "kv2.read", ["all"])
    done = run(*words, "--subject", "stranger")
    decision = json.loads(done.stdout)["decision"]
    assert (done.returncode, decision["effect"], decision["code"]) == (1, "deny", "POLICY_DENIED")
    (tmp_path / "policies" / "all.cedar").write_text("permit (principal")
    done = run(*words, "--subject", "app")
    assert (done.returncode, done.stdout) == (2, "")
    assert "authorization.cedar.policies" in done.stderr


def test_explain_does_not_take_another_request_out_of_its_method(tmp_path: Path, tree: dict[str, object]) -> None:
    done = run("explain", "GET /v1/x HTTP/1.1\r\nX: y", "/v1/secret/data/a", "--config", written(tmp_path, tree))
    assert (done.returncode, done.stdout) == (2, "")


def test_uri_prints_the_canonical_form_or_the_error() -> None:
    done = run("uri", "OPENBAO+kv2://secret/a b#key?version=3")
    assert done.returncode == 0
    assert json.loads(done.stdout)["canonical_uri"] == "openbao+kv2://secret/a%20b#key?version=3"
    done = run("uri", "openbao+kv2://secret//x")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "ILLEGAL_SEGMENT"


def test_policy_test_says_the_decision_and_why(tmp_path: Path, tree: dict[str, Any]) -> None:
    words = ("policy", "test", "--config", written(tmp_path, tree), "--purpose", "read")
    uri = ("--uri", "openbao+kv2://secret/app/db")
    done = run(*words, "--subject", "app", *uri)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["decision"], answer["policies"]) == (0, True, ["all"])
    assert answer["obligations"] == {"max_uses": 3}
    done = run(*words, "--subject", "stranger", *uri)
    assert (done.returncode, json.loads(done.stdout)["decision"]) == (1, False)
    (tmp_path / "policies" / "all.cedar").write_text("permit (principal")
    done = run(*words, "--subject", "app", *uri)
    assert done.returncode == 2
    assert "all.cedar:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_audit_cat_whose_reader_has_seen_enough_ends_well(tmp_path: Path) -> None:
    (tmp_path / "dump.jsonl").write_text('{"event_id":"1"}\n' * 50_000)  # more than a pipe holds
    command = [sys.executable, "-m", "sidecar", "audit", "cat", str(tmp_path / "dump.jsonl")]
    buffered = {"PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'{"event_id":"1"}\n'
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_audit_cat_takes_files_or_kafka_and_says_so(tmp_path: Path, tree: dict[str, Any]) -> None:
    path = written(tmp_path, tree)
    spool = str(tmp_path)
    for words, said in (
        ([], "give spool folders or files, or --kafka with --config"),
        (["--config", path], "give spool folders or files, or --kafka with --config"),
        ([spool, "--config", path], "give spool folders or files, or --kafka with --config"),
        (["--kafka"], "--kafka takes --config and no files"),
        (["--kafka", spool, "--config", path], "--kafka takes --config and no files"),
        (["--kafka", "--config", path], "audit.kafka: not configured, so there is no topic to read"),
    ):
        done = run("audit", "cat", *words)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said + "\n"), words
    with_(tree, "audit.kafka", {"bootstrap_servers": "127.0.0.1:1", "topic_prefix": "crud"})
    done = run("audit", "cat", "--kafka", "--config", written(tmp_path, tree))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "crud.secrets.audit: no broker can be reached\n")


def test_audit_cat_says_what_it_could_not_print(tmp_path: Path) -> None:
    (tmp_path / "topic.jsonl").write_text('{"seq":1}\n' * 20_000)
    command = [sys.executable, "-m", "sidecar", "audit", "cat", str(tmp_path / "topic.jsonl")]
    clean: dict[str, str] = {"PATH": "/usr/bin:/bin"}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=RUN_SECONDS, check=False, env=clean)
    assert (done.returncode, done.stderr) == (1, b"cannot be printed: No space left on device\n")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean) as process:  # `| head -1`
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'{"seq":1}\n'
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_audit_ref_names_a_secret_as_the_audit_does(tmp_path: Path, tree: dict[str, Any]) -> None:
    path = written(tmp_path, tree)
    done = run("audit", "ref", "openbao+kv2://secret/app/db#key?version=2", "--config", path)
    answer = json.loads(done.stdout)
    assert done.returncode == 0
    assert answer["resource_arn"] == f"auth:v1:resource:secret:acme:{answer['resource_ref']}"
    whole = json.loads(run("audit", "ref", "openbao+kv2://secret/app/db", "--config", path).stdout)
    assert whole["resource_ref"] == answer["parent_ref"] != answer["resource_ref"]


def test_secrets_are_named_where_openbao_is_out_of_reach(tmp_path: Path, tree: dict[str, Any]) -> None:
    """A CI that tests policies, and an investigator with the configuration alone, have no OpenBao. The mounts are those
    that the tenant may use, the longest first; a URI says its engine itself."""
    del tree["mounts"]
    with_(tree, "upstream.address", "http://127.0.0.1:1")
    with_(tree, "tenant.allowed_mounts", ["secret", "team", "team/kv"])
    uri = "openbao+kv2://team/kv/app/db"
    (tmp_path / "policies" / "all.cedar").write_text(
        'permit (principal, action, resource) when { resource.mount == "team/kv" && resource.path == "app/db" };'
    )
    path = written(tmp_path, tree)
    cases = tmp_path / "cases.yaml"
    cases.write_text(
        f"- {{subject: app, purpose: read, uri: '{uri}', expect: permit}}\n"
        "- {subject: app, purpose: execute, uri: 'openbao+transit://team/k', expect: deny}\n"
    )
    done = run("policy", "test", "--config", path, "--cases", str(cases))
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("policy", "test", "--config", path, "--subject", "app", "--purpose", "read", "--uri", uri)
    assert (done.returncode, json.loads(done.stdout)["uri"]) == (0, uri)
    assert "tenant.allowed_mounts" in done.stderr
    assert run("audit", "ref", uri, "--config", path).returncode == 0
    for unknown, code in (
        (uri.replace("+kv2", ""), "UPSTREAM_UNAVAILABLE"),
        ("openbao+kv2://x/y", "TENANT_MOUNT_MISMATCH"),
    ):
        done = run("audit", "ref", unknown, "--config", path)
        assert (done.returncode, code in done.stderr) == (1, True)


def test_a_salt_file_that_is_too_short_is_found_by_check(tmp_path: Path, tree: dict[str, Any]) -> None:
    salt = tmp_path / "salt"
    salt.write_text("short\n")
    del tree["tenant"]["salt"]
    with_(tree, "tenant.salt_file", str(salt))
    done = run("check", "--config", written(tmp_path, tree))
    assert done.returncode == 2
    assert "tenant.salt_file" in done.stderr
