"""The configuration: one tree, unknown keys refused, everything wrong with it said in one run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sidecar.config import ENVIRONMENT_NAMES, Config, ConfigError, Environment, effective, load

SALT = "a-salt-of-enough-bytes"


def minimal(tmp_path: Path) -> dict[str, object]:
    policies = tmp_path / "policies"
    policies.mkdir(exist_ok=True)
    return {
        "environment": "prod",
        "upstream": {"address": "https://openbao:8200", "auth": {"token": "broker-token"}},
        "mounts": [{"path": "secret", "engine": "kv2"}],
        "tenant": {"id": "acme", "allowed_mounts": ["secret"], "salt": SALT},
        "identity": {"issuers": [{"issuer": "https://idp.example", "jwks_uri": "https://idp.example/jwks"}]},
        "authorization": {"cedar": {"policies": str(policies)}},
    }


def written(tmp_path: Path, tree: object) -> Path:
    path = tmp_path / "sidecar.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return path


def problems(tmp_path: Path, tree: object, environ: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, tree), environ or {})
    return {problem.key: problem.message for problem in caught.value.problems}


def with_(tree: dict[str, object], key: str, value: object) -> dict[str, object]:
    *sections, last = key.split(".")
    node: dict[str, object] = tree
    for section in sections:
        child = node.setdefault(section, {})
        assert isinstance(child, dict)
        node = child
    node[last] = value
    return tree


def test_a_minimal_file_is_valid_and_takes_the_documented_defaults(tmp_path: Path) -> None:
    config = load(written(tmp_path, minimal(tmp_path)), {})
    assert config.environment is Environment.PROD
    assert config.listen.address == "127.0.0.1:8200"
    assert config.identity.binding == "required"
    assert config.grants.default_max_uses == 1
    assert config.anti_replay.dpop_nonce == "required"
    assert config.audit.durability == "fsync"


def test_every_problem_is_reported_in_one_run(tmp_path: Path) -> None:
    tree = minimal(tmp_path)
    with_(tree, "listne", {"address": "x"})
    with_(tree, "grants.default_max_uses", 0)
    with_(tree, "limits.max_body_mib", "many")
    with_(tree, "identity.issuers", [])
    with_(tree, "tenant.salt", "short")
    with_(tree, "upstream.address", "http://openbao:8200")
    found = problems(tmp_path, tree)
    assert set(found) == {
        "listne",
        "grants.default_max_uses",
        "limits.max_body_mib",
        "identity.issuers",
        "tenant.salt",
        "upstream.address",
    }


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("environmnt", "prod", "environmnt"),
        ("listen.tls.client_certs", "required", "listen.tls.client_certs"),
        ("identity.issuers", [{"issuer": "x", "jwks_uri": "https://x", "algs": ["ES256"]}], "identity.issuers.0.algs"),
        ("mounts", [{"path": "secret", "engine": "kv2", "ns": ""}], "mounts.0.ns"),
        ("audit.kafka.topic", "x", "audit.kafka.topic"),
    ],
)
def test_an_unknown_key_is_refused_at_any_depth(tmp_path: Path, key: str, value: object, where: str) -> None:
    assert problems(tmp_path, with_(minimal(tmp_path), key, value))[where] == "unknown key"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("identity.required", False),
        ("authorization.enabled", False),
        ("upstream.address", "http://openbao.example:8200"),
        ("upstream.address", "ftp://openbao"),
        ("upstream.address", "https://openbao:8200/v1"),
        ("upstream.address", "https://openbao:8200/?x=1"),
        ("upstream.address", "https://user:pass@openbao"),
        ("tenant.id", ""),
        ("tenant.id", "a\nb"),
        ("tenant.allowed_mounts", []),
        ("identity.audience", ""),
        ("listen.address", "8200"),
        ("listen.address", "127.0.0.1:99999"),
        ("ops.address", "localhost"),
        ("anti_replay.store", "file:///tmp/x"),
        ("anti_replay.window_seconds", 30),
        ("authorization.cedar.policies", "/does/not/exist"),
        ("listen.tls.cert_file", "/does/not/exist.pem"),
        ("grants.default_ttl_seconds", -1),
        ("grants.default_ttl_seconds", 1.5),
        ("anti_replay.unbound_token", "whatever"),
        ("identity.issuers", [{"issuer": "idp.example"}]),
        ("identity.issuers", [{"issuer": "http://idp.example"}]),
        ("identity.issuers", [{"issuer": "spiffe://acme.example"}]),
        ("identity.issuers", [{"issuer": "spiffe://ACME", "jwks_uri": "https://i/jwks"}]),
        ("identity.issuers", [{"issuer": "spiffe://a", "jwks_uri": "https://i/jwks", "kind": "oauth"}]),
        ("identity.issuers", [{"issuer": "spiffe://a", "jwks_uri": "https://i/jwks", "trust_domain": "b"}]),
        ("identity.issuers", [{"issuer": "https://i", "kind": "spiffe"}]),
        ("identity.issuers", [{"issuer": "https://i", "trust_domain": "a"}]),
        (
            "identity.issuers",
            [
                {"issuer": "spiffe://a", "jwks_uri": "https://i/jwks"},
                {"issuer": "https://i", "kind": "spiffe", "trust_domain": "a"},
            ],
        ),
        ("identity.issuers", [{"issuer": "https://i", "kind": "saml"}]),
        ("identity.issuers", [{"issuer": "https://i", "token_file": "/does/not/exist"}]),
        ("identity.issuers", [{"issuer": "i", "jwks_uri": "https://i/jwks", "algorithms": ["HS256"]}]),
        ("identity.issuers", [{"issuer": "i", "jwks_uri": "https://i/jwks", "algorithms": ["none"]}]),
        ("identity.pod", {"enabled": True}),
        ("identity.pod", {"enabled": True, "token_file": "/does/not/exist"}),
        ("identity.client_certificates", {"subject": "spiffe"}),
        ("identity.client_certificates", {"subject": "spiffe", "trust_domain": "ACME"}),
        ("identity.client_certificates", {"subject": "spiffe", "trust_domain": "acme.example"}),
        ("identity.client_certificates", {"trust_domain": "acme.example"}),
        ("mounts", [{"path": "a//b", "engine": "kv2"}]),
        ("mounts", [{"path": "a", "engine": "kv2"}, {"path": "a/", "engine": "kv1"}]),
        ("audit.on_failure", "permit"),
        ("audit.retention_mib", 512),
    ],
)
def test_what_would_weaken_or_break_is_refused_with_its_key(tmp_path: Path, key: str, value: object) -> None:
    found = problems(tmp_path, with_(minimal(tmp_path), key, value))
    assert any(name.startswith(key.rpartition(".")[0] or key) for name in found), found


def test_dev_allows_what_prod_refuses(tmp_path: Path) -> None:
    tree = with_(minimal(tmp_path), "environment", "dev")
    tree = with_(with_(tree, "identity.required", False), "authorization.enabled", False)
    config = load(written(tmp_path, tree), {})
    assert config.identity.required is False
    assert config.authorization.enabled is False


def test_null_means_not_given(tmp_path: Path) -> None:
    tree = with_(minimal(tmp_path), "grants.default_ttl_seconds", None)
    tree = with_(tree, "upstream.tls", {"ca_file": None})
    assert load(written(tmp_path, tree), {}).grants.default_ttl_seconds == 300


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: [1", "line 1"),
        ("tenant: {id: a}\ntenant: {id: b}\n", "line 2"),
        ("tenant: {id: a, id: b}", "line 1"),
        ("- a\n- b\n", "no mapping"),
        ("1: x", "line 1"),
        ("x: !!python/object/apply:os.system ['true']", "line 1"),
    ],
)
def test_a_file_that_is_no_clean_yaml_is_refused_with_the_place(tmp_path: Path, text: str, where: str) -> None:
    assert where in problems(tmp_path, text)[""]


def test_a_syntax_error_does_not_quote_the_line_which_may_hold_a_secret(tmp_path: Path) -> None:
    assert "hvs.CANARY" not in str(problems(tmp_path, "upstream: {auth: {token: 'hvs.CANARY}}"))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "nowhere.yaml", {})


def test_the_documented_environment_names_override_the_file(tmp_path: Path) -> None:
    environ = {
        "ENVIRONMENT": "test",
        "VAULT_URL": "https://other:8200",
        "VAULT_TOKEN": "from-env",
        "TENANT_ID": "umbrella",
        "TENANT_ALLOWED_MOUNTS": "secret, team/kv",
        "TENANT_SALT": "another-salt-of-enough-bytes",
        "SECRETS_API_REQUIRE_AUTH": "false",
        "SECRETS_AUDIENCE": "aud",
        "SECRETS_ENFORCE_SCOPES": "true",
        "GRANT_TTL_DEFAULT": "61",
        "GRANT_MAX_USES_DEFAULT": "7",
        "NEGATIVE_CACHE_TTL_S": "2.5",
        "ANTI_REPLAY_TTL_S": "900",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092",
        "KAFKA_TOPIC_PREFIX": "pfx",
    }
    config = load(written(tmp_path, minimal(tmp_path)), environ)
    assert config.environment is Environment.TEST
    assert config.upstream.address == "https://other:8200"
    assert config.upstream.auth.token is not None
    assert config.upstream.auth.token.get_secret_value() == "from-env"
    assert config.tenant.id == "umbrella"
    assert config.tenant.allowed_mounts == ["secret", "team/kv"]
    assert config.identity.required is False
    assert config.identity.audience == "aud"
    assert config.scopes.enforce is True
    assert (config.grants.default_ttl_seconds, config.grants.default_max_uses) == (61, 7)
    assert config.grants.negative_ttl_seconds == 2.5
    assert config.anti_replay.window_seconds == 900
    assert config.audit.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert config.audit.kafka.topic_prefix == "pfx"


@pytest.mark.parametrize("prefix", ["crud audit", "crud/audit", "crüd", "a\nb", "x" * 230])
def test_a_prefix_that_gives_no_topics_is_refused(tmp_path: Path, prefix: str) -> None:
    tree = with_(minimal(tmp_path), "audit.kafka", {"bootstrap_servers": "127.0.0.1:9092", "topic_prefix": prefix})
    assert problems(tmp_path, tree) == {"audit.kafka.topic_prefix": "gives no topics' names"}


def test_a_service_of_the_namespace_configures_nothing(tmp_path: Path) -> None:
    """Kubernetes puts each Service's variables into every container, unless the pod says otherwise; what is named alike
    and is no Service's counts."""
    tree = written(tmp_path, minimal(tmp_path))
    links: dict[str, str] = {}
    for service in ("SIDECAR__GRANTS", "SIDECAR__X", "SIDECAR__AUTHORIZATION__AUTHZEN__EXTRA_CONTEXT__X"):
        links |= {
            f"{service}_SERVICE_HOST": "10.0.0.7",
            f"{service}_SERVICE_PORT": "80",
            f"{service}_SERVICE_PORT_SIDECAR__X": "80",
            f"{service}_PORT": "tcp://10.0.0.7:80",
            f"{service}_PORT_80_TCP": "tcp://10.0.0.7:80",
            f"{service}_PORT_80_TCP_PROTO": "tcp",
            f"{service}_PORT_80_TCP_PORT": "80",
            f"{service}_PORT_80_TCP_ADDR": "10.0.0.7",
        }
    config = load(tree, links | {"SIDECAR__GRANTS__DEFAULT_MAX_USES": "7"})
    assert config.grants.default_max_uses == 7
    assert config.authorization.authzen.extra_context == {}
    with pytest.raises(ConfigError, match="x_port"):
        load(tree, {"SIDECAR__X_PORT": "tcp://10.0.0.7:80"})


