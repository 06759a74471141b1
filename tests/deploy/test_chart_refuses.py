"""Values that would make the sidecar weak, or something else than what they say: refused, or plain data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.deploy.pod import config_tree, of_kind
from tests.deploy.values import CHART, defaults, values
from tests.real.helm import BUILD_TIMEOUT, Helm, HelmRefused

SCHEMA: Final[dict[str, Any]] = json.loads((CHART / "values.schema.json").read_text())
helm_test = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]


def refusal(helm: Helm, changes: dict[str, Any], *flags: str) -> str:
    """What Helm says when it refuses these values."""
    with pytest.raises(HelmRefused) as refused:
        helm.template(CHART, values(changes), *flags)
    return str(refused.value)


# -- what is missing, what does not go together ----------------------------------------------------------------------
class TestMissing:
    """Nothing is rendered, and the message names the key and what to do."""

    pytestmark = helm_test

    @pytest.mark.parametrize(
        ("key", "empty"),
        [
            ("ops.tenant.id", ""),
            ("ops.tenant.allowedMounts", []),
            ("ops.tenant.saltSecret.name", ""),
            ("ops.tenant.saltSecret.key", ""),
            ("ops.upstream.address", ""),
            ("ops.identity.issuers", []),
            ("ops.upstream.auth.secret", ""),
        ],
    )
    def test_what_has_no_default_is_asked_for(self, helm: Helm, key: str, empty: object) -> None:
        said = refusal(helm, {key: empty})
        assert "1 problem(s) in the values" in said
        assert f"{key}: " in said
        assert " → " in said

    @pytest.mark.parametrize("version", ["v1.27.16", "v1.27.16-gke.1"])
    def test_an_api_server_that_nobody_tried_it_with_is_refused(self, helm: Helm, version: str) -> None:
        assert "requires kubeVersion: >=1.28" in refusal(helm, {}, "--kube-version", version)

    @pytest.mark.parametrize("version", ["v1.29.0-eks-1", "v1.36.0"])
    def test_newer_ones_and_those_of_clouds_are_not(self, helm: Helm, version: str) -> None:
        assert helm.template(CHART, values(), "--kube-version", version)

    def test_all_that_is_missing_is_said_in_one_run(self, helm: Helm) -> None:
        with pytest.raises(HelmRefused) as refused:
            helm.template(CHART, {})
        assert "5 problem(s) in the values" in str(refused.value)

    @pytest.mark.parametrize(
        "changes",
        [
            {"ops.api.requireAuth": False},
            {"ops.authorization.enabled": False},
            {"ops.environment": "test", "ops.authorization.enabled": False},
            {"ops.upstream.address": "http://openbao:8200"},
            {"ops.upstream.address": "http://localhost.evil.example:8200"},
            {"ops.upstream.address": "http://127.0.0.1.evil.example"},
            {"ops.identity.issuers": [{"issuer": "https://a", "jwksUri": "http://idp.example/jwks"}]},
            {"ops.identity.issuers": [{"issuer": "idp.example"}]},
            {"ops.identity.issuers": [{"issuer": "http://idp.example"}]},
            {"ops.identity.issuers": [{"issuer": "spiffe://acme.example"}]},
            {
                "ops.identity.issuers": [
                    {"issuer": "https://a", "kind": "spiffe", "trustDomain": "a", "trust_domain": "a"}
                ]
            },
            {"ops.identity.issuers": [{"issuer": "https://a", "jwksUri": "https://a/1", "jwks_uri": "https://a/2"}]},
            {"ops.identity.issuers": [{"issuer": "https://a", "jwksUri": "https://a/1"}] * 2},
            {"ops.authorization.pdp": "authzen"},
            {"ops.authorization.pdp": "authzen", "ops.authorization.authzen.url": "http://pdp:3592"},
            {"ops.upstream.auth.method": "kubernetes"},
            {"ops.upstream.auth.method": "kubernetes", "ops.upstream.auth.role": "a", "ops.upstream.auth.audience": ""},
            {"ops.kafka.bootstrapServers": "kafka:9092", "ops.kafka.securityProtocol": "PLAINTEXT"},
            {"ops.kafka.bootstrapServers": "kafka:9092", "ops.kafka.securityProtocol": "SASL_SSL"},
            {"ops.kafka.bootstrapServers": "kafka:9092", "ops.kafka.sasl.secret": "login"},
            {"ops.kafka.caSecret": "kafka-ca"},
            {"ops.revocations.topic": "crud.secrets.revocations"},
            {"ops.kafka.bootstrapServers": "kafka:9092", "ops.revocations.topic": "crud.secrets.audit"},
            {"ops.kafka.bootstrapServers": "kafka:9092", "ops.revocations.topic": ".."},
            {"ops.antiReplay.windowSeconds": 64},
            {"ops.antiReplay.windowSeconds": 300, "ops.extraConfig": {"anti_replay": {"proof_max_age_seconds": 296}}},
            {"ops.antiReplay.store": "valkey://valkey:6379", "ops.antiReplay.storeCaSecret": "ca"},
            {"ops.antiReplay.storePasswordSecret": "login"},
            {"ops.audit.retentionMib": 257},
            {"ops.audit.retentionMib": 1, "ops.kafka.bootstrapServers": "kafka:9092"},
            {"ops.upstream.auth.mode": "passthrough", "ops.identity.pod.enabled": True},
            {"sidecar.operationsAddress": "127.0.0.1:9102"},
            {"sidecar.operationsAddress": "[::1]:9102"},
            {"ops.metrics.enabled": False, "ops.metrics.serviceMonitor": True},
            {"ops.tenant.allowedMounts": ["secret", "team/../sys"]},
            {"ops.tenant.allowedMounts": ["a/./b"]},
            {"sidecar.resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1000Mi"}}},
            {"sidecar.resources": {"requests": {"cpu": "1001m"}, "limits": {"cpu": 1}}},
            {
                "ops.authorization.cedar.policiesConfigMap": "theirs",
                "policies": {"a.cedar": "permit (principal, action, resource);"},
            },
        ],
        ids=str,
    )
    def test_what_weakens_or_contradicts_is_refused(self, helm: Helm, changes: dict[str, Any]) -> None:
        said = refusal(helm, changes)
        assert "1 problem(s) in the values" in said
        assert " → " in said


# -- the schema ----------------------------------------------------------------------------------------------------
def sections(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The place of every mapping in a tree."""
    yield path
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from sections(value, (*path, key))


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of an object, with its place."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, value in schema.items():
            yield from objects(value, f"{path}/{key}")


