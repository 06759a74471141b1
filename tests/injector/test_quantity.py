"""Quantities mean what Kubernetes takes them for."""

from __future__ import annotations

from decimal import Decimal

import pytest

from sidecar.injector.quantity import parse_cpu, parse_memory, parse_quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", "1"),
        ("0.5", "0.5"),
        ("100m", "0.1"),
        ("1k", "1000"),
        ("1Ki", "1024"),
        ("1.5Gi", str(3 * 2**29)),
        ("2e3", "2000"),
        ("1E2", "100"),
        ("1E", "1e18"),
        ("1Ei", str(2**60)),
        ("5n", "5e-9"),
    ],
)
def test_it_is_the_number_it_stands_for(text: str, number: str) -> None:
    assert parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "+1",
        "-1",
        "0",
        "0.0",
        "1.",
        ".5",
        "1KB",
        "1ki",
        "1e",
        "1e-3",
        "0x10",
        "١",
        "1_000",
        "inf",
        "1e100",
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity"):
        parse_quantity(text)


def test_what_kubernetes_does_not_count_is_refused() -> None:
    with pytest.raises(ValueError, match="1m"):
        parse_cpu("0.0005")
    with pytest.raises(ValueError, match="64Mi"):
        parse_memory("100m")
