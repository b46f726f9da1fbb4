"""Status of a sensor (health, image quality), of a stage, and of the pipeline (increase of counts)."""

from __future__ import annotations

import pytest

from multimodal_perception.messages.message_types import RclpyTypes
from multimodal_perception.perception import ImageQuality, Level, SensorHealth, StageStatus
from multimodal_perception.ros.diagnostics import pipeline_status, sensor_status, stage_status


def status(level: Level, image_quality: ImageQuality | None) -> tuple[int, str, dict[str, str]]:
    health = SensorHealth("camera", level, "ok" if level is Level.OK else "9.0 Hz")
    message = sensor_status(RclpyTypes(), "/perception", health, {}, image_quality, 0.5)
    return message.level[0], message.message, {v.key: v.value for v in message.values}


def test_good_image_quality_is_reported_and_does_not_change_the_level() -> None:
    level, message, values = status(
        Level.OK, ImageQuality(0.9, {"sharpness": 0.9, "not_frozen": 1.0})
    )
    assert (level, message) == (Level.OK.value, "ok")
    assert values["image_quality"] == "0.900" and values["image_quality.not_frozen"] == "1.000"


def test_low_image_quality_is_a_warning_that_names_the_cue() -> None:
    level, message, _ = status(Level.OK, ImageQuality(0.0, {"sharpness": 1.0, "not_frozen": 0.0}))
    assert level == Level.WARN.value and message == "image quality 0.00: not_frozen"
    level, message, _ = status(Level.WARN, ImageQuality(0.1, {"sharpness": 0.1}))
    assert level == Level.WARN.value and message == "9.0 Hz; image quality 0.10: sharpness"


@pytest.mark.parametrize("level", [Level.ERROR, Level.STALE])
def test_low_image_quality_does_not_replace_an_error(level: Level) -> None:
    result = status(level, ImageQuality(0.0, {"not_frozen": 0.0}))
    assert result[0] == level.value and result[1] == "9.0 Hz"


def test_sensors_without_images_have_no_image_quality() -> None:
    assert not any(key.startswith("image_quality") for key in status(Level.OK, None)[2])


@pytest.mark.parametrize(
    ("increase", "latency_s", "expected"),
    [
        ({}, 0.1, (Level.OK, "ok")),
        ({}, 0.3, (Level.WARN, "latency 0.300 s")),
        (
            {"frames_dropped_busy": 2},
            0.3,
            (Level.WARN, "2 frames dropped: inference is too slow"),
        ),
        (
            {"frames_dropped_busy": 2, "frames_failed": 1},
            0.1,
            (Level.ERROR, "1 frames could not be processed"),
        ),
        ({"frames_synchronized": -30}, 0.1, (Level.WARN, "no frame received yet")),
    ],
)
def test_the_pipeline_level_depends_on_the_increase_of_counts(
    increase: dict[str, int], latency_s: float, expected: tuple[Level, str]
) -> None:
    last = {"frames_synchronized": 30, "frames_dropped_busy": 5, "frames_failed": 4}
    counts = {name: n + increase.get(name, 0) for name, n in last.items()}
    status = pipeline_status(
        RclpyTypes(), "/perception", "geometric", counts, last, latency_s, warn_latency_s=0.2
    )
    assert status.name == "/perception: pipeline"
    assert (status.level[0], status.message) == (expected[0].value, expected[1])
    values = {v.key: v.value for v in status.values}
    assert values["detector"] == "geometric" and values["max_latency_s"] == str(latency_s)
    assert {name: int(values[name]) for name in counts} == counts


def test_a_stage_status_has_its_level_reason_and_values() -> None:
    stage = StageStatus(
        "detector", Level.WARN, "runs with torch", {"engine": "torch", "p50_ms": 1.5}
    )
    message = stage_status(RclpyTypes(), "/perception", stage)
    assert message.name == "/perception: inference of detector"
    assert (message.level[0], message.message) == (Level.WARN.value, "runs with torch")
    assert {v.key: v.value for v in message.values} == {"engine": "torch", "p50_ms": "1.5"}