def test_every_short_name_stands_for_a_key_that_exists() -> None:
    tree = Config().model_dump()
    for key in ENVIRONMENT_NAMES.values():
        node: object = tree
        for part in key.split("."):
            assert isinstance(node, dict)
            assert part in node, key
            node = node[part]


def test_the_prefixed_names_reach_every_key_and_win(tmp_path: Path) -> None:
    environ = {
        "SIDECAR__LISTEN__ADDRESS": "127.0.0.1:18200",
        "SIDECAR__LIMITS__MAX_BODY_MIB": "4",
        "SIDECAR__MOUNTS": '[{"path": "kv", "engine": "kv1"}]',
        "TENANT_ID": "short",
        "SIDECAR__TENANT__ID": "prefixed",
    }
    config = load(written(tmp_path, minimal(tmp_path)), environ)
    assert config.listen.address == "127.0.0.1:18200"
    assert config.limits.max_body_mib == 4
    assert config.mounts is not None
    assert config.mounts[0].engine == "kv1"
    assert config.tenant.id == "prefixed"


def test_an_unknown_prefixed_name_is_refused_like_an_unknown_key(tmp_path: Path) -> None:
    found = problems(tmp_path, minimal(tmp_path), {"SIDECAR__TENANT__IDD": "x"})
    assert found["tenant.idd"] == "unknown key"


