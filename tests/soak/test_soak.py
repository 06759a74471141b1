"""The short soak: the same as `make soak`, for a fraction of a minute."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.deploy.values import CHART
from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao
from tests.soak.footprint import GROWTH_MIB, LIMIT_MIB, REST_MIB, Sample, growth, problems, read
from tests.soak.soak import soak

SECONDS, SEED = 12, 10


@pytest.mark.real
async def test_under_load_memory_and_descriptors_stay_flat_and_nothing_is_lost(
    tmp_path: Path, openbao: OpenBao, kafka: KafkaBroker
) -> None:
    report = await soak(tmp_path, openbao, kafka, SECONDS, SEED)
    assert not report.wrong, "\n".join(report.lines())
    assert {"GET 200", "POST 200", "GET 401 TOKEN_INVALID", "GET 403 POLICY_DENIED"} <= set(report.asked.answers)


def test_a_leak_is_seen_through_waves_and_outliers() -> None:
    waves = [80.0, 84.0, 79.0, 83.0] * 15
    assert abs(growth(waves)) < GROWTH_MIB
    assert growth([*waves[:-1], 150.0]) < GROWTH_MIB
    assert growth([each + 0.4 * number for number, each in enumerate(waves)]) > GROWTH_MIB
    assert growth([90.0] * 10 + [70.0 + 20 * min(1.0, number / 20) for number in range(50)]) < GROWTH_MIB


def test_each_figure_can_be_found_wanting() -> None:
    flat = [Sample(90.0, 40.0)] * 60
    assert problems(Sample(70.0, 20.0), flat) == []
    assert len(problems(Sample(REST_MIB + 1, 20.0), flat)) == 1
    assert len(problems(Sample(70.0, 20.0), [*flat, Sample(LIMIT_MIB + 1, 40.0)])) == 1
    assert len(problems(Sample(70.0, 20.0), [Sample(90.0 + at / 2, 40.0 + at) for at in range(60)])) == 2


def test_a_sample_is_read_from_the_metrics() -> None:
    text = "# HELP x\nprocess_open_fds 27.0\nprocess_resident_memory_bytes 7.340032e+07\n"
    assert read(text) == Sample(70.0, 27.0)


def test_the_limit_is_the_charts() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["sidecar"]["resources"]["limits"]["memory"] == f"{LIMIT_MIB:.0f}Mi"
