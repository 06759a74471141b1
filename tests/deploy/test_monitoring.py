"""Alerts and dashboard: what they ask for is what a running sidecar gives; each alert fires and is explained."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import promql_parser
import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sidecar.errors import STATUS
from sidecar.injector import metrics as injector_metrics
from sidecar.injector.app import Injector
from sidecar.ops import metrics
from tests.deploy.pod import of_kind
from tests.deploy.values import CHART, values
from tests.injector.test_running import issued_for
from tests.real.helm import BUILD_TIMEOUT, Helm
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.certificates import Authority
from tests.support.tokens import Issuer

ALERTS: Final = CHART / "files" / "alerts.yaml"
RUNBOOKS: Final = CHART.parent.parent.parent / "docs" / "how-to" / "answer-alerts.md"
DASHBOARD: Final[dict[str, Any]] = json.loads((CHART / "files" / "dashboard.json").read_text())
RULES: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]

TARGET: Final = {"namespace", "pod", "container", "job", "instance"}
"""What Prometheus says of where a sample comes from."""
OF_PROMETHEUS: Final = {"up"}
CLOSED: Final[dict[tuple[str, str], set[str]]] = {
    ("sidecar_denies_total", "code"): set(STATUS),
    ("sidecar_errors_total", "code"): {code for code, status in STATUS.items() if status >= 500},
    ("sidecar_audit_kafka_errors_total", "reason"): set(metrics.KAFKA_REASONS),
    ("sidecar_attributes_total", "result"): {"hit", "fetched", "none", "failed"},
    ("sidecar_pep_seconds_bucket", "path"): {"grant", "first"},
    ("sidecar_decisions_total", "effect"): {"permit", "deny", "error"},
    ("sidecar_part_warning", "part"): {"revocations"},
    ("sidecar_injector_admissions_total", "result"): {"injected", "unchanged", "denied", "malformed", "failed"},
    ("up", "container"): {"openbao-sidecar", "injector"},
}
"""Values that a label is compared with, where that is not a name of Kubernetes'."""
NOT_SHOWN: Final = {
    "sidecar_decision_recordings",  # of a tool for changing policies, not of operations
    "sidecar_event_streams",  # of the development environment
}


def plain(expression: str) -> str:
    """A panel's expression with Grafana's variables filled in."""
    filled = expression.replace("$__rate_interval", "5m")
    return re.sub(r"\$(namespace|pod)\b", ".*", filled)