def test_every_object_of_the_schema_is_closed() -> None:
    for path, schema in objects(SCHEMA):
        if path == "/properties/global" or path.endswith("/authzen/properties/extra_context"):
            continue  # Helm's own, shared with other charts; and what a PDP is sent as it stands
        assert "additionalProperties" in schema, path
        free = schema["additionalProperties"]
        closed = free is False or free.get("type") == "string" or "$ref" in free
        assert closed, path
        assert free is False or "propertyNames" in schema, path


def test_the_schema_knows_exactly_the_keys_that_the_values_show() -> None:
    def compare(schema: dict[str, Any], tree: dict[str, Any], path: str) -> None:
        if "$ref" in schema:
            return  # shared shapes (resources, labels) have optional keys
        if schema.get("additionalProperties") is not False:
            return
        assert set(schema["properties"]) - {"global"} == set(tree), path
        assert set(schema["required"]) == set(tree), path
        for key, value in tree.items():
            if isinstance(value, dict):
                compare(schema["properties"][key], value, f"{path}.{key}")

    compare(SCHEMA, defaults(), "values")


class TestSchema:
    """Types, spelling, single values."""

    pytestmark = helm_test

    @pytest.mark.parametrize("place", list(sections({"ops": defaults()["ops"]})), ids=".".join)
    def test_a_misspelt_key_is_refused_wherever_it_stands(self, helm: Helm, place: tuple[str, ...]) -> None:
        said = refusal(helm, {".".join((*place, "allowedMount")): "secret"})
        assert "additional properties 'allowedMount' not allowed" in said

    @pytest.mark.parametrize(
        "changes",
        [
            {"ops.tenant.id": 7},
            {"ops.tenant.allowedMounts": "secret"},
            {"ops.api.requireAuth": "false"},
            {"ops.api.audience": ""},
            {"ops.api.audience": ["crud.secrets"]},
            {"ops.authorization.enabled": 0},
            {"ops.authorization.enabled": "no"},
            {"ops.tenant.allowedMounts": ["../sys"]},
            {"ops.tenant.allowedMounts": ["a//b"]},
            {"ops.tenant.allowedMounts": ["*"]},
            {"ops.authorization": None},
            {"ops.api.requireAuth": None},
            {"ops.environment": "production"},
            {"ops.identity.binding": "none"},
            {"ops.identity.issuers": [{"issuer": "https://a", "jwksUri": "https://a/1", "algorithms": ["none"]}]},
            {"ops.identity.issuers": [{"issuer": "https://a", "jwksUri": "https://a/1", "algorithms": ["HS256"]}]},
            {"ops.identity.issuers": [{"issuer": "https://a", "jwksUri": "file:///etc/shadow"}]},
            {"ops.identity.issuers": [{"issuer": "https://a", "kind": "saml"}]},
            {"ops.identity.issuers": [{"issuer": "https://a", "kind": "spiffe", "trustDomain": "a/b"}]},
            {"ops.grants.defaultMaxUses": 0},
            {"ops.grants.defaultTtlSeconds": 1.5},
            {"ops.grants.maxTtlSeconds": -1},
            {"ops.audit.onFailure": "allow"},
            {"ops.upstream.auth.method": "token"},
            {"ops.upstream.auth.token": "s.0123456789"},
            {"ops.upstream.address": "HTTP://openbao:8200"},
            {"ops.upstream.address": "https://user:password@openbao"},
            {"ops.antiReplay.store": "valkey://user:password@valkey:6379"},
            {"sidecar.operationsAddress": "0.0.0.0:8200"},
            {"sidecar.drainSeconds": 5},
            {"image.digest": "sha256:0a"},
        ],
        ids=str,
    )
    def test_a_value_of_another_kind_is_refused(self, helm: Helm, changes: dict[str, Any]) -> None:
        assert "don't meet the specifications of the schema" in refusal(helm, changes)