def test_a_prefixed_name_below_a_value_is_refused(tmp_path: Path) -> None:
    assert "tenant.id.x" in problems(tmp_path, minimal(tmp_path), {"SIDECAR__TENANT__ID__X": "x"})


def test_secrets_are_masked_wherever_the_tree_is_shown(tmp_path: Path) -> None:
    config = load(written(tmp_path, minimal(tmp_path)), {"VAULT_TOKEN": "hvs.CANARYTOKEN"})
    shown = f"{config!r} {config} {effective(config)} {config.model_dump_json()}"
    assert "CANARYTOKEN" not in shown
    assert SALT not in shown


def test_a_wrong_value_is_not_quoted_back(tmp_path: Path) -> None:
    tree = with_(minimal(tmp_path), "upstream.auth.token", {"oops": "hvs.CANARYTOKEN"})
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, tree), {})
    assert "CANARYTOKEN" not in str(caught.value)


def test_each_problem_has_a_remedy(tmp_path: Path) -> None:
    tree = with_(minimal(tmp_path), "tenant", {"idd": 1})
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, tree), {})
    assert all(problem.remedy for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:8200", False),
        ("localhost:8200", False),
        ("0.0.0.0:8200", False),
        ("[::]:8200", False),
        ("unix:///run/sidecar/sidecar.sock", False),
        ("10.0.0.1:8200", True),
        ("sidecar.example:8200", True),
    ],
)
def test_the_pod_itself_needs_a_listener_that_it_reaches_from_inside(
    tmp_path: Path, address: str, problem: bool
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("x")
    tree = with_(minimal(tmp_path), "identity.pod", {"enabled": True, "token_file": str(token_file)})
    tree = with_(tree, "listen.address", address)
    if problem:
        assert "identity.pod.enabled" in problems(tmp_path, tree)
    else:
        assert load(written(tmp_path, tree), {}).identity.pod.enabled


UPSTREAM_AUTH = [
    ("kubernetes", {"method": "kubernetes"}, ["upstream.auth.role", "upstream.auth.jwt_file"]),
    ("jwt", {"method": "jwt", "role": "a"}, ["upstream.auth.jwt_file"]),
    ("cert", {"method": "cert"}, ["upstream.tls.cert_file"]),
    ("half an approle beside exchange", {"mode": "exchange", "method": "approle", "role_id": "a"}, ["mounts"]),
    ("exchange", {"mode": "exchange", "token": None}, ["mounts"]),
    ("exchange named by its method", {"mode": "exchange", "method": "jwt", "role": "a"}, ["mounts"]),
    ("exchange with a token", {"mode": "exchange", "token": "s.own"}, []),
    ("passthrough", {"mode": "passthrough", "token": None}, ["mounts"]),
    ("passthrough with a token", {"mode": "passthrough", "token": "s.own"}, []),
]


@pytest.mark.parametrize(
    ("auth", "keys"), [each[1:] for each in UPSTREAM_AUTH], ids=[each[0] for each in UPSTREAM_AUTH]
)
def test_each_mode_and_method_says_what_it_lacks(tmp_path: Path, auth: dict[str, object], keys: list[str]) -> None:
    tree = with_(minimal(tmp_path), "upstream.auth", auth)
    tree.pop("mounts", None)
    assert sorted(problems(tmp_path, tree)) == sorted(keys) if keys else load(written(tmp_path, tree), {})
    if keys == ["mounts"]:
        tree["mounts"] = [{"path": "secret", "engine": "kv2"}]
        assert not load(written(tmp_path, tree), {}).upstream.has_own_login


def test_exchange_and_passthrough_need_callers_that_bring_what_they_need(tmp_path: Path) -> None:
    tree = with_(minimal(tmp_path), "upstream.auth", {"mode": "exchange", "token": "s.own"})
    tree["environment"] = "test"
    assert "identity.required" in problems(tmp_path, with_(tree, "identity.required", False))
    tree = with_(minimal(tmp_path), "upstream.auth", {"mode": "passthrough", "token": "s.own"})
    token = tmp_path / "token"
    token.write_text("x")
    pod = {"enabled": True, "token_file": str(token)}
    assert "identity.pod.enabled" in problems(tmp_path, with_(tree, "identity.pod", pod))


def alone(tmp_path: Path) -> dict[str, object]:
    """Without OpenBao: a file of secrets is all there is."""
    file = tmp_path / "secrets.yaml"
    file.write_text("secret: {app: {k: v}}\n")
    file.chmod(0o600)
    tree = with_(minimal(tmp_path), "yaml_provider", {"path": str(file)})
    del tree["upstream"], tree["mounts"]
    return tree


def test_a_yaml_file_is_enough(tmp_path: Path) -> None:
    config = load(written(tmp_path, alone(tmp_path)), {})
    assert config.yaml_provider.path is not None
    assert not config.upstream.has_own_login
    short = load(
        written(tmp_path, with_(alone(tmp_path), "yaml_provider", {})),
        {"YAML_VAULT_PATH": str(tmp_path / "secrets.yaml")},
    )
    assert short.yaml_provider.path == tmp_path / "secrets.yaml"
    nobody = with_(alone(tmp_path), "tenant", {"id": "acme", "salt": SALT})
    assert problems(tmp_path, nobody) == {"tenant.allowed_mounts": "is empty, nothing would be allowed"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_yaml_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    tree = alone(tmp_path)
    (tmp_path / "secrets.yaml").chmod(mode)
    found = problems(tmp_path, tree)
    assert list(found) == ["yaml_provider.path"]
    assert "open to others" in found["yaml_provider.path"]
    assert list(problems(tmp_path, with_(alone(tmp_path), "yaml_provider", {"path": str(tmp_path / "no")}))) == [
        "yaml_provider.path"
    ]