EXPRESSIONS: Final = {rule["alert"]: rule["expr"] for rule in RULES} | {
    f"{panel['title']} {target['refId']}": plain(target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}


def selectors(node: Any) -> Iterator[Any]:
    """The vector selectors in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("vector_selector", "expr", "lhs", "rhs", "param"):
        if (inner := getattr(node, name, None)) is not None:
            yield from selectors(inner)
    for inner in getattr(node, "args", ()):
        yield from selectors(inner)


def asked(expression: str) -> list[tuple[str, dict[str, str]]]:
    """The metrics that an expression names, each with the labels that it compares."""
    found = [
        (str(one.name), {match.name: match.value for match in one.matchers.matchers})
        for one in selectors(promql_parser.parse(expression))
    ]
    assert len(found) == len(re.findall(r"\b(?:up|sidecar_\w+|process_\w+)\b", expression)), expression
    return found


@pytest.fixture(scope="module")
def exposed(openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The samples' names of a running sidecar's and a running injector's /metrics, each with the labels that it may
    have."""
    with SidecarProcess(tmp_path_factory.mktemp("monitored"), openbao, Issuer()) as sidecar:
        text = requests.get(f"http://127.0.0.1:{sidecar.ops_port}/metrics", timeout=10).text
    told = asyncio.run(_told_by_an_injector(tmp_path_factory.mktemp("monitored")))
    labels = {collector._name: set(collector._labelnames) for collector in _collectors()}
    found: dict[str, set[str]] = {}
    for family in (*text_string_to_metric_families(text), *text_string_to_metric_families(told)):
        own = labels.get(family.name, set())
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        for suffix in suffixes:
            found[f"{family.name}{suffix}"] = own | ({"le"} if suffix == "_bucket" else set())
    return found


async def _told_by_an_injector(folder: Path) -> str:
    configured = issued_for(Authority(), folder, timedelta(hours=1))
    url = f"http://{configured.ops.address}/metrics"
    async with Injector(configured), aiohttp.ClientSession() as http, http.get(url) as answer:
        return await answer.text()


def _collectors() -> Iterator[Any]:
    everything = (*vars(metrics).values(), *vars(injector_metrics).values())
    return (one for one in everything if hasattr(one, "_labelnames") and hasattr(one, "_name"))


# -- what is asked for is there --------------------------------------------------------------------------------------
@pytest.mark.real
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_running_sidecar_gives_what_an_expression_asks_for(exposed: dict[str, set[str]], name: str) -> None:
    for metric, compared in asked(EXPRESSIONS[name]):
        assert metric in exposed or metric in OF_PROMETHEUS, metric
        for label, value in compared.items():
            if label in ("namespace", "pod"):
                continue
            assert label in exposed.get(metric, TARGET), f"{metric}: {label}"
            assert set(value.split("|")) <= CLOSED[metric, label], f"{metric}: {label}: {value}"


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_is_grouped_by_is_a_label_of_what_is_grouped(name: str) -> None:
    known = {collector._name: set(collector._labelnames) for collector in _collectors()}
    labels = set().union(
        *(known.get(re.sub(r"_(total|bucket)$", "", metric), set()) for metric, _ in asked(EXPRESSIONS[name]))
    )
    for group in re.findall(r"\bby \(([^)]*)\)", EXPRESSIONS[name]):
        assert {one.strip() for one in group.split(",")} <= labels | TARGET | {"le"}, group


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {metric for name, text in EXPRESSIONS.items() if " " in name for metric, _ in asked(text)}
    for collector in _collectors():
        counted = {"counter": "_total", "histogram": "_bucket"}.get(collector._type, "")
        if collector._name not in NOT_SHOWN:
            name = f"{collector._name}{counted}"
            assert name in shown, f"{name}: add a panel to dashboard.json, or say why not in NOT_SHOWN"


# -- each alert fires ------------------------------------------------------------------------------------------------
POD: Final = {"namespace": "shop", "pod": "web-1", "container": "openbao-sidecar"}
INJECTOR: Final = 'container="injector",pod="openbao-sidecar-injector-1"'
FIRES: Final[dict[str, tuple[dict[str, str], str]]] = {
    "OpenBaoSidecarDown": ({"up": "0x40"}, "1x40"),
    "OpenBaoSidecarNotReady": ({'sidecar_part_ready{part="upstream"}': "0x40"}, "1x40"),
    "OpenBaoSidecarWarns": ({'sidecar_part_warning{part="keys"}': "1x40"}, "0x40"),
    "OpenBaoSidecarUpstreamFails": (
        {
            'sidecar_errors_total{code="UPSTREAM_TIMEOUT"}': "0+6x40",
            'sidecar_decisions_total{effect="permit",purpose="read"}': "0+60x40",
        },
        "0x40",
    ),
    "OpenBaoSidecarSlow": (
        {
            'sidecar_pep_seconds_bucket{path="grant",le="0.05"}': "0+50x40",
            'sidecar_pep_seconds_bucket{path="grant",le="0.1"}': "0+60x40",
            'sidecar_pep_seconds_bucket{path="grant",le="+Inf"}': "0+60x40",
        },
        "0+60x40",
    ),
    "OpenBaoSidecarAuditUnavailable": ({'sidecar_errors_total{code="AUDIT_UNAVAILABLE"}': "0x37 1x3"}, "0x40"),
    "OpenBaoSidecarSpoolFills": (
        {"sidecar_audit_backlog_bytes": "85x40", "sidecar_audit_limit_bytes": "100x40"},
        "79x40",
    ),
    "OpenBaoSidecarAuditBehind": ({"sidecar_audit_oldest_seconds": "901x40"}, "900x40"),
    "OpenBaoSidecarKafkaRefuses": (
        {'sidecar_audit_kafka_errors_total{reason="not_authorized"}': "0+1x40"},
        "0x40",
    ),
    "OpenBaoSidecarProvenanceMissing": ({"sidecar_provenance_failures_total": "0x37 1x3"}, "0x40"),
    "OpenBaoSidecarPdpFails": ({"sidecar_pdp_errors_total": "0+1x40"}, "0x40"),
    "OpenBaoSidecarPdpSlow": (
        {
            'sidecar_pdp_seconds_bucket{le="0.1"}': "0+50x40",
            'sidecar_pdp_seconds_bucket{le="0.3"}': "0+60x40",
            'sidecar_pdp_seconds_bucket{le="+Inf"}': "0+60x40",
        },
        "0+60x40",
    ),
    "OpenBaoSidecarPoliciesRefused": ({"sidecar_policies_refused": "1x40"}, "0x40"),
    "OpenBaoSidecarManyDenied": (
        {
            'sidecar_decisions_total{effect="deny",purpose="read"}': "0+60x40",
            'sidecar_decisions_total{effect="permit",purpose="read"}': "0+30x40",
        },
        "0x40",
    ),
    "OpenBaoSidecarAttributesMissing": ({'sidecar_attributes_total{result="failed"}': "0+1x40"}, "0x40"),
    "OpenBaoSidecarReplays": ({'sidecar_replays_total{kind="proof"}': "0x37 1x3"}, "0x40"),
    "OpenBaoSidecarBindingBroken": ({'sidecar_denies_total{code="BINDING_MISMATCH"}': "0+1x40"}, "0x40"),
    "OpenBaoSidecarForeignMounts": ({"sidecar_tenant_mount_violations_total": "0x37 1x3"}, "0x40"),
    "OpenBaoSidecarReplayStoreFails": ({"sidecar_replay_store_errors_total": "0+1x40"}, "0x40"),
    "OpenBaoSidecarRevocationsSilent": ({'sidecar_part_warning{part="revocations"}': "1x40"}, "0x40"),
    "OpenBaoSidecarRevocationsMalformed": ({"sidecar_revocations_malformed_total": "0x37 1x3"}, "0x40"),
    "OpenBaoSidecarInjectorDown": ({f"up{{{INJECTOR}}}": "0x40"}, "1x40"),
    "OpenBaoSidecarInjectorFails": (
        {f'sidecar_injector_admissions_total{{phase="mutate",result="failed",{INJECTOR}}}': "0x37 1x3"},
        "0x40",
    ),
    "OpenBaoSidecarInjectorMalformed": (
        {f'sidecar_injector_admissions_total{{phase="mutate",result="malformed",{INJECTOR}}}': "0x37 1x3"},
        "0x40",
    ),
    "OpenBaoSidecarInjectorSlow": (
        {
            f'sidecar_injector_seconds_bucket{{le="1.0",{INJECTOR}}}': "0+50x40",
            f'sidecar_injector_seconds_bucket{{le="5.0",{INJECTOR}}}': "0+60x40",
            f'sidecar_injector_seconds_bucket{{le="+Inf",{INJECTOR}}}': "0+60x40",
        },
        "0+60x40",
    ),
    "OpenBaoSidecarInjectorCertificateExpires": (
        {f"sidecar_injector_certificate_expiry_seconds{{{INJECTOR}}}": "23000x40"},
        "30000x40",
    ),
    "OpenBaoSidecarInjectorCertificateErrors": (
        {f"sidecar_injector_certificate_errors_total{{{INJECTOR}}}": "0+1x40"},
        "0+1x22 22x18",
    ),
}
"""Series under which each alert fires after 40 minutes, and what its first series is where all is well."""


def series(name: str, samples: str) -> dict[str, str]:
    """One input series of promtool's."""
    metric, _, own = name.partition("{")
    labels = POD | dict(re.findall(r'(\w+)="([^"]*)"', own))
    written = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return {"series": f"{metric}{{{written}}}", "values": samples}


def test_every_alert_has_a_case() -> None:
    assert [rule["alert"] for rule in RULES] == [*FIRES]


@pytest.mark.real
def test_every_alert_fires_when_it_must_and_only_then(tmp_path: Path) -> None:
    """By Prometheus' own rule engine."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.fail("promtool is needed: apt-get install prometheus")
    cases: list[dict[str, Any]] = []
    for alert, (given, well) in FIRES.items():
        first = next(iter(given))
        for fires, inputs in ((True, given), (False, given | {first: well})):
            # Of an alert the labels and the text are this page's matter; here only whether it is there.
            found = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
            cases.append(
                {
                    "name": f"{alert} {'fires' if fires else 'is silent'}",
                    "interval": "1m",
                    "input_series": [series(name, samples) for name, samples in inputs.items()],
                    "promql_expr_test": [
                        {
                            "expr": found,
                            "eval_time": "40m",
                            "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                        }
                    ],
                }
            )
    rules = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(rules))
    command = [promtool, "test", "rules", "test.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


# -- each alert is explained -----------------------------------------------------------------------------------------
def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")


@pytest.mark.real
@pytest.mark.timeout(BUILD_TIMEOUT)
def test_the_chart_brings_rules_and_dashboard_as_they_are(helm: Helm) -> None:
    base = "https://wiki.example/alerts"
    changes = {"monitoring.rules": True, "monitoring.dashboard": True, "monitoring.runbooks": base}
    manifests = helm.template(CHART, values(changes, example=False))
    (rule,) = of_kind(manifests, "PrometheusRule")
    rendered = [one for group in rule["spec"]["groups"] for one in group["rules"]]
    for one, written in zip(rendered, RULES, strict=True):
        assert one["annotations"].pop("runbook_url") == f"{base}#{written['alert'].lower()}"
        assert one == written
    (dashboard,) = (one for one in of_kind(manifests, "ConfigMap") if "grafana_dashboard" in one["metadata"]["labels"])
    assert json.loads(dashboard["data"]["openbao-sidecar.json"]) == DASHBOARD


# -- the dashboard ---------------------------------------------------------------------------------------------------
def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(panel["gridPos"]["w"] == 12 and panel["gridPos"]["x"] in (0, 12) for panel in panels)
    assert all(target["legendFormat"] for panel in panels for target in panel["targets"])
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
