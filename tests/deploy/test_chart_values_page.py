"""values.yaml explains every key, so that its page can."""

from __future__ import annotations

from tools.chart_docs import values


def test_every_value_is_explained() -> None:
    found = values()
    assert len(found) > 60
    assert [".".join(value.path) for value in found if not value.meaning] == []
