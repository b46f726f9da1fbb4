"""A sensor's status: health and the trust in its image; the pipeline's: what its counts grew by."""

from __future__ import annotations

import pytest

from multimodal_perception.messages.message_types import RclpyTypes
from multimodal_perception.perception import ImageTrust, Level, SensorHealth
from multimodal_perception.ros.diagnostics import pipeline_status, sensor_status


def status(level: Level, trust: ImageTrust | None) -> tuple[int, str, dict[str, str]]:
    health = SensorHealth("camera", level, "ok" if level is Level.OK else "9.0 Hz")
    told = sensor_status(RclpyTypes(), "/perception", health, {}, trust, 0.5)
    return told.level[0], told.message, {v.key: v.value for v in told.values}


def test_a_trusted_image_changes_no_level_and_is_told() -> None:
    level, message, values = status(Level.OK, ImageTrust(0.9, {"sharpness": 0.9, "motion": 1.0}))
    assert (level, message) == (Level.OK.value, "ok")
    assert values["trust"] == "0.900" and values["trust.motion"] == "1.000"


def test_an_image_that_is_not_trusted_is_a_warning_that_names_why() -> None:
    level, message, _ = status(Level.OK, ImageTrust(0.0, {"sharpness": 1.0, "motion": 0.0}))
    assert level == Level.WARN.value and message == "image trusted 0.00: motion"
    level, message, _ = status(Level.WARN, ImageTrust(0.1, {"sharpness": 0.1}))
    assert level == Level.WARN.value and message == "9.0 Hz; image trusted 0.10: sharpness"


@pytest.mark.parametrize("level", [Level.ERROR, Level.STALE])
def test_it_hides_nothing_worse(level: Level) -> None:
    told = status(level, ImageTrust(0.0, {"motion": 0.0}))
    assert told[0] == level.value and told[1] == "9.0 Hz"


def test_sensors_without_images_have_no_trust() -> None:
    assert not any(key.startswith("trust") for key in status(Level.OK, None)[2])


@pytest.mark.parametrize(
    ("grown", "worst_s", "told"),
    [
        ({}, 0.1, (Level.OK, "ok")),
        ({}, 0.3, (Level.WARN, "latency 0.300 s")),
        (
            {"frames_dropped_busy": 2},
            0.3,
            (Level.WARN, "2 frames dropped: inference cannot keep up"),
        ),
        (
            {"frames_dropped_busy": 2, "frames_failed": 1},
            0.1,
            (Level.ERROR, "1 frames could not be processed"),
        ),
        ({"frames_synchronized": -30}, 0.1, (Level.WARN, "no frame yet")),
    ],
)
def test_the_pipeline_is_judged_by_what_has_grown(
    grown: dict[str, int], worst_s: float, told: tuple[Level, str]
) -> None:
    last = {"frames_synchronized": 30, "frames_dropped_busy": 5, "frames_failed": 4}
    counts = {name: n + grown.get(name, 0) for name, n in last.items()}
    status = pipeline_status(
        RclpyTypes(), "/perception", "geometric", counts, last, worst_s, slow_s=0.2
    )
    assert status.name == "/perception: pipeline"
    assert (status.level[0], status.message) == (told[0].value, told[1])
    values = {v.key: v.value for v in status.values}
    assert values["detector"] == "geometric" and values["worst_latency_s"] == str(worst_s)
    assert {name: int(values[name]) for name in counts} == counts
