"""docs/reference/chart-values.md says what the chart says, and values.yaml explains every key."""

from __future__ import annotations

from tools.chart_docs import PAGE, page, values


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tools.chart_docs`"


def test_every_value_is_explained() -> None:
    found = values()
    assert len(found) > 60
    assert [".".join(value.path) for value in found if not value.meaning] == []