# -- injection -----------------------------------------------------------------------------------------------------
PAYLOADS: Final = {
    "a new line and a key": "acme\nenvironment: dev",
    "a new line, deeper": "acme\n      allowed_mounts: [sys]",
    "the end of the scalar": 'acme"\nidentity: {required: false}\n#',
    "the end of a single-quoted scalar": "acme'\nauthorization: {enabled: false}",
    "a flow mapping": "acme, allowed_mounts: [sys]}",
    "a comment": "acme # and no more",
    "a new document": "acme\n---\napiVersion: v1\nkind: Secret",
    "a template": "{{ .Release.Name }}",
    "a template that fails": '{{ fail "run" }}',
    "a look-up": '{{ (lookup "v1" "Secret" "default" "x").data }}',
    "an anchor and a tag": "&a !!python/object/apply:os.system [id]",
    "an alias": "*a",
    "carriage return": "acme\renvironment: dev",
    "next line": "acme\u0085environment: dev",
    "line separator": "acme\u2028environment: dev",
    "NUL": "acme\u0000",
    "a trailing new line": "acme\n",
}
PLACES: Final = (
    "ops.tenant.id",
    "ops.tenant.allowedMounts[]",
    "ops.tenant.saltSecret.name",
    "ops.tenant.saltSecret.key",
    "ops.api.audience",
    "ops.identity.issuers[].issuer",
    "ops.identity.issuers[].jwksUri",
    "ops.identity.issuers[].caConfigMap",
    "ops.upstream.address",
    "ops.upstream.namespace",
    "ops.upstream.caConfigMap",
    "ops.upstream.auth.role",
    "ops.upstream.auth.mount",
    "ops.upstream.auth.secret",
    "ops.mounts[].path",
    "ops.mounts[].engine",
    "ops.mounts[].namespace",
    "ops.kafka.bootstrapServers",
    "ops.kafka.topicPrefix",
    "ops.revocations.topic",
    "ops.authorization.cedar.policiesConfigMap",
    "ops.antiReplay.store",
    "ops.tracing.otlpEndpoint",
    "image.repository",
    "image.tag",
    "serviceAccount.name",
    "monitoring.namespace",
    "sidecar.operationsAddress",
    "example.image",
)


def everywhere(text: str) -> dict[str, Any]:
    """The changes that put a text at every place."""
    changes: dict[str, Any] = {place.removesuffix("[]"): [text] if place.endswith("[]") else text for place in PLACES}
    entries: dict[str, dict[str, Any]] = {}
    for place in PLACES:
        of, inside, key = place.partition("[].")
        if inside:
            entries.setdefault(of, {})[key] = changes.pop(place)
    return changes | {of: [entry] for of, entry in entries.items()} | {"example.enabled": True}


