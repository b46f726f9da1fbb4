"""Health of sensors: levels, messages and measurements."""

from __future__ import annotations

import pytest

from multimodal_perception.frame import Modality
from multimodal_perception.perception import Level
from multimodal_perception.rig import Sensor
from multimodal_perception.synchronization.sensor_health import sensor_health
from multimodal_perception.synchronization.sensor_queue import SensorStatistics

SECOND = 1_000_000_000


def statistics_of(rate_hz: float, until_s: float = 5.0) -> SensorStatistics:
    statistics = SensorStatistics()
    for i in range(int(rate_hz * until_s)):
        stamp = round(i * SECOND / rate_hz)
        statistics.observe(stamp, stamp + SECOND // 50)
    return statistics


@pytest.mark.parametrize(
    ("statistics", "drops", "now_s", "level", "text"),
    [
        (statistics_of(10), {}, 5.0, Level.OK, "ok"),
        (statistics_of(10), {"superseded": 40}, 5.0, Level.OK, "ok"),
        (statistics_of(5), {}, 5.0, Level.WARN, "rate is 5.0 Hz, expected 10.0 Hz"),
        (statistics_of(10), {"truncated": 2}, 5.0, Level.WARN, "truncated 2"),
        (statistics_of(10), {}, 9.0, Level.STALE, "no reading for 4.1 s"),
        (SensorStatistics(), {}, 5.0, Level.ERROR, "no message on /lidar"),
        (SensorStatistics(), {"all_nan": 7}, 5.0, Level.ERROR, "all_nan 7"),
    ],
)
def test_health_levels_and_messages(
    statistics: SensorStatistics, drops: dict[str, int], now_s: float, level: Level, text: str
) -> None:
    sensor = Sensor("lidar", Modality.LIDAR, "/lidar", "lidar")
    health = sensor_health(sensor, statistics, drops, {}, round(now_s * SECOND))
    assert health.level is level
    assert text in health.message


def test_known_drops_are_ignored_and_optional_sensors_only_warn() -> None:
    sensor = Sensor("lidar", Modality.LIDAR, "/lidar", "lidar", required=False)
    known = {"truncated": 2}
    assert sensor_health(sensor, statistics_of(10), known, known, 5 * SECOND).level is Level.OK
    assert sensor_health(sensor, SensorStatistics(), {}, {}, 0).level is Level.WARN


def test_rate_jitter_and_latency_are_measured() -> None:
    sensor = Sensor("lidar", Modality.LIDAR, "/lidar", "lidar")
    health = sensor_health(sensor, statistics_of(10), {}, {}, 5 * SECOND)
    assert health.rate_hz == pytest.approx(10, rel=0.01)
    assert health.jitter_s == pytest.approx(0, abs=1e-6)
    assert health.latency_s == pytest.approx(0.02, abs=1e-3)
