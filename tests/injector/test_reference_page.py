"""The page docs/reference/injector.md names all there is, and the configuration it shows is one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel

from sidecar.injector import metrics
from sidecar.injector.annotations import ANNOTATIONS
from sidecar.injector.config import InjectorConfig

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "injector.md").read_text(encoding="utf-8")


def test_the_configuration_shown_has_every_key_with_its_default() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    shown = yaml.safe_load(block)
    shown["sidecar"] |= {"image": "image:1"}
    shown["sidecar"]["upstream"] |= {"address": "https://openbao:8200"}
    shown["listen"]["tls"] |= {"cert_file": "a", "key_file": "b", "client_ca_file": "c"}
    shown["api_server"] |= {"ca_file": "a", "token_file": "b"}
    config = InjectorConfig.model_validate(shown)
    assert set(without_given(shown)) == set(keys_of(config))
    fresh = InjectorConfig.model_validate({"sidecar": {"image": "image:1", "upstream": shown["sidecar"]["upstream"]}})
    for section in ("ops", "self_made", "sidecar", "native_sidecars", "namespace"):
        assert getattr(config, section) == getattr(fresh, section)


def without_given(tree: Any, prefix: str = "") -> list[str]:
    """All keys below, but those of namespaces' names."""
    found = []
    for key, value in tree.items():
        if isinstance(value, dict) and value and key != "namespaces":
            found += without_given(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}")
    return found


def keys_of(model: BaseModel, prefix: str = "") -> list[str]:
    """All keys that there are, but one that the proxy's own page documents."""
    found = []
    for key in type(model).model_fields:
        value = getattr(model, key)
        if isinstance(value, BaseModel):
            found += keys_of(value, f"{prefix}{key}.")
        elif key != "client_crl_file":
            found.append(f"{prefix}{key}")
    return found


def test_every_annotation_is_there() -> None:
    for name in ANNOTATIONS:
        assert f"`{name}`" in PAGE


def test_every_metric_is_there() -> None:
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            family = next(iter(metric.collect()))
            assert f"`{family.name}{'_total' if family.type == 'counter' else ''}`" in PAGE