def shape(node: Any) -> Any:
    """A tree without its values: what injection would change."""
    if isinstance(node, dict):
        return {key: shape(value) for key, value in sorted(node.items())}
    return [shape(item) for item in node] if isinstance(node, list) else type(node).__name__


def shapes(manifests: list[dict[str, Any]]) -> list[Any]:
    """The shape of every manifest, and of the configuration inside."""
    return [shape(one) for one in (*manifests, config_tree(manifests))]


class TestInjection:
    """A value that tries to become structure."""

    pytestmark = helm_test

    @pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
    def test_it_is_refused_by_the_schema_wherever_it_stands(self, helm: Helm, payload: str) -> None:
        said = refusal(helm, everywhere(payload))
        assert "don't meet the specifications of the schema" in said
        for place in PLACES:
            assert f"at '/{place.replace('[]', '.0').replace('.', '/')}'" in said

    @pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
    def test_it_stays_data_even_where_the_schema_is_skipped(self, helm: Helm, payload: str) -> None:
        manifests = helm.template(CHART, values(everywhere(payload)), "--skip-schema-validation")
        assert shapes(manifests) == shapes(
            helm.template(CHART, values(everywhere("harmless")), "--skip-schema-validation")
        )
        tree = config_tree(manifests)
        read = payload.replace("\u0085", " ")  # a line break to YAML 1.1, and folded
        assert tree["tenant"]["id"] == read
        assert tree["tenant"]["allowed_mounts"] == [read]
        assert tree["upstream"]["auth"]["role_id"] == read
        assert tree["identity"]["issuers"][0]["jwks_uri"] == read

    def test_numbers_stay_numbers_where_the_schema_is_skipped(self, helm: Helm) -> None:
        for key in ("sidecar.startupSeconds", "sidecar.drainSeconds", "example.replicas", "ops.audit.maxSpoolMib"):
            manifests = helm.template(CHART, values({key: "1\n          privileged: true"}), "--skip-schema-validation")
            assert "privileged" not in str(of_kind(manifests, "Deployment"))

    @pytest.mark.parametrize(
        "role",
        [
            *("on", "null", "y", "1e3", "0x1F", "0o17", "1_000", "12:30:45", "2026-01-01", "1.0", "010", "a:", "_"),
            *("a'b", 'a"b', "a\\n", "a{{.}}", "a[b]", "a{b}", "a|", "a>", "a%", "a&b", "a*b", "a!b", "a,b", "a:#b"),
        ],
    )
    def test_text_that_yaml_reads_as_something_else_stays_text(self, helm: Helm, role: str) -> None:
        manifests = helm.template(CHART, values({"ops.upstream.auth.role": role}))
        assert config_tree(manifests)["upstream"]["auth"]["role_id"] == role

    def test_a_policys_text_arrives_as_it_is_or_is_refused(self, helm: Helm) -> None:
        beyond_yaml = ("next line", "line separator", "NUL")
        for name, payload in PAYLOADS.items():
            if name in beyond_yaml:
                assert "at '/policies/a.cedar'" in refusal(helm, {"policies": {"a.cedar": payload}})
                continue
            manifests = helm.template(CHART, values({"policies": {"a.cedar": payload}}))
            (policies,) = (one for one in of_kind(manifests, "ConfigMap") if "a.cedar" in one["data"])
            assert policies["data"] == {"a.cedar": payload}, name

    def test_a_policys_name_is_a_file_name(self, helm: Helm) -> None:
        for name in ("../a.cedar", "a.txt", ".cedar", "..data.cedar", "a\n.cedar", "a/b.cedar", ""):
            said = refusal(helm, {"policies": {name: "permit (principal, action, resource);"}})
            assert "don't meet the specifications of the schema" in said

    def test_the_applications_command_arrives_as_it_is(self, helm: Helm) -> None:
        command = ["sh", "-c", PAYLOADS["a new document"], PAYLOADS["a template"], "- a"]
        (deployment,) = of_kind(helm.template(CHART, values({"example.command": command})), "Deployment")
        assert deployment["spec"]["template"]["spec"]["containers"][0]["command"] == command
