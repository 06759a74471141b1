"""Writes what is generated from the code: the pages of docs/reference, the chart's README and a part of its schema:
`make docs`. Tests hold them against it."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from sidecar.config import ENVIRONMENT_NAMES, Config
from sidecar.errors import STATUS, Code
from sidecar.ops import metrics
from sidecar.surface.secrets import openapi
from tools import chart_docs, chart_extra, surface_docs

ATTACKS = Path(__file__).resolve().parent.parent / "tests" / "attack"
_ATTACK = re.compile(r"(?:async )?def test_(?P<group>[a-z]+)_(?P<number>\d\d)_(?P<what>\w+)")
ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"


def configuration() -> str:
    """The page of all configuration keys."""
    short = {key: name for name, key in ENVIRONMENT_NAMES.items()}
    lines = [
        "# Configuration",
        "",
        "Written from `sidecar/config/tree.py` by `make docs`. One YAML file, validated as a whole by",
        "`sidecar check --config FILE`: unknown keys are refused, every problem is said in one run.",
        "`SIDECAR__SECTION__KEY` in the environment overrides any key; the short names below do so too, and lose",
        "against it. A key given as null counts as not given.",
        "",
        "| key | type | default | environment |",
        "|---|---|---|---|",
    ]
    lines += _rows(Config, "", short)
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel], prefix: str, short: dict[str, str]) -> list[str]:
    rows: list[str] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = _model_in(field.annotation)
        if inner is not None and get_origin(field.annotation) is None:
            rows.append(f"| **`{key}`** | {_first_line(inner)} | | |")
            rows += _rows(inner, f"{key}.", short)
            continue
        default = "" if field.default in (None, PydanticUndefined) else f"`{_plain(field.default)}`"
        env = f"`{short[key]}`" if key in short else ""
        rows.append(f"| `{key}` | {_type(field.annotation)} | {default} | {env} |")
        if inner is not None:
            rows += _rows(inner, f"{key}[].", short)
    return rows


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _model_in(argument))), None)


def _first_line(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").splitlines()[0]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value) if value != "" else '""'


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return " or ".join(_type(each) for each in get_args(annotation) if each is not type(None))
    if origin is Literal:
        return " \\| ".join(f"`{each}`" for each in get_args(annotation))
    if origin in (list, typing.List):  # noqa: UP006 - what get_origin may give
        return f"list of {_type(get_args(annotation)[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "boolean", "SecretStr": "secret text"}
    name = getattr(annotation, "__name__", str(annotation))
    if name == "Environment":
        return "`dev` \\| `test` \\| `prod`"
    return names.get(name, name.lower())


def errors() -> str:
    """The page of all error codes."""
    lines = [
        "# Error codes",
        "",
        "Written from `sidecar/errors.py` by `make docs`. `/v1/…` answers `{errors: [message], code,",
        "correlation_id}`, `/api/secrets…` answers `{error, code, message, correlation_id}`. What OpenBao itself",
        "answered passes unchanged.",
        "",
        "| status | code |",
        "|---|---|",
    ]
    lines += [f"| {STATUS[code]} | `{code}` |" for code in Code]
    return "\n".join(lines) + "\n"


def attacks() -> str:
    """The page of all attacks that are tried: the names of the tests in tests/attack are the sentences."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in sorted(ATTACKS.glob("test_*.py")):
        for line in file.read_text(encoding="utf-8").splitlines():
            match = _ATTACK.match(line)
            if match:
                found.setdefault((match["group"].upper(), match["number"]), []).append(match["what"])
    lines = [
        "# Attacks that are tried",
        "",
        "Written from the names of the tests in `tests/attack/` by `make docs`; each sentence is one test, run by",
        "`make test`. What they are about, and what is left open, is in the [threat model](../threat-model.md).",
        "",
    ]
    group = ""
    for (name, number), sentences in sorted(found.items()):
        if name != group:
            lines += [f"## {name}", ""] if not group else ["", f"## {name}", ""]
            group = name
        lines += [f"- **{number}** {sentence.replace('_', ' ')}" for sentence in sentences]
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """The page of all metrics."""
    lines = [
        "# Metrics",
        "",
        "Written from `sidecar/ops/metrics.py` by `make docs`. `/metrics` on the operations listener: Prometheus text,",
        "or OpenMetrics by `Accept`. No label carries a path, a subject or a token: its values are a closed set.",
        "Beside these, what Prometheus' clients tell of every process: `process_resident_memory_bytes`,",
        "`process_cpu_seconds_total`, `process_open_fds`, `process_max_fds`, `process_start_time_seconds`.",
        "",
        "| metric | type | labels | says |",
        "|---|---|---|---|",
    ]
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            family = next(iter(metric.collect()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            lines.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(lines) + "\n"


PAGES = {
    "attacks.md": attacks,
    "../../deploy/k8s/chart/README.md": chart_docs.page,
    "configuration.md": configuration,
    "errors.md": errors,
    "headers.md": surface_docs.headers,
    "metrics.md": metrics_page,
    "openapi.json": lambda: openapi.written().decode(),
    "operations.md": surface_docs.operations,
}


def main() -> None:
    """Writes every page."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
        print(f"written: {(REFERENCE / name).resolve().relative_to(ROOT)}")
    chart_extra.write()
    print("written: deploy/k8s/chart/values.schema.json, ops.extraConfig")


if __name__ == "__main__":
    main()
