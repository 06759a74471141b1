"""`ops.extraConfig`: what has no value of its own, and never what the chart writes itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.config import load
from tests.deploy.pod import config_file, config_tree, environment, of_kind, pod_spec
from tests.deploy.values import BUILT, CHART, GATEWAYS, values
from tests.real.helm import BUILD_TIMEOUT, Helm, HelmRefused
from tools.chart_extra import REFUSED, SCHEMA, TAKEN, extra_config, key_paths, tree

helm_test = [pytest.mark.real, pytest.mark.timeout(BUILD_TIMEOUT)]


def in_sections(key: str, sections: Any) -> bool:
    """Whether a key is one of these, or stands below one."""
    return any(key == one or key.startswith(f"{one}.") for one in sections)


def leaves(node: Any, path: str = "") -> set[str]:
    """The keys of a tree that hold values; a list's entries count as one."""
    if isinstance(node, dict):
        return {leaf for key, value in node.items() for leaf in leaves(value, f"{path}.{key}" if path else key)}
    if isinstance(node, list) and (not node or isinstance(node[0], dict)):
        return {leaf for entry in node for leaf in leaves(entry, path)}
    return {path}


def nested(key: str, value: object) -> dict[str, Any]:
    """A tree with one value."""
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def test_the_charts_schema_holds_what_the_configuration_says() -> None:
    assert json.loads(SCHEMA.read_text())["$defs"]["extraConfig"] == extra_config(), "run `make docs`"


def test_what_is_taken_and_what_is_refused_are_keys_of_the_configuration() -> None:
    known = set(key_paths(tree()))
    for section in (*TAKEN, *REFUSED):
        assert any(in_sections(key, [section]) for key in known), section
    assert not [key for key in REFUSED if in_sections(key, TAKEN)]


def test_no_secret_can_be_written_into_the_config_map() -> None:
    secrets = {key for key in key_paths(tree()) if key.rpartition(".")[2] in ("token", "salt", "password", "secret")}
    assert secrets == {"tenant.salt", "upstream.auth.token"}
    assert secrets <= REFUSED.keys()


class TestHelm:
    """The same by the real Helm."""

    pytestmark = helm_test

    def test_every_key_of_the_configuration_is_written_taken_or_refused_and_one_of_these_only(self, helm: Helm) -> None:
        written: set[str] = set()
        for changes in (BUILT | GATEWAYS).values():
            found = config_tree(helm.template(CHART, values(changes | {"ops.extraConfig": {}})))
            written |= leaves(found)
        variables = {"upstream.auth.role_id", "audit.kafka.username"}  # from Secrets, by the environment
        kinds = {"written": written | variables, "taken": set(TAKEN), "refused": set(REFUSED)}
        for key in key_paths(tree()):
            held = [kind for kind, sections in kinds.items() if in_sections(key, sections)]
            assert len(held) == 1, f"{key}: {held or 'nobody has decided on it'}"

    def test_it_reaches_the_sidecar_beside_what_the_chart_writes(self, helm: Helm, tmp_path: Path) -> None:
        manifests = helm.template(CHART, values(BUILT["what has no value"]))
        config = load(config_file(manifests, tmp_path), environment(manifests))
        assert config.limits.max_in_flight == 1000
        assert config.grants.on_binding_change == "separate"
        assert config.grants.default_ttl_seconds == 300
        assert config.authorization.candidate.pdp == "cedar"
        (volume,) = (one for one in pod_spec(manifests)["volumes"] if one["name"] == "sidecar-secrets")
        sources = [next(iter(source.values())) for source in volume["projected"]["sources"]]
        paths = [item["path"] for source in sources for item in source["items"]]
        assert paths == ["salt", "login/secret-id", "extra/schema.json", "extra/candidate/app.cedar"]

    @pytest.mark.parametrize("key", [key for key in key_paths(tree()) if not in_sections(key, TAKEN)])
    def test_a_key_that_is_not_taken_is_refused_by_name(self, helm: Helm, key: str) -> None:
        with pytest.raises(HelmRefused) as refused:
            helm.template(CHART, values({"ops.extraConfig": nested(key, "x")}))
        assert "additional properties" in str(refused.value)
        assert "/ops/extraConfig" in str(refused.value)

    @pytest.mark.parametrize(
        "key", ["listen.address", "identity.binding", "tenant.salt_file", "audit.on_failure", "authorization.enabled"]
    )
    def test_what_the_chart_writes_is_not_overwritten_even_where_the_schema_is_skipped(
        self, helm: Helm, key: str
    ) -> None:
        with pytest.raises(HelmRefused) as refused:
            helm.template(CHART, values({"ops.extraConfig": nested(key, "x")}), "--skip-schema-validation")
        assert f"ops.extraConfig.{key}: the chart writes this itself → use its own value" in str(refused.value)
        section = key.partition(".")[0]
        with pytest.raises(HelmRefused) as refused:
            helm.template(CHART, values({"ops.extraConfig": {section: "gone"}}), "--skip-schema-validation")
        assert f"ops.extraConfig.{section}: the chart writes this itself" in str(refused.value)

    @pytest.mark.parametrize(
        "path",
        ["/etc/passwd", "/run/sidecar/secrets/salt", "/run/sidecar/secrets/extra/../secrets/salt", "relative", "/a\n"],
    )
    def test_a_file_is_one_that_a_volume_can_bring(self, helm: Helm, path: str) -> None:
        changes = {"ops.extraConfig": nested("authorization.cedar.schema", path)}
        with pytest.raises(HelmRefused, match="does not match pattern"):
            helm.template(CHART, values(changes))

    @pytest.mark.parametrize("path", ["../a", "a/../b", "/a", "..data", "a//b", "a\nb", ""])
    def test_a_file_goes_nowhere_but_below_its_folder(self, helm: Helm, path: str) -> None:
        files = [{"secret": {"name": "s", "items": [{"key": "k", "path": path}]}}]
        with pytest.raises(HelmRefused, match="does not match pattern"):
            helm.template(CHART, values({"ops.extraFiles": files}))

    @pytest.mark.parametrize(("one", "other"), [("a", "a"), ("a", "a/b"), ("a/b", "a")])
    def test_two_files_at_one_place_are_refused(self, helm: Helm, one: str, other: str) -> None:
        files = [
            {"secret": {"name": "s", "items": [{"key": "k", "path": one}]}},
            {"configMap": {"name": "c", "items": [{"key": "k", "path": other}]}},
        ]
        with pytest.raises(HelmRefused, match="are one place"):
            helm.template(CHART, values({"ops.extraFiles": files}))

    def test_text_that_tries_to_become_structure_stays_data(self, helm: Helm) -> None:
        context = {"note": "a\nidentity: {required: false}", "{{ .Release.Name }}": '{{ fail "run" }}'}
        manifests = helm.template(
            CHART,
            values({"ops.extraConfig": {"authorization": {"authzen": {"extra_context": context}}}}),
        )
        tree = config_tree(manifests)
        assert tree["authorization"]["authzen"]["extra_context"] == context
        assert tree["identity"]["required"] is True
        assert len(of_kind(manifests, "ConfigMap")) == 2
